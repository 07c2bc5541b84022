import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.make_loss_curve import loss_curve
from store_fixture import make_batch, toy_config

from bertjax import sharding
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.errors import NotFiniteError
from bertjax.logs import read_metrics
from bertjax.mesh import make_mesh
from bertjax.metering import Meter
from bertjax.tasks.interface import Rows
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import make_train_step, scalars, train
from bertjax.train_state import abstract_state

STEPS = 6
# 8 heads, so that even 8 devices can share them; dropout is on.
FIELDS = {"model.num_attention_heads": 8, "optim.learning_rate": 1e-3}


def compiled(devices=1, **fields):
    config = toy_config(**FIELDS | fields)
    mesh = make_mesh(config, jax.devices()[:devices])
    return config, mesh, *make_train_step(config, pretrain, mesh)


def at(step, **fields):
    return scalars(toy_config(**FIELDS | fields), step)


def run(mesh, step, state, steps=STEPS, **fields):
    """Losses, gradient norms and the last parameters of a few steps from `state`, which is consumed."""
    losses, norms = [], []
    for i in range(steps):
        batch = sharding.to_global(mesh, make_batch(toy_config(), seed=i))
        state, measured = step(state, batch, at(i, **fields))
        losses.append(pretrain.metrics({name: float(x) for name, x in measured.items()})["loss"])
        norms.append(float(measured["grad_norm"]))
    assert state["step"] == state["optimizer"]["count"] == steps
    return np.array(losses), np.array(norms), jax.tree.map(np.asarray, state["params"])


@pytest.fixture(scope="module")
def one():
    """(mesh, step, a function that gives a fresh initial state) of one device."""
    _, mesh, step, init, _ = compiled()
    return mesh, step, init


@pytest.fixture(scope="module")
def on_one_device(one):
    mesh, step, init = one
    return run(mesh, step, init())


@pytest.mark.parametrize("axes", [(8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8)], ids=str)
def test_every_mesh_computes_the_same_training(one, on_one_device, axes):
    fields = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), axes, strict=True))
    _, mesh, step, init, shardings = compiled(devices=8, **fields)
    # Initial values are the same on every mesh too; one mesh may stand for the others.
    state = init() if axes == (2, 2, 2) else jax.device_put(one[2](), shardings)
    found = run(mesh, step, state)
    np.testing.assert_allclose(found[0], on_one_device[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], on_one_device[1], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[2], on_one_device[2])


@pytest.mark.parametrize(("parts", "devices"), [(2, 1), (4, 2)])
def test_accumulation_changes_nothing(one, on_one_device, parts, devices):
    _, mesh, step, _, shardings = compiled(devices, **{"train.accumulation": parts})
    found = run(mesh, step, jax.device_put(one[2](), shardings))
    np.testing.assert_allclose(found[0], on_one_device[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], on_one_device[1], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found[2], on_one_device[2])


def test_a_step_is_a_pure_function_of_state_and_batch(one, on_one_device):
    mesh, step, init = one
    again = run(mesh, step, init())
    np.testing.assert_array_equal(again[0], on_one_device[0])
    jax.tree.map(np.testing.assert_array_equal, again[2], on_one_device[2])


def test_dropout_differs_from_step_to_step(one):
    mesh, step, init = one
    batch = sharding.to_global(mesh, make_batch(toy_config()))
    losses = [float(step(init() | {"step": jnp.int32(i)}, batch, at(0))[1]["mlm_loss"]) for i in (0, 1, 2)]
    assert len(set(losses)) == 3


def test_dropout_differs_from_seed_to_seed(one):
    mesh, step, init = one
    batch = sharding.to_global(mesh, make_batch(toy_config()))
    losses = [float(step(init(), batch, at(0, seed=seed))[1]["mlm_loss"]) for seed in (0, 1, 2)]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_update_is_left_out_and_counted(one, bad):
    leaves_out(*one, bad)


def test_a_non_finite_update_leaves_the_counts_of_an_optimizer_of_optax_alone():
    _, mesh, step, init, _ = compiled(**{"optim.name": "optax.contrib.schedule_free_adamw"})
    after = leaves_out(mesh, step, init, np.nan)["optimizer"]
    assert after["base_optimizer_state"]["count"] == 2
    assert after["step_count"] == 3  # optax begins with 1


def leaves_out(mesh, step, init, bad):
    """Checks that of four updates the second and the third are left out; returns the last state."""
    good = make_batch(toy_config())
    broken = good | {"masked_lm_weights": np.full_like(good["masked_lm_weights"], bad)}
    state, _ = step(init(), sharding.to_global(mesh, good), at(0))
    before = jax.tree.map(np.array, state)
    for times in (1, 2):
        state, measured = step(state, sharding.to_global(mesh, broken), at(times))
        for part in ("params", "optimizer"):
            jax.tree.map(np.testing.assert_array_equal, state[part], before[part])
        assert state["step"] == 1 + times
        assert state["bad_steps"] == state["bad_in_a_row"] == times == measured["bad_in_a_row"]
    state, measured = step(state, sharding.to_global(mesh, good), at(3))
    assert (state["bad_steps"], state["bad_in_a_row"]) == (2, 0)
    assert measured["bad_steps"] == 2
    assert (state["params"]["mlm_kernel"] != before["params"]["mlm_kernel"]).any()
    return state


def test_the_vocabularys_padding_stays_zero(one, on_one_device):
    fields = {"optim.name": "lamb", "optim.learning_rate": 0.1}
    _, mesh, step, _, _ = compiled(**fields)
    for _, _, params in (on_one_device, run(mesh, step, one[2](), steps=3, **fields)):
        word, bias = params["encoder"]["embeddings"]["word"], params["mlm_output_bias"]
        assert word.shape[0] == bias.shape[0] == 128
        assert not word[96:].any()
        assert not bias[96:].any()
        assert word[:96].any(axis=1).all()
        assert bias[:96].any()


def test_what_a_step_measures(one):
    mesh, step, init = one
    batch = make_batch(toy_config())
    batch["segment_ids"][:3, 5:] *= 2  # a second sequence in three of the eight rows
    _, measured = step(init(), sharding.to_global(mesh, batch), at(0))
    assert measured["tokens"] == (batch["segment_ids"] > 0).sum() < batch["segment_ids"].size
    assert measured["sequences"] == 8 + 3
    assert measured["mlm"] == batch["masked_lm_weights"].sum()
    assert measured["nsp"] == 8
    assert measured["learning_rate"] == 0
    assert all(x.dtype == jnp.float32 and x.shape == () for x in measured.values())


@pytest.mark.parametrize("optimizer", ["bert_adamw", "optax.contrib.muon"])
def test_seeds_rates_and_numbers_of_steps_are_not_part_of_the_program(optimizer):
    """So a sweep's runs are compiled once. Dropout's rate is part of it, which shows that this can fail."""

    def programs(**fields):
        config, mesh, step, init, shardings = compiled(**{"optim.name": optimizer, **fields})
        state = abstract_state(config, pretrain, shardings)
        batch = sharding.to_global(mesh, make_batch(toy_config()))
        return step.lower(state, batch, scalars(config, 0)).as_text(), init.func.lower(*init.args).as_text()

    plain = programs()
    assert plain == programs(
        **{"seed": 3, "train.steps": 77, "optim.learning_rate": 0.1, "optim.warmup_steps": 9}
    )
    assert plain[0] != programs(**{"model.hidden_dropout_prob": 0.2})[0]


def test_golden_loss_curve():
    """Seeded losses of ten steps with dropout, to notice a change that is not meant to change anything."""
    golden = json.loads(Path(__file__, "../golden/loss_curve.json").resolve().read_text())
    np.testing.assert_allclose(loss_curve(), golden, rtol=1e-5)
    assert golden[-1] < golden[0] - 1


def test_bad_updates_are_logged_and_too_many_in_a_row_end_the_run(store, tmp_path, monkeypatch):
    broken, rows = {0, 2, 5, 6, 7, 8}, Examples.rows

    def patched(self, position, count):
        batch = rows(self, position, count)
        if position // 8 in broken:
            batch["masked_lm_weights"][:] = np.nan
        return batch

    monkeypatch.setattr(Examples, "rows", patched)
    config = toy_config(store, tmp_path, **{"train.steps": 20, "train.max_bad_steps": 3})
    with pytest.raises(NotFiniteError, match=r"step 8: .* not finite 3 times in a row; begin") as error:
        train(config)
    assert "\n" not in str(error.value)
    rows = read_metrics(str(tmp_path / "metrics.jsonl"))
    assert [(row["step"], row["bad_steps"]) for row in rows[:5]] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert [row.get("loss") is None for row in rows[:5]] == [True, False, True, False, False]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_to_do_about_bad_updates(dtype):
    config = toy_config(**{"model.dtype": dtype, "train.max_bad_steps": 1})
    rows = {"train": Rows(None, (), 8, 1.0)}
    meter = Meter(config, pretrain, rows, "train", log=None)
    meter.add(1, {"bad_in_a_row": 1.0, "sequences": 8.0, "tokens": 64.0})
    with pytest.raises(NotFiniteError, match="begin in another workdir with a lower --config") as error:
        meter.log()
    assert ("dtype=float32" in str(error.value)) == (dtype != "float32")
