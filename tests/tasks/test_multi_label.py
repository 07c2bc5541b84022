"""Fine-tuning of any number of labels for each text, on files that the tests write."""

import json

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, refusal, toy_settings

import bertjax
from bertjax import sharding
from bertjax.convert.export import export
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.predict.predictor import Predictor
from bertjax.tasks import example_rows
from bertjax.tasks.multi_label import TASK as multi_label
from bertjax.train import train
from bertjax.trained_model import load_trained

LABELS = {"new": "w8", "old": "w9", "red": "w10"}  # each label, and the word that says it


def example(i):
    """(labels, text): a third of the texts have no label, and few have all."""
    rng = np.random.default_rng(i)
    there = [label for label in LABELS if rng.random() < 0.4]
    words = [f"w{n}" for n in rng.integers(12, 90, rng.integers(1, 9))]
    for label in there:
        words.insert(int(rng.integers(len(words) + 1)), LABELS[label])
    return there, " ".join(words)


def write(path, examples, mark="|"):
    path.write_text("\n".join(["labels\ttext", *(f"{mark.join(x)}\t{text}" for x, text in examples)]) + "\n")


def write_flags(path, examples):
    lines = [json.dumps({"text": text, **{label: int(label in there) for label in LABELS}})
             for there, text in examples]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, first, count in (("train", 0, 120), ("dev", 500, 40)):
        examples = [example(first + i) for i in range(count)]
        write(folder / f"{name}.tsv", examples)
        write_flags(folder / f"{name}.jsonl", examples)
    (folder / "test.tsv").write_text("\n".join(["text", *(example(800 + i)[1] for i in range(6))]) + "\n")
    return folder


def settings(folder, model, workdir="", **fields):
    return toy_settings("multi_label", folder, model, workdir, fields, text_a="text")


FLAGS = {"examples__train": "train.jsonl", "examples__dev": ("dev.jsonl",),
         "examples__label_columns": tuple(LABELS)}  # fmt: skip


def first_batch(config, source):
    data = open_data(config, source)
    rows = data.rows["train"]
    return data, rows.train(0, rows.batch_rows)


@pytest.fixture(scope="module")
def run(folder, model, tmp_path_factory):
    """(workdir, figures)."""
    workdir = tmp_path_factory.mktemp("run")
    config = settings(folder, model, workdir, examples__test=("test.tsv",), train__epochs=14.0,
                      optim__learning_rate=2e-3)  # fmt: skip
    return workdir, train(config)


def rows_of(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_it_learns_and_writes_predictions(folder, run):
    workdir, figures = run
    assert list(figures) == [f"eval/{name}" for name in multi_label.figures(settings(folder, ""))]
    assert min(figures.values()) > 0.9
    trained = load_trained(str(workdir))
    assert (trained.head, trained.labels) == ("multi_label_classification", tuple(LABELS))
    header, *predicted = rows_of(workdir / "dev_predictions.tsv")
    assert header == ["index", "prediction"]
    assert [row[0] for row in predicted] == [str(i) for i in range(40)]
    found = [set(row[1].split("|")) - {""} for row in predicted]
    gold = [set(example(500 + i)[0]) for i in range(40)]
    both = sum(len(a & b) for a, b in zip(found, gold, strict=True))
    f1 = 2 * both / (sum(map(len, found)) + sum(map(len, gold)))
    assert figures["eval/f1_micro"] == pytest.approx(f1)
    table = rows_of(workdir / "dev_per_class.tsv")
    assert [row[0] for row in table] == ["class", *LABELS]
    assert [int(row[-1]) for row in table[1:]] == [sum(label in x for x in gold) for label in LABELS]
    assert np.mean([float(row[3]) for row in table[1:]]) == pytest.approx(figures["eval/f1_macro"], abs=1e-4)
    assert len(rows_of(workdir / "test_predictions.tsv")) == 7
    assert not (workdir / "test_per_class.tsv").exists()


def test_the_model_is_exported_and_says_the_same(folder, run, tmp_path):
    workdir, _ = run
    trained = load_trained(str(workdir))
    export(trained, str(tmp_path / "hf"))
    written = json.loads((tmp_path / "hf/config.json").read_text())
    assert written["problem_type"] == "multi_label_classification"
    assert written["id2label"] == {str(i): label for i, label in enumerate(LABELS)}
    again = bertjax.load(tmp_path / "hf")
    assert (again.head, again.labels) == (trained.head, trained.labels)
    texts = [example(500 + i)[1] for i in range(40)]
    found = ["|".join(np.array(again.labels)[logits > 0]) for logits in Predictor(again).classify(texts)]
    assert found == [row[1] for row in rows_of(workdir / "dev_predictions.tsv")[1:]]


def test_a_column_of_marked_labels_and_a_column_for_each_are_the_same(folder, model, tmp_path):
    source = bertjax.load(model)
    data, batch = first_batch(settings(folder, model), source)
    others = first_batch(settings(folder, model, **FLAGS), source)
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.tsv", [example(500 * (name == "dev") + i) for i in range(120)], " ; ")
    marked = first_batch(settings(tmp_path, model, examples__separator=";"), source)
    for other, found in (others, marked):
        assert other.labels == data.labels == tuple(LABELS)
        assert found.keys() == batch.keys()
        for name, x in batch.items():
            np.testing.assert_array_equal(x, found[name])
    there = batch["labels"][batch["label_weights"] > 0]
    assert there.shape == (8, 3)
    assert 0 < there.mean() < 1
    shapes = multi_label.batch_shapes(data.config, data.config.train)
    assert {n: (x.dtype, x.ndim) for n, x in batch.items()} == {
        n: (x.dtype, len(x.shape)) for n, x in shapes.items()
    }


def test_labels_have_the_order_that_is_given(folder, model, tmp_path):
    given = ("red", "blue", "new", "old")
    data, batch = first_batch(settings(folder, model, examples__labels=given), bertjax.load(model))
    assert (data.labels, batch["labels"].shape[-1]) == (given, 4)
    assert not batch["labels"][..., 1].any()  # no text is blue
    dev = data.rows["train"].evals[0]
    labels = dev.rows(0, dev.num_rows)["labels"]
    dev.write({"logits": 2 * labels - 1}, str(tmp_path))
    found = [row[1] for row in rows_of(tmp_path / "dev_predictions.tsv")[1:]]
    gold = [example(500 + i)[0] for i in range(40)]
    assert found == ["|".join(label for label in given if label in x) for x in gold]
    assert dev.score({"logits": 2 * labels - 1}) == {"f1_micro": 1, "f1_macro": 0.75, "lrap": 1}


@pytest.mark.parametrize("weights", [(), (1.0, 8.5, 0.25)])
def test_the_loss_is_a_binary_cross_entropy_of_each_label(folder, model, weights):
    config = settings(folder, model, examples__labels=tuple(LABELS), examples__positive_weights=weights)
    data, batch = first_batch(config, bertjax.load(model))
    params = multi_label.init_params(data.config, jax.random.key(0))
    params |= {"classifier_kernel": 40 * params["classifier_kernel"]}
    sums = multi_label.batch_sums(data.config, params, batch, None)
    logits = np.asarray(multi_label.batch_outputs(data.config, params, batch)["logits"], np.float64)
    loss = correct = 0.0
    for place in np.argwhere(batch["label_weights"] > 0):
        share = 1 / (1 + np.exp(-logits[tuple(place)]))
        there = batch["labels"][tuple(place)]
        positive = np.array(weights or 1.0)
        loss -= (positive * there * np.log(share) + (1 - there) * np.log(1 - share)).mean()
        correct += ((share > 0.5) == there).mean()
    np.testing.assert_allclose([sums["loss"], sums["correct"]], [loss, correct], rtol=1e-5)
    totals = {name: float(x) for name, x in (sums | multi_label.batch_weights(batch)).items()}
    assert totals["examples"] == 8
    assert multi_label.metrics(totals) == pytest.approx({"loss": loss / 8, "accuracy": correct / 8}, rel=1e-5)
    assert float(multi_label.batch_loss(sums, totals)) == pytest.approx(loss / 8, rel=1e-5)


def test_the_loss_of_sure_logits_is_finite(folder, model):
    config = settings(folder, model, examples__labels=tuple(LABELS))
    weights = np.ones((1, 2), np.float32)
    batch = {"labels": np.array([[[1, 0, 1], [0, 1, 0]]], np.float32), "label_weights": weights}
    logits = np.array([[[300, -300, -300], [-300, 300, -300]]], np.float32)
    sums = multi_label.sums_of(config, logits, batch)
    assert (float(sums["loss"]), float(sums["correct"])) == (pytest.approx(100), pytest.approx(5 / 3))


def test_sharing_rows_and_devices_change_nothing(folder, model, monkeypatch):
    """Loss and gradient of texts that share rows, of each in a row of its own, and on eight devices."""
    fields, source = {"train__batch_examples": 32, "mesh__fsdp": 8}, bertjax.load(model)
    data, shared = first_batch(settings(folder, model, **fields), source)
    monkeypatch.setattr(example_rows, "_FILLED", 0.0)
    _, alone = first_batch(settings(folder, model, **fields), source)
    assert shared["segment_ids"].max() > alone["segment_ids"].max() == 1
    params = multi_label.init_params(data.config, jax.random.key(0))

    def loss(params, batch):
        sums = multi_label.batch_sums(data.config, params, batch, None)
        return multi_label.batch_loss(sums, multi_label.batch_weights(batch))

    step = jax.jit(jax.value_and_grad(loss))
    found, mesh = step(params, shared), make_mesh(data.config, jax.devices())
    on_mesh = jax.device_put(params, sharding.state_shardings(bert.KIND.sharding, params, mesh))
    for other in (step(params, alone), step(on_mesh, sharding.to_global(mesh, shared))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, other)


def test_one_label_is_enough(folder, model, tmp_path):
    config = settings(folder, model, tmp_path, **FLAGS | {"examples__label_columns": ("red",)},
                      train__epochs=0.2)  # fmt: skip
    figures = train(config)
    table = rows_of(tmp_path / "dev_per_class.tsv")
    assert [row[0] for row in table] == ["class", "red"]
    assert figures["eval/f1_micro"] == figures["eval/f1_macro"] == pytest.approx(float(table[1][3]), abs=1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("blue\tw12", "dev.tsv:3: unknown label 'blue'; known are new, old, red"),
        ("new|blue\tw12", "dev.tsv:3: unknown label 'blue'; known are new, old, red"),
        ("new||red\tw12", "dev.tsv:3: labels='new||red': expected labels with '|' between them, each once"),
        ("new|\tw12", "dev.tsv:3: labels='new|': expected labels with '|' between them"),
        ("|\tw12", "dev.tsv:3: labels='|': expected labels with '|' between them"),
        (
            "new|red|new\tw12",
            "dev.tsv:3: labels='new|red|new': expected labels with '|' between them, each o",
        ),
        ("new", "dev.tsv:3: expected 2 columns (labels, text), found 1"),
        ("new\t ", "dev.tsv:3: text is empty; remove the example"),
    ],
)
def test_bad_lines(folder, model, tmp_path, line, message):
    write(tmp_path / "train.tsv", [example(i) for i in range(16)])
    (tmp_path / "dev.tsv").write_text(f"labels\ttext\nnew\tw8\n{line}\n")
    assert message in refusal(settings(tmp_path, model))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"new": 2, "old": 0, "red": 1}, "dev.jsonl:2: new='2': expected 0 or 1"),
        ({"new": 1, "old": "yes", "red": 1}, "dev.jsonl:2: old='yes': expected 0 or 1"),
        ({"new": 1, "old": 0, "red": None}, "dev.jsonl:2: red='null': expected 0 or 1"),
        ({"new": 1, "old": 0}, "dev.jsonl:2: no column 'red'; the nearest is"),
    ],
)
def test_bad_flags(folder, model, tmp_path, flags, message):
    write_flags(tmp_path / "train.jsonl", [example(i) for i in range(16)])
    write_flags(tmp_path / "dev.jsonl", [example(0)])
    with open(tmp_path / "dev.jsonl", "a") as file:
        file.write(json.dumps({"text": "w8"} | flags) + "\n")
    assert message in refusal(settings(tmp_path, model, **FLAGS))


def test_bad_fields(folder, model, tmp_path):
    write(tmp_path / "train.tsv", [([], "w8")] * 16)
    assert "train.tsv:2: neither this example nor any other has a label in column 'labels'" in refusal(
        settings(tmp_path, model, examples__dev=())
    )
    for fields, message in (
        ({"examples__label": "label"}, "train.tsv:2: no column 'label'; the nearest is 'labels'"),
        (FLAGS | {"examples__labels": ("new",)}, "label_columns names the labels; leave one of them out"),
        (
            FLAGS | {"examples__positive_weights": (1.0, 2.0)},
            "give one for each of the 3 labels of examples.",
        ),
        ({"init_from": ""}, "--config.init_from is empty"),
    ):
        assert message in refusal(settings(folder, model, **fields))
