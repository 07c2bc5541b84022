"""What a user can get wrong, said in one line, and the exit codes of every command."""

import contextlib
import difflib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

EXIT_BAD_INPUT = 2  # something the user gave is wrong; one line on stderr says what, where and what to do
EXIT_NOT_FINITE = 3  # too many updates in a row had a non-finite loss or gradient
EXIT_INTERRUPTED = 75  # SIGTERM or Ctrl-C: the same command continues (EX_TEMPFAIL of sysexits.h)
_SHOWN = 100  # letters of a name from a file that a message shows: a hostile one may be as long as its file
EXIT_NO_READER = 141  # what read the output has ended, as with `| head`: a shell's 128 + SIGPIPE


class InputError(ValueError):
    """The user's input is wrong. The message is one line: what was found, where (file:line), what to do."""


class NotFiniteError(RuntimeError):
    """Training met non-finite losses or gradients too many times in a row."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state."""


def quoted(value: object) -> str:
    """`value` from a file for a one-line message: newlines and the like escaped, and cut if long."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def nearest(name: str, known: Iterable[str]) -> str:
    """What of `known` is most like `name`, for a message."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT are added to as they come."""
    came: list[int] = []
    old = {number: signal.signal(number, lambda number, _: came.append(number))
           for number in (signal.SIGTERM, signal.SIGINT)}  # fmt: skip
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the import of a package of the extra `name`: if that is not installed, an InputError says how.

    `what` is the flag or the field that needs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f'{what}: {error.name} is not installed; run: pip install "bertjax[{name}]"'
        ) from error


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Puts `path` into an OSError that names no file: those of write(), flush() and fsync() do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def program() -> str:
    """What runs, as it was called: "bertjax main", or "bertjax.main" if by `python -m bertjax.main`."""
    started = sys.modules["__main__"]
    name = started.__spec__.name.removesuffix(".__main__") if started.__spec__ else "bertjax"
    return getattr(started, "PROGRAM", name)  # bertjax.__main__ sets it


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Runs `command(sys.argv[1:])` and exits with its documented code.

    Prints one line instead of a traceback for the errors of this module, for Ctrl-C, and for a file that
    cannot be read or written; nothing if what reads its output has ended.
    """
    name = program()
    try:
        command(sys.argv[1:])
        with naming("standard output"):
            sys.stdout.flush()  # here, since a failure at the interpreter's end cannot be caught
    except InputError as error:
        _exit(f"{name}: error: {error}", EXIT_BAD_INPUT)
    except NotFiniteError as error:
        _exit(f"{name}: stopped: {error}", EXIT_NOT_FINITE)
    except (Interrupted, KeyboardInterrupt) as error:
        _exit(f"{name}: interrupted: {error or 'before there was anything to save'}", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _exit("", EXIT_NO_READER)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not (full or error.filename):
            raise
        where, reason = error.filename or "standard output or a file", error.strerror or error
        advice = "make room" if full else "mend the path or its permissions"
        _exit(f"{name}: error: {where}: {reason}; {advice}, then the same command", EXIT_BAD_INPUT)


def _exit(line: str, code: int) -> NoReturn:
    if line:
        print(line, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # what it cannot take would be tried again, with a traceback, as the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


class Line(str):
    """A text that knows its place in a file, for messages."""

    __slots__ = ("where",)
    where: str  # "file:line"

    @classmethod
    def at(cls, text: str, where: str) -> "Line":
        line = cls(text)
        line.where = where
        return line


def check_utf8(text: str) -> None:
    """Raises InputError for surrogates, Python's stand-in for wrong bytes of an argument."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{show(text)}: is not UTF-8; convert the text") from error


def show(text: str) -> str:
    """The text for a message, with its place in a file if it has one."""
    where = f"{text.where}: " if isinstance(text, Line) else ""
    return where + repr(str(text) if len(text) <= 60 else f"{text[:57]}...")
