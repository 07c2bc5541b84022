import types

import jax
import numpy as np
import pytest
from store_fixture import random_params, toy_config

from bertjax import sharding
from bertjax.evaluate import evaluate, make_eval_step, predict
from bertjax.mesh import make_mesh
from bertjax.models import bert
from bertjax.tasks.interface import EvalSet
from bertjax.tasks.pretrain import TASK as pretrain


@pytest.fixture(scope="module")
def at_once(store):
    """The held-out rows, parameters and the metrics of one batch of all rows, without a mesh."""
    config = toy_config(store, **{"eval.enabled": True})
    rows, params = pretrain.open_data(config).rows["train"], random_params(config)
    batch = rows.evals[0].rows(0, rows.evals[0].num_rows)
    sums = jax.jit(lambda params, batch: pretrain.batch_sums(config, params, batch, None))(params, batch)
    totals = {name: float(x) for name, x in (sums | pretrain.batch_weights(batch)).items()}
    return rows, params, pretrain.metrics(totals)


@pytest.mark.parametrize(
    ("size", "devices", "axes"),
    [(8, 8, (8, 1, 1)), (12, 4, (2, 2, 1)), (8, 8, (2, 2, 2)), (512, 1, (1, 1, 1))],
)
def test_batch_size_and_mesh_do_not_change_a_metric(store, at_once, size, devices, axes):
    rows, params, expected = at_once
    fields = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), axes, strict=True))
    config = toy_config(store, **{"eval.enabled": True, "eval.batch_rows": size, **fields})
    mesh = make_mesh(config, jax.devices()[:devices])
    shardings = sharding.state_shardings(bert.KIND.sharding, params, mesh)
    step = make_eval_step(config, pretrain, mesh, shardings)
    assert rows.evals[0].num_rows % size  # the last batch is not full
    found = evaluate(config, pretrain, mesh, step, jax.device_put(params, shardings), rows.evals[0])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_max_rows_limits_the_held_out_rows(store, at_once):
    rows, _, _ = at_once
    config = toy_config(store, **{"eval.enabled": True, "eval.max_rows": 5})
    few = pretrain.open_data(config).rows["train"]
    assert few.evals[0].num_rows == 5 < rows.evals[0].num_rows
    for name, x in few.evals[0].rows(0, 8).items():
        np.testing.assert_array_equal(x[:5], rows.evals[0].rows(0, 5)[name])
        assert not x[5:].any()


def test_held_out_rows_do_not_depend_on_the_runs_seed_and_masking(store, at_once):
    rows, _, _ = at_once
    other = {"eval.enabled": True, "data.masking": "dynamic", "data.dupe_factor": 3}
    same = pretrain.open_data(toy_config(store, seed=5, **other)).rows["train"]
    assert same.evals[0].num_rows == rows.evals[0].num_rows
    for name, x in same.evals[0].rows(0, rows.evals[0].num_rows).items():
        np.testing.assert_array_equal(x, rows.evals[0].rows(0, rows.evals[0].num_rows)[name])


def test_no_rows_without_evaluation(store):
    assert pretrain.open_data(toy_config(store)).rows["train"].evals == ()


class Result:
    """What a step gives, which may still be computed; reading it is an event."""

    def __init__(self, events, values):
        self.events, self.values = events, values

    def __array__(self, dtype=None, copy=None):
        self.events.append("read")
        return np.asarray(self.values)


def made_rows(count):
    """(a set of `count` rows, row i with the number i; the events of its evaluation in batches of 8)"""
    events = []

    def rows(first, number):
        events.append("made")
        return {"x": np.arange(first, first + number, dtype=np.int32)}

    return EvalSet("eval", rows, count), events


def test_outputs_are_of_every_row_in_order():
    config = toy_config()
    rows, events = made_rows(45)
    mesh = make_mesh(config, jax.devices()[:1])
    outputs = predict(config, mesh, lambda params, batch: {"y": 2 * batch["x"]}, None, rows)
    np.testing.assert_array_equal(outputs["y"], 2 * np.arange(45))
    assert events == ["made"] * 6


def test_an_evaluation_is_three_batches_ahead_at_most():
    config = toy_config()
    rows, events = made_rows(80)
    mesh = make_mesh(config, jax.devices()[:1])
    task = types.SimpleNamespace(metrics=lambda totals: totals)
    step = lambda params, batch: {"sum": Result(events, batch["x"].sum())}  # noqa: E731
    assert evaluate(config, task, mesh, step, None, rows) == {"sum": 79 * 40.0}
    assert events == ["made"] * 3 + ["read", "made"] * 7 + ["read"] * 3
