"""Optimizers of optax by name: their arguments, their state, and which parameters they treat how."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from store_fixture import random_params, toy_config

from bertjax import optim, optimizer_names
from bertjax.errors import InputError
from bertjax.sharding import path_name

STEPS = 3


def settings(name, args=None, **fields):
    fields = {f"optim.{field}": x for field, x in fields.items()}
    return toy_config(**{"optim.name": name, "optim.args": args or {}, **fields}).optim


def make_params():
    return jax.tree.map(jnp.asarray, random_params(toy_config()))


def gradient_of(params, step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.01, x.shape), jnp.float32), params)


def rate_of(step):
    return np.float32(1e-2 / (1 + step))


def run(config, params):
    """Parameters and state after the updates, each of which consumes what it is given like a train step."""
    state = jax.jit(lambda params: optim.init(config, params))(params)
    params = jax.tree.map(jnp.copy, params)
    step = jax.jit(lambda params, state, *of: optim.update(config, params, of[0], state, *of[1:]),
                   donate_argnums=(0, 1))  # fmt: skip
    for i in range(STEPS):
        params, state = step(params, state, gradient_of(params, i), rate_of(i), jnp.float32(2.0))
    return params, state


def run_optax(make, params):
    """Likewise of an optimizer of optax by itself; `make` takes the rate."""
    state = make(0.0).init(params)

    @jax.jit
    def step(params, state, gradient, rate):
        updates, state = make(rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for i in range(STEPS):
        params, state = step(params, state, gradient_of(params, i), rate_of(i))
    return params


def assert_close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # optax's, of old names
def test_every_optimizer_that_can_be_named_updates_a_model():
    params = jax.eval_shape(make_params)
    named = optimizer_names.constructors().keys() - optimizer_names.REFUSED.keys()
    assert len(named) > 30
    for name in named:
        config = settings(name)
        optim.check_optimizer(config, params)
        state = jax.eval_shape(lambda params, config=config: optim.init(config, params), params)
        for path, x in jax.tree_util.tree_leaves_with_path(state):
            assert all(isinstance(key.key, str) for key in path), name
            assert x.dtype in (jnp.float32, jnp.int32, jnp.bool_), name


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("optax.adam", {}),
        ("optax.adam", {"b1": 0.8, "nesterov": True}),
        ("optax.lion", {"mask": None}),
        ("optax.sgd", {}),
        ("optax.contrib.dog", {}),
        ("optax.contrib.schedule_free_adamw", {"b1": 0.95}),
    ],
)
def test_a_named_optimizer_does_what_optax_does(name, args):
    params = make_params()
    found, _ = run(settings(name, args, clip_norm=0.0), params)
    constructor = optimizer_names.constructors()[name]
    assert_close(found, run_optax(lambda rate: constructor(learning_rate=rate, **args), params))


def test_it_is_clipped_and_its_layers_have_their_rates():
    params = make_params()

    def make(rate):
        clipped = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(rate))
        return optax.chain(clipped, optim.scale_by_layer(0.5))

    found, _ = run(settings("optax.sgd", clip_norm=0.01, layer_decay=0.5), params)
    assert_close(found, run_optax(make, params))
    plain, _ = run(settings("optax.sgd", clip_norm=0.0), params)
    assert np.abs(plain["mlm_kernel"] - found["mlm_kernel"]).max() > 1e-4


def test_a_named_optimizer_decays_what_ours_decay():
    params = make_params()
    args = {"eps": 1e-6, "weight_decay": 0.1}
    found, _ = run(settings("optax.adamw", args), params)
    ours, _ = run(settings("adamw", weight_decay=0.1), params)
    assert_close(found, ours)
    everything, _ = run(settings("optax.adamw", args | {"mask": None}), params)
    assert np.abs(everything["mlm_norm"]["scale"] - found["mlm_norm"]["scale"]).max() > 1e-4


def apart(tree):
    """{"0/q": [D, N * H], ...}: every matrix of the layers by itself, as x W = y reads it."""
    layers, matrices = tree["encoder"]["layers"], {}
    for i in range(2):
        for k, name in enumerate("qkv"):
            matrices[f"{i}/{name}"] = layers["attention"]["qkv_kernel"][i, :, k].reshape(32, 32)
        matrices[f"{i}/output"] = layers["attention"]["output_kernel"][i].reshape(32, 32)
        matrices[f"{i}/up"] = layers["intermediate_kernel"][i]
        matrices[f"{i}/down"] = layers["output_kernel"][i]
    return matrices


def test_muon_orthogonalizes_each_matrix_alone_and_leaves_the_rest_to_adam():
    params, args = make_params(), {"beta": 0.9, "consistent_rms": 0.2}
    config = settings("optax.contrib.muon", args, clip_norm=0.0)
    found, _ = run(config, params)

    matrices = apart(params)
    make = optimizer_names.constructors()["optax.contrib.muon"]
    state = make(0.0, **args).init(matrices)
    for i in range(STEPS):
        gradients = apart(gradient_of(params, i))
        updates, state = make(rate_of(i), **args).update(gradients, state, matrices)
        matrices = optax.apply_updates(matrices, updates)
    assert_close(apart(found), matrices)

    adam = run_optax(lambda rate: optax.adam(rate, nesterov=True), params)
    names = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(found)}
    kernels = [name for name in names if re.search(r"layers/.*kernel$", name)]
    assert len(kernels) == 4
    for path, x in jax.tree_util.tree_leaves_with_path(adam):
        name = path_name(path)
        same = np.allclose(names[name], x, atol=1e-6, rtol=1e-4)
        assert same == (name not in kernels), name


def test_muon_without_a_matrix_is_one_line():
    heads = {name: x for name, x in jax.eval_shape(make_params).items() if name != "encoder"}
    message = "--config.optim.name=optax.contrib.muon: no parameter that is trained here is a matrix"
    with pytest.raises(InputError, match=message):
        optim.check_optimizer(settings("optax.contrib.muon"), heads)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "optax.contrib.muon",
            {"ns_coeffs": (1.0, 2.0)},
            r"ns_coeffs must have shape \(3,\) or \(n, 3\)",
        ),
        ("optax.contrib.muon", {"ns_coeffs": "fast"}, "Unknown ns_coeff preset string: fast"),
        ("optax.adam", {"mu_dtype": "float33"}, ".*float33"),
    ],
)
def test_what_optax_refuses_is_one_line_with_the_arguments_that_there_are(name, args, message):
    with pytest.raises(InputError, match=rf"--config.optim.args=.*: {message}.*; {name} accepts ") as error:
        optim.check_optimizer(settings(name, args), jax.eval_shape(make_params))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("bert_adamw", {"count", "mu", "nu"}),
        ("optax.adam", {"count", "mu", "nu"}),
        ("optax.sgd", set()),
        ("optax.optimistic_adam_v2", {"0", "1"}),
        ("optax.contrib.muon", {"inner_states"}),
    ],
)
def test_a_state_is_named_by_its_fields_and_comes_back_as_it_was(name, names):
    config, params = settings(name), {"layers": {"output_kernel": jnp.ones((2, 3, 4))}, "bias": jnp.ones(3)}
    assert optim.init(config, params).keys() == names
    state = optim.optimizer(config, 0.0).init(params)
    back = optim._from_dict(jax.eval_shape(lambda: state), optim._as_dict(state))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert all(a is b for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True))


def test_what_is_evaluated_is_the_average_where_the_optimizer_averages():
    params = make_params()
    config = settings("optax.contrib.schedule_free_adamw", {"b1": 0.9}, clip_norm=0.0)
    assert optim.averages(config)
    assert not optim.averages(settings("optax.contrib.muon"))
    assert not optim.averages(settings("lamb"))
    trained, state = run(config, params)
    evaluated = optim.eval_params(config, trained, state)
    # y = (1 - b1) z + b1 x, where gradients are taken at y and x is the average.
    for y, z, x in zip(*map(jax.tree.leaves, (trained, state["z"], evaluated)), strict=True):
        np.testing.assert_allclose(y, 0.1 * z + 0.9 * x, atol=1e-6)
    assert np.abs(evaluated["mlm_kernel"] - trained["mlm_kernel"]).max() > 1e-5
    config = settings("optax.adam")
    assert optim.eval_params(config, params, optim.init(config, params)) is params


def test_the_state_at_the_beginning_does_not_depend_on_the_rate():
    params = {"layers": {"output_kernel": jnp.ones((2, 3, 4))}, "mlm_bias": jnp.ones(3)}
    for name in ("optax.contrib.momo", "optax.contrib.prodigy", "optax.contrib.schedule_free_adamw"):
        config = settings(name)
        states = [optim.optimizer(config, rate).init(params) for rate in (0.0, 0.5)]
        jax.tree.map(np.testing.assert_array_equal, *states)
