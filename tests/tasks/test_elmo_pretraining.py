"""Pre-training of ELMo's language models: batches of a store of words, losses, devices, resumption."""

import math
import shutil

import jax
import numpy as np
import pytest
from elmo_fixture import make_word_store, toy_elmo
from finetune_fixture import open_data, refusal

from bertjax import report, sharding
from bertjax.config import checks
from bertjax.convert.export import export
from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.characters import sentence_characters
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.evaluate import evaluate, make_eval_step
from bertjax.logs import read_metrics
from bertjax.mesh import make_mesh
from bertjax.models import elmo
from bertjax.models.elmo_layers import next_words
from bertjax.tasks.bidirectional_lm import DIRECTIONS
from bertjax.tasks.bidirectional_lm import TASK as task
from bertjax.train import make_train_step, scalars, train
from bertjax.trained_model import load_trained

LONG = ["x1 x2 x3 " * 20, "one two"]  # 60 words, and 2


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return str(make_word_store(tmp_path_factory.mktemp("words"), more=[LONG, LONG, LONG]))


def open_rows(words, **fields):
    config = toy_elmo(words, **{"eval.enabled": True, **fields})
    return config, open_data(config).rows["train"]


def sentences_of(store, documents, room):
    """The words of each sentence, long ones in parts, as sorted tuples."""
    tokens = load_tokenizer(store.path).tokens
    found = []
    for d in documents:
        for s in range(store.documents[d], store.documents[d + 1]):
            ids = store.tokens[store.sentences[s] : store.sentences[s + 1]]
            texts = [tokens[i] for i in ids]
            found += [tuple(texts[i : i + room]) for i in range(0, len(texts), room)]
    return sorted(found)


@pytest.mark.parametrize("pack", [1, 3])
def test_an_epoch_has_every_sentence_once_with_its_words_own_characters(words, pack):
    store = open_store(words)
    config, rows = open_rows(words, **{"data.pack": pack})
    predicted = load_tokenizer(words).tokens[: config.model.vocab_size]
    spelt = {
        sentence_characters(each, 9).tobytes(): each
        for each in sentences_of(store, range(len(store.documents) - 1), 22)
    }
    epochs = []
    for documents, source, count in (
        (store.train_documents, rows.train, None),
        (store.heldout_documents, rows.evals[0].rows, rows.evals[0].num_rows),
    ):
        wanted, seen, first = sentences_of(store, documents, 22), [], 0
        while len(seen) < len(wanted):
            batch = source(first, 1)
            first += 1
            segments = batch["segment_ids"][0]
            assert segments.max() <= pack
            assert not batch["character_ids"][0][segments == 0].any()
            for number in range(1, segments.max() + 1):
                at = segments == number
                text = spelt[batch["character_ids"][0][at].tobytes()]
                ids = batch["input_ids"][0][at]
                names = ["<S>", *(w if w in predicted else "<UNK>" for w in text), "</S>"]
                assert [predicted[i] for i in ids] == names
                seen.append(text)
        assert sorted(seen) == wanted
        assert count in (None, first)
        epochs.append(first)
    assert len(rows.train(0, epochs[0])["input_ids"]) == epochs[0]
    # Content is a function of the position alone, and another epoch has another order.
    whole = rows.train(2, 7)
    parts = rows.train(2, 3), rows.train(5, 4)
    for name, x in whole.items():
        np.testing.assert_array_equal(x, np.concatenate([part[name] for part in parts]))
    assert (rows.train(0, 5)["input_ids"] != rows.train(epochs[0], 5)["input_ids"]).any()
    assert (rows.train(0, 5)["input_ids"] != open_rows(words, seed=1)[1].train(0, 5)["input_ids"]).any()


def test_the_key_of_a_step_is_that_of_all_its_rows_and_of_no_other_step(words):
    config, rows = open_rows(words)
    keys = rows.train(0, 3 * config.train.batch_rows)["step_key"][:: config.train.batch_rows]
    first = [rows.train(step * config.train.batch_rows + 5, 2)["step_key"] for step in range(3)]
    assert keys.dtype == np.uint32
    assert len({each.tobytes() for each in (x[0] for x in first)}) == 3
    assert all((x == x[0]).all() for x in first)


def test_the_loss_is_the_mean_of_both_directions():
    """Of the mean loss of a word in each, whatever their numbers of words."""
    sums = {"forward_sampled_loss": 12.0, "backward_sampled_loss": 4.0}
    assert DIRECTIONS == ("forward", "backward")
    assert task.batch_loss(sums, {"forward": 4.0, "backward": 8.0}) == (3.0 + 0.5) / 2
    assert task.batch_loss(sums, {"forward": 4.0, "backward": 0.0}) == (3.0 + 4.0) / 2


def test_no_direction_sees_what_it_predicts(words):
    """Through the task's own packed batches: the loss of a word does not change with its own characters, nor
    with those of words further on in the direction, nor with another sentence."""
    config, rows = open_rows(words)
    params = jax.jit(lambda key: task.init_params(config, key))(jax.random.key(0))
    batch = rows.train(0, 8)
    assert (batch["segment_ids"].max(1) > 1).any()

    @jax.jit
    def losses(batch):
        model = elmo.KIND.bind(config.model, params).language_models
        targets, weights = next_words(batch["input_ids"], batch["segment_ids"])
        return model.losses(model.states(batch)[-1], targets)[0] * weights, weights

    base, weights = losses(batch)
    row = int(np.argmax(batch["segment_ids"].max(1)))
    at = int(np.flatnonzero(batch["segment_ids"][row] == 2)[3])  # within the row's second sentence
    own = batch["segment_ids"][row] == 2
    position = np.arange(own.size)
    for direction, shift in ((0, 1), (1, -1)):
        target = at + shift
        hidden = (position - target) * shift >= 0
        for unseen in (own & hidden, ~own):
            changed = dict(batch)
            characters = batch["character_ids"].copy()
            characters[row, unseen & (batch["segment_ids"][row] > 0)] = 7
            found, _ = losses(changed | {"character_ids": characters})
            assert weights[row, at, direction] == 1
            assert found[row, at, direction] == base[row, at, direction]
        seen = batch["character_ids"].copy()
        seen[row, own & ~hidden] = 7
        found, _ = losses(batch | {"character_ids": seen})
        assert abs(found[row, at, direction] - base[row, at, direction]) > 1e-6


def test_perplexities_are_exact_sums_over_the_words_whatever_the_batches(words):
    figures = []
    for size, pack in ((8, 3), (16, 3), (8, 1)):
        config, rows = open_rows(words, **{"eval.batch_rows": size, "data.pack": pack})
        params = jax.jit(lambda key, config=config: task.init_params(config, key))(jax.random.key(0))
        params = jax.tree.map(lambda x: 2 * x, params)
        mesh = make_mesh(config, jax.devices())
        step = make_eval_step(config, task, mesh, sharding.state_shardings(elmo.KIND.sharding, params, mesh))
        figures.append(evaluate(config, task, mesh, step, params, rows.evals[0]))
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-5)
    # Against a sum over the sentences, one by one.
    config, rows = open_rows(words, **{"data.pack": 1})
    total, count = np.zeros(2), 0
    sums = jax.jit(lambda batch: task.batch_sums(config, params, batch, None))
    for i in range(rows.evals[0].num_rows):
        one = sums(rows.evals[0].rows(i, 1))
        total += [float(one["forward_loss"]), float(one["backward_loss"])]
        count += int((rows.evals[0].rows(i, 1)["segment_ids"] > 0).sum()) - 1
    forward, backward = np.exp(total / count)
    assert figures[0]["forward_perplexity"] == pytest.approx(forward, rel=1e-5)
    assert figures[0]["backward_perplexity"] == pytest.approx(backward, rel=1e-5)
    assert figures[0]["perplexity"] == pytest.approx((forward + backward) / 2, rel=1e-5)
    assert figures[0]["loss"] == pytest.approx(total.sum() / count / 2, rel=1e-5)


def run(words, devices, steps=3, **fields):
    """Losses and parameters of a few training steps."""
    config, rows = open_rows(words, **fields)
    mesh = make_mesh(config, jax.devices()[:devices])
    step, init, _ = make_train_step(config, task, mesh)
    state, losses = init(), []
    for i in range(steps):
        batch = sharding.make_global(mesh, rows.train, i * rows.batch_rows, rows.batch_rows)
        state, measured = step(state, batch, scalars(config, i))
        losses.append(task.metrics({name: float(x) for name, x in measured.items()})["sampled_loss"])
    return losses, jax.tree.map(np.asarray, state["params"])


@pytest.fixture(scope="module")
def on_one_device(words):
    return run(words, 1)


@pytest.mark.parametrize(
    ("devices", "fields"),
    [
        (8, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}),
        (1, {"train.accumulation": 2}),
        (4, {"train.accumulation": 2, "mesh.fsdp": 2}),
    ],
    ids=str,
)
def test_negatives_and_dropout_follow_from_the_step_not_from_devices_or_parts(
    words, on_one_device, devices, fields
):
    losses, params = run(words, devices, **fields)
    np.testing.assert_allclose(losses, on_one_device[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, on_one_device[1])


def settings(words, workdir, **fields):
    return toy_elmo(words, workdir, **{"train.steps": 90, "eval.enabled": True, "train.eval_every": 30,
                    "train.save_every": 30, "train.keep_last": 9, "train.log_every": 30, "mesh.data": 1,
                    "mesh.fsdp": -1, **fields})  # fmt: skip


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(settings(words, workdir))


def test_perplexity_falls_below_that_of_guessing_by_frequency(whole):
    workdir, figures = whole
    held_out = [row for row in read_metrics(str(workdir / "metrics.jsonl")) if "eval/perplexity" in row]
    assert [row["step"] for row in held_out] == [30, 60, 90]
    for name in ("forward", "backward"):
        falling = [row[f"eval/{name}_perplexity"] for row in held_out]
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] < 0.7 * math.exp(figures["eval/unigram_entropy"])


def test_the_entropy_is_that_of_the_predicted_words(words, whole):
    store = open_store(words)
    counts = np.bincount(np.minimum(store.tokens, 40), minlength=41).astype(float)
    counts[2] += counts[40]  # rare words are unknown ones
    counts[1] += len(store.sentences) - 1
    shares = counts[:40][counts[:40] > 0] / counts[:40].sum()
    assert whole[1]["eval/unigram_entropy"] == pytest.approx(-(shares * np.log(shares)).sum())


def test_epochs_give_the_steps(words):
    fields = {"train.epochs": 3.0, "optim.warmup_proportion": 0.5}
    found = open_data(toy_elmo(words, **fields)).config
    once = open_data(toy_elmo(words, **fields | {"train.epochs": 6.0})).config
    assert found.train.steps > 0
    assert abs(once.train.steps - 2 * found.train.steps) <= 1
    assert found.optim.warmup_steps == found.train.steps // 2
    with pytest.raises(InputError, match=r"epochs=0\.001: \d+ rows give no batch of"):
        open_data(toy_elmo(words, **{"train.epochs": 0.001}))


@pytest.mark.usefixtures("eight_devices")
def test_a_run_that_was_stopped_ends_like_one_that_was_not(words, whole, tmp_path):
    parts = tmp_path / "parts"
    shutil.copytree(whole[0], parts)
    for step in (90, 60):
        shutil.rmtree(parts / f"checkpoints/{step}")
        (parts / f"checkpoints/digests/{step}.json").unlink()
    train(settings(words, parts, **{"mesh.data": 8, "mesh.fsdp": 1, "train.accumulation": 1}))
    one, two = (load_trained(str(path)) for path in (whole[0], parts))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, two.params)
    assert one.step == two.step == 90


def test_the_model_of_a_run_is_loaded_drawn_and_not_exported(words, whole, tmp_path):
    model = load_trained(str(whole[0]))
    assert (model.config.kind, model.head, model.tokenizer.kind) == ("elmo", "language_models", "words")
    assert model.config.filters == ((1, 8), (2, 8), (3, 16))
    config, rows = open_rows(words)
    batch = rows.train(0, 2)
    top = model.module().language_models.states(batch)[-1]
    direct = elmo.KIND.bind(config.model, model.params).language_models.states(batch)[-1]
    np.testing.assert_array_equal(top, direct)
    with pytest.raises(InputError, match="Hugging Face has no ELMo; it is not exported"):
        export(model, str(tmp_path / "hf"))
    figure = report.draw(str(whole[0]))
    sizes = "1 layer, 16 cells, projection 16, batch 8 × 24 tokens"
    assert figure.get_suptitle().endswith(f": bidirectional_lm, {sizes}")
    titles = [axis.get_title() for axis in figure.axes]
    assert {"Sampled-softmax loss", "Loss", "Held-out forward perplexity"} <= set(titles)
    entropy = next(axis for axis in figure.axes if axis.get_title() == "Loss").get_lines()[-1]
    assert entropy.get_label().startswith("unigram entropy, ")
    # A run may begin from another one, of the same sizes and words only.
    again = settings(words, tmp_path / "again", init_from=str(whole[0]), **{"train.steps": 1})
    train(again)
    other = settings(words, tmp_path / "other", init_from=str(whole[0]), **{"model.cells": 32})
    with pytest.raises(InputError, match=r"to train one like it add --config.model.cells=16$"):
        train(other)


def test_what_does_not_fit_is_one_line(words, store, tmp_path):
    def found(folder=words, **fields):
        return refusal(toy_elmo(folder, **fields))

    assert "a store of wordpiece tokens; ELMo is trained on those of --tokenizer=words" in found(store)
    assert "--config.data.store is empty" in found("")
    count = load_tokenizer(words).vocab_size
    assert f"has {count} words; set --config.model.vocab_size={count}" in found(**{"model.vocab_size": 900})
    assert "a whole number of times" in found(**{"data.weights": (1.5,)})
    for fields, message in (
        (
            {"model.kind": "bert"},
            "kind='bert': the task bidirectional_lm trains a model for language_m",
        ),
        ({"task": "pretrain"}, "kind='elmo': the task pretrain trains a model for pretraining: bert$"),
    ):
        with pytest.raises(InputError, match=message):
            checks.check(toy_elmo(words, **fields))
    fields, devices = {"mesh.data": 1, "mesh.fsdp": 8}, jax.devices()
    with pytest.raises(InputError, match=r"fsdp=8 does not divide model.cells=20"):
        make_mesh(toy_elmo(words, **{**fields, "model.cells": 20}), devices)
    config = toy_elmo(words, **fields)
    make_mesh(config, devices)  # pre-training has no head
    config.head = elmo.KIND.head_section()
    config.head.lstm_size = 12
    with pytest.raises(InputError, match=r"fsdp=8 does not divide head.lstm_size=12"):
        make_mesh(config, devices)


def test_sentences_that_are_cut_are_counted(words):
    config = toy_elmo(words, **{"data.weights": (2.0,)})
    data = open_data(config)
    store = open_store(words)
    sizes = np.diff(store.sentences)
    cut = sum(2 * (sizes[store.documents[d] : store.documents[d + 1]] > 22).sum()
              for d in store.train_documents)  # fmt: skip
    assert cut > 0
    assert data.notes == (f"{store.path}: {cut} sentences have more than 22 words and are cut (train)",)
