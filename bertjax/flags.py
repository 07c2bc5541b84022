"""Command-line flags whose mistakes are reported like every other: in one line."""

import argparse
from typing import Any, NoReturn

from bertjax.errors import InputError, program


class Parser(argparse.ArgumentParser):
    """argparse's, but a mistake raises InputError, and flags cannot be shortened.

    Args:
      command: the name of one of bertjax's commands, instead of a prog.
    """

    def __init__(self, *, command: str = "", **options: Any):
        if command:
            called = program() == f"bertjax {command}"
            options["prog"] = f"bertjax {command}" if called else f"python -m bertjax.{command}"
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")
