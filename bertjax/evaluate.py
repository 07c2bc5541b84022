"""Held-out metrics: exact sums over every row, divided once."""

from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import sharding


def make_eval_step(config: ConfigDict, task: ModuleType, mesh: Mesh, param_shardings: Any) -> Any:
    """A compiled (params, batch) -> sums and weights of the batch, without dropout."""

    def eval_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        with sharding.tracing(config, mesh):
            return task.batch_sums(config, params, batch, None) | task.batch_weights(batch)

    on_batch = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    replicated = jax.sharding.NamedSharding(mesh, sharding.REPLICATED)
    return jax.jit(eval_step, in_shardings=(param_shardings, on_batch), out_shardings=replicated)


def evaluate(
    config: ConfigDict, task: ModuleType, mesh: Mesh, eval_step: Any, params: Any, rows: Any
) -> dict[str, float]:
    """The task's metrics over all held-out rows; the last batch is filled up with rows of weight 0.

    Args:
      eval_step: of make_eval_step.
      rows: the phase's task rows, with `heldout` and `num_heldout`.
    """
    size = config.eval.batch_size
    totals: dict[str, float] = {}
    pending = []
    for position in range(0, rows.num_heldout, size):
        pending.append(eval_step(params, sharding.make_global(mesh, rows.heldout, position, size)))
        if len(pending) > 1:
            pending[-2] = jax.device_get(pending[-2])  # at most two batches are on their way
    for sums in jax.device_get(pending):
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + float(np.float64(value))
    return task.metrics(totals)
