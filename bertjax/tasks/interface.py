"""What a task gives to the training loop.

Everything but `open_data` sees arrays only, so it can be traced. Losses and metrics are sums and weights,
added up over the whole batch (or evaluation) and divided once.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.models.interface import Batch, ModelKind, Params, Sums
from bertjax.sections import batch_field, batch_size
from bertjax.trained_model import Trained

Outputs = dict[str, np.ndarray]  # [rows, ...]
RowSource = Callable[[int, int], dict[str, np.ndarray]]  # (first row, count) -> a batch
Shapes = dict[str, jax.ShapeDtypeStruct]
Require = Callable[[bool, str, str], None]  # whether it is so, the field that is wrong if not, the rule


@dataclass(frozen=True)
class EvalSet:
    """Rows to evaluate on, always in the same order."""

    name: str  # its figures are "name/figure"
    rows: RowSource  # rows past the last weigh 0
    num_rows: int
    # Figures from batch_outputs of all rows, in order; None: Task.metrics of the sums over them, if the task
    # `evaluates` by sums, else none.
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

    config: ConfigDict  # the run's, resolved: with what follows from the data filled in
    rows: dict[str, Rows]  # by phase: "train", "phase2"
    tokenizer: Tokenizer
    fingerprints: dict[str, str]  # what must be the same when a run goes on, besides the config's fields
    constants: dict[str, float] = field(default_factory=dict)  # what held-out figures are compared with
    labels: tuple[str, ...] = ()  # names of the classes, saved with the model
    notes: tuple[str, ...] = ()  # lines on what was cut or left out, for the terminal


class Task(abc.ABC):
    """What is trained. It has no state: a run's config is passed to each method."""

    name: str  # what config.task calls it
    head: str  # of ModelKind.heads; the kinds that have it are those that the task trains
    fine_tunes: bool  # whether it begins from a model, whose architecture and tokenizer it takes
    evaluates: str = "sums"  # "sums", or "outputs" where figures need what the model says of each row

    @abc.abstractmethod
    def config(self, kind: ModelKind) -> ConfigDict:
        """All fields that a run of this task on this kind of model reads, with their defaults."""

    def check(self, config: ConfigDict, require: Require) -> None:  # noqa: B027 (not every task has rules)
        """Requires what its fields must be together. Needs no device and no file."""

    def void(self, config: ConfigDict) -> dict[str, str]:
        """Fields that other fields make void here, and the remedy: it is an error to set them."""
        epochs, share, void = config.train.epochs, "optim.warmup_proportion", {}
        if epochs:
            void["train.steps"] = "train.epochs gives them here; add --config.train.epochs=0"
        if epochs and config.optim.warmup_proportion:
            void["optim.warmup_steps"] = f"{share} gives them here; add --config.{share}=0"
        elif config.optim.warmup_proportion:
            void[share] = "is of train.epochs' steps, and that is 0; set optim.warmup_steps"
        return void

    @abc.abstractmethod
    def init_params(self, config: ConfigDict, key: jax.Array) -> Params:
        """Newly drawn float32 parameters as a nested dict, those of the encoder below "encoder"."""

    @abc.abstractmethod
    def batch_weights(self, batch: Batch) -> Sums:
        """What the sums of `batch_sums` are divided by."""

    @abc.abstractmethod
    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        """Losses, and what else metrics are made of, summed over a batch or a part of it.

        Args:
          keys: uint32 [B, 2] for dropout (bertjax.models.layers.dropout_keys), None for none.
          remat: of the phase.
        """

    @abc.abstractmethod
    def batch_loss(self, sums: Sums, weights: Sums) -> jax.Array:
        """The loss that is minimised, by a batch's sums and weights; linear in the sums."""

    @abc.abstractmethod
    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """Means over whatever was added up: `totals` holds the names of batch_sums and of batch_weights."""

    def batch_outputs(self, config: ConfigDict, params: Params, batch: Batch) -> Batch:
        """What the model says of each row, where the task `evaluates` by outputs."""
        raise NotImplementedError

    @abc.abstractmethod
    def flops_per_step(self, config: ConfigDict, phase: ConfigDict) -> float:
        """Floating-point operations of the matrix products that a step of full rows needs, forward and
        backward. What remat computes again does not count."""

    @abc.abstractmethod
    def batch_shapes(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        """Shapes and types of a step's batch of full rows."""

    def figures(self, config: ConfigDict) -> list[str]:
        """Names of what a dev set is measured by. Raises InputError."""
        return []

    def resolve(self, config: ConfigDict, source: Trained | None) -> ConfigDict:
        """The config with what follows from the model that the run begins from. Raises InputError."""
        return config

    @abc.abstractmethod
    def open_data(self, config: ConfigDict, source: Trained | None = None) -> Data:
        """Reads the files of a resolved config. Raises InputError for whatever does not fit."""


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
    config, batch = config.copy_and_resolve_references(), batch_size(config.train)
    config.train.steps = int(count / batch * config.train.epochs)
    if not config.train.steps:
        raise InputError(
            f"--config.train.epochs={config.train.epochs}: {count} {what} give no batch of "
            f"{batch}; lower --config.train.{batch_field(config.train)}"
        )
    if config.optim.warmup_proportion:
        config.optim.warmup_steps = int(config.train.steps * config.optim.warmup_proportion)
    return config


def bind(config: ConfigDict, params: Params, remat: str = "none") -> Any:
    """The model of a resolved config with these parameters: a bertjax.models.interface.BoundModel."""
    head = config.head if "head" in config else None
    return kind_of(config.model.kind).bind(config.model, params, head, remat)


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; of one over 700, which a float could not hold, that of 700."""
    return float(np.exp(min(loss, 700.0)))
