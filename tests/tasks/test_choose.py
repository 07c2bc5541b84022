"""Fine-tuning of multiple choice, on files that the tests write; the features also on real ones."""

import csv
import dataclasses
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, refusal, toy_settings
from safetensors.numpy import load_file
from trained_fixture import make_trained

import bertjax
from bertjax import sharding
from bertjax.config import files
from bertjax.convert.export import export
from bertjax.data.finetuning.sequences import encode
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.errors import InputError
from bertjax.evaluate import make_predict_step, predict
from bertjax.files import read_json
from bertjax.logs import read_metrics
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.tasks import example_rows
from bertjax.tasks.choose import TASK as choose
from bertjax.train import make_train_step, scalars, train
from bertjax.trained_model import load_trained

DATA = Path(os.environ.get("BERTJAX_DATA", Path(__file__).parents[3] / "shared" / "data"))
CHOICES = ("a", "b", "c")
HEADER = ["label", "context", *CHOICES]


def write(path, rows, header=HEADER):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def question(i, most=9):
    """The right choice holds w8, the others w9."""
    rng, right = np.random.default_rng(i), i % 3
    choices = []
    for c in range(3):
        words = [f"w{n}" for n in rng.integers(12, 90, rng.integers(1, most))]
        choices.append(" ".join(["w8" if c == right else "w9", *words]))
    return [str(right), f"w10 w{12 + i % 70} w{12 + i // 70}", *choices]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train.csv", [question(i) for i in range(80)])
    write(folder / "dev.csv", [question(100 + 2 * i, 25 if i % 4 == 0 else 4) for i in range(21)])
    write(folder / "test.csv", [question(200 + i)[1:] for i in range(5)], HEADER[1:])
    return folder


def settings(folder, model, workdir="", **fields):
    files = {"train": "train.csv", "dev": ("dev.csv",), "test": ("test.csv",)}
    fields = {"train__log_every": 1} | fields
    return toy_settings("choose", folder, model, workdir, fields, text_a="context", choices=CHOICES, **files)


def opened(folder, model, **fields):
    return open_data(settings(folder, model, **fields), bertjax.load(model))


def examples_of(batch, choices=3):
    """Of each row, for each of its examples, the arrays of the tokens of each choice."""
    names = ("input_ids", "token_type_ids", "position_ids")
    return [
        [[{name: batch[name][row, segments == first + c] for name in names} for c in range(choices)]
         for first in range(1, segments.max() + 1, choices)]
        for row, segments in enumerate(batch["segment_ids"])
    ]  # fmt: skip


def first_batch(data):
    rows = data.rows["train"]
    return rows.train(0, rows.batch_rows)


@pytest.mark.usefixtures("eight_devices")
def test_it_learns_writes_predictions_and_gives_a_model(folder, model, tmp_path):
    figures = train(settings(folder, model, tmp_path / "run", train__epochs=5.0))
    assert list(figures) == [f"eval/{name}" for name in choose.figures(settings(folder, model))]
    assert figures["eval/accuracy"] > 0.9
    lines = (tmp_path / "run/test_predictions.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{i}\t{(200 + i) % 3}" for i in range(5))]
    dev = (tmp_path / "run/dev_predictions.tsv").read_text().splitlines()[1:]
    right = sum(line.split("\t")[1] == str((100 + 2 * i) % 3) for i, line in enumerate(dev))
    assert (len(dev), right / 21) == (21, pytest.approx(figures["eval/accuracy"]))
    logged = read_metrics(str(tmp_path / "run/metrics.jsonl"))
    assert any(row.get("accuracy", 0) > 0.9 for row in logged)  # of training

    trained = load_trained(str(tmp_path / "run"))
    assert (trained.head, trained.labels, trained.step) == ("multiple_choice", (), 50)
    export(trained, str(tmp_path / "hf"))
    written = read_json(tmp_path / "hf/config.json")
    assert written["architectures"] == ["BertForMultipleChoice"]
    assert "id2label" not in written
    assert load_file(tmp_path / "hf/model.safetensors")["classifier.weight"].shape == (1, 32)
    again = bertjax.load(tmp_path / "hf")
    assert again.head == "multiple_choice"
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)

    # What goes on from it keeps the unit that scores.
    figures = train(settings(folder, tmp_path / "hf", tmp_path / "more", optim__learning_rate=1e-9))
    assert figures["eval/accuracy"] > 0.9


def test_a_run_that_was_stopped_ends_like_one_that_was_not(folder, model, tmp_path):
    whole = settings(folder, model, tmp_path / "whole", train__save_every=10)
    train(whole)
    parts = settings(folder, model, tmp_path / "parts", train__save_every=10, train__keep_last=3)
    train(parts)
    for step in (40, 30):
        shutil.rmtree(tmp_path / f"parts/checkpoints/{step}")
    train(parts)
    one, two = (load_trained(str(tmp_path / name)).params for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_features_are_the_context_with_each_choice(model, tmp_path):
    write(tmp_path / "train.csv", [["1", "w8 w9", "w10", "w12 w13 w14", "w16s"]] * 8)
    data = opened(tmp_path, model, examples__dev=(), examples__test=())
    batch = first_batch(data)
    shapes = choose.batch_shapes(data.config, data.config.train)
    assert {name: x.dtype for name, x in batch.items()} == {name: x.dtype for name, x in shapes.items()}
    assert {name: x.ndim for name, x in batch.items()} == {name: len(x.shape) for name, x in shapes.items()}
    assert (batch["labels"][batch["label_weights"] > 0] == 1).all()
    examples = [example for row in examples_of(batch) for example in row]
    assert len(examples) == 8
    for example in examples:
        for arrays, choice in zip(example, (["w10"], ["w12", "w13", "w14"], ["w16", "##s"]), strict=True):
            words = [data.tokenizer.tokens[i] for i in arrays["input_ids"]]
            assert words == ["[CLS]", "w8", "w9", "[SEP]", *choice, "[SEP]"]
            assert arrays["token_type_ids"].tolist() == [0] * 4 + [1] * (len(choice) + 1)
            assert arrays["position_ids"].tolist() == list(range(len(words)))


@pytest.mark.parametrize(
    ("folder", "train_file", "count"), [("swag", "train.csv", 10), ("codah/swag_header", "val.csv", None)]
)
def test_features_of_real_files(model, folder, train_file, count):
    """Every character a WordPiece, rows spell the file's texts."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"{DATA / folder} is absent; BERTJAX_DATA names the folder of the real data")
    config = files.load("configs/swag.py")
    with open(DATA / folder / train_file, newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    count = count or len(records)
    characters = sorted({x for record in records for text in record.values() for x in text if x != " "})
    pieces = [*characters, *(f"##{x}" for x in characters)]
    tokenizer = wordpiece_tokenizer([*SPECIAL_TOKENS, *pieces], lower_case=False, name="characters")
    source = dataclasses.replace(bertjax.load(model), tokenizer=tokenizer)
    source.config.max_position_embeddings = 512
    config.examples.update(folder=str(DATA / folder), train=train_file, dev=(train_file,), test=())
    config.train.update(batch_examples=2, seq_length=512)
    config.eval.batch_rows = 1
    [dev] = open_data(config, source).rows["train"].evals
    batch = dev.rows(0, dev.num_rows)
    seen = []
    for row, examples in enumerate(examples_of(batch, choices=4)):
        for slot, example in enumerate(examples):
            texts = []
            for arrays in example:
                words = [tokenizer.tokens[i].removeprefix("##") for i in arrays["input_ids"]]
                assert list(arrays["token_type_ids"]) == sorted(arrays["token_type_ids"])
                texts.append(tuple("".join(words).split("[SEP]")))
            seen.append((int(batch["labels"][row, slot]), tuple(texts)))
    assert len(seen) == count == len(records)
    wanted = []
    for record in records:
        first = "[CLS]" + record["sent1"].replace(" ", "")
        seconds = [f"{record['sent2']}{record[f'ending{i}']}".replace(" ", "") for i in range(4)]
        wanted.append((int(record["label"]), tuple((first, second, "") for second in seconds)))
    assert sorted(seen) == sorted(wanted)


def test_sharing_rows_and_devices_change_nothing(folder, model, monkeypatch):
    """Loss and gradient of examples that share rows, of each in a row of its own, and on eight devices."""
    fields = {"train__batch_examples": 32, "mesh__fsdp": 8}
    data = opened(folder, model, **fields)
    config, batch = data.config, first_batch(data)
    with monkeypatch.context() as patch:
        patch.setattr(example_rows, "_FILLED", 0.0)
        alone = first_batch(opened(folder, model, **fields))
    assert batch["segment_ids"].max() > alone["segment_ids"].max() == 3
    params = choose.init_params(config, jax.random.key(0))

    def loss(params, batch):
        sums = choose.batch_sums(config, params, batch, None)
        return choose.batch_loss(sums, choose.batch_weights(batch))

    step = jax.jit(jax.value_and_grad(loss))
    found = step(params, batch)
    mesh = make_mesh(config, jax.devices())
    shardings = sharding.state_shardings(bert.KIND.sharding, params, mesh)
    spread = step(jax.device_put(params, shardings), sharding.to_global(mesh, batch))
    for other in (step(params, alone), spread):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, other)


def test_a_step_is_the_same_on_one_device_on_eight_and_in_parts(folder, model):
    """With dropout; and each choice is a sequence."""
    results = []
    for devices, parts in ((1, 1), (8, 1), (1, 2)):
        data = opened(folder, model, mesh__fsdp=devices, train__accumulation=parts)
        mesh = make_mesh(data.config, jax.devices()[:devices])
        step, init, _ = make_train_step(data.config, choose, mesh)
        batch = first_batch(data)
        state = init()
        for i in range(2):  # the first has a rate of 0
            state, measured = step(state, sharding.to_global(mesh, batch), scalars(data.config, i))
        results.append((jax.device_get(state["params"]), jax.device_get(measured)))
        assert measured["sequences"] == 24
        assert measured["tokens"] == (batch["input_ids"] != data.tokenizer.pad_id).sum()
        assert measured["examples"] == 8
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), results[0], other)


def test_each_choice_has_dropout_of_its_own(model, tmp_path):
    """Each question has one text three times: what differs is dropout."""
    write(tmp_path / "train.csv", [["0", f"w8 w{i}", *["w12 w13"] * 3] for i in range(20, 28)])
    data = opened(tmp_path, model, examples__dev=(), examples__test=())
    params, batch = choose.init_params(data.config, jax.random.key(0)), first_batch(data)
    assert batch["labels"].shape == (8, 1)
    keys = np.arange(16, dtype=np.uint32).reshape(8, 2)

    def scores_of(batch, keys):
        logits, _ = choose._logits(data.config, params, batch, keys, "none", further=False)
        return np.asarray(logits).reshape(len(logits), 3)

    scores = scores_of(batch, keys)
    assert (np.abs(np.diff(scores[:, [0, 1, 2, 0]], axis=1)) > 1e-6).all()
    plain = scores_of(batch, None)
    np.testing.assert_allclose(plain[:, 1:], plain[:, :2], atol=1e-6)
    # A row's masks do not depend on its place in the batch.
    part = {name: x[4:6] for name, x in batch.items()}
    np.testing.assert_allclose(scores_of(part, keys[4:6]), scores[4:6], atol=1e-5)


@pytest.mark.parametrize(("devices", "size"), [(8, 8), (1, 5)])
def test_predictions_are_in_order_and_none_is_lost(folder, model, tmp_path, devices, size):
    data = opened(folder, model, eval__batch_rows=size, mesh__fsdp=devices)
    params = choose.init_params(data.config, jax.random.key(3))
    mesh = make_mesh(data.config, jax.devices()[:devices])
    shardings = sharding.state_shardings(bert.KIND.sharding, params, mesh)
    dev = data.rows["train"].evals[0]
    step = make_predict_step(data.config, choose, mesh, shardings)
    outputs = predict(data.config, mesh, step, jax.device_put(params, shardings), dev)
    module, wanted = bert.KIND.bind(data.config.model, params), {}
    batch = dev.rows(0, dev.num_rows)
    for row, examples in enumerate(examples_of(batch)):
        for slot, example in enumerate(examples):
            scores = []
            for arrays in example:
                alone = {name: x[None] for name, x in arrays.items()}
                alone["segment_ids"] = np.ones_like(alone["input_ids"])
                scores.append(module.classify(module.pool(module.encoder(alone)[:, 0]))[0, 0])
            np.testing.assert_allclose(outputs["logits"][row, slot], scores, atol=1e-5)
            wanted[tuple(tuple(arrays["input_ids"]) for arrays in example)] = int(np.argmax(scores))
    assert len(wanted) == 21
    dev.write(outputs, str(tmp_path))
    lines = (tmp_path / "dev_predictions.tsv").read_text().splitlines()[1:]
    right, form = 0, bert.KIND.row_form(data.tokenizer)
    for i, line in enumerate(lines):
        label, context, *choices = question(100 + 2 * i, 25 if i % 4 == 0 else 4)
        rows = encode(data.tokenizer, form, [(context, choice) for choice in choices], 48)
        answer = wanted[tuple(tuple(row.ids) for row in rows)]
        assert line == f"{i}\t{answer}"
        right += str(answer) == label
    assert dev.score(outputs)["accuracy"] == pytest.approx(right / 21)


def test_labels_may_have_names_and_choices_a_beginning(model, tmp_path):
    rows = [["ABC"[i % 3], "w8", "w9", "w10", "w12", "w13" * (i % 2), str(90 - i)] for i in range(8)]
    write(tmp_path / "train.csv", rows, [*HEADER, "start", "id"])
    fields = {"examples__test": (), "examples__dev": ("train.csv",), "examples__labels": ("A", "B", "C"),
              "examples__text_b": "start", "examples__id": "id"}  # fmt: skip
    data = opened(tmp_path, model, **fields)
    [dev] = data.rows["train"].evals
    batch = dev.rows(0, dev.num_rows)
    # Half of them have a beginning, which is a token more in each choice.
    lengths = [
        [len(arrays["input_ids"]) for arrays in example] for row in examples_of(batch) for example in row
    ]
    assert sorted(lengths) == [[5] * 3] * 4 + [[6] * 3] * 4
    dev.write({"logits": np.eye(3)[batch["labels"]]}, str(tmp_path))
    lines = (tmp_path / "train_predictions.tsv").read_text().splitlines()[1:]
    assert lines == [f"{90 - i}\t{'ABC'[i % 3]}" for i in range(8)]


GOOD = ["1", "w8", "w9", "w10", "w12"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["3", *GOOD[1:]], "train.csv:3: unknown label '3'; known are 0, 1, 2"),
        (["a", *GOOD[1:]], "train.csv:3: unknown label 'a'"),
        (["", *GOOD[1:]], "train.csv:3: unknown label ''"),
        (GOOD[:-1], "train.csv:3: expected 5 columns (label, context, a, b, c), found 4"),
        (["1", " ", *GOOD[2:]], "train.csv:3: context is empty; remove the example"),
        ([*GOOD[:-1], ""], "train.csv:3: c is empty; remove the example"),
    ],
)
def test_bad_lines(model, tmp_path, row, message):
    write(tmp_path / "train.csv", [GOOD, row, *[GOOD] * 8])
    with pytest.raises(InputError) as error:
        opened(tmp_path, model, examples__dev=(), examples__test=())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"examples__choices": ()}, "choices=(): name the columns of two choices or more"),
        ({"examples__choices": ("a",)}, "name the columns of two choices or more"),
        ({"examples__choices": ("a", "a")}, "name the columns of two choices or more"),
        ({"examples__choices": ("a", "b", "d")}, "train.csv:2: no column 'd'; the nearest is"),
        ({"examples__labels": ("A", "B")}, "labels=('A', 'B'): give each of 3 choices its own"),
        ({"examples__test": ("x/dev.csv",)}, "two files are named dev, which names their predictions"),
        ({"examples__text_b": "start"}, "train.csv:2: no column 'start'"),
        ({"init_from": ""}, "--config.init_from is empty"),
    ],
)
def test_bad_fields(folder, model, fields, message):
    assert message in refusal(settings(folder, model, **fields))


def test_a_model_of_one_token_type_is_refused(folder, tmp_path):
    make_trained(str(tmp_path / "model"), **{"model.type_vocab_size": 1})
    with pytest.raises(InputError, match="has one token type, so it takes no pairs; give single texts"):
        opened(folder, str(tmp_path / "model"))
