"""`python -m bertjax.main --config=pretrain_tiny --config.workdir=DIR`: trains one config.

The same command continues a run that was killed or interrupted. Exit codes: bertjax.errors.
"""

import textwrap
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from bertjax.cpu_memory import keep_memory
from bertjax.errors import run_command
from bertjax.flags import Parser

_WIDTH = 100
_DESCRIPTION = """Trains the config of a recipe. The same command continues a run that was stopped.

  --config=RECIPE              a shipped recipe, such as pretrain_tiny or glue:mrpc, or a file of your own
                               with a get_config(); my.py:ARG calls its get_config(ARG)
  --config.data.store=DIR      the text, as bertjax.prepare wrote it
  --config.data.tfrecord=FILES or the examples that the 2018 release's create_pretraining_data.py wrote
  --config.workdir=DIR         where checkpoints, metrics and the vocabulary go
  --config.train.steps=1000    any other field of the recipe is set like this"""


def main(args: Sequence[str]) -> None:
    """Trains the config that the arguments name. Raises InputError, NotFiniteError, Interrupted."""
    from bertjax.config import files, recipes  # here: JAX takes a second to load

    names = textwrap.fill(", ".join(recipes.shipped()), _WIDTH, initial_indent="  ", subsequent_indent="  ")
    parser = Parser(
        command="main",
        usage="%(prog)s --config=RECIPE [--config.FIELD=VALUE ...] [--print_config]",
        description=_DESCRIPTION,
        epilog=f"recipes, in {recipes.folder()}:\n{names}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--print_config", action="store_true",
        help="print every field with its value and where that comes from, and train nothing",
    )  # fmt: skip
    flags, rest = parser.parse_known_args(files.joined(args))
    loaded = files.load_with_sources(*files.split_args(rest))
    if flags.print_config:
        print("\n".join(loaded.lines()))
        return
    from bertjax.distributed import start_processes
    from bertjax.train import train

    start_processes()
    train(loaded.config)


if __name__ == "__main__":
    keep_memory()
    run_command(main)
