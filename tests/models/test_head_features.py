"""What heads read, against the encoder's layers and a plain telling in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_lstm import lstm
from store_fixture import make_batch, random_params, toy_config

from bertjax.models import bert
from bertjax.models.head_features import HEAD_LAYERS, lstm_products, same_features
from bertjax.models.layers import dropout_keys

SIZE = 6  # of the LSTM
LAYERS = 5
each_choice = pytest.mark.parametrize("layers", HEAD_LAYERS)
KEYS = dropout_keys(jnp.array([7, 11], jnp.uint32), jnp.arange(8))


def settings(layers, lstm_layers=0, **model):
    config = toy_config(**{f"model.{name}": value for name, value in model.items()})
    config.model.num_hidden_layers = LAYERS
    config.head = bert.KIND.head_section()
    config.head.update(layers=layers, lstm_layers=lstm_layers, lstm_size=SIZE)
    return config


def parameters(config):
    """Of an encoder with random parameters, and of features that are not those that training begins with."""
    rng = np.random.default_rng(1)
    drawn = bert.KIND.init_params(config.model, jax.random.key(2), ("pooler",), head=config.head)
    params = drawn | {"encoder": random_params(config)["encoder"]}
    if "features" in params:
        params["features"] = jax.tree.map(
            lambda x: 2 * x + rng.normal(0, 0.3, x.shape).astype(np.float32), params["features"]
        )
    return params


@functools.cache
def computed(layers, lstm_layers=0, causal=False):
    """(config, parameters, a batch, the encoder's layers, what a head reads of tokens and of sequences)."""
    config = settings(layers, lstm_layers, causal=causal)
    params, batch = parameters(config), make_batch(config)

    @jax.jit
    def run(params):
        model = bert.KIND.bind(config.model, params, config.head)
        last = (batch["segment_ids"] > 0).sum(1, keepdims=True) - 1
        positions = last * bert.KIND.class_at_end(config.model)
        every = model.encoder(batch, every_layer=True)
        return every, model.head_states(batch), model.head_states(batch, positions)[:, 0]

    return config, params, batch, *run(params)


def told(layers, params, every):
    """The chosen states, float64."""
    every = np.asarray(every, np.float64)
    if layers in ("embeddings", "second_to_last", "last"):
        return every[{"embeddings": 0, "second_to_last": -2, "last": -1}[layers]]
    if layers == "concat_last_four":
        return np.concatenate([every[-4], every[-3], every[-2], every[-1]], -1)
    some = every[-4:] if layers == "sum_last_four" else every[1:]
    numbers = np.exp(np.asarray(params["features"]["mix_bias"], np.float64))
    assert len(numbers) == len(some)
    return params["features"]["mix_scale"] * np.tensordot(numbers / numbers.sum(), some, 1)


@each_choice
def test_the_states_are_those_of_the_layers(layers):
    _, params, batch, every, tokens, sequences = computed(layers)
    right = told(layers, params, every)
    real = batch["segment_ids"] > 0
    np.testing.assert_allclose(tokens[real], right[real], atol=2e-5)
    np.testing.assert_allclose(sequences, right[:, 0], atol=2e-5)


def test_layers_differ():
    for one, other in (("sum_last_four", "sum_all"), ("last", "second_to_last"), ("last", "embeddings")):
        assert np.abs(computed(one)[4] - computed(other)[4]).max() > 0.1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layers", ["last", "concat_last_four"])
def test_the_lstm_reads_each_text_both_ways(layers, causal):
    _, params, batch, every, tokens, sequences = computed(layers, 2, causal)
    states = told(layers, params, every)
    stack = jax.tree.map(lambda x: np.asarray(x, np.float64), params["features"]["lstm"])
    for row, length in enumerate((batch["segment_ids"] > 0).sum(1)):
        x = states[row, :length]
        for i in range(2):
            x = np.concatenate([lstm(stack[f"layer_{i}"], way, x) for way in (0, 1)], -1)
        np.testing.assert_allclose(tokens[row, :length], x, atol=2e-5)
        assert not np.asarray(tokens[row, length:]).any()
        # Each direction where it has read the whole text.
        whole = np.concatenate([x[-1, :SIZE], x[0, SIZE:]])
        np.testing.assert_allclose(sequences[row], whole, atol=2e-5)


def test_a_causal_models_classes_read_its_last_token():
    _, _, batch, every, _, sequences = computed("second_to_last", 0, True)
    last = (batch["segment_ids"] > 0).sum(1) - 1
    np.testing.assert_allclose(sequences, np.asarray(every)[-2][np.arange(len(last)), last], atol=2e-5)


def test_by_default_the_last_layer_is_computed_where_it_is_asked_for():
    config = settings("last")
    params, batch = parameters(config), make_batch(config)
    positions = np.array([[3, 0]] * 8, np.int32)

    def through_head(params):
        return bert.KIND.bind(config.model, params).head_states(batch, positions, packed=True, keys=KEYS)

    def through_encoder(params):
        return bert.KIND.bind(config.model, params).encoder(
            batch, positions_BM=positions, packed=True, keys=KEYS
        )

    assert bert.KIND.parts_of(params) == ("pooler",)
    assert str(jax.make_jaxpr(through_head)(params)) == str(jax.make_jaxpr(through_encoder)(params))


@pytest.mark.parametrize("lstm_layers", [0, 2])
def test_a_frozen_encoder_has_no_dropout_and_the_lstm_does(lstm_layers):
    config = settings("concat_last_four", lstm_layers)
    params, batch = parameters(config), make_batch(config)

    @functools.partial(jax.jit, static_argnames="frozen")
    def run(keys=None, frozen=True):
        return bert.KIND.bind(config.model, params, config.head).head_states(batch, keys=keys, frozen=frozen)

    still, dropped, trained = run(), run(KEYS), run(KEYS, frozen=False)
    assert bool((still == dropped).all()) == (lstm_layers == 0)
    assert (dropped != trained).any()
    config.head.dropout_prob = 0.0
    model = bert.KIND.bind(config.model, params, config.head)
    np.testing.assert_allclose(model.head_states(batch, keys=KEYS, frozen=True), still, atol=1e-5)


@pytest.mark.parametrize("layers", ["last", "sum_last_four"])
@pytest.mark.parametrize("causal", [False, True])
def test_packed_texts_are_as_alone(layers, causal):
    config = settings(layers, 2, causal=causal)
    params, lengths = parameters(config), (5, 1, 7)
    ids = np.random.default_rng(0).integers(5, 90, 16).astype(np.int32)

    def run(batch, positions, packed):
        model = bert.KIND.bind(config.model, params, config.head)
        return model.head_states(batch, packed=packed), model.head_states(batch, positions, packed=packed)

    def row(starts_and_lengths):
        batch = {name: np.zeros((1, 16), np.int32) for name in make_batch(config) if name.endswith("_ids")}
        for segment, (start, length, first) in enumerate(starts_and_lengths, 1):
            here = 0, slice(start, start + length)
            batch["input_ids"][here] = ids[first : first + length]
            batch["segment_ids"][here] = segment
            batch["position_ids"][here] = np.arange(length)
        return batch

    starts = np.cumsum([0, *lengths[:-1]])
    ends = starts + np.array(lengths) - 1
    places = np.array([ends if causal else starts], np.int32)
    run = jax.jit(run, static_argnums=2)
    tokens, sequences = run(row(zip(starts, lengths, starts, strict=True)), places, True)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        place = np.array([[(length - 1) * causal]], np.int32)
        alone, whole = run(row([(0, length, start)]), place, False)
        np.testing.assert_allclose(tokens[0, start : start + length], alone[0, :length], atol=1e-5)
        np.testing.assert_allclose(sequences[0, i], whole[0, 0], atol=1e-5)


def test_what_fits_what():
    one, other = bert.KIND.head_section(), bert.KIND.head_section()
    other.update(dropout_prob=0.5, lstm_size=12)
    assert same_features(one, other)
    one.lstm_layers = other.lstm_layers = 1
    assert not same_features(one, other)
    one.lstm_size = 12
    assert same_features(one, other)
    one.layers = "sum_all"
    assert not same_features(one, other)


def test_products_of_the_lstm():
    config = settings("concat_last_four", 2)
    params = parameters(config)["features"]["lstm"]
    kernels = [x for layer in params.values() for name, x in layer.items() if name.endswith("kernel")]
    assert lstm_products(config.model, config.head) == sum(x.size for x in kernels)
