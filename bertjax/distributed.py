"""What the processes of a run do together, over several hosts or in one."""

import os
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


def start_processes() -> None:
    """Joins the run's other processes where the environment says that there are some.

    BERTJAX_COORDINATOR (host:port), BERTJAX_PROCESS_COUNT and BERTJAX_PROCESS_ID name them outright, and
    BERTJAX_COORDINATOR=auto leaves it to JAX, as on a Cloud TPU slice. A SLURM step of several tasks is found
    by itself.
    """
    coordinator = os.environ.get("BERTJAX_COORDINATOR")
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if not tasks.isdecimal():
        raise InputError(f"SLURM_NTASKS={tasks}: not a number of tasks; unset it if SLURM does not run this")
    slurm = int(tasks) > 1 and "SLURM_STEP_NODELIST" in os.environ
    if coordinator == "auto" or (slurm and not coordinator):
        jax.distributed.initialize()
    elif coordinator:
        try:
            count, index = (int(os.environ[f"BERTJAX_PROCESS_{name}"]) for name in ("COUNT", "ID"))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"BERTJAX_COORDINATOR={coordinator}: set the numbers BERTJAX_PROCESS_COUNT and "
                "BERTJAX_PROCESS_ID too"
            ) from error
        jax.distributed.initialize(coordinator, count, index)
