"""`python -m bertjax.main --config=configs/pretrain_tiny.py --config.workdir=DIR`: trains one config.

The same command continues a run that was killed or interrupted. Exit codes: bertjax.errors.
"""

import os
from collections.abc import Sequence

from bertjax import config_files
from bertjax.errors import InputError, run_command
from bertjax.host import keep_memory

# In argparse's form, which has no fields of this kind.
USAGE = """usage: python -m bertjax.main --config=FILE [--config.FIELD=VALUE ...]

Trains the config that get_config() of a Python file returns. The same command continues a run that was
stopped.

  --config=configs/pretrain_tiny.py   a file of configs/ or your own; FILE:ARG calls its get_config(ARG)
  --config.data.store=DIR             the text, as bertjax.prepare wrote it
  --config.data.tfrecord=FILES        or the examples that the 2018 release's create_pretraining_data.py wrote
  --config.workdir=DIR                where checkpoints, metrics and the vocabulary go
  --config.train.steps=1000           so is any field set; bertjax/config.py lists them with their defaults"""


def start_processes() -> None:
    """Joins the run's other processes where the environment says that there are some.

    BERTJAX_COORDINATOR (host:port), BERTJAX_PROCESS_COUNT and BERTJAX_PROCESS_ID name them outright, and
    BERTJAX_COORDINATOR=auto leaves it to JAX, as on a Cloud TPU slice. A SLURM step of several tasks is found
    by itself.
    """
    import jax

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


def main(args: Sequence[str]) -> None:
    """Trains the config that the arguments name. See USAGE and bertjax.config.parse_args."""
    if "--help" in args or "-h" in args:
        print(USAGE)
        return
    config = config_files.parse_args(args)
    start_processes()
    from bertjax.train import train

    train(config)


if __name__ == "__main__":
    keep_memory()
    run_command(main)
