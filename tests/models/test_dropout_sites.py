"""Every place of dropout in a model has keys of its own: no two have one mask."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from elmo_fixture import toy_elmo
from gpt_fixture import lm_config
from store_fixture import make_batch, toy_config

from bertjax.models import KINDS, elmo, layers
from bertjax.models.elmo_layers import draw_negatives
from bertjax.models.layers import dropout_keys

ROWS = 3
UNROLLED = {"model.scan_layers": False, "model.num_hidden_layers": 3}
ROW_KEYS = dropout_keys(jnp.array([7, 11], jnp.uint32), jnp.arange(ROWS))


@pytest.fixture
def places(monkeypatch):
    """places(run, rates): the keys [places, B, 2] of all dropouts in run(keys), in order; `rates` says the
    rates that they have."""

    modules = [module for name, module in sys.modules.items() if name.startswith("bertjax.")]
    users = [m for m in modules if m is not layers and getattr(m, "dropout", None) is layers.dropout]
    dropout = layers.dropout

    def places(run, rates):
        @jax.jit
        def traced(keys):
            found = []

            def recorded(x, rate, keys):
                assert rate in rates
                assert keys is not None
                found.append(keys)
                return dropout(x, rate, keys)

            with monkeypatch.context() as patch:
                for module in users:
                    patch.setattr(module, "dropout", recorded)
                run(keys)
            return jnp.stack(found)

        return np.asarray(traced(ROW_KEYS))

    return places


def assert_all_differ(keys, count):
    assert keys.shape == (count, ROWS, 2)
    assert len({tuple(key) for key in [*keys.reshape(-1, 2), *np.asarray(ROW_KEYS)]}) == (count + 1) * ROWS


def zeros(make):
    """Parameters of the shapes that make(key) has."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(make, jax.random.key(0)))


def reading_texts(config, batch, pairs=False):
    """A function of keys: a classifier reads a batch of texts."""
    kind, head = KINDS[config.model.kind], config.head
    parts = kind.heads["sequence_classification"]
    params = zeros(lambda key: kind.init_params(config.model, key, parts, 3, head, pairs))
    options = {"frozen": False, "packed": False, "each": 1, "further": True}
    return lambda keys: kind.bind(config.model, params, head).text_logits(batch, keys=keys, **options)


def reading_words(config, batch):
    """A function of keys: a tagger reads a batch of texts."""
    kind, head = KINDS[config.model.kind], config.head
    shape = batch["segment_ids"].shape
    batch = batch | {"labels": np.zeros(shape, np.int32), "label_weights": np.ones(shape, np.float32)}
    parts = kind.heads["token_classification"]
    params = zeros(lambda key: kind.init_params(config.model, key, parts, 2, head))
    options = {"frozen": False, "packed": False}
    return lambda keys: kind.bind(config.model, params, head).tag_sums(batch, keys=keys, **options)


def with_head(config, **fields):
    config.head = KINDS[config.model.kind].head_section()
    config.head.update(fields)
    return config


def text_batch(config):
    return make_batch(config, rows=ROWS) | {"class_positions": np.zeros((ROWS, 1), np.int32)}


def test_of_a_bert_with_a_classifier(places):
    """The embeddings, three in each layer, and one before the head."""
    config = with_head(toy_config(**UNROLLED))
    assert_all_differ(places(reading_texts(config, text_batch(config)), {0.1}), 1 + 3 * 3 + 1)


def test_of_a_bert_with_an_lstm_and_a_tagger(places):
    """Those of the encoder, the input of either layer of the LSTM, and one before the head."""
    config = with_head(toy_config(**UNROLLED), lstm_layers=2, lstm_size=6, dropout_prob=0.3)
    found = places(reading_words(config, text_batch(config)), {0.1, 0.3})
    assert_all_differ(found, 1 + 3 * 3 + 2 + 1)


def test_of_a_gpt(places):
    batch = text_batch(toy_config())
    config = with_head(lm_config(**UNROLLED))
    assert_all_differ(places(reading_texts(config, batch), {0.1}), 1 + 3 * 3 + 1)


def elmo_batch(config):
    shape = (ROWS, 6, config.model.characters)
    text_ids = np.array([[1, 1, 1, 2, 2, 0]] * ROWS, np.int32)
    ones = (text_ids > 0).astype(np.int32)
    return {
        "character_ids": np.ones(shape, np.int32),
        "segment_ids": ones,
        "token_type_ids": (text_ids == 2).astype(np.int32),
        "is_word": ones,
    }


def test_of_an_elmo_in_training(places):
    """The input of each layer, and the states that the softmax reads."""
    config = toy_elmo(**{"model.layers": 2, "model.dropout_prob": 0.1})
    parts = elmo.KIND.heads["language_models"]
    params = zeros(lambda key: elmo.KIND.init_params(config.model, key, parts))
    batch = elmo_batch(config)

    def run(keys):
        model = elmo.KIND.bind(config.model, params).language_models
        negatives = draw_negatives(jax.random.key(1), config.model.vocab_size, 12)
        top = model.states(batch, keys)[-1]
        return model.sampled_losses(top, np.ones((ROWS, 6, 2), np.int32), negatives, keys)

    assert_all_differ(places(run, {0.1}), 2 + 1)


@pytest.mark.parametrize(
    ("reads", "of_head"),
    [
        (reading_words, 2 + 1),  # the LSTM's two layers, and the states that its classifier reads
        (reading_texts, 2 + 2),  # and two in the MLP
        (functools.partial(reading_texts, pairs=True), 2 + 1 + 2),  # and the second LSTM's one layer
    ],
    ids=["tags", "texts", "pairs"],
)
def test_of_what_reads_an_elmo(places, reads, of_head):
    config = with_head(
        toy_elmo(**{"model.layers": 2, "model.dropout_prob": 0.1}), lstm_layers=2, dropout_prob=0.3
    )
    assert_all_differ(places(reads(config, elmo_batch(config)), {0.1, 0.3}), 2 + of_head)
