"""Command-line flags whose mistakes are reported like every other: in one line."""

import argparse
from typing import Any, NoReturn

from bertjax.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse's, but a mistake raises InputError, and flags cannot be shortened."""

    def __init__(self, **options: Any):
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")
