"""The tasks that config.task names: `task_of`."""

from bertjax.errors import InputError, nearest, quoted
from bertjax.extensions import import_named
from bertjax.tasks import (
    answer,
    bidirectional_lm,
    choose,
    classify,
    language_model,
    multi_label,
    pretrain,
    tag,
)
from bertjax.tasks.interface import Task

TASKS: dict[str, Task] = {
    "pretrain": pretrain.TASK,
    "language_model": language_model.TASK,
    "bidirectional_lm": bidirectional_lm.TASK,
    "classify": classify.TASK,
    "multi_label": multi_label.TASK,
    "tag": tag.TASK,
    "answer": answer.TASK,
    "choose": choose.TASK,
}


def task_of(name: str) -> Task:
    """The task of this name, or one's own, as "module:NAME". Raises InputError."""
    found = TASKS.get(name) or import_named(name, Task, "--config.task")  # type: ignore[type-abstract]
    if found is None:
        raise InputError(
            f"--config.task={quoted(name)}: no such task; the nearest is {nearest(name, TASKS)} of "
            f"{', '.join(TASKS)}, and your own is module:NAME"
        )
    return found
