"""What a run's checkpoints hold with optimizers of optax, and which parameters are evaluated."""

import contextlib
import shutil

import jax
import numpy as np
import pytest
from store_fixture import toy_config

from bertjax import train_state
from bertjax.checkpoint import Checkpoints, load_params
from bertjax.config import default
from bertjax.evaluate import evaluate, make_eval_step
from bertjax.logs import read_metrics
from bertjax.mesh import make_mesh
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import make_train_step, train
from bertjax.trained_model import load_trained

AVERAGES = {"optim.name": "optax.contrib.schedule_free_adamw", "optim.args": {"b1": 0.8}}


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def saved_state(workdir, config, step):
    """All that a checkpoint holds."""
    mesh = make_mesh(config)
    _, _, shardings = make_train_step(config, pretrain, mesh)
    target = train_state.abstract_state(config, pretrain, shardings)
    target = train_state.to_saved(config, target, target["params"])
    with contextlib.closing(Checkpoints(str(workdir / "checkpoints"), keep_last=9, keep_every=0)) as files:
        state, _, found = files.restore(target)
    assert found == step
    return jax.tree.map(np.asarray, state)


@pytest.fixture(scope="module")
def run(store, tmp_path_factory, one_device):
    """(config, workdir) of a run of eight steps whose optimizer averages."""
    workdir = tmp_path_factory.mktemp("averages")
    config = toy_config(store, workdir, **AVERAGES, **{"train.save_every": 4, "eval.enabled": True})
    train(config)
    return config, workdir


def test_a_run_whose_optimizer_averages_goes_on_as_if_nothing_had_been(run, tmp_path):
    config, workdir = run
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    (tmp_path / "checkpoints" / "digests" / "8.json").unlink()
    again = config.copy_and_resolve_references()
    again.workdir = str(tmp_path)
    train(again)
    assert_same(saved_state(tmp_path, config, 8), saved_state(workdir, config, 8))


def test_evaluation_and_the_saved_model_are_of_the_averages(run):
    config, workdir = run
    saved = saved_state(workdir, config, 8)
    y, z, x = (jax.tree.leaves(tree) for tree in
               (saved["trained_params"], saved["optimizer"]["z"], saved["params"]))  # fmt: skip
    for each in zip(y, z, x, strict=True):
        np.testing.assert_allclose(each[0], 0.2 * each[1] + 0.8 * each[2], atol=1e-6)
    params = load_params(str(workdir))[0]
    assert_same(params, saved["params"])
    assert_same(load_trained(str(workdir)).params, params)
    assert np.abs(params["mlm_kernel"] - saved["trained_params"]["mlm_kernel"]).max() > 1e-4

    [row] = [row for row in read_metrics(str(workdir / "metrics.jsonl")) if "eval/loss" in row]
    mesh = make_mesh(config)
    _, _, shardings = make_train_step(config, pretrain, mesh)
    eval_step = make_eval_step(config, pretrain, mesh, shardings["params"])
    [rows] = pretrain.open_data(config, None).rows["train"].evals
    losses = {}
    for name in ("params", "trained_params"):
        params = jax.device_put(saved[name], shardings["params"])
        losses[name] = evaluate(config, pretrain, mesh, eval_step, params, rows)
    assert losses["params"]["loss"] == pytest.approx(row["eval/loss"], rel=1e-6)
    assert abs(losses["trained_params"]["loss"] - row["eval/loss"]) > 1e-4


def test_an_ordinary_optimizers_checkpoint_is_its_state():
    state = {"params": {"encoder": 1, "pooler_kernel": 2}, "optimizer": {}, "step": 3}
    assert train_state.to_saved(toy_config(), state, state["params"]) is state
    assert train_state.from_saved(state) == state
    frozen = default("classify")
    frozen.train.freeze_encoder, frozen.optim.name = True, AVERAGES["optim.name"]
    averages = {"encoder": 1, "pooler_kernel": 4}
    saved = train_state.to_saved(frozen, state, averages)
    assert (saved["params"], saved["trained_params"]) == (averages, {"pooler_kernel": 2})
    assert train_state.from_saved(saved) == state


def test_an_optimizer_begins_from_the_parameters_of_init_from(run, tmp_path):
    """The averages of a run that hardly moves are what it began with, not what was drawn."""
    config, workdir = run
    config = config.copy_and_resolve_references()
    config.workdir, config.init_from = str(tmp_path), str(workdir)
    config.seed, config.train.steps, config.optim.learning_rate = 5, 3, 1e-9
    train(config)
    found, expected = (load_params(str(each))[0] for each in (tmp_path, workdir))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("optax.sgd", {}),
        ("optax.adam", {"mu_dtype": "bfloat16"}),
        ("optax.adafactor", {"min_dim_size_to_factor": 8}),
        ("optax.optimistic_adam_v2", {}),
    ],
)
def test_the_state_of_any_optimizer_is_saved_and_restored_on_another_mesh(
    tmp_path, eight_devices, name, args
):
    config = toy_config(**{"optim.name": name, "optim.args": args, "mesh.data": 2, "mesh.fsdp": 4})
    _, init, _ = make_train_step(config, pretrain, make_mesh(config))
    state = init()
    with contextlib.closing(Checkpoints(str(tmp_path), keep_last=1, keep_every=0)) as files:
        files.save(1, state, {}, wait=True)
        config.mesh.update(data=1, fsdp=2)
        mesh = make_mesh(config, jax.devices()[:2])
        target = train_state.abstract_state(config, pretrain, make_train_step(config, pretrain, mesh)[2])
        restored = files.restore(target)[0]
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_same(restored, state)
    assert [x.dtype for x in jax.tree.leaves(restored)] == [x.dtype for x in jax.tree.leaves(state)]
