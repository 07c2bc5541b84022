"""What a task gives to the training loop.

A task is a module with: HEAD and FINE_TUNES; init_params, batch_sums, batch_weights, batch_loss, metrics,
flops_per_step and batch_shapes, which see arrays only; open_data, which reads files. A task whose evaluation
needs what the model says of each row, not sums alone, has batch_outputs too. One that FINE_TUNES has figures,
the names of what a dev set is measured by.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError

Sums = dict[str, jax.Array]
Outputs = dict[str, np.ndarray]  # [rows, ...]
RowSource = Callable[[int, int], dict[str, np.ndarray]]  # (first row, count) -> a batch


@dataclass(frozen=True)
class EvalSet:
    """Rows to evaluate on, always in the same order."""

    name: str  # its figures are "name/figure"
    rows: RowSource  # rows past the last weigh 0
    num_rows: int
    # Figures from batch_outputs of all rows, in order; None: task.metrics of the sums over them.
    score: Callable[[Outputs], dict[str, float]] | None = None
    # Writes files of predictions into a folder, after the last step, and may return lines for the terminal;
    # None: none.
    write: Callable[[Outputs, str], str | None] | None = None


@dataclass(frozen=True)
class Rows:
    """Where the rows of one phase come from."""

    train: RowSource  # endless
    evals: tuple[EvalSet, ...]
    batch_rows: int  # of a training step
    flops: float  # of a training step's matrix products, without padding


@dataclass(frozen=True)
class Data:
    """The opened inputs of a run."""

    config: ConfigDict  # the run's, with what follows from the data filled in
    rows: dict[str, Rows]  # by config section: "train", "phase2"
    tokenizer: Tokenizer
    fingerprints: dict[str, str]  # what must be the same when a run goes on, besides the config's fields
    constants: dict[str, float] = field(default_factory=dict)  # what held-out figures are compared with
    labels: tuple[str, ...] = ()  # names of the classes, saved with the model
    notes: tuple[str, ...] = ()  # lines on what was cut or left out, for the terminal


def with_epochs(config: ConfigDict, count: int, what: str) -> ConfigDict:
    """The config with the steps, and the warm-up's share of them, that config.train.epochs asks for; as it is
    where that is 0.

    Steps are whole batches, int(count / batch * epochs), as in run_classifier.py of the 2018 release.

    Args:
      count: of what an epoch has.
      what: "examples".

    Raises:
      InputError: there are fewer than make one step.
    """
    if not config.train.epochs:
        return config
    config = config.copy_and_resolve_references()
    config.train.steps = int(count / config.train.batch_size * config.train.epochs)
    if not config.train.steps:
        raise InputError(
            f"--config.train.epochs={config.train.epochs}: {count} {what} give no batch of "
            f"{config.train.batch_size}; lower --config.train.batch_size"
        )
    if config.optim.warmup_proportion:
        config.optim.warmup_steps = int(config.train.steps * config.optim.warmup_proportion)
    return config


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; of one over 700, which a float could not hold, that of 700."""
    return float(np.exp(min(loss, 700.0)))
