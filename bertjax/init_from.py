"""What a run begins with: the model of config.init_from, and the parameters that it takes from there."""

import dataclasses
import os
from typing import Any

import jax
from ml_collections import ConfigDict

from bertjax.checkpoint import FOLDER
from bertjax.checkpoint_manifest import steps_in
from bertjax.convert.load import load
from bertjax.data.tokenizers.cache import cached
from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.tasks.interface import Data, Task
from bertjax.trained_model import Trained, load_trained

_NEW_TOKENS = 1  # folded into the seed's key, from which the other parameters are drawn


def load_source(config: ConfigDict, task: Task) -> Trained | None:
    """The model that a run starts from, or, if it goes on, that it has reached; None for neither.

    A run that goes on needs it only where its architecture follows from the model (task.fine_tunes). The
    tokenizer uses config.examples.cache.

    Raises:
      InputError: there is no such model, it is broken, or of another kind.
    """
    checkpoints, source = os.path.join(config.workdir, FOLDER), None
    if os.path.isdir(checkpoints) and steps_in(checkpoints):
        source = load_trained(config.workdir) if task.fine_tunes else None
    elif config.init_from:
        source = load(config.init_from, model_kind=config.model.kind)
        if task.fine_tunes:
            source = with_new_tokens(source, config.seed, f"--config.init_from={config.init_from}")
    if source and task.fine_tunes and config.examples.cache:
        source = dataclasses.replace(source, tokenizer=cached(source.tokenizer, config.examples.cache))
    return source


def with_new_tokens(model: Trained, seed: int, where: str = "model") -> Trained:
    """The model with newly drawn embeddings for the marks of its texts that it lacks.

    Raises:
      InputError: its vocabulary can have no such marks; the line begins with `where`.
    """
    key = jax.random.fold_in(jax.random.key(seed), _NEW_TOKENS)
    config, params, tokenizer = model.kind.with_new_tokens(
        model.config, model.params, model.tokenizer, key, where
    )
    return dataclasses.replace(model, config=config, params=params, tokenizer=tokenizer)


def initial_params(
    config: ConfigDict, task: Task, source: Trained, data: Data, fresh: Any, shardings: Any
) -> tuple[Any, str]:
    """Parameters with those of `source` for those that it has, and a line that says which.

    Args:
      fresh: newly drawn parameters on the mesh.
      shardings: theirs.

    Raises:
      InputError: it is another model than config.model, has another vocabulary than the data, or fewer
        layers than config.train.reinit_layers.
    """
    kind, where = kind_of(config.model.kind), f"--config.init_from={config.init_from}"
    other = [f"model.{name}={source.config[name]}" for name in kind.architecture()
             if source.config[name] != config.model[name]]  # fmt: skip
    if other:
        flags = " ".join(f"--config.{field}" for field in other)
        raise InputError(f"{where}: another model than config.model; to train one like it add {flags}")
    if source.tokenizer.sha256 != data.tokenizer.sha256:
        raise InputError(
            f"{where}: its vocabulary, or its case, is not that of the data; prepare the data with the "
            "model's (python -m bertjax.prepare --vocab=...)"
        )
    top = config.train.reinit_layers if task.fine_tunes and kind.stacked_layers else 0
    layers = config.model.num_hidden_layers if top else 0
    if top > layers:
        raise InputError(f"--config.train.reinit_layers={top}: the model has {layers} layers")
    if task.fine_tunes and config.train.from_scratch:
        return fresh, f"sizes and tokenizer of {config.init_from}; all parameters are newly drawn"
    parts, drawn = kind.parts_of(source.params), kind.parts_of(fresh)
    given, head = set(parts), config.head if "head" in config else kind.head_section()
    wanted = tuple(part for part in drawn if part in ("features", *kind.heads[task.head]))
    if (source.head, source.labels) != (task.head, data.labels):
        given -= set(kind.label_parts)
    if not kind.same_head(source.reads, head):
        given.clear()  # what reads the encoder there reads something else
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
    new = [*(p for p in wanted if p not in given), *([f"the top {top} of {layers} layers"] if top else [])]
    for what, named in (("newly drawn", new), ("left out", left_out)):
        if named:
            line += f"; {what}: {', '.join(named)}"
    return params, line
