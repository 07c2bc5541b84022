"""A run's config: `default` composes it of what its task and its kind of model read, and nothing else.

A recipe is a Python file whose get_config() changes some of the values and returns it; see configs/.
"""

from ml_collections import ConfigDict

from bertjax.errors import InputError, nearest, quoted
from bertjax.models import KINDS, kind_of
from bertjax.models.interface import ModelKind
from bertjax.tasks import task_of
from bertjax.tasks.interface import Task


def default(task: str = "pretrain", kind: str = "") -> ConfigDict:
    """All fields that a run of this task on this kind of model reads; by the paper's recipe where it has one.

    Args:
      task: of bertjax.tasks.TASKS, or "module:NAME" of one's own.
      kind: of bertjax.models.KINDS, or likewise; "": the first that the task trains.

    Raises:
      InputError: no such task or kind, or the task does not train it.
    """
    found = task_of(task)
    config = found.config(trained_kind(found, kind))
    config.task = task
    if kind:
        config.model.kind = kind
    return config


def trained_kind(task: Task, kind: str) -> ModelKind:
    """The kind of this name; for "" the first that the task trains. Raises InputError if it trains none."""
    able = [each for each in KINDS.values() if task.head in each.heads]
    found = kind_of(kind) if kind else able[0]
    if task.head not in found.heads:
        raise InputError(
            f"--config.model.kind={quoted(kind)}: the task {task.name} trains a model for {task.head}: "
            f"{' or '.join(each.name for each in able)}"
        )
    return found


def set_size(config: ConfigDict, name: str) -> ConfigDict:
    """Sets the sizes of `config.model` to those of its kind's `sizes[name]`, and returns it. Raises
    InputError."""
    sizes = kind_of(config.model.kind).sizes
    if name not in sizes:
        raise InputError(f"{name}: no such model size; the nearest is {nearest(name, sizes or ['none'])} of "
                         f"{', '.join(sizes)}")  # fmt: skip
    config.model.update(sizes[name])
    return config
