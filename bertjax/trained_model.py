"""A trained model: read from the workdir of a run, or written as one."""

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

import jax
from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax import sharding
from bertjax.checkpoint import FOLDER, Checkpoints, load_params
from bertjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bertjax.errors import InputError, NotFiniteError
from bertjax.files import write_folder
from bertjax.models.kinds import MODULES


@dataclass(frozen=True)
class Trained:
    """A model with all that is needed to use it; `bertjax.load` gives one.

    `jax.jit(lambda params, batch: model.module(params).encoder(batch))` computes with it.
    """

    config: ConfigDict  # config.model of the run; for an ELMo with config.elmo as its `elmo`
    head: str  # of HEADS of the kind's module in bertjax.models.kinds
    labels: tuple[str, ...]  # [C], names of what the classifier tells apart; () if it has none
    params: dict[str, Any]  # of the kind's module, nested dict of float32 NumPy arrays
    tokenizer: Tokenizer
    meta: dict[str, Any]  # "config": {"train.steps": value} of the run; "metrics": held-out
    step: int  # updates made
    left_out: tuple[str, ...] = ()  # parts that the files hold and the head does not have
    # config.head of the run: what the head stands on. A model from elsewhere has the default, the last layer.
    stands_on: ConfigDict = field(default_factory=lambda: config_lib.default().head)

    def module(self, params: Any = None) -> Any:
        """The Flax module with its parameters, or with those given (as inside jax.jit and jax.grad).

        It computes in `config.dtype`: float32 for what was imported, the run's for what was trained here.
        """
        params = self.params if params is None else params
        module = MODULES[self.config.kind]
        if self.config.kind == "elmo":  # nothing but its own heads stands on it
            return module.bind(self.config, params)
        return module.bind(self.config, params, self.stands_on)


def load_trained(workdir: str, step: int | None = None) -> Trained:
    """The model of a workdir's newest whole checkpoint, or of `step`.

    Raises:
      InputError: no checkpoint there, or none is whole; no tokenizer, or another one than the model's.
    """
    sharding.all_devices()  # that there is none is said here, in one line
    params, meta, step = load_params(workdir, step)
    tokenizer = load_tokenizer(workdir)
    defaults, saved = config_lib.default(), meta["config"]
    elmo = defaults.elmo if saved.get("model.kind") == "elmo" else {}
    sections = {"model": defaults.model, "head": defaults.head, "elmo": elmo}
    fields = [f"{section}.{name}" for section, names in sections.items() for name in names]
    absent = [field for field in fields if field not in saved]
    absent += [what for what in ("tokenizer", "head", "labels") if what not in meta]
    if absent:
        raise InputError(f"{workdir}: the checkpoint of step {step} does not say {', '.join(absent)}; "
                         "it was saved by another version of bertjax")  # fmt: skip
    config = ConfigDict({name: saved[f"model.{name}"] for name in defaults.model})
    if elmo:
        of_elmo = {name: saved[f"elmo.{name}"] for name in elmo}
        of_elmo["filters"] = tuple(map(tuple, of_elmo["filters"]))  # JSON has lists
        config.elmo = ConfigDict(of_elmo)
    if tokenizer.sha256 != meta["tokenizer"]:
        size, tokens = config.vocab_size, tokenizer.vocab_size
        what = "has as many tokens as" if tokens == size else f"has {tokens} tokens, not {size} as"
        raise InputError(
            f"{workdir}: its vocabulary {what} the one that the model was trained with, and is another, or "
            "another case; bring back the run's own vocabulary files"
        )
    stands_on = ConfigDict({name: saved[f"head.{name}"] for name in defaults.head})
    labels = tuple(meta["labels"])
    return Trained(config, meta["head"], labels, params, tokenizer, meta, step, stands_on=stands_on)


def checkpoint_meta(
    config_fields: dict[str, Any], head: str, labels: tuple[str, ...], tokenizer: Tokenizer, metrics: Any
) -> dict[str, Any]:
    """What a checkpoint holds beside its arrays, for `load_trained`."""
    return {
        "config": config_fields,
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
        model.meta["config"], model.head, model.labels, model.tokenizer, model.meta["metrics"]
    )
    with write_folder(folder) as part:
        model.tokenizer.save(part)
        inner = os.path.join(part, FOLDER)
        with contextlib.closing(Checkpoints(inner, keep_last=1, keep_every=0)) as checkpoints:
            try:
                checkpoints.save(model.step, {"params": jax.device_put(model.params)}, meta, wait=True)
            except NotFiniteError as error:
                raise InputError(f"{folder}: {error}") from error
