"""`python -m bertjax.main --config=configs/pretrain_tiny.py --config.workdir=DIR`: trains one config.

The same command continues a run that was killed or interrupted. Exit codes: bertjax.errors.
"""

from collections.abc import Sequence

from bertjax.config import files
from bertjax.cpu_memory import keep_memory
from bertjax.distributed import start_processes
from bertjax.errors import run_command

# In argparse's form, which has no fields of this kind.
USAGE = """usage: python -m bertjax.main --config=FILE [--config.FIELD=VALUE ...]

Trains the config that get_config() of a Python file returns. The same command continues a run that was
stopped.

  --config=configs/pretrain_tiny.py   a file of configs/ or your own; FILE:ARG calls its get_config(ARG)
  --config.data.store=DIR             the text, as bertjax.prepare wrote it
  --config.data.tfrecord=FILES        or the examples that the 2018 release's create_pretraining_data.py wrote
  --config.workdir=DIR                where checkpoints, metrics and the vocabulary go
  --config.train.steps=1000           so is any field set; bertjax/sections.py, tasks and models list them"""


def main(args: Sequence[str]) -> None:
    """Trains the config that the arguments name. See USAGE and bertjax.config.parse_args."""
    if "--help" in args or "-h" in args:
        print(USAGE)
        return
    config = files.parse_args(args)
    start_processes()
    from bertjax.train import train

    train(config)


if __name__ == "__main__":
    keep_memory()
    run_command(main)
