"""The command `bertjax`, and `python -m bertjax`: lists the commands, and runs the one that is named.

`bertjax prepare ...` is `python -m bertjax.prepare ...`.
"""

import difflib
import os
import runpy
import sys
from collections.abc import Sequence

import bertjax
from bertjax.errors import InputError, run_command

COMMANDS = {
    "prepare": "makes a vocabulary and a token store of a corpus",
    "main": "trains a config",
    "sweep": "fine-tunes over settings and seeds, to a table and a GLUE submission",
    "tables": "runs what is missing of the paper's tables and writes them",
    "predict": "fills masks, writes embeddings, classifies, chooses, tags words, answers questions",
    "ensemble": "puts the answers of several runs together",
    "report": "draws a run",
    "convert": "Hugging Face's and Google's models in, Hugging Face's out",
    "plan": "says whether a config fits on a TPU slice or an H100 that is not there",
    "demo": "from text to a small trained model, in minutes on a CPU",
}
_WIDTH = max(map(len, COMMANDS))
USAGE = f"""usage: bertjax COMMAND ...
       bertjax --help | --version

{chr(10).join(f"  {name:{_WIDTH}}  {line}" for name, line in COMMANDS.items())}

bertjax COMMAND --help says more. `python -m bertjax.COMMAND` is the same."""


def main(args: Sequence[str]) -> None:
    """Prints what the first argument asks for. Raises InputError if it is none of the commands."""
    first = args[0] if args else "--help"
    if first in ("--help", "-h"):
        print(USAGE)
    elif first == "--version":
        print(f"bertjax {bertjax.__version__}")
    else:
        nearest = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.0)[0]
        raise InputError(f"{first}: no such command; the nearest is {nearest}; see bertjax --help")


def run() -> None:
    """The program."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        run_command(main)
    else:
        del sys.argv[1]
        sys.path.append(os.getcwd())  # where python -m finds one's own modules too
        # As python -m does. PROGRAM is what errors.program() reads.
        runpy.run_module(f"bertjax.{name}", {"PROGRAM": f"bertjax {name}"}, "__main__", alter_sys=True)


if __name__ == "__main__":
    run()
