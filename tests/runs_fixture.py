"""Runs of a sweep or of tables without processes of their own."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

from bertjax.errors import InputError, run_command
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


def refusal(command, args, monkeypatch, capsys):
    """The one line with which a command that starts runs refuses its arguments, before it starts one."""
    monkeypatch.setattr(sys, "argv", ["command", *args])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda args: command(args, lambda *_: pytest.fail("something ran")))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    return error
