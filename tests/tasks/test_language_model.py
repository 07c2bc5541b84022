"""Language-model pre-training: what is predicted, from what, and the figures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetune_fixture import open_data
from gpt_fixture import lm_config, make_gpt_store, make_tokenizer
from store_fixture import VOCAB

from bertjax import sharding
from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.tokenizer import add_task_tokens
from bertjax.errors import InputError
from bertjax.evaluate import evaluate, make_eval_step
from bertjax.mesh import make_mesh
from bertjax.models import gpt
from bertjax.tasks.language_model import TASK as language_model
from bertjax.train import train
from bertjax.trained_model import load_trained

PAIRS = {"data.special_tokens": True, "model.type_vocab_size": 2, "model.vocab_size": VOCAB + 3}


@pytest.fixture(scope="module")
def gpt_store(tmp_path_factory):
    return str(make_gpt_store(tmp_path_factory.mktemp("gpt_store")))


def open_batch(store, rows=8, **fields):
    """(config, random parameters, a batch of the task's own)."""
    config = lm_config(store, **{"model.num_hidden_layers": 2, **fields})
    data = open_data(config)
    shapes = jax.eval_shape(lambda: language_model.init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), shapes)
    return data.config, params, data.rows["train"].train(0, rows)


@pytest.mark.parametrize("fields", [{}, {"data.pack": 4, "train.seq_length": 48}, PAIRS])
def test_sums_are_of_every_next_token(gpt_store, fields):
    config, params, batch = open_batch(gpt_store, rows=64, **fields)
    sums = jax.jit(lambda params: language_model.batch_sums(config, params, batch, None))(params)
    module = gpt.KIND.bind(config.model, params)
    states = jax.jit(lambda batch: module.encoder(batch, packed=True))(batch)
    logits = np.asarray(module.language_model(states), np.float64)
    loss = correct = predicted = 0.0
    ids, segments = batch["input_ids"], batch["segment_ids"]
    for row, at in np.argwhere((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)):
        x, label = logits[row, at] - logits[row, at].max(), ids[row, at + 1]
        loss += math.log(np.exp(x).sum()) - x[label]
        correct += x.argmax() == label
        predicted += 1
    assert correct > 0
    np.testing.assert_allclose([sums["loss"], sums["correct"]], [loss, correct], rtol=1e-5)
    weights = language_model.batch_weights(batch)
    assert weights["predicted"] == predicted
    assert language_model.batch_loss(sums, weights) == pytest.approx(loss / predicted, rel=1e-5)
    figures = language_model.metrics({"loss": loss, "correct": correct, "predicted": predicted})
    assert figures == pytest.approx(
        {"loss": loss / predicted, "accuracy": correct / predicted, "perplexity": math.exp(loss / predicted)}
    )


@pytest.mark.parametrize("fields", [{}, {"data.pack": 4, "train.seq_length": 48}, PAIRS])
def test_a_later_token_changes_no_earlier_output_and_no_earlier_loss(gpt_store, fields):
    """In every layer; and no gradient goes from an earlier loss to where a later token stands."""
    config, params, batch = open_batch(gpt_store, **fields)
    packed = config.data.pack > 1
    assert (batch["segment_ids"].max() > 1) == packed
    at = 7
    other = batch | {"input_ids": batch["input_ids"].copy()}
    other["input_ids"][:, at] = (other["input_ids"][:, at] + 7) % 90

    def outputs(batch):
        return gpt.KIND.bind(config.model, params).encoder(batch, packed=packed, every_layer=True)

    one, two = (jax.jit(outputs)(x) for x in (batch, other))
    np.testing.assert_array_equal(one[:, :, :at], two[:, :, :at])
    real = batch["segment_ids"][:, at] > 0
    assert (np.abs(one - two)[:, real, at].max(-1) > 1e-4).all()

    def earlier_loss(x_BSD):
        encoder, module = (gpt.KIND.bind(config.model, params) for _ in range(2))
        encoder.encoder.embeddings = lambda batch, dtype, keys: x_BSD
        logits = jax.nn.log_softmax(module.language_model(encoder.encoder(batch, packed=packed)))
        labels, weights = gpt.next_tokens(batch["input_ids"], batch["segment_ids"])
        chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
        return -(chosen * weights)[:, :at].sum()

    inputs = jax.jit(lambda batch: outputs(batch)[0])(batch)
    gradient = np.abs(jax.jit(jax.grad(earlier_loss))(inputs)).max(-1)
    assert (gradient[:, at:] == 0).all()
    assert (gradient[:, :at].max(-1) > 1e-6).all()


def test_packed_rows_are_as_each_piece_alone(gpt_store):
    config, params, batch = open_batch(gpt_store, **{"data.pack": 4, "train.seq_length": 48})
    logits = jax.jit(lambda batch: gpt.KIND.bind(config.model, params).encoder(batch, packed=True))
    both, row = logits(batch), 0
    for segment in range(1, batch["segment_ids"][row].max() + 1):
        [here] = np.nonzero(batch["segment_ids"][row] == segment)
        alone = {name: np.zeros((1, 48), np.int32) for name in batch}
        for name, x in batch.items():
            alone[name][0, : len(here)] = x[row, here]
        alone["segment_ids"][0, : len(here)] = 1
        np.testing.assert_allclose(both[row, here], logits(alone)[0, : len(here)], atol=1e-5)


def test_held_out_figures_are_of_every_token_that_follows_another(gpt_store):
    store = open_store(gpt_store)
    ends, documents = store.sentences[store.documents], store.heldout_documents
    wanted = (ends[documents + 1] - ends[documents] - 1).sum()
    found = []
    for fields in ({}, {"data.pack": 4, "train.seq_length": 64}, {"seed": 3, "eval.batch_rows": 16}):
        config = lm_config(gpt_store, **{"eval.enabled": True, "mesh.data": -1, **fields})
        data = open_data(config)
        [dev] = data.rows["train"].evals
        total = sum(
            float(language_model.batch_weights(dev.rows(first, 8))["predicted"])
            for first in range(0, dev.num_rows, 8)
        )
        assert total == wanted
        if not fields or "seed" in fields:
            params = language_model.init_params(lm_config(gpt_store), jax.random.key(0))
            mesh = make_mesh(config, jax.devices())
            step = make_eval_step(
                config, language_model, mesh, sharding.state_shardings(gpt.KIND.sharding, params, mesh)
            )
            found.append(evaluate(config, language_model, mesh, step, params, dev))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0]["loss"] == pytest.approx(math.log(VOCAB), rel=0.02)  # it knows nothing yet
    assert data.constants == {"unigram_entropy": store.manifest["summary"]["unigram_entropy"]}


@pytest.mark.usefixtures("eight_devices")
def test_it_learns_and_gives_a_model(gpt_store, tmp_path):
    config = lm_config(gpt_store, tmp_path / "run", **{
        "train.steps": 90, "eval.enabled": True, "train.eval_every": 0,
        "train.batch_rows": 16, "train.accumulation": 2,
        "optim.decay": "cosine", "data.pack": 2, "train.seq_length": 32})  # fmt: skip
    figures = train(config)
    assert figures["eval/loss"] < figures["eval/unigram_entropy"] - 0.5
    assert figures["eval/accuracy"] > 0.2
    trained = load_trained(str(tmp_path / "run"))
    assert (trained.config.kind, trained.head, trained.step) == ("gpt", "causal_lm", 90)


def test_pairs_have_gpts_tokens_and_types(gpt_store):
    tokenizer = add_task_tokens(make_tokenizer())
    _, params, batch = open_batch(gpt_store, rows=32, **PAIRS)
    assert params["encoder"]["embeddings"]["token_type"].shape == (2, 32)
    assert batch.keys() == {"input_ids", "token_type_ids", "position_ids", "segment_ids"}
    pairs = 0
    for ids, types, segments in zip(
        *(batch[name] for name in ("input_ids", "token_type_ids", "segment_ids")), strict=True
    ):
        end = int(segments.sum())
        assert (ids[0], ids[end - 1]) == (tokenizer.bos_id, tokenizer.cls_id)
        middle = np.flatnonzero(ids[:end] == tokenizer.sep_id)
        assert len(middle) <= 1
        assert (ids[:end] >= VOCAB).sum() == 2 + len(middle)
        wanted = np.arange(len(ids)) > (middle[0] if len(middle) else end)
        np.testing.assert_array_equal(types, wanted & (segments > 0))
        pairs += len(middle)
    assert pairs > 10


def test_batches_follow_from_the_seed(gpt_store):
    rows = [open_batch(gpt_store, seed=seed)[2]["input_ids"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_epochs_give_the_steps(gpt_store):
    config = lm_config(gpt_store, **{"train.epochs": 3.0, "optim.warmup_proportion": 0.1})
    data = open_data(config)
    rows = open_data(lm_config(gpt_store)).rows["train"]
    stream = rows.train.__self__
    assert data.config.train.steps == int(stream.epoch_rows(0) / 8 * 3)
    assert data.config.optim.warmup_steps == data.config.train.steps // 10
    with pytest.raises(InputError, match=r"epochs=0\.01: \d+ rows give no batch of 8; lower --config"):
        open_data(lm_config(gpt_store, **{"train.epochs": 0.01}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.vocab_size": 90}, "vocab_size=90: the vocabulary of .* has 96 tokens; set --config.model"),
        (PAIRS | {"model.vocab_size": VOCAB}, "has 99 tokens; set --config.model.vocab_size=99"),
        ({"data.store": ""}, "--config.data.store is empty"),
        ({"data.weights": (1.0, 2.0)}, "2 numbers for the store's 1 inputs"),
    ],
)
def test_what_does_not_fit_is_one_line(gpt_store, fields, message):
    with pytest.raises(InputError, match=message) as error:
        open_data(lm_config(**{"data.store": gpt_store, **fields}))
    assert "\n" not in str(error.value)


def test_a_wordpiece_store_has_no_tokens_for_pairs(store):
    open_data(lm_config(store))  # any vocabulary will do for plain text
    message = (
        rf"=True: {store}: its vocabulary \(wordpiece\) takes no start, delimiter and extract tokens; pre"
    )
    with pytest.raises(InputError, match=message):
        open_data(lm_config(store, **PAIRS))


def test_held_out_documents_are_cut_from_their_beginnings_on(gpt_store):
    """So their figures do not follow the seed: every piece but a document's last one fills its row."""
    config = lm_config(gpt_store, **{"train.seq_length": 8, "eval.enabled": True})
    [held_out] = open_data(config).rows["train"].evals
    store = open_store(gpt_store)
    documents = store.heldout_documents
    sizes = store.sentences[store.documents[documents + 1]] - store.sentences[store.documents[documents]]
    assert (sizes > 16).any()
    assert held_out.num_rows == (-(-(sizes - 1) // 7)).sum()
