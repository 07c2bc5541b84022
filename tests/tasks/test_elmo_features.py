"""Tags and classes from a frozen ELMo, on files that the tests write."""

import json
import random
import shutil

import jax
import numpy as np
import pytest
from elmo_fixture import NOUNS, make_elmo
from finetune_fixture import open_data, refusal, toy_settings
from trained_fixture import make_trained

import bertjax
from bertjax import sharding
from bertjax.convert.export import export
from bertjax.data.finetuning.conll import read_conll
from bertjax.data.tokenizers import cache as token_cache
from bertjax.errors import InputError
from bertjax.init_from import load_source
from bertjax.mesh import make_mesh
from bertjax.models import elmo
from bertjax.models.layers import dropout_keys
from bertjax.predict import __main__ as predict
from bertjax.tasks.classify import TASK as classify
from bertjax.tasks.tag import TASK as tag
from bertjax.train import train
from bertjax.train_state import init_state
from bertjax.trained_model import load_trained

FILES = {
    tag: {"train": "train.txt", "dev": ("dev.txt",), "test": ("test.txt",)},
    classify: {"text_a": "a", "text_b": "b", "test": ("test.tsv",)},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The workdir of an ELMo with random parameters and the words of a store."""
    return make_elmo(tmp_path_factory.mktemp("elmo"))


def words_and_tags(rng):
    """An entity is a capital word, and the one behind it if that begins with "end"."""
    lines = []
    for _ in range(rng.randrange(1, 7)):
        if rng.random() < 0.4:
            lines.append(f"{rng.choice(['Émile', 'Zoë', 'Bo', 'X-Ray'])} B-P")
            lines += [f"end{rng.randrange(99)} I-P"] * rng.randrange(2)
        else:
            lines.append(f"{rng.choice(NOUNS[:3])} O")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), random.Random(0)
    for name, count in (("train", 80), ("dev", 16), ("test", 9)):
        (folder / f"{name}.txt").write_text("\n\n".join(words_and_tags(rng) for _ in range(count)) + "\n")
    for name, count in (("train", 64), ("dev", 20), ("test", 5)):
        lines = ["label\ta\tb"]
        for _ in range(count):
            label = ("same", "other")[rng.randrange(2)]
            first, second = rng.sample(("cat", "Émile,", "houses"), 2)
            lines.append(f"{label}\t{first}\t{first if label == 'same' else second} is")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def settings(task, folder, model, workdir="", **fields):
    fields = {
        "train__epochs": 20.0, "train__log_every": 20, "train__freeze_encoder": True, "train__seq_length": 24,
        "optim__name": "adamw", "optim__weight_decay": 0.0, "optim__learning_rate": 1e-2,
        "head__lstm_layers": 1, "head__lstm_size": 16, "head__hidden_size": 16, "head__dropout_prob": 0.0,
    } | fields  # fmt: skip
    return toy_settings(task.name, folder, model, workdir, fields, "elmo", **FILES[task])


@pytest.fixture(scope="module")
def tagger(folder, model, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tag")
    return workdir, train(settings(tag, folder, model, workdir))


@pytest.fixture(scope="module")
def classifier(folder, model, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classify")
    return workdir, train(settings(classify, folder, model, workdir))


def test_a_tagger_learns_and_predict_says_what_the_run_wrote(folder, tagger, tmp_path, capsys):
    workdir, figures = tagger
    assert figures["eval/f1"] > 0.8
    trained = load_trained(str(workdir))
    assert (trained.config.kind, trained.head, trained.labels) == (
        "elmo", "token_classification", ("O", "B-P", "I-P"),
    )  # fmt: skip
    written = (workdir / "test_predictions.conll").read_text()
    assert [s.words for s in read_conll(str(workdir / "test_predictions.conll"), tagged=True)] == [
        s.words for s in read_conll(str(folder / "test.txt"), tagged=True)
    ]
    predict.main(["tag", f"--model={workdir}", "--conll", f"--input={folder / 'test.txt'}"])
    assert capsys.readouterr().out == written
    predict.main(["tag", f"--model={workdir}", "--json", "Zoë end1 cat"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["tags"][0] == "B-P"
    assert all(0 < share <= 1 for share in answer["probabilities"])
    with pytest.raises(InputError, match="Hugging Face has no ELMo"):
        export(trained, str(tmp_path / "hf"))


def test_a_classifier_of_pairs_learns_and_predict_says_what_the_run_wrote(folder, classifier, capsys):
    workdir, figures = classifier
    assert figures["eval/accuracy"] > 0.9
    lines = (workdir / "test_predictions.tsv").read_text().splitlines()[1:]
    command = ["classify", f"--model={workdir}"]
    predict.main([*command, f"--input={folder / 'test.tsv'}", "--columns=a,b"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        line.split("\t")[1] for line in lines
    ]
    with pytest.raises(InputError, match="'cat': the model was trained on pairs of texts; give those"):
        predict.main([*command, "cat"])
    with pytest.raises(InputError, match="name one that was trained to choose"):
        predict.main(["choose", f"--model={workdir}", "a", "b", "c"])


@pytest.mark.parametrize("task", [tag, classify], ids=["tag", "classify"])
def test_a_frozen_encoder_is_fixed_and_has_no_moments(folder, model, tagger, classifier, task):
    workdir = (tagger if task is tag else classifier)[0]
    before, after = bertjax.load(model).params, load_trained(str(workdir)).params
    jax.tree.map(np.testing.assert_array_equal, before["encoder"], after["encoder"])
    assert np.abs(after["mix_bias"]).max() > 0  # the mix is learned
    data = open_data(settings(task, folder, model), bertjax.load(model))
    state = jax.eval_shape(lambda: init_state(data.config, task, 0))
    assert "encoder" in state["params"]
    assert "softmax_kernel" not in state["params"]
    for moments in ("mu", "nu"):
        assert set(state["optimizer"][moments]) == set(state["params"]) - {"encoder"}
    sharding.state_shardings(elmo.KIND.sharding, state, make_mesh(data.config, jax.devices()))


@pytest.mark.parametrize("task", [tag, classify], ids=["tag", "classify"])
def test_padding_devices_and_other_rows_change_nothing(folder, model, task):
    """Loss with padding behind every row; loss and gradient with dropout on eight devices."""
    config = settings(task, folder, model, head__dropout_prob=0.3)
    data = open_data(config, bertjax.load(model))
    config, rows = data.config, data.rows["train"]
    params = jax.jit(lambda key: task.init_params(config, key))(jax.random.key(3))
    batch = rows.train(0, rows.batch_rows)
    assert batch["segment_ids"].max() == 1
    size, length = batch["input_ids"].shape
    keys = dropout_keys(np.array([1, 2], np.uint32), np.arange(size))

    def loss(params, batch, keys):
        return task.batch_loss(task.batch_sums(config, params, batch, keys), task.batch_weights(batch))

    step, plain = jax.jit(jax.value_and_grad(loss)), jax.jit(loss)
    found = plain(params, batch, None)

    def longer_by(x, name):
        if x.shape[1] != length:  # what belongs to the row
            return x
        filler = 0 if name in ("segment_ids", "label_weights") else 1
        return np.pad(x, ((0, 0), (0, 5), *((0, 0),) * (x.ndim - 2)), constant_values=filler)

    longer = {name: longer_by(x, name) for name, x in batch.items()}
    np.testing.assert_allclose(plain(params, longer, None), found, rtol=1e-5)
    mesh = make_mesh(config, jax.devices())
    on_mesh = jax.device_put(params, sharding.state_shardings(elmo.KIND.sharding, params, mesh))
    with_dropout = step(params, batch, keys)
    spread = step(on_mesh, sharding.to_global(mesh, batch), keys)
    assert abs(with_dropout[0] - found) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), with_dropout, spread)
    few = {key: x[:3] for key, x in batch.items()}
    outputs = jax.jit(lambda batch: task.batch_outputs(config, params, batch))
    whole, part = outputs(batch), outputs(few)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:3], b, atol=1e-5), whole, part)


@pytest.mark.usefixtures("eight_devices")
def test_a_run_goes_on_without_the_model_that_it_began_from(folder, tagger, tmp_path):
    workdir = tmp_path / "parts"
    shutil.copytree(tagger[0], workdir)
    config = settings(tag, folder, "/nowhere", workdir)
    assert train(config) == {}  # complete
    assert load_trained(str(workdir)).config.cells == 16


@pytest.mark.parametrize("task", [tag, classify], ids=["tag", "classify"])
def test_kept_token_ids_change_nothing(folder, model, tmp_path, monkeypatch, task):
    """A task's own words have their numbers from the run that reads them."""
    monkeypatch.setattr(token_cache, "_LEAST", 1)
    batches = []
    for cache in ("", str(tmp_path), str(tmp_path)):
        config = settings(task, folder, model, examples__cache=cache)
        batches.append(open_data(config, load_source(config, task)).rows["train"].train(0, 8))
    for name, x in batches[0].items():
        np.testing.assert_array_equal(x, batches[1][name])
        np.testing.assert_array_equal(x, batches[2][name])


def test_words_of_a_tagged_word_are_cut_as_in_pretraining(folder, model):
    data = open_data(settings(tag, folder, model), bertjax.load(model))
    assert data.tokenizer.sha256 == bertjax.load(model).tokenizer.sha256
    dev = data.rows["train"].evals[0]
    sentences = read_conll(str(folder / "dev.txt"), tagged=True)
    batch = dev.rows(0, dev.num_rows)
    counts = [sum(3 if word == "X-Ray" else 1 for word in s.words) + 2 for s in sentences]
    assert sorted((batch["segment_ids"] > 0).sum(1).tolist()) == sorted(counts)
    assert sorted(batch["label_weights"].sum(1).tolist()) == sorted(len(s.words) for s in sentences)


def test_what_does_not_fit_is_one_line(folder, model, tmp_path):
    assert "document_context" not in settings(tag, folder, model).examples  # it reads sentence by sentence
    assert "--config.init_from is empty" in refusal(settings(classify, folder, ""))
    make_trained(str(tmp_path / "bert"))
    with pytest.raises(InputError, match=r"a model of kind bert, which cannot be used here; .* kind elmo"):
        train(settings(tag, folder, tmp_path / "bert", tmp_path / "run"))
