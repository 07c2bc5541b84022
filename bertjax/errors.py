"""What a user can get wrong, said in one line, and the exit codes of every command."""

import errno
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

EXIT_BAD_INPUT = 2  # something the user gave is wrong; one line on stderr says what, where and what to do
EXIT_NOT_FINITE = 3  # too many updates in a row had a non-finite loss or gradient
EXIT_INTERRUPTED = 75  # SIGTERM or Ctrl-C: the same command continues (EX_TEMPFAIL of sysexits.h)


class InputError(ValueError):
    """The user's input is wrong. The message is one line: what was found, where (file:line), what to do."""


class NotFiniteError(RuntimeError):
    """Training met non-finite losses or gradients too many times in a row."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state."""


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Runs `command(sys.argv[1:])` and exits with its documented code.

    Prints one line instead of a traceback for the errors of this module, for Ctrl-C and for a full disk.
    """
    spec = sys.modules["__main__"].__spec__
    name = spec.name.removesuffix(".__main__") if spec else "bertjax"
    try:
        command(sys.argv[1:])
    except InputError as error:
        _exit(f"{name}: error: {error}", EXIT_BAD_INPUT)
    except NotFiniteError as error:
        _exit(f"{name}: stopped: {error}", EXIT_NOT_FINITE)
    except (Interrupted, KeyboardInterrupt) as error:
        _exit(f"{name}: interrupted: {error or 'before there was anything to save'}", EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "a file"
        _exit(f"{name}: error: {where}: {error.strerror}; make room, then the same command", EXIT_BAD_INPUT)


def _exit(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)
