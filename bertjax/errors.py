"""What a user can get wrong, said in one line, and the exit codes of every command."""

import sys
from collections.abc import Callable, Sequence

EXIT_BAD_INPUT = 2  # something the user gave is wrong: the one line on stderr says what, where and what to do
EXIT_NOT_FINITE = 3  # too many updates in a row had a non-finite loss or gradient
EXIT_INTERRUPTED = (
    75  # SIGTERM or Ctrl-C: the state is saved, the same command continues (sysexits EX_TEMPFAIL)
)


class InputError(ValueError):
    """The user's input is wrong. The message is one line: what was found, where (file:line), what to do."""


class NotFiniteError(RuntimeError):
    """Training met non-finite losses or gradients too many times in a row."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved its state."""


def run_command(command: Callable[[Sequence[str]], None]) -> None:
    """Runs `command(sys.argv[1:])` and exits with its documented code.

    Prints one line instead of a traceback for the errors of this module and for a full disk.
    """
    name = (
        f"bertjax.{command.__module__.rsplit('.', 1)[-1]}" if command.__module__ != "__main__" else "bertjax"
    )
    try:
        command(sys.argv[1:])
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except NotFiniteError as error:
        print(f"{name}: stopped: {error}", file=sys.stderr)
        sys.exit(EXIT_NOT_FINITE)
    except Interrupted as error:
        print(f"{name}: interrupted: {error}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
