"""A trained model: read from the workdir of a run, or written as one."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from ml_collections import ConfigDict

from bertjax.checkpoint import FOLDER, Checkpoints, load_params
from bertjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bertjax.errors import InputError, NotFiniteError
from bertjax.files import write_folder
from bertjax.mesh import all_devices
from bertjax.models import kind_of
from bertjax.models.interface import ModelKind


@dataclass(frozen=True)
class Trained:
    """A model with all that is needed to use it; `bertjax.load` gives one.

    `jax.jit(lambda params, batch: model.module(params).encoder(batch))` computes with it.
    """

    config: ConfigDict  # config.model of the run, resolved
    head: str  # of ModelKind.heads
    labels: tuple[str, ...]  # [C], names of what the classifier tells apart; () if it has none
    params: dict[str, Any]  # nested dict of float32 NumPy arrays
    tokenizer: Tokenizer
    meta: dict[str, Any]  # "resolved_config": {"train.steps": value} of the run; "metrics": held-out
    step: int  # updates made
    left_out: tuple[str, ...] = ()  # parts that the files hold and the head does not have
    head_config: ConfigDict | None = None  # config.head of the run; None: the default of the kind

    @property
    def kind(self) -> ModelKind:
        return kind_of(self.config.kind)

    @property
    def reads(self) -> ConfigDict:
        """config.head: what the head reads of the encoder."""
        return self.kind.head_section() if self.head_config is None else self.head_config

    def module(self, params: Any = None) -> Any:
        """The Flax module with its parameters, or with those given (as inside jax.jit and jax.grad).

        It computes in `config.dtype`: float32 for what was imported, the run's for what was trained here.
        """
        return self.kind.bind(self.config, self.params if params is None else params, self.head_config)


def load_trained(workdir: str, step: int | None = None) -> Trained:
    """The model of a workdir's newest whole checkpoint, or of `step`.

    Raises:
      InputError: no checkpoint there, or none is whole; no tokenizer, or another one than the model's.
    """
    all_devices()  # that there is none is said here, in one line
    params, meta, step = load_params(workdir, step)
    tokenizer = load_tokenizer(workdir)
    saved = meta.get("resolved_config", {})
    kind = kind_of(str(saved.get("model.kind", "bert")))
    config, head_config = kind.section(), kind.head_section()
    absent = [what for what in ("tokenizer", "head", "labels") if what not in meta]
    absent += [f"model.{name}" for name in config if f"model.{name}" not in saved]
    if any(name.startswith("head.") for name in saved):
        absent += [f"head.{name}" for name in head_config if f"head.{name}" not in saved]
        _fill(head_config, saved, "head.")
    if absent:
        raise InputError(f"{workdir}: the checkpoint of step {step} does not say {', '.join(absent)}; "
                         "it was saved by another version of bertjax")  # fmt: skip
    _fill(config, saved, "model.")
    if tokenizer.sha256 != meta["tokenizer"]:
        size, tokens = config.vocab_size, tokenizer.vocab_size
        what = "has as many tokens as" if tokens == size else f"has {tokens} tokens, not {size} as"
        raise InputError(
            f"{workdir}: its vocabulary {what} the one that the model was trained with, and is another, or "
            "another case; bring back the run's own vocabulary files"
        )
    labels = tuple(meta["labels"])
    return Trained(config, meta["head"], labels, params, tokenizer, meta, step, head_config=head_config)


def _fill(section: ConfigDict, saved: Mapping[str, Any], prefix: str) -> None:
    """Sets the fields of a section to what JSON has of them, which has lists for tuples."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    for name in section:
        if prefix + name in saved:
            section[name] = tuples(saved[prefix + name])


def checkpoint_meta(
    resolved_config: dict[str, Any], head: str, labels: tuple[str, ...], tokenizer: Tokenizer, metrics: Any
) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays, for `load_trained`."""
    return {
        "resolved_config": resolved_config,
        "head": head,
        "labels": list(labels),
        "metrics": metrics,
        "tokenizer": tokenizer.sha256,
    }


def save_trained(model: Trained, folder: str) -> None:
    """Writes a workdir with one checkpoint of `model.params`: all of it or nothing.

    Raises:
      InputError: the folder exists and is not empty, or cannot be written; a parameter is not finite.
    """
    if os.path.exists(folder) and not (os.path.isdir(folder) and not os.listdir(folder)):
        raise InputError(f"{folder}: exists; name a new folder")
    meta = checkpoint_meta(
        model.meta["resolved_config"], model.head, model.labels, model.tokenizer, model.meta["metrics"]
    )
    with write_folder(folder) as part:
        model.tokenizer.save(part)
        inner = os.path.join(part, FOLDER)
        with contextlib.closing(Checkpoints(inner, keep_last=1, keep_every=0)) as checkpoints:
            try:
                checkpoints.save(model.step, {"params": jax.device_put(model.params)}, meta, wait=True)
            except NotFiniteError as error:
                raise InputError(f"{folder}: {error}") from error
