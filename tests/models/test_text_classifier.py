"""The pair classifier against its equations in NumPy: no padding among them, so none may count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from plain_lstm import lstm

from bertjax import sharding
from bertjax.models import elmo
from bertjax.models.layers import bind_module, dropout_keys, init_module
from bertjax.models.text_classifier import PairClassifier

LENGTHS = ((5, 3), (2, 6), (1, 1))
KEYS = dropout_keys(jnp.array([7, 11], jnp.uint32), jnp.arange(3))


def make(rate=0.0):
    return lambda rngs: PairClassifier(rngs, 3, cells=4, layers=2, hidden=6, labels=3, rate=rate)


@functools.cache
def parameters():
    return jax.tree.map(lambda x: 2 * x, init_module(make(), jax.random.key(0)))


@functools.cache
def texts():
    rng = np.random.default_rng(0)
    return [[rng.normal(size=(length, 3)) for length in lengths] for lengths in LENGTHS]


@functools.cache
def batch(size=10, filler=9.0):
    """Rows of both texts with a mark between them; the mark and the padding are filled with `filler`."""
    x = np.full((len(LENGTHS), size, 3), filler, np.float32)
    words = np.zeros(x.shape[:2], np.int32)
    for row, (first, second) in enumerate(texts()):
        behind = len(first) + 1
        x[row, : len(first)], x[row, behind : behind + len(second)] = first, second
        words[row, : len(first)], words[row, behind : behind + len(second)] = 1, 2
    return x, words


def logits(params, x, words, keys=None, rate=0.0):
    return bind_module(make(rate), params)(jnp.asarray(x), jnp.asarray(words), keys)


def read(p, x):
    for i in range(len(p)):
        x = np.concatenate([lstm(p[f"layer_{i}"], r, x) for r in (0, 1)], axis=-1)
    return x


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_logits_equal_the_equations():
    found = jax.jit(logits)(parameters(), *batch())
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters())
    for row, (first, second) in enumerate(texts()):
        u, v = read(p["encoder"], first), read(p["encoder"], second)
        scores = u @ v.T
        u, v = (
            np.concatenate([u, softmax(scores) @ v], -1),
            np.concatenate([v, softmax(scores.T) @ u], -1),
        )
        u, v = read(p["comparison"], u).max(0), read(p["comparison"], v).max(0)
        x = np.concatenate([u, v, np.abs(u - v), u * v])
        hidden = np.tanh(x @ p["hidden_kernel"] + p["hidden_bias"])
        expected = hidden @ p["classifier_kernel"] + p["classifier_bias"]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_padding_counts_for_nothing_with_dropout_too_nor_in_the_gradient():
    def loss(params, x, words):
        return jnp.square(logits(params, x, words, KEYS, 0.3) - 1).sum()

    graded = jax.jit(jax.value_and_grad(loss, (0, 1)))
    results = [graded(parameters(), *of) for of in (batch(), batch(12, -50.0))]
    (value, (gradient, to_x)), (other_value, (other_gradient, _)) = results
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, other_gradient)
    assert not np.any(np.asarray(to_x)[batch()[1] == 0])
    without = jnp.square(jax.jit(logits)(parameters(), *batch()) - 1).sum()
    assert not np.allclose(value, without, rtol=1e-3)


def test_parameters_have_rows_in_the_table():
    params = parameters()
    found = sharding.state_shardings(elmo.KIND.sharding, params, jax.make_mesh((1, 1, 1), sharding.AXES))
    assert jax.tree.structure(found) == jax.tree.structure(params)
