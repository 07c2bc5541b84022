"""Fine-tuning of multiple choice, on files that the tests write; the features also on real ones."""

import csv
import dataclasses
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from finetune_fixture import refusal, toy_settings
from safetensors.numpy import load_file
from trained_fixture import make_trained

import bertjax
from bertjax import config_files, sharding
from bertjax.convert.export import export
from bertjax.data.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.errors import InputError
from bertjax.evaluate import make_predict_step, predict
from bertjax.files import read_json
from bertjax.logs import read_metrics
from bertjax.models import bert
from bertjax.tasks import choose
from bertjax.train import make_train_step, scalars, train
from bertjax.trained import load_trained

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
    return choose.open_data(settings(folder, model, **fields), bertjax.load(model))


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
    batch = data.rows["train"].train(0, 8)
    shapes = choose.batch_shapes(data.config, data.config.train)
    assert {name: x.dtype for name, x in batch.items()} == {name: x.dtype for name, x in shapes.items()}
    assert {name: x.ndim for name, x in batch.items()} == {name: len(x.shape) for name, x in shapes.items()}
    tokens = data.tokenizer.tokens
    for row in range(8):
        assert batch["labels"][row] == 1
        found = [[tokens[i] for i in ids if i != data.tokenizer.pad_id] for ids in batch["input_ids"][row]]
        for words, choice in zip(found, (["w10"], ["w12", "w13", "w14"], ["w16", "##s"]), strict=True):
            assert words == ["[CLS]", "w8", "w9", "[SEP]", *choice, "[SEP]"]
        for c, n in enumerate(len(words) for words in found):
            assert batch["token_type_ids"][row, c].tolist() == [0] * 4 + [1] * (n - 4) + [0] * (32 - n)
            assert batch["segment_ids"][row, c].tolist() == [1] * n + [0] * (32 - n)
            assert batch["position_ids"][row, c].tolist() == list(range(32))


@pytest.mark.parametrize(
    ("folder", "train_file", "count"), [("swag", "train.csv", 10), ("codah/swag_header", "val.csv", None)]
)
def test_features_of_real_files(model, folder, train_file, count):
    """Every character a WordPiece, rows spell the file's texts."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"{DATA / folder} is absent; BERTJAX_DATA names the folder of the real data")
    config = config_files.load("configs/swag.py")
    with open(DATA / folder / train_file, newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    count = count or len(records)
    characters = sorted({x for record in records for text in record.values() for x in text if x != " "})
    pieces = [*characters, *(f"##{x}" for x in characters)]
    tokenizer = wordpiece_tokenizer([*SPECIAL_TOKENS, *pieces], lower_case=False, name="characters")
    source = dataclasses.replace(bertjax.load(model), tokenizer=tokenizer)
    source.config.max_position_embeddings = 512
    config.examples.update(folder=str(DATA / folder), train=train_file, dev=(train_file,), test=())
    config.train.update(batch_size=2, seq_length=512)
    config.eval.batch_size = 1
    [dev] = choose.open_data(config, source).rows["train"].evals
    assert dev.num_rows == count == len(records)
    seen = []
    for i in range(count):
        batch = dev.rows(i, 1)
        texts = []
        for ids, types in zip(batch["input_ids"][0], batch["token_type_ids"][0], strict=True):
            ids = ids[ids != tokenizer.pad_id]
            words = [tokenizer.tokens[i].removeprefix("##") for i in ids]
            assert list(types[: len(ids)]) == sorted(types[: len(ids)])
            texts.append(tuple("".join(words).split("[SEP]")))
        seen.append((int(batch["labels"][0]), tuple(texts)))
    wanted = []
    for record in records:
        first = "[CLS]" + record["sent1"].replace(" ", "")
        seconds = [f"{record['sent2']}{record[f'ending{i}']}".replace(" ", "") for i in range(4)]
        wanted.append((int(record["label"]), tuple((first, second, "") for second in seconds)))
    assert sorted(seen) == sorted(wanted)


def test_padding_and_devices_change_nothing(folder, model):
    """Loss and gradient of a batch, padded to its longest row and to the end, on one device and on eight."""
    data = opened(folder, model)
    config = data.config
    params = choose.init_params(config, jax.random.key(0))
    batch = data.rows["train"].train(0, 8)
    length = batch["input_ids"].shape[2]
    assert length < 48
    padded = {
        name: np.pad(x, ((0, 0), (0, 0), (0, 48 - length))) if x.ndim == 3 else x for name, x in batch.items()
    }
    padded["position_ids"] = np.broadcast_to(np.arange(48, dtype=np.int32), (8, 3, 48))

    def loss(params, batch):
        sums = choose.batch_sums(config, params, batch, None)
        return choose.batch_loss(sums, choose.batch_weights(batch))

    step = jax.jit(jax.value_and_grad(loss))
    found = step(params, batch)
    mesh = sharding.make_mesh(config, jax.devices())
    shardings = sharding.state_shardings(params, mesh)
    spread = step(jax.device_put(params, shardings), sharding.to_global(mesh, batch))
    for other in (step(params, padded), spread):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, other)


def test_a_step_is_the_same_on_one_device_on_eight_and_in_parts(folder, model):
    """With dropout; and a row of each choice is a sequence."""
    results = []
    for devices, parts in ((1, 1), (8, 1), (1, 2)):
        data = opened(folder, model, mesh__fsdp=devices, train__accumulation=parts)
        mesh = sharding.make_mesh(data.config, jax.devices()[:devices])
        step, init, _ = make_train_step(data.config, choose, mesh)
        batch = data.rows["train"].train(0, 8)
        state = init()
        for i in range(2):  # the first has a rate of 0
            state, measured = step(state, sharding.to_global(mesh, batch), scalars(data.config, i))
        results.append((jax.device_get(state["params"]), jax.device_get(measured)))
        assert measured["sequences"] == 24
        assert measured["tokens"] == (batch["input_ids"] != data.tokenizer.pad_id).sum()
        assert measured["examples"] == 8
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), results[0], other)


def test_each_choice_has_dropout_of_its_own(folder, model):
    data = opened(folder, model)
    params = choose.init_params(data.config, jax.random.key(0))
    batch = data.rows["train"].train(0, 8)
    # One text three times: what differs is dropout.
    same = {name: np.repeat(x[:, :1], 3, axis=1) if x.ndim == 3 else x for name, x in batch.items()}
    keys = np.arange(16, dtype=np.uint32).reshape(8, 2)
    scores = np.asarray(choose._logits(data.config, params, same, keys, lm=False)[0])
    assert (np.abs(np.diff(scores[:, [0, 1, 2, 0]], axis=1)) > 1e-6).all()
    plain = np.asarray(choose._logits(data.config, params, same, None, lm=False)[0])
    np.testing.assert_allclose(plain[:, 1:], plain[:, :2], atol=1e-6)
    # An example's masks do not depend on its place in the batch.
    part = {name: x[4:6] for name, x in same.items()}
    found, _ = choose._logits(data.config, params, part, keys[4:6], lm=False)
    np.testing.assert_allclose(found, scores[4:6], atol=1e-5)


@pytest.mark.parametrize(("devices", "size"), [(8, 8), (1, 5)])
def test_predictions_are_in_order_and_none_is_lost(folder, model, devices, size):
    data = opened(folder, model, eval__batch_size=size, mesh__fsdp=devices)
    params = choose.init_params(data.config, jax.random.key(3))
    mesh = sharding.make_mesh(data.config, jax.devices()[:devices])
    shardings = sharding.state_shardings(params, mesh)
    dev = data.rows["train"].evals[0]
    step = make_predict_step(data.config, choose, mesh, shardings)
    outputs = predict(data.config, mesh, step, jax.device_put(params, shardings), dev)
    assert outputs["logits"].shape == (dev.num_rows, 3) == (21, 3)
    module = bert.bind(data.config.model, params)
    rows = opened(folder, model, eval__batch_size=1, mesh__fsdp=1).rows["train"].evals[0]
    for i in range(21):  # short ones first, each by itself
        batch = {name: x[0] for name, x in rows.rows(i, 1).items()}
        scores = module.classify(module.pool(module.encoder(batch)[:, 0]))[:, 0]
        np.testing.assert_allclose(outputs["logits"][i], scores, atol=1e-5)
    right = [(100 + 2 * i) % 3 for i in range(21)]
    lengths = [max(len(text.split()) for text in question(100 + 2 * i, 25 if i % 4 == 0 else 4)[2:])
               for i in range(21)]  # fmt: skip
    order = np.argsort(lengths, kind="stable")
    wanted = (outputs["logits"].argmax(-1) == np.array(right)[order]).mean()
    assert dev.score(outputs)["accuracy"] == pytest.approx(wanted)


def test_labels_may_have_names_and_choices_a_beginning(model, tmp_path):
    rows = [["ABC"[i % 3], "w8", "w9", "w10", "w12", "w13" * (i % 2), str(90 - i)] for i in range(8)]
    write(tmp_path / "train.csv", rows, [*HEADER, "start", "id"])
    fields = {"examples__test": (), "examples__dev": ("train.csv",), "examples__labels": ("A", "B", "C"),
              "examples__text_b": "start", "examples__id": "id"}  # fmt: skip
    data = opened(tmp_path, model, **fields)
    [dev] = data.rows["train"].evals
    batch = dev.rows(0, 8)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # without a beginning, and with one, which is a token longer
    assert batch["labels"].tolist() == [i % 3 for i in order]
    assert (batch["segment_ids"].sum(2)[:, 0] == [5] * 4 + [6] * 4).all()
    dev.write({"logits": np.eye(3)[[i % 3 for i in order]]}, str(tmp_path))
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
        ({"examples__metric": "f1"}, "metric=f1: choices are measured by accuracy"),
        ({"examples__number": True}, "number=True: choices have labels, not numbers; leave it out"),
        ({"examples__test": ("x/dev.csv",)}, "two files are named dev, which names their predictions"),
        ({"examples__text_b": "start"}, "train.csv:2: no column 'start'"),
        ({"init_from": ""}, "--config.init_from is empty"),
    ],
)
def test_bad_fields(folder, model, fields, message):
    assert message in refusal(choose, settings(folder, model, **fields))


def test_a_model_of_one_token_type_is_refused(folder, tmp_path):
    make_trained(str(tmp_path / "model"), **{"model.type_vocab_size": 1})
    with pytest.raises(InputError, match="has one token type, so it takes no pairs; name another model"):
        opened(folder, str(tmp_path / "model"))
