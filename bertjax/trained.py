"""A trained model, read back from the workdir of its run."""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax import sharding
from bertjax.checkpoint import load_params
from bertjax.data.tokenizer import Tokenizer, load_tokenizer
from bertjax.errors import InputError


@dataclass(frozen=True)
class Trained:
    """What `load_trained` found."""

    config: ConfigDict  # config.model of the run
    params: dict[str, Any]  # nested dict of numpy arrays
    tokenizer: Tokenizer
    meta: dict[str, Any]  # "config": {"train.steps": value}; "metrics": held-out; "tokenizer": its sha256
    step: int


def load_trained(workdir: str, step: int | None = None) -> Trained:
    """The model of a workdir's newest whole checkpoint, or of `step`.

    Raises:
      InputError: no checkpoint there, or none is whole; no tokenizer, or another one than the model's.
    """
    sharding.all_devices()  # that there is none is said here, in one line
    params, meta, step = load_params(workdir, step)
    tokenizer = load_tokenizer(workdir)
    names = {name: f"model.{name}" for name in config_lib.default().model}
    absent = [field for field in names.values() if field not in meta["config"]]
    if "tokenizer" not in meta:
        absent.append("which tokenizer it needs")
    if absent:
        raise InputError(f"{workdir}: the checkpoint of step {step} does not say {', '.join(absent)}; "
                         "it was saved by another version of bertjax")  # fmt: skip
    config = ConfigDict({name: meta["config"][field] for name, field in names.items()})
    if tokenizer.vocab_size != config.vocab_size:
        raise InputError(
            f"{workdir}: its vocabulary has {tokenizer.vocab_size} tokens, but the model was trained with "
            f"{config.vocab_size}; bring back the run's own vocabulary files"
        )
    if tokenizer.sha256 != meta["tokenizer"]:
        raise InputError(
            f"{workdir}: its vocabulary is as large as the one that the model was trained with, but another; "
            "bring back the run's own vocabulary files"
        )
    return Trained(config, params, tokenizer, meta, step)
