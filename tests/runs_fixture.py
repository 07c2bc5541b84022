"""Runs of a sweep or of tables without processes of their own."""

import contextlib
import io
from pathlib import Path

from bertjax.errors import InputError
from bertjax.main import main as train_command


class Ended:
    """A process that has ended already, or does so after some polls."""

    def __init__(self, code, polls=0):
        self.code, self.polls = code, polls

    def poll(self):
        self.polls -= 1
        return None if self.polls >= 0 else self.code

    def terminate(self):
        pass


def in_this_process(arguments, environment, output):
    """bertjax.main without a process of its own, which would take long to start."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train_command(arguments)
    except InputError as error:
        Path(output).write_text(f"bertjax.main: error: {error}\n")
        return Ended(2)
    return Ended(0)
