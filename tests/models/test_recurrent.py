"""LSTMs against a plain telling in NumPy, their gradients, and what their states may depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from plain_lstm import lstm

from bertjax import sharding
from bertjax.models import bert, elmo
from bertjax.models.layers import bind_module, dropout_keys, init_module
from bertjax.models.recurrent import Lstm

INPUTS = 5
KINDS = {
    "biLSTM": {"layers": 2, "cells": 4},
    "residual": {"layers": 2, "cells": 4, "residual": True, "clip": 0.3},
    "ELMo": {"layers": 3, "cells": 6, "projection": 5, "clip": 0.2, "separate": True, "residual": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)
KEYS = dropout_keys(jnp.array([7, 11], jnp.uint32), jnp.arange(2))


def make(kind, rate=0.0):
    return lambda rngs: Lstm(rngs, INPUTS, **KINDS[kind], rate=rate)


@functools.cache
def parameters(kind):
    """Three times as large as they begin, so that gates close and clipping counts."""
    return jax.jit(lambda key: jax.tree.map(lambda x: 3 * x, init_module(make(kind), key)))(jax.random.key(3))


def streams(kind, x):
    return jnp.stack([x, x], axis=2) if KINDS[kind].get("separate") else x


def states(kind, params, x, segment_ids, keys=None, rate=0.0):
    return bind_module(make(kind, rate), params)(streams(kind, x), jnp.asarray(segment_ids), keys)


def expected(kind, params, x, **fields):
    """The states of one sequence [S, D] after each layer, float64."""
    k = {**KINDS[kind], **fields}
    separate = k.get("separate")
    below = np.stack([x, x], 1)
    found = []
    for i in range(k["layers"]):
        p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[f"layer_{i}"])
        y = np.stack([lstm(p, r, below[:, r], k.get("clip", 0.0)) for r in range(2)], 1)
        if not separate:
            y = np.stack([y.reshape(len(x), -1)] * 2, 1)
        if k.get("residual") and i:
            y = y + below
        below = y
        found.append(y if separate else y[:, 0])
    return found


def made(rows, length, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, length, INPUTS)).astype(np.float32)


@each_kind
def test_states_equal_the_equations(kind):
    x = made(2, 7)
    found = jax.jit(lambda params: states(kind, params, x, np.ones((2, 7), np.int32)))(parameters(kind))
    for row in range(2):
        for layer, right in zip(found, expected(kind, parameters(kind), x[row]), strict=True):
            np.testing.assert_allclose(layer[row], right, atol=1e-5)
    if "clip" in KINDS[kind]:
        without = expected(kind, parameters(kind), x[0], clip=0.0)
        assert np.abs(np.asarray(found[0][0]) - without[0]).max() > 0.01


@each_kind
def test_segments_of_a_packed_row_are_as_alone(kind):
    """Padding lies before, between and behind; two segments touch. What padding holds counts for nothing."""
    segment_ids = np.array([[0, 1, 1, 1, 2, 2, 0, 3, 3, 3, 3, 0]], np.int32)
    x, other = made(1, 12), made(1, 12, seed=1)
    other = np.where(segment_ids[..., None] > 0, x, 100 * other)
    target = made(1, 12, seed=2)[..., :1]

    def loss(params, x, segment_ids, target):
        top = states(kind, params, x, segment_ids)[-1]
        return (top.reshape(*segment_ids.shape, -1) * target).sum(), top

    graded = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, top), (gradient, to_x) = graded(parameters(kind), other, segment_ids, target)
    assert not np.any(np.asarray(top)[segment_ids == 0])
    assert not np.any(np.asarray(to_x)[segment_ids == 0])
    total = jax.tree.map(np.zeros_like, gradient)
    for number in (1, 2, 3):
        at = segment_ids[0] == number
        size = at.sum()
        alone = np.zeros_like(segment_ids)
        alone[:, :size] = 1
        moved = [np.zeros_like(each) for each in (x, target)]
        moved[0][:, :size], moved[1][:, :size] = x[:, at], target[:, at]
        (_, alone_top), (part, alone_x) = graded(parameters(kind), moved[0], alone, moved[1])
        np.testing.assert_allclose(np.asarray(top)[:, at], alone_top[:, :size], atol=1e-6)
        np.testing.assert_allclose(np.asarray(to_x)[:, at], alone_x[:, :size], atol=1e-5)
        total = jax.tree.map(np.add, total, part)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), gradient, total)


@pytest.mark.parametrize("kind", ["biLSTM", "ELMo"])
def test_the_gradient_is_that_of_finite_differences(kind):
    """Along random directions, in float64: steps so short cross no limit of clipping."""
    with jax.enable_x64():
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), parameters(kind))
        x = jnp.asarray(made(2, 6), jnp.float64)
        segment_ids = np.array([[1] * 6, [1, 1, 2, 2, 2, 0]], np.int32)

        @jax.jit
        def loss(params, x):
            return sum(jnp.sin(3 * each).sum() for each in states(kind, params, x, segment_ids))

        gradient = jax.jit(jax.grad(loss, (0, 1)))(params, x)
        rng = np.random.default_rng(5)
        for _ in range(3):
            step = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), (params, x))
            moved = [
                loss(*jax.tree.map(lambda at, by, h=h: at + h * by, (params, x), step)) for h in (1e-7, -1e-7)
            ]
            slope = sum(jax.tree.leaves(jax.tree.map(lambda g, by: (g * by).sum(), gradient, step)))
            np.testing.assert_allclose(slope, (moved[0] - moved[1]) / 2e-7, rtol=1e-5)


def test_bfloat16_is_near():
    x, ids = made(2, 7), np.ones((2, 7), np.int32)
    run = jax.jit(lambda x: states("ELMo", parameters("ELMo"), x, ids)[-1])
    exact, rounded = run(x), run(x.astype(jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(np.asarray(rounded, np.float32) - np.asarray(exact))
    assert 0 < error.max() < 0.05 * np.abs(exact).max()


def test_dropout_follows_from_the_rows_keys_and_not_from_padding():
    x, ids = made(2, 4), np.ones((2, 4), np.int32)
    run = jax.jit(lambda x, ids, keys: states("ELMo", parameters("ELMo"), x, ids, keys, 0.5)[-1])
    first = run(x, ids, KEYS)
    np.testing.assert_array_equal(first, run(x, ids, KEYS))
    np.testing.assert_array_equal(first[::-1], run(x[::-1], ids, KEYS[::-1]))
    assert not np.allclose(first, run(x, ids, KEYS[::-1]))
    longer = np.pad(x, ((0, 0), (0, 3), (0, 0))), np.pad(ids, ((0, 0), (0, 3)))
    np.testing.assert_allclose(run(*longer, KEYS)[:, :4], first, atol=1e-6)


@each_kind
def test_a_layer_is_one_loop_with_one_product_for_all_gates(kind):
    """Forward; with a projection one more. Backward: the kernels' gradients are outside the loop."""
    layers, projected = KINDS[kind]["layers"], bool(KINDS[kind].get("projection"))
    x, ids = made(2, 7), np.ones((2, 7), np.int32)

    def products(jaxpr):
        """Of every loop in it."""
        for equation in jaxpr.eqns:
            for inner in jaxprs_in_params(equation.params):
                if equation.primitive.name == "scan":
                    yield str(inner).count("dot_general[")
                else:
                    yield from products(inner)

    forward = jax.make_jaxpr(lambda params: states(kind, params, x, ids))(parameters(kind))
    assert list(products(forward.jaxpr)) == [1 + projected] * layers
    backward = jax.make_jaxpr(jax.grad(lambda params: states(kind, params, x, ids)[-1].sum()))(
        parameters(kind)
    )
    assert list(products(backward.jaxpr)) == [1 + projected] * (2 * layers)


@each_kind
def test_parameters_have_rows_in_the_table(kind):
    mesh = jax.make_mesh((1, 1, 1), sharding.AXES)
    params = parameters(kind)
    for table in (bert.KIND.sharding, elmo.KIND.sharding):
        found = sharding.state_shardings(table, params, mesh)
        assert jax.tree.structure(found) == jax.tree.structure(params)


@each_kind
def test_forget_gates_begin_open(kind):
    """As in Jozefowicz et al. 2015: their bias is 1, and all others are 0."""
    params = init_module(make(kind), jax.random.key(0))
    for i in range(KINDS[kind]["layers"]):
        bias_RGH = np.asarray(params[f"layer_{i}"]["bias"])
        np.testing.assert_array_equal(bias_RGH, np.broadcast_to([[0.0], [1.0], [0.0], [0.0]], bias_RGH.shape))
