"""The state of a run: what it begins with, what of it is trained, evaluated and saved."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bertjax import optim
from bertjax.tasks.interface import Task

State = dict[str, Any]


def init_state(config: ConfigDict, task: Task, seed: jax.Array | int) -> State:
    """The state before the first step: parameters, optimizer, and how many steps and bad steps there were."""
    params = task.init_params(config, jax.random.key(seed))
    return {
        "params": params,
        "optimizer": optim.init(config.optim, trained_params(config, params)),
        "step": jnp.zeros((), jnp.int32),
        "bad_steps": jnp.zeros((), jnp.int32),
        "bad_in_a_row": jnp.zeros((), jnp.int32),
    }


def trained_params(config: ConfigDict, params: State) -> State:
    """Those that updates change, and that have moments: all, or all but the encoder's."""
    frozen = "freeze_encoder" in config.train and config.train.freeze_encoder
    return {name: x for name, x in params.items() if name != "encoder" or not frozen}


def abstract_state(config: ConfigDict, task: Task, shardings: Any) -> State:
    """The train state as jax.ShapeDtypeStruct with shardings."""
    shapes = jax.eval_shape(lambda: init_state(config, task, config.seed))
    placed: State = jax.tree.map(lambda x, sharding: x.update(sharding=sharding), shapes, shardings)
    return placed


def make_optimizer_init(config: ConfigDict, shardings: Any) -> Any:
    """A jitted parameters -> the optimizer's state before their first update."""

    def init(params: State) -> State:
        return optim.init(config.optim, trained_params(config, params))

    return jax.jit(init, in_shardings=(shardings["params"],), out_shardings=shardings["optimizer"])


def make_eval_params(config: ConfigDict, shardings: Any) -> Callable[[State], State]:
    """A function of the state: the parameters to evaluate, its own unless the optimizer averages them."""

    def averaged(params: State, optimizer: State) -> State:
        trained: State = optim.eval_params(config.optim, trained_params(config, params), optimizer)
        return params | trained

    if not optim.averages(config.optim):
        return lambda state: state["params"]
    given = (shardings["params"], shardings["optimizer"])
    jitted = jax.jit(averaged, in_shardings=given, out_shardings=shardings["params"])

    def eval_params(state: State) -> State:
        params: State = jitted(state["params"], state["optimizer"])
        return params

    return eval_params


def to_saved(config: ConfigDict, state: State, eval_params: State) -> State:
    """The state as a checkpoint holds it, whose "params" are those to evaluate: whoever loads the model gets
    them. Where an optimizer averages, those that gradients are taken at are "trained_params"."""
    if not optim.averages(config.optim):
        return state
    return state | {"params": eval_params, "trained_params": trained_params(config, state["params"])}


def from_saved(saved: State) -> State:
    """The state that `to_saved` was given."""
    state = {name: x for name, x in saved.items() if name != "trained_params"}
    return state | {"params": saved["params"] | saved.get("trained_params", {})}
