"""The texts that a command is asked about: arguments, or the lines of a file or of standard input."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tqdm import tqdm

from bertjax.data.finetuning.sequences import Text
from bertjax.errors import InputError, Line, check_utf8, show


def read_texts(flags: argparse.Namespace, parse: Callable[[str], Any] = lambda text: text) -> Iterator[Any]:
    """parse(text) of those that were given: arguments, or the lines of a file but blank ones.

    Raises InputError.
    """
    check_inputs(flags)
    if flags.texts:
        return map(parse, flags.texts)
    if flags.input:
        return _lines(open(flags.input, "rb"), flags.input, os.path.getsize(flags.input), parse)
    if sys.stdin.isatty():
        raise InputError("no text; give texts as arguments, --input=FILE, or one a line on standard input")
    return _lines(sys.stdin.buffer, "standard input", 0, parse)


def check_inputs(flags: argparse.Namespace) -> None:
    """Raises InputError if there are arguments and a file."""
    if flags.texts and flags.input:
        raise InputError(f"--input={flags.input}: there are texts among the arguments too; give one of them")


def _lines(file: BinaryIO, name: str, size: int, parse: Callable[[str], Any]) -> Iterator[Any]:
    """parse() of the file's lines but blank ones, with a progress bar on a terminal."""
    found = False
    hidden = not (size and sys.stderr.isatty())
    with file, tqdm(total=size, unit="B", unit_scale=True, disable=hidden, leave=False) as bar:
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            try:
                text = Line.at(line.decode().strip(" \r\n"), f"{name}:{number}")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{name}:{number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the text"
                ) from error
            if text.strip():
                found = True
                yield parse(text)
    if not found:
        raise InputError(f"{name} has no text; give one a line")


def text_or_pair(text: str) -> Text:
    """A text, or two with a tab between them. Raises InputError."""
    return pair(text) if "\t" in text else text


def pair(text: str) -> tuple[str, str]:
    """Two texts with a tab between them. Raises InputError."""
    a, *rest = text.split("\t")
    if len(rest) != 1:
        raise InputError(f"{show(text)}: expected two texts with a tab between them, found {len(rest)} tabs")
    return (Line.at(a, text.where), rest[0]) if isinstance(text, Line) else (a, rest[0])


def context_and_choices(text: str) -> tuple[str, list[str]]:
    """A context and its choices, with tabs between them. Raises InputError."""
    parts = text.split("\t")
    if len(parts) < 3 or not all(part.strip() for part in parts):
        raise InputError(
            f"{show(text)}: expected a context and two choices or more, none of them empty; in a line, tabs "
            "stand between them"
        )
    context, *choices = parts
    return (Line.at(context, text.where) if isinstance(text, Line) else context), choices


def words(text: str) -> list[str]:
    """What stands between spaces. Raises InputError if it comes from bytes that are not UTF-8."""
    check_utf8(text)
    return text.split()
