"""What the processes of a run do together, over several hosts or in one."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from bertjax.errors import InputError

T = TypeVar("T")


def any_process(yes: bool) -> bool:
    """Whether it is true on any process; every process calls it at the same place."""
    if jax.process_count() == 1:
        return yes
    return bool(multihost_utils.process_allgather(np.int32(yes)).any())


def together(task: Callable[[], T]) -> T:
    """task(), on every process. If it raises InputError or OSError on one of them, all raise.

    Otherwise the others would wait for the one that has ended, until JAX gives up minutes later.
    """
    failure: InputError | OSError | None = None
    result = None
    try:
        result = task()
    except (InputError, OSError) as error:
        failure = error
    failed = any_process(failure is not None)
    if failure:
        raise failure
    if failed:
        raise InputError("another process of the run could not go on; its own line says why")
    return result  # type: ignore[return-value]  # None only if task() returned it
