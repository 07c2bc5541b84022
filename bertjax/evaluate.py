"""Evaluation: exact sums over every row, divided once; or what the model says of each row, in order."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import sharding
from bertjax.tasks.interface import EvalSet, Outputs, Task


def make_eval_step(config: ConfigDict, task: Task, mesh: Mesh, param_shardings: Any) -> Any:
    """A compiled (params, batch) -> sums and weights of the batch, without dropout."""

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        with sharding.tracing(mesh, config.model.dtype):
            return task.batch_sums(config, params, batch, None) | task.batch_weights(batch)

    return _compile(eval_step, mesh, param_shardings)


def make_predict_step(config: ConfigDict, task: Task, mesh: Mesh, param_shardings: Any) -> Any:
    """A compiled (params, batch) -> task.batch_outputs of the batch, which every process gets whole."""

    def predict_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        with sharding.tracing(mesh, config.model.dtype):
            return task.batch_outputs(config, params, batch)

    return _compile(predict_step, mesh, param_shardings)


def _compile(step: Any, mesh: Mesh, param_shardings: Any) -> Any:
    on_batch = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    replicated = jax.sharding.NamedSharding(mesh, sharding.REPLICATED)
    return jax.jit(step, in_shardings=(param_shardings, on_batch), out_shardings=replicated)


def evaluate(
    config: ConfigDict, task: Task, mesh: Mesh, eval_step: Any, params: Any, rows: EvalSet
) -> dict[str, float]:
    """The task's metrics over all rows of a set.

    Args:
      eval_step: of make_eval_step.
    """
    totals: dict[str, float] = {}
    for sums in _results(config, mesh, eval_step, params, rows):
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(value)
    return task.metrics(totals)


def predict(config: ConfigDict, mesh: Mesh, predict_step: Any, params: Any, rows: EvalSet) -> Outputs:
    """task.batch_outputs of all rows of a set, in order.

    Args:
      predict_step: of make_predict_step.
    """
    results = list(_results(config, mesh, predict_step, params, rows))
    return {
        name: np.concatenate([result[name] for result in results])[: rows.num_rows] for name in results[0]
    }


def _results(
    config: ConfigDict, mesh: Mesh, step: Any, params: Any, rows: EvalSet
) -> Iterator[dict[str, np.ndarray]]:
    """step(params, batch) for each batch; the last one is filled up with rows of weight 0."""
    size = config.eval.batch_rows
    pending = []
    for position in range(0, rows.num_rows, size):
        pending.append(step(params, sharding.make_global(mesh, rows.rows, position, size)))
        if len(pending) > 2:  # at most three batches are on their way
            yield jax.device_get(pending.pop(0))
    yield from jax.device_get(pending)
