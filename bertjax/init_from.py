"""What a run begins with: the model of config.init_from, and the parameters that it takes from there."""

import dataclasses
import os
from types import ModuleType
from typing import Any

import jax
from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax.checkpoint import FOLDER
from bertjax.checkpoint_manifest import steps_in
from bertjax.convert.load import load
from bertjax.data.tokenizers.cache import cached
from bertjax.data.tokenizers.tokenizer import add_task_tokens
from bertjax.errors import InputError
from bertjax.models import gpt
from bertjax.models.head_features import same_features
from bertjax.models.kinds import MODULES
from bertjax.tasks.interface import Data
from bertjax.trained_model import Trained, load_trained

_NEW_TOKENS = 1  # folded into the seed's key, from which the other parameters are drawn


def load_source(config: ConfigDict, task: ModuleType) -> Trained | None:
    """The model that a run starts from, or, if it goes on, that it has reached; None for neither.

    A run that goes on needs it only where the task's config follows from the model (task.FINE_TUNES). A GPT
    that is fine-tuned comes with start, delimiter and extract tokens, newly drawn if it had none. The
    tokenizer uses config.examples.cache.

    Raises:
      InputError: there is no such model, or it is broken.
    """
    checkpoints, source = os.path.join(config.workdir, FOLDER), None
    if os.path.isdir(checkpoints) and steps_in(checkpoints):
        source = load_trained(config.workdir) if task.FINE_TUNES else None
    elif config.init_from:
        source = load(config.init_from, model_kind=config.model.kind)
        if task.FINE_TUNES:
            source = with_task_tokens(source, config.seed, f"--config.init_from={config.init_from}")
    if source and config.examples.cache:
        source = dataclasses.replace(source, tokenizer=cached(source.tokenizer, config.examples.cache))
    return source


def with_task_tokens(model: Trained, seed: int, where: str = "model") -> Trained:
    """A GPT whose vocabulary has the tokens that stand around and between texts; any other model as it is.

    Raises:
      InputError: the GPT has a vocabulary of another kind; the line begins with `where`.
    """
    if model.config.kind != "gpt":
        return model
    tokenizer = add_task_tokens(model.tokenizer, where)
    config = model.config.copy_and_resolve_references()
    # A model from elsewhere may have more embeddings than its vocabulary has tokens.
    config.vocab_size = max(config.vocab_size, tokenizer.vocab_size)
    key = jax.random.fold_in(jax.random.key(seed), _NEW_TOKENS)
    params = gpt.with_new_tokens(model.config, model.params, config.vocab_size, key)
    return dataclasses.replace(model, config=config, params=jax.device_get(params), tokenizer=tokenizer)


def initial_params(
    config: ConfigDict, task: ModuleType, source: Trained, data: Data, fresh: Any, shardings: Any
) -> tuple[Any, str]:
    """Parameters with those of `source` for those that it has, and a line that says which.

    Args:
      fresh: newly drawn parameters on the mesh.
      shardings: theirs.

    Raises:
      InputError: it is another model than config.model, has another vocabulary than the data, or fewer
        layers than config.train.reinit_layers.
    """
    where = f"--config.init_from={config.init_from}"
    other = [f"model.{name}={source.config[name]}" for name in config_lib.ARCHITECTURE
             if source.config[name] != config.model[name]]  # fmt: skip
    if config.model.kind == "elmo":
        other += [f"elmo.{name}={source.config.elmo[name]}" for name in config_lib.ELMO_ARCHITECTURE
                  if source.config.elmo[name] != config.elmo[name]]  # fmt: skip
    if other:
        flags = " ".join(f"--config.{field}" for field in other)
        raise InputError(f"{where}: another model than config.model; to train one like it add {flags}")
    if source.tokenizer.sha256 != data.tokenizer.sha256:
        raise InputError(
            f"{where}: its vocabulary, or its case, is not that of the data; prepare the data with the "
            "model's (python -m bertjax.prepare --vocab=...)"
        )
    layers, top = config.model.num_hidden_layers, config.train.reinit_layers
    if top > layers:
        raise InputError(f"--config.train.reinit_layers={top}: the model has {layers} layers")
    if not config.init_params:
        return fresh, f"sizes and tokenizer of {config.init_from}; all parameters are drawn anew"
    module = MODULES[config.model.kind]
    parts, drawn = module.parts_of(source.params), module.parts_of(fresh)
    given = set(parts)
    wanted = tuple(part for part in drawn if part in ("features", *module.HEADS[task.HEAD]))
    if (source.head, source.labels) != (task.HEAD, data.labels):
        given -= {"classifier", "score", "tagger", "crf"}  # they tell other things apart
    if not same_features(source.stands_on, config.head):
        given.clear()  # what stands on the encoder there stands on something else
    if top:
        given.discard("pooler")
    taken = {name for part in given for name in source.params if name.startswith(part)} | {"encoder"}
    params = {
        name: jax.device_put(source.params[name], shardings[name]) if name in taken else x
        for name, x in fresh.items()
    }
    if top:
        stack = jax.jit(
            lambda old, new: jax.tree.map(lambda a, b: a.at[layers - top :].set(b[layers - top :]), old, new),
            out_shardings=shardings["encoder"]["layers"],
        )
        params["encoder"]["layers"] = stack(params["encoder"]["layers"], fresh["encoder"]["layers"])
    line = f"parameters of {config.init_from}: {', '.join(('encoder', *(p for p in wanted if p in given)))}"
    left_out = [*(part for part in parts if part not in wanted), *source.left_out]
    anew = [*(p for p in wanted if p not in given), *([f"the top {top} of {layers} layers"] if top else [])]
    for what, parts in (("drawn anew", anew), ("left out", left_out)):
        if parts:
            line += f"; {what}: {', '.join(parts)}"
    return params, line
