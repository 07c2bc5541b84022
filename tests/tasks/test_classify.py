"""Fine-tuning of classes and numbers, on files that the tests write."""

import json
import shutil

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, refusal, toy_settings
from trained_fixture import make_trained

import bertjax
from bertjax import sharding
from bertjax.config import default, files
from bertjax.convert.export import export
from bertjax.data.finetuning.sequences import encode, make_batch
from bertjax.data.tokenizers import cache as token_cache
from bertjax.errors import InputError
from bertjax.evaluate import make_predict_step, predict
from bertjax.init_from import load_source
from bertjax.mesh import make_mesh
from bertjax.metrics import ClassFigures
from bertjax.models import bert
from bertjax.models.layers import dropout_keys
from bertjax.sections import fields
from bertjax.tasks import example_rows as packed_lib
from bertjax.tasks.classify import TASK as classify
from bertjax.tasks.text_examples import write_per_class
from bertjax.train import train
from bertjax.train_state import init_state
from bertjax.trained_model import load_trained


def write(path, rows, header="label\tsentence1\tsentence2"):
    path.write_text("\n".join([header, *rows]) + "\n")


def pair(i, label):
    """Word w8 stands in the first text of class "yes", w9 in that of "no"."""
    rng = np.random.default_rng(i)
    words = [f"w{n}" for n in rng.integers(12, 90, rng.integers(1, 9))] * (1 + 2 * (i % 9 == 0))
    return (
        f"{label}\t{'w8' if label == 'yes' else 'w9'} {' '.join(words)}\tw10 w{12 + i % 70} w{12 + i // 70}"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train.tsv", [pair(i, ("no", "yes")[i % 2]) for i in range(80)])
    write(folder / "dev.tsv", [pair(100 + i, ("no", "yes")[i % 3 == 0]) for i in range(21)])
    write(
        folder / "test.tsv",
        [pair(200 + i, "yes").partition("\t")[2] for i in range(5)],
        "sentence1\tsentence2",
    )
    return folder


def settings(folder, model, workdir="", **fields):
    return toy_settings("classify", folder, model, workdir, fields, text_b="sentence2", test=("test.tsv",))


@pytest.mark.usefixtures("eight_devices")
def test_it_learns_writes_predictions_and_gives_a_model(folder, model, tmp_path, capsys):
    fields = {"train__epochs": 12.0, "optim__learning_rate": 1.5e-3}
    figures = train(settings(folder, model, tmp_path / "run", **fields))
    assert figures["eval/accuracy"] > 0.9
    trained = load_trained(str(tmp_path / "run"))
    assert (trained.head, trained.labels, trained.step) == ("sequence_classification", ("no", "yes"), 120)
    lines = (tmp_path / "run/test_predictions.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{i}\tyes" for i in range(5))]
    assert len((tmp_path / "run/dev_predictions.tsv").read_text().splitlines()) == 22
    table = [line.split("\t") for line in (tmp_path / "run/dev_per_class.tsv").read_text().splitlines()]
    assert [row[0] for row in table] == ["class", "no", "yes"]
    assert [row[-1] for row in table] == ["support", "14", "7"]
    out = capsys.readouterr().out.splitlines()
    at = out.index(f"{tmp_path / 'run'}/dev_per_class.tsv:")  # on the terminal too
    assert [line.split() for line in out[at + 1 : at + 4]] == table
    assert not (tmp_path / "run/test_per_class.tsv").exists()  # without labels
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert (saved["train.steps"], saved["optim.warmup_steps"]) == (120, 12)
    assert train(settings(folder, model, tmp_path / "run", **fields)) == {}  # complete


def test_a_run_that_was_stopped_ends_like_one_that_was_not(folder, model, tmp_path):
    """And goes on without the model that it began from."""
    whole = settings(folder, model, tmp_path / "whole", train__save_every=10)
    train(whole)
    moved = tmp_path / "moved"
    make_trained(str(moved))
    first = settings(folder, moved, tmp_path / "parts", train__save_every=10, train__keep_last=3)
    train(first)
    for step in (40, 30):
        shutil.rmtree(tmp_path / f"parts/checkpoints/{step}")
        (tmp_path / f"parts/checkpoints/digests/{step}.json").unlink()
    shutil.rmtree(moved)
    train(first)
    one, two = (load_trained(str(tmp_path / name)).params for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_sharing_rows_padding_and_devices_change_nothing(folder, model, monkeypatch):
    """Loss and gradient of a batch with examples that share rows, on one device and on eight; with each in a
    row of its own; and padded."""
    trained, size = bertjax.load(model), 32
    fields = {"train__batch_examples": size, "mesh__data": 2, "mesh__fsdp": 4, "train__epochs": 2.0}
    shared = open_data(settings(folder, model, **fields), trained)
    with monkeypatch.context() as patch:
        patch.setattr(packed_lib, "_FILLED", 0.0)
        alone = open_data(settings(folder, model, **fields), trained)
    config = shared.config
    config.model.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    params = classify.init_params(config, jax.random.key(0))
    packed, single = (data.rows["train"].train(0, data.rows["train"].batch_rows) for data in (shared, alone))
    assert (shared.rows["train"].batch_rows, alone.rows["train"].batch_rows) == (8, size)
    assert packed["label_weights"].sum() == size
    assert packed["segment_ids"].max() > 1 == single["segment_ids"].max()
    length = single["input_ids"].shape[1]
    padded = {name: np.pad(x, ((0, 0), (0, 48 - length))) if x.shape[1] == length else x
              for name, x in single.items()}  # fmt: skip
    padded["position_ids"] = np.tile(np.arange(48, dtype=np.int32), (size, 1))
    step = step_of(config)
    found = step(params, packed)
    mesh = make_mesh(config, jax.devices())
    on_mesh = jax.device_put(params, sharding.state_shardings(bert.KIND.sharding, params, mesh))
    others = step(on_mesh, sharding.to_global(mesh, packed)), step(params, single), step(params, padded)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, other)


def step_of(config, seed=None):
    """(params, batch) -> loss and gradient, with dropout if there is a seed."""

    def loss(params, batch):
        keys = None if seed is None else dropout_keys(seed, np.arange(len(batch["input_ids"])))
        sums = classify.batch_sums(config, params, batch, keys)
        return classify.batch_loss(sums, classify.batch_weights(batch))

    return jax.jit(jax.value_and_grad(loss))


def test_dropout_is_the_same_however_a_batch_is_divided(folder, model):
    trained, found = bertjax.load(model), []
    for parts in (1, 8):
        fields = {"mesh__data": parts, "mesh__fsdp": 1, "train__batch_examples": 16}
        data = open_data(settings(folder, model, **fields), trained)
        rows = data.rows["train"]
        params = classify.init_params(data.config, jax.random.key(0))
        batch = rows.train(rows.batch_rows, rows.batch_rows)
        found.append(step_of(data.config, np.array([3, 4], np.uint32))(params, batch))
    assert rows.batch_rows % 8 == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)


@pytest.mark.parametrize(("devices", "size"), [(8, 8), (8, 16), (1, 5), (1, 64)])
def test_predictions_are_in_order_and_none_is_lost(folder, model, tmp_path, devices, size):
    config = settings(folder, model, eval__batch_rows=size, mesh__fsdp=devices)
    data = open_data(config, bertjax.load(model))
    params = classify.init_params(data.config, jax.random.key(3))
    mesh = make_mesh(data.config, jax.devices()[:devices])
    shardings = sharding.state_shardings(bert.KIND.sharding, params, mesh)
    dev = data.rows["train"].evals[0]
    step = make_predict_step(data.config, classify, mesh, shardings)
    outputs = predict(data.config, mesh, step, jax.device_put(params, shardings), dev)
    assert len(outputs["logits"]) == dev.num_rows < 21
    dev.write(outputs, str(tmp_path))
    lines = (tmp_path / "dev_predictions.tsv").read_text().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == [str(i) for i in range(21)]

    # Each text by itself.
    module = bert.KIND.bind(data.config.model, params)
    texts = [line.split("\t")[1:] for line in (folder / "dev.tsv").read_text().splitlines()[1:]]
    for line, [row] in zip(
        lines,
        ([*encode(data.tokenizer, bert.KIND.row_form(data.tokenizer), [tuple(pair)], 48)] for pair in texts),
        strict=True,
    ):
        hidden = module.encoder(make_batch([row], 0, len(row.ids)))
        logits = module.classify(module.pool(hidden[:, 0]))[0]
        assert line.split("\t")[1] == ("no", "yes")[int(logits.argmax())]
        assert np.abs(outputs["logits"] - logits).max(-1).min() < 1e-5


def test_batches_follow_from_the_seed_and_the_step(folder, model):
    data = [
        open_data(settings(folder, model, seed=seed), bertjax.load(model)).rows["train"] for seed in (0, 0, 1)
    ]
    same, again, other = (rows.train(16, 8)["input_ids"] for rows in data)
    np.testing.assert_array_equal(same, again)
    assert same.shape != other.shape or (same != other).any()


def test_kept_token_ids_change_nothing(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "_LEAST", 1)
    rows = [
        open_data(config, load_source(config, classify)).rows["train"]
        for cache in ("", str(tmp_path), str(tmp_path))
        for config in [settings(folder, model, examples__cache=cache)]
    ]
    assert len(list(tmp_path.iterdir())) == 3  # train, dev, test
    for name, x in rows[0].train(0, 80).items():
        np.testing.assert_array_equal(x, rows[1].train(0, 80)[name])
        np.testing.assert_array_equal(x, rows[2].train(0, 80)[name])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.usefixtures("eight_devices")
def test_a_frozen_encoder_stays_as_it_is_and_has_no_moments(folder, model, tmp_path, accumulation):
    config = settings(folder, model, tmp_path / "run", train__freeze_encoder=True, train__epochs=1.0,
                      train__accumulation=accumulation, train__batch_examples=16)  # fmt: skip
    train(config)
    before, after = bertjax.load(model).params, load_trained(str(tmp_path / "run")).params
    jax.tree.map(np.testing.assert_array_equal, before["encoder"], after["encoder"])
    assert (before["pooler_kernel"] != after["pooler_kernel"]).any()
    data = open_data(config, bertjax.load(model))
    state = jax.eval_shape(lambda: init_state(data.config, classify, 0))
    assert "encoder" in state["params"]
    heads = {"pooler_kernel", "pooler_bias", "classifier_kernel", "classifier_bias"}
    assert state["optimizer"]["mu"].keys() == state["optimizer"]["nu"].keys() == heads


def test_numbers_are_learned_by_squared_errors():
    config = default("classify")
    batch = {"labels": np.array([[1.0], [2.0], [3.0]]), "label_weights": np.array([[1.0], [1.0], [0.0]])}
    config.examples.number = True
    sums = classify.sums_of(config, np.array([[[1.5]], [[5.0]], [[9.0]]]), batch)
    assert {name: float(x) for name, x in sums.items()} == {"loss": 0.5**2 + 3.0**2}
    assert classify.batch_loss(sums, classify.batch_weights(batch)) == (0.25 + 9) / 2
    config.examples.number = False
    batch["labels"] = np.array([[0], [0], [1]])
    logits = np.log(np.array([[[3.0, 1.0]], [[1.0, 3.0]], [[1.0, 1.0]]], np.float32))
    sums = classify.sums_of(config, logits, batch)
    assert float(sums["loss"]) == pytest.approx(-np.log(3 / 4) - np.log(1 / 4))
    assert sums["correct"] == 1.0


def test_numbers(folder, model, tmp_path):
    write(tmp_path / "train.tsv", [f"{i % 5}\tw{12 + i % 5}\tw9" for i in range(40)])
    write(tmp_path / "dev.tsv", [f"{i % 5}.5\tw{12 + i % 5}\tw9" for i in range(10)])
    config = settings(tmp_path, model, tmp_path / "run", examples__number=True,
                      examples__metric="correlations", examples__test=(), train__epochs=20.0,
                      optim__learning_rate=1e-3)  # fmt: skip
    figures = train(config)
    assert figures.keys() == {"eval/pearson", "eval/spearman"}
    assert figures["eval/pearson"] > 0.8
    trained = load_trained(str(tmp_path / "run"))
    assert (trained.labels, trained.params["classifier_kernel"].shape) == (("number",), (32, 1))
    assert not (tmp_path / "run/dev_per_class.tsv").exists()
    export(trained, str(tmp_path / "hf"))
    written = json.loads((tmp_path / "hf/config.json").read_text())
    assert (written["problem_type"], written["id2label"]) == ("regression", {"0": "number"})
    assert bertjax.load(tmp_path / "hf").labels == ("number",)


@pytest.mark.parametrize(
    ("train_rows", "dev_rows", "message"),
    [
        (["no\ta"], None, "train.tsv:2: expected 3 columns (label, sentence1, sentence2), found 2"),
        (["no\ta\tb", "yes\t \tb"] * 4, None, "train.tsv:3: sentence1 is empty; remove the example"),
        (["no\ta\tb"] * 3, None, "all labels are 'no'"),
        (["no\ta\tb"] * 4, ["maybe\ta\tb"], "all labels are 'no'"),
        (
            ["no\ta\tb", "yes\ta\tb"] * 4,
            ["maybe\ta\tb"],
            "dev.tsv:2: unknown label 'maybe'; known are no, yes",
        ),
        (["no\ta\tb", "yes\ta\tb"], None, "2 examples give no batch of 8"),
        ([], None, "train.tsv: has no example"),
    ],
)
def test_bad_files(model, tmp_path, train_rows, dev_rows, message):
    write(tmp_path / "train.tsv", train_rows)
    write(tmp_path / "dev.tsv", dev_rows or ["no\ta\tb"])
    config = settings(tmp_path, model, examples__test=(), train__epochs=1.0)
    with pytest.raises(InputError) as error:
        open_data(config, bertjax.load(model))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"examples__labels": (1, 2)}, "unknown label 'no'; known are 1, 2"),
        ({"examples__label": "lable"}, "no column 'lable'; the nearest is 'label'"),
        ({"examples__metric": "bleu"}, "--config.examples.metric=bleu: must be one of accuracy, matthews"),
        ({"examples__number": True}, "are measured by correlations"),
        (
            {"examples__metric": "f1", "examples__labels": ("no", "yes", "x")},
            "is of two classes, there are 3",
        ),
        ({"examples__number": True, "examples__metric": "correlations"}, "label='no': expected a number"),
        ({"examples__train": "train.txt"}, "train.txt: the name must end with .tsv, .csv, .jsonl"),
        ({"examples__dev": ("dev.tsv", "dev.csv")}, "two files are named dev, which names their predictions"),
        ({"examples__dev": ("nothing.tsv",)}, "nothing.tsv: no such file"),
        ({"init_from": ""}, "--config.init_from is empty"),
    ],
)
def test_bad_fields(folder, model, fields, message):
    assert message in refusal(settings(folder, model, **fields))


def test_a_model_of_one_token_type_takes_no_pairs(folder, tmp_path):
    make_trained(str(tmp_path / "model"), **{"model.type_vocab_size": 1})
    source = bertjax.load(tmp_path / "model")
    with pytest.raises(InputError, match="has one token type, so it takes no pairs; give single texts"):
        open_data(settings(folder, tmp_path / "model"), source)
    open_data(settings(folder, tmp_path / "model", examples__text_b=""), source)


def test_the_table_of_many_classes_is_in_its_file_only(tmp_path):
    rows = [ClassFigures(f"class {i}", 1.0, 0.5, 2 / 3, i) for i in range(21)]
    path = str(tmp_path / "dev_per_class.tsv")
    assert write_per_class(path, rows) == f"{path}: the figures of 21 classes"
    assert len((tmp_path / "dev_per_class.tsv").read_text().splitlines()) == 22
    assert len(write_per_class(path, rows[:20]).splitlines()) == 22


def test_mnli_answers_the_diagnostic_set(model, tmp_path):
    """From the layout in which GLUE is downloaded; a file that is absent is an error."""
    for name in ("MNLI", "diagnostic"):
        (tmp_path / name).mkdir()
    header, labels = "gold_label\tsentence1\tsentence2", ("contradiction", "entailment", "neutral")
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(
            tmp_path / f"MNLI/{name}.tsv", [f"{labels[i % 3]}\tw{8 + i % 3}\tw9" for i in range(12)], header
        )
    config = files.load("configs/glue.py:mnli+ax")
    config.examples.folder, config.init_from = str(tmp_path / "MNLI"), model
    config.workdir = str(tmp_path / "run")
    config.train.update(epochs=1.0, batch_examples=8, seq_length=16)
    config.eval.batch_rows = 8
    with pytest.raises(InputError, match=r"diagnostic/diagnostic.tsv: no such file"):
        open_data(config, bertjax.load(model))
    write(tmp_path / "diagnostic/diagnostic.tsv", ["0\tw8\tw9", "1\tw9\tw10"], "index\tsentence1\tsentence2")
    figures = train(config)
    assert figures.keys() == {"eval/accuracy", "eval_dev_mismatched/accuracy"}
    lines = (tmp_path / "run/diagnostic_predictions.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["index", "0", "1"]
    assert {line.split("\t")[1] for line in lines[1:]} <= set(labels)
    # What glue.py:mnli names is the same but for this file.
    plain, more = (dict(fields(files.load(f"configs/glue.py:{name}"))) for name in ("mnli", "mnli+ax"))
    assert {name for name in plain if plain[name] != more[name]} == {"examples.test"}
