"""Every place of dropout in a model has keys of its own: no two have one mask."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from elmo_fixture import toy_elmo
from gpt_fixture import lm_config
from store_fixture import make_batch, toy_config

from bertjax.models import bert, elmo, elmo_heads, gpt, layers
from bertjax.models.layers import dropout_keys
from bertjax.tasks import tag

ROWS = 3
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


def bert_config(**fields):
    return toy_config(**{"model.scan_layers": False, "model.num_hidden_layers": 3, **fields})


def zeros(make):
    """Parameters of the shapes that make(key) has."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(make, jax.random.key(0)))


def test_of_a_bert_with_a_classifier(places):
    """The embeddings, three in each layer, and one before the head."""
    config = bert_config()
    batch = make_batch(config, rows=ROWS)
    params = zeros(lambda key: bert.init_params(config.model, key, ("pooler", "classifier"), 2))

    def run(keys):
        model = bert.bind(config.model, params)
        positions = model.class_positions(batch["segment_ids"])
        return model.class_logits(model.head_states(batch, positions, keys=keys), keys)

    assert_all_differ(places(run, {0.1}), 1 + 3 * 3 + 1)


def test_of_a_bert_with_an_lstm_and_a_tagger(places):
    """Those of the encoder, the input of either layer of the LSTM, and one before the head."""
    config = bert_config(**{"head.lstm_layers": 2, "head.lstm_size": 6, "head.dropout_prob": 0.3})
    config.examples.labels = ("O", "B-X")
    batch = make_batch(config, rows=ROWS)
    batch |= {"labels": batch["segment_ids"] * 0, "label_weights": np.ones((ROWS, 16), np.float32)}
    batch |= {"class_positions": np.zeros((ROWS, 1), np.int32)}
    params = zeros(lambda key: tag.init_params(config, key))
    found = places(lambda keys: tag.batch_sums(config, params, batch, keys), {0.1, 0.3})
    assert_all_differ(found, 1 + 3 * 3 + 2 + 1)


def test_of_a_gpt(places):
    config = lm_config(**{"model.scan_layers": False, "model.num_hidden_layers": 3})
    batch = make_batch(config, rows=ROWS)
    params = zeros(lambda key: gpt.init_params(config.model, key, ("classifier",), 2))

    def run(keys):
        model = gpt.bind(config.model, params)
        positions = model.class_positions(batch["segment_ids"])
        return model.class_logits(model.head_states(batch, positions, keys=keys), keys)

    assert_all_differ(places(run, {0.1}), 1 + 3 * 3 + 1)


def elmo_batch(config):
    shape = (ROWS, 6, config.elmo.characters)
    segment_ids = np.array([[1, 1, 1, 2, 2, 0]] * ROWS, np.int32)
    return {"character_ids": np.ones(shape, np.int32), "segment_ids": segment_ids}


def test_of_an_elmo_in_training(places):
    """The input of each layer, and the states that the softmax reads."""
    config = toy_elmo(**{"elmo.layers": 2, "elmo.dropout_prob": 0.1})
    params, batch = zeros(lambda key: elmo.init_params(config, key)), elmo_batch(config)

    def run(keys):
        model = elmo.bind(config, params)
        negatives = elmo.draw_negatives(jax.random.key(1), config.elmo.vocab_size, 12)
        top = model.states(batch, keys)[-1]
        return model.sampled_losses(top, np.ones((ROWS, 6, 2), np.int32), negatives, keys)

    assert_all_differ(places(run, {0.1}), 2 + 1)


@pytest.mark.parametrize(
    ("part", "pairs", "of_head"),
    [
        ("tagger", False, 2 + 1),  # the LSTM's two layers, and the states that its classifier reads
        ("classifier", False, 2 + 2),  # and two in the MLP
        ("classifier", True, 2 + 1 + 2),  # and the second LSTM's one layer
    ],
)
def test_of_what_reads_an_elmo(places, part, pairs, of_head):
    fields = {
        "elmo.layers": 2,
        "elmo.head_layers": 2,
        "elmo.dropout_prob": 0.1,
        "elmo.head_dropout_prob": 0.3,
    }
    config = toy_elmo(**fields)
    batch = elmo_batch(config)
    params = zeros(lambda key: elmo_heads.init_params(config, key, ("mix", part), 3, pairs))

    def run(keys):
        x_BSD = elmo_heads.mixed(config, params, batch, keys, frozen=False)
        read = elmo_heads.tag_scores if part == "tagger" else elmo_heads.text_logits
        return read(config, params, x_BSD, batch["segment_ids"], keys)

    assert_all_differ(places(run, {0.1, 0.3}), 2 + of_head)
