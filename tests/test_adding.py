"""The examples of docs/adding.md, from its own text, without any change in the package."""

import ast
import importlib
import json
import re
import sys

import jax
import numpy as np
import pytest
from store_fixture import TESTS, arguments, toy_config
from trained_fixture import make_trained

from bertjax import optimizer_names
from bertjax.config import default
from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.logs import read_metrics
from bertjax.main import main
from bertjax.models import bert, kind_of
from bertjax.predict.predictor import Predictor
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import build
from bertjax.tasks import task_of
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import train
from bertjax.trained_model import load_trained

PAGE = (TESTS.parent / "docs" / "adding.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.S))
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the page, in a folder that Python imports from."""
    folder = tmp_path_factory.mktemp("adding")
    for name, code in EXAMPLES.items():
        (folder / name).write_text(code)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


def lines_of_code(source):
    """Lines that are neither blank nor of the docstring."""
    first = ast.parse(source).body[0].end_lineno
    return sum(bool(line.strip()) for line in source.splitlines()[first:])


def test_the_examples_are_small():
    assert EXAMPLES.keys() == {"sentence_order.py", "order.py", "sinusoids.py", "momentum.py", "titled.py"}
    assert lines_of_code(EXAMPLES["sentence_order.py"]) < 60
    assert lines_of_code(EXAMPLES["sinusoids.py"]) < 40
    assert lines_of_code(EXAMPLES["titled.py"]) < 20


def test_the_task_learns(folder, tmp_path):
    """What comes first begins with "w8", what follows with "w9"."""
    make_trained(str(tmp_path / "model"))
    rng = np.random.default_rng(0)
    documents = [f"w8 w{20 + rng.integers(40)}. w9 w{20 + rng.integers(40)}" for _ in range(64)]
    (tmp_path / "train.txt").write_text("\n".join(documents) + "\n")
    (tmp_path / "dev.txt").write_text("\n".join(documents[:10]) + "\n")
    workdir = tmp_path / "run"
    args = arguments(
        folder / "order.py",
        **{"examples.folder": tmp_path, "init_from": tmp_path / "model", "workdir": workdir,
           "train.epochs": 30.0, "train.batch_examples": 8, "train.seq_length": 32,
           "model.dtype": "float32", "model.hidden_dropout_prob": 0.0,
           "model.attention_probs_dropout_prob": 0.0, "optim.learning_rate": 1e-3, "log.tensorboard": False},
    )  # fmt: skip
    main(args)
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/accuracy"] == 1
    assert len((workdir / "dev_predictions.tsv").read_text().splitlines()) == 11
    model = load_trained(str(workdir))
    assert model.labels == ("in order", "swapped")
    in_order, swapped = Predictor(model).classify([("w8 w21", "w9 w30"), ("w9 w30", "w8 w21")])
    assert (in_order.argmax(), swapped.argmax()) == (0, 1)
    with pytest.raises(InputError, match=r"no such field of the task sentence_order:TASK on bert"):
        main([*args, "--config.examples.text_b=b"])


def test_the_encoder_has_fewer_parameters_learns_and_is_read_again(folder, store, tmp_path):
    fields = {
        "model.kind": "sinusoids:KIND",
        "train.steps": 30,
        "train.log_every": 30,
        "workdir": str(tmp_path),
    }
    config = toy_config(store, **{"train.steps": 30})
    ours, theirs = (
        sum(x.size for x in jax.tree.leaves(pretrain.init_params(c, jax.random.key(0))))
        for c in (with_kind(config, "sinusoids:KIND"), config)
    )
    assert ours == theirs - config.model.max_position_embeddings * config.model.hidden_size
    lines = [f"    c.{name} = {value!r}" for name, value in toy_fields(store).items() | fields.items()]
    (tmp_path / "recipe.py").write_text(
        "from bertjax.config import default\n\n\ndef get_config():\n"
        "    c = default('pretrain', 'sinusoids:KIND')\n" + "\n".join(lines) + "\n    return c\n"
    )
    main([f"--config={tmp_path / 'recipe.py'}"])
    model = load_trained(str(tmp_path))
    assert model.kind is kind_of("sinusoids:KIND") is not bert.KIND
    assert "position" not in model.params["encoder"]["embeddings"]
    masks = Predictor(model).fill_mask(["w8 [MASK] w12"])
    assert len(masks[0][0]) == 5
    # Positions are told apart: other orders of the same words have other states.
    one, other = Predictor(model).embed(["w8 w9 w12", "w12 w9 w8"])
    assert np.abs(one - other).max() > 1e-3
    classify = default("classify", "sinusoids:KIND")
    assert classify.head == bert.KIND.head_section()
    assert task_of(classify.task).head in model.kind.heads


def test_the_optimizer_trains_with_its_arguments(folder, store, tmp_path):
    args = re.search(r"--config.optim.name=momentum:momentum --config.optim.args=\"(.*)\"", PAGE)
    fields = {
        "optim.name": "momentum:momentum", "optim.args": ast.literal_eval(args[1]), "train.log_every": 50,
        "optim.learning_rate": 0.1, "optim.warmup_steps": 0, "optim.decay": "constant", "train.steps": 200,
    }  # fmt: skip
    train(toy_config(store, tmp_path / "one", **fields))
    losses = [row["loss"] for row in read_metrics(str(tmp_path / "one" / "metrics.jsonl")) if "loss" in row]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.1
    config = toy_config(**fields | {"optim.args": {"b1": 0.9}})
    with pytest.raises(
        InputError, match=r"momentum:momentum has no argument 'b1'; .* accepts decay, weight_dec"
    ):
        optimizer_names.check(config.optim)
    for name, fault in (("momentum:nothing", "has no attribute 'nothing'"), ("momentum:optax", "is a module"),
                        ("momentum:decayed", "it must take learning_rate")):  # fmt: skip
        config.optim.name = name
        with pytest.raises(InputError, match=rf"^--config\.optim\.name=.*{fault}"):
            optimizer_names.check(config.optim)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_format_is_prepared(folder, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(build, "BLOCK_BYTES", 1000)
    name = re.search(r"--input=articles\.txt --format=(\S+)", PAGE)[1]
    file, out = tmp_path / "articles.txt", tmp_path / "store"
    bodies = [f"The w{i} came\nin.\n\nThen it left. {'It == that. ' * (i % 5)}" for i in range(200)]
    text = "\n".join(f"== Title {i} ==\n{body}" for i, body in enumerate(bodies))
    args = [f"--format={name}", "--vocab_size=60", f"--processes={processes}"]
    file.write_text(f"\n{text}\n")
    prepare.main([*args, f"--input={file}", f"--out={out}"])
    made, tokenizer = open_store(out), load_tokenizer(out)
    assert made.manifest["summary"]["documents"] == 200
    assert made.manifest["inputs"][0]["format"] == name
    sentences = [[f"The w{i} came in.", "Then it left.", *["It == that."] * (i % 5)] for i in range(200)]
    ids = [tokenizer.encode_batch(document) for document in sentences]
    assert made.tokens.tolist() == [token for document in ids for sentence in document for token in sentence]
    assert np.diff(made.documents).tolist() == [len(document) for document in ids]
    (tmp_path / "bad.txt").write_text("\n\nNo title.\n== Title ==\nText. More.\n")
    with pytest.raises(InputError, match=r"bad\.txt:3: text without a title; put '== Title ==' above it"):
        prepare.main([*args, f"--input={tmp_path / 'bad.txt'}", f"--out={tmp_path / 'bad'}"])
    (tmp_path / "latin.txt").write_bytes(text.encode() + b"\ncaf\xe9\n")
    with pytest.raises(InputError, match=rf"latin\.txt:{len(text.splitlines()) + 1}: byte 0xe9 is not UTF-8"):
        prepare.main([*args, f"--input={tmp_path / 'latin.txt'}", f"--out={tmp_path / 'latin'}"])


def toy_fields(store):
    """Those of toy_config that a recipe sets."""
    from bertjax.sections import fields

    plain, toy = dict(fields(default())), dict(fields(toy_config(store)))
    return {name: value for name, value in toy.items() if value != plain[name]}


def with_kind(config, name):
    config = config.copy_and_resolve_references()
    config.model.kind = name
    return config
