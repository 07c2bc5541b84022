"""The optimizers against a transcription of the 2018 release in NumPy, and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from store_fixture import toy_config

from bertjax import optim
from bertjax.optim import DECAYS
from bertjax.sharding import path_name

STEPS = 20


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense_kernel": rng.normal(0, 0.1, (6, 5)),
        "dense_bias": rng.normal(0, 0.1, 5),
        "norm": {"scale": rng.normal(1, 0.1, 5), "bias": rng.normal(0, 0.1, 5)},
    }


def make_gradients(params):
    """Small ones and, in every other step, ones that are clipped."""
    rng = np.random.default_rng(1)
    return [
        jax.tree.map(lambda x: rng.normal(0, 3.0 if step % 2 else 0.05, x.shape), params)  # noqa: B023
        for step in range(STEPS)
    ]


def settings(**fields):
    return toy_config(**{f"optim.{name}": value for name, value in fields.items()}).optim


def rate_of(step):
    return 1e-2 * (1 - step / STEPS)


def run(config, params, gradients):
    """Parameters after the updates, and the state."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    state = optim.init(config, params)

    @jax.jit
    def step(params, state, gradient, rate):
        return optim.update(config, params, gradient, state, rate)

    for i, gradient in enumerate(gradients):
        gradient = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient)
        params, state = step(params, state, gradient, rate_of(i))
    return params, state


def run_optax(transformation, params, gradients):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    state = transformation.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient))
    return params


def assert_close(found, expected, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), found, expected)


def release(params, gradients):
    """AdamWeightDecayOptimizer of optimization.py after clip_by_global_norm(1.0), float64."""
    names = ["dense_kernel", "dense_bias", "norm/scale", "norm/bias"]
    flat = [params["dense_kernel"], params["dense_bias"], params["norm"]["scale"], params["norm"]["bias"]]
    m, v = [np.zeros_like(x) for x in flat], [np.zeros_like(x) for x in flat]
    clipped = 0
    for step, tree in enumerate(gradients):
        gradient = [tree["dense_kernel"], tree["dense_bias"], tree["norm"]["scale"], tree["norm"]["bias"]]
        norm = np.sqrt(sum((g**2).sum() for g in gradient))
        clipped += norm > 1
        for i, name in enumerate(names):
            g = gradient[i] / max(norm, 1.0)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            update = m[i] / (np.sqrt(v[i]) + 1e-6)
            if name == "dense_kernel":
                update = update + 0.01 * flat[i]
            flat[i] = flat[i] - rate_of(step) * update
    assert 0 < clipped < len(gradients)
    kernel, bias, norm_scale, norm_bias = flat
    return {"dense_kernel": kernel, "dense_bias": bias, "norm": {"scale": norm_scale, "bias": norm_bias}}


def test_the_releases_adamw():
    params = make_params()
    gradients = make_gradients(params)
    expected = release(params, gradients)
    found, state = run(settings(name="bert_adamw"), params, gradients)
    assert_close(found, expected)
    assert state["count"] == STEPS
    corrected, _ = run(settings(name="adamw"), params, gradients)
    assert np.abs(corrected["dense_kernel"] - expected["dense_kernel"]).max() > 1e-3


def written_out(config, params, grads, state, rate):
    """An update in one expression a parameter, the optimizers of stacked layers without layer-wise decay."""
    b1, b2 = config.beta1, config.beta2
    norm = optim.global_norm(grads)
    scale = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-30)) if config.clip_norm else 1.0
    count = state["count"] + 1
    correct1, correct2 = 1.0, 1.0
    if config.name != "bert_adamw":
        correct1 = 1 / (1 - b1 ** count.astype(jnp.float32))
        correct2 = 1 / (1 - b2 ** count.astype(jnp.float32))

    def one(path, p, g, mu, nu):
        g = g * scale
        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * jnp.square(g)
        change = mu * correct1 / (jnp.sqrt(nu * correct2) + config.eps)
        if not path_name(path).endswith(("bias", "scale")):
            change = change + config.weight_decay * p
            if config.name == "lamb":
                axes = tuple(range(1, p.ndim)) if "layers/" in path_name(path) else None
                p_norm = jnp.sqrt(jnp.sum(jnp.square(p), axes, keepdims=True))
                change_norm = jnp.sqrt(jnp.sum(jnp.square(change), axes, keepdims=True))
                ratio = p_norm / jnp.where(change_norm > 0, change_norm, 1.0)
                change = change * jnp.where((p_norm > 0) & (change_norm > 0), ratio, 1.0)
        return p - rate * change, mu, nu

    new = jax.tree_util.tree_map_with_path(one, params, grads, state["mu"], state["nu"])
    new_params, mu, nu = jax.tree.transpose(jax.tree.structure(params), jax.tree.structure((0, 0, 0)), new)
    return new_params, {"mu": mu, "nu": nu, "count": count}


@pytest.mark.parametrize("clip_norm", [1.0, 0.0])
@pytest.mark.parametrize("name", ["bert_adamw", "adamw", "lamb"])
def test_the_chain_of_transformations_computes_the_formula_bit_for_bit(name, clip_norm):
    config = settings(name=name, clip_norm=clip_norm)
    params = make_params() | {"layers": {"output_kernel": np.random.default_rng(2).normal(size=(3, 7, 4))}}
    gradients = make_gradients(params)
    found = run(config, params, gradients)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    state = {"mu": zeros, "nu": zeros, "count": jnp.zeros((), jnp.int32)}
    step = jax.jit(lambda *of: written_out(config, *of))
    for i, gradient in enumerate(gradients):
        gradient = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient)
        params, state = step(params, gradient, state, rate_of(i))
    jax.tree.map(np.testing.assert_array_equal, found, (params, state))


def test_adamw_equals_optax():
    params = make_params()
    gradients = make_gradients(params)
    adamw = optax.adamw(rate_of, 0.9, 0.999, eps=1e-6, weight_decay=0.01, mask=optim.decayed(params))
    expected = run_optax(optax.chain(optax.clip_by_global_norm(1.0), adamw), params, gradients)
    found, _ = run(settings(name="adamw"), params, gradients)
    assert_close(found, expected)


def test_no_clipping_at_0():
    params = make_params()
    gradients = make_gradients(params)
    adamw = optax.adamw(rate_of, 0.9, 0.999, eps=1e-6, weight_decay=0.01, mask=optim.decayed(params))
    found, _ = run(settings(name="adamw", clip_norm=0.0), params, gradients)
    assert_close(found, run_optax(adamw, params, gradients))


def test_lamb_equals_optax_on_a_matrix():
    params = {"dense_kernel": make_params()["dense_kernel"]}
    gradients = make_gradients(params)
    lamb = optax.lamb(rate_of, 0.9, 0.999, eps=1e-6, weight_decay=0.01)
    expected = run_optax(optax.chain(optax.clip_by_global_norm(1.0), lamb), params, gradients)
    found, _ = run(settings(name="lamb"), params, gradients)
    assert_close(found, expected)


def test_lamb_takes_no_trust_ratio_for_biases_and_layer_norm_and_for_zero():
    params = make_params()
    params["zero_kernel"] = np.zeros((3, 2))
    gradients = make_gradients(params)
    lamb, _ = run(settings(name="lamb", weight_decay=0.0), params, gradients[:1])
    adamw, _ = run(settings(name="adamw", weight_decay=0.0), params, gradients[:1])
    for name in ("dense_bias", "norm", "zero_kernel"):
        assert_close(lamb[name], adamw[name])
    assert np.abs(lamb["dense_kernel"] - adamw["dense_kernel"]).max() > 1e-4


@pytest.mark.parametrize("name", ["bert_adamw", "adamw", "lamb"])
def test_stacked_layers_are_updated_as_if_apart(name):
    rng = np.random.default_rng(3)
    layers = [
        {"output_kernel": rng.normal(0, 0.1 * (i + 1), (4, 3, 5)), "output_bias": rng.normal(size=5)}
        for i in range(3)
    ]
    stacked = {"layers": jax.tree.map(lambda *each: np.stack(each), *layers)}
    gradients = make_gradients(stacked)
    found, _ = run(settings(name=name), stacked, gradients)
    apart = {f"layer{i}": layer for i, layer in enumerate(layers)}
    gradients = [
        {f"layer{i}": jax.tree.map(lambda x, i=i: x[i], each["layers"]) for i in range(3)}
        for each in gradients
    ]
    expected, _ = run(settings(name=name), apart, gradients)
    for i in range(3):
        assert_close(jax.tree.map(lambda x, i=i: x[i], found["layers"]), expected[f"layer{i}"])


def test_lamb_takes_queries_keys_and_values_apart():
    rng = np.random.default_rng(4)
    parts = {name: rng.normal(0, 0.1 * (i + 1), (2, 6, 2, 3)) for i, name in enumerate("qkv")}
    together = {"layers": {"attention": {"qkv_kernel": np.stack(list(parts.values()), axis=2)}}}
    gradients = make_gradients(together)
    found, _ = run(settings(name="lamb"), together, gradients)
    gradients = [tree["layers"]["attention"]["qkv_kernel"] for tree in gradients]
    apart = {"layers": {f"{name}_kernel": x for name, x in parts.items()}}
    apart_gradients = [
        {"layers": {f"{name}_kernel": x[:, :, i] for i, name in enumerate("qkv")}} for x in gradients
    ]
    expected, _ = run(settings(name="lamb"), apart, apart_gradients)
    for i, name in enumerate("qkv"):
        found_part = found["layers"]["attention"]["qkv_kernel"][:, :, i]
        assert_close(found_part, expected["layers"][f"{name}_kernel"])


@pytest.mark.parametrize("name", ["bert_adamw", "adamw", "lamb"])
def test_layer_decay_is_a_factor_for_each_layer(name):
    rng = np.random.default_rng(5)
    shapes = {
        "encoder": {
            "embeddings": {"word": (7, 4), "norm": {"scale": (4,)}},
            "layers": {"attention": {"qkv_kernel": (3, 4, 3, 2, 2)}, "output_bias": (3, 4)},
        },
        "pooler_kernel": (4, 4),
        "classifier_bias": (2,),
    }
    params = jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda x: type(x) is tuple)
    [gradient] = make_gradients(params)[:1]
    factors = {"embeddings": 0.5**4, "layers": [0.5**3, 0.5**2, 0.5], "": 1.0}

    def expected(path, before, after):
        [factor] = [factors[part] for part in factors if part and part in path_name(path)] or [factors[""]]
        factor = np.reshape(factor, (-1, *(1,) * (before.ndim - 1)))
        return before + factor * (np.asarray(after) - before)

    plain, _ = run(settings(name=name), params, [gradient])
    found, _ = run(settings(name=name, layer_decay=0.5), params, [gradient])
    assert_close(found, jax.tree_util.tree_map_with_path(expected, params, plain))


def test_global_norm_is_over_all_arrays():
    tree = {"a": jnp.full((2, 2), 1.0, jnp.bfloat16), "b": {"c": jnp.array([2.0, 1.0])}}
    assert optim.global_norm(tree) == 3.0
    assert optim.global_norm(tree).dtype == jnp.float32


def rates(config, steps):
    return np.array([optim.learning_rate(config, step) for step in range(steps)])


def test_schedule_to_the_letter():
    config = toy_config(
        **{"train.steps": 60, "phase2.steps": 40, "optim.learning_rate": 1e-4, "optim.warmup_steps": 10}
    )
    found = rates(config, 101)
    # Both phases are one decay over 100 steps, which counts from step 0 and not from the warm-up's end.
    expected = [1e-4 * (s / 10 if s < 10 else 1 - s / 100) for s in range(101)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-11)
    assert found[0] == 0.0
    assert found[9] == pytest.approx(0.9e-4)
    assert found[10] == pytest.approx(0.9e-4)  # not 1e-4: the drop where the warm-up ends
    assert found[100] == 0.0
    assert rates(config, 130)[-1] == 0.0


def test_schedule_without_warmup_and_of_one_phase():
    config = toy_config(**{"train.steps": 4, "optim.learning_rate": 1.0, "optim.warmup_steps": 0})
    np.testing.assert_allclose(rates(config, 5), [1, 0.75, 0.5, 0.25, 0])


def test_schedule_restarts_in_phase_2_with_its_own_rate_and_warmup():
    config = toy_config(
        **{"train.steps": 6, "phase2.steps": 8, "optim.learning_rate": 1e-2, "optim.warmup_steps": 2,
           "phase2.restart_schedule": True, "phase2.learning_rate": 4e-3, "phase2.warmup_steps": 4}
    )  # fmt: skip
    first = [1e-2 * (s / 2 if s < 2 else 1 - s / 6) for s in range(6)]
    second = [4e-3 * (s / 4 if s < 4 else 1 - s / 8) for s in range(9)]
    np.testing.assert_allclose(rates(config, 15), first + second, rtol=1e-6, atol=1e-12)


def test_cosine_decay_is_half_a_wave_over_all_steps():
    config = toy_config(
        **{"train.steps": 60, "phase2.steps": 40, "optim.learning_rate": 2.5e-4, "optim.warmup_steps": 10,
           "optim.decay": "cosine"}
    )  # fmt: skip
    found = rates(config, 101)
    expected = [2.5e-4 * (s / 10 if s < 10 else (1 + np.cos(np.pi * s / 100)) / 2) for s in range(101)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-10)
    assert found[50] == pytest.approx(1.25e-4)
    assert rates(config, 130)[-1] == pytest.approx(0.0, abs=1e-10)


def test_decay_by_the_inverse_square_root_and_none():
    fields = {"train.steps": 60, "optim.learning_rate": 1e-3, "optim.warmup_steps": 9}
    found = rates(toy_config(**fields | {"optim.decay": "inverse_sqrt"}), 61)
    np.testing.assert_allclose(found[:10], 1e-3 * np.arange(10) / 9, atol=1e-12)
    np.testing.assert_allclose(found[9:], 1e-3 * np.sqrt(9 / np.arange(9, 61)))
    found = rates(toy_config(**fields | {"optim.decay": "constant"}), 61)
    np.testing.assert_allclose(found, np.minimum(1e-3, 1e-3 * np.arange(61) / 9))
    at_once = toy_config(**fields | {"optim.decay": "inverse_sqrt", "optim.warmup_steps": 0})
    np.testing.assert_allclose(rates(at_once, 5), 1e-3 / np.sqrt([1, 1, 2, 3, 4]))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("restart", [False, True])
def test_the_schedule_is_one_of_optax(decay, restart):
    """On the host it is in double precision, as the rates of a run are; in an optimizer of optax float32."""
    config = toy_config(
        **{"train.steps": 6, "phase2.steps": 8, "optim.learning_rate": 1e-2, "optim.warmup_steps": 2,
           "optim.decay": decay, "phase2.restart_schedule": restart, "phase2.learning_rate": 4e-3}
    )  # fmt: skip
    schedule = optim.schedule(config)
    traced = jax.jit(jax.vmap(schedule))(jnp.arange(15))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, rates(config, 15), rtol=1e-6, atol=1e-9)
    assert [schedule(step) for step in range(15)] == rates(config, 15).tolist()
    sgd, params = optax.sgd(schedule), jnp.zeros(())
    state = sgd.init(params)
    for step in range(4):
        change, state = sgd.update(jnp.ones(()), state)
        np.testing.assert_allclose(change, -schedule(step), rtol=1e-6)
