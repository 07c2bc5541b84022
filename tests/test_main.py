"""The command: exit codes and one-line errors."""

import os
import subprocess
import sys

import pytest
from store_fixture import arguments, start, write_config

from bertjax.distributed import start_processes
from bertjax.errors import InputError, run_command
from bertjax.main import main


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "bertjax.main: error: no config; use --config=RECIPE, such as --config=pretrain_tiny"),
        (["--config=configs/pretrain_tiny.py", "--config.train.step=1"],
         "bertjax.main: error: --config.train.step: no such field of the task pretrain on bert; the nearest "
         "is --config.train.steps"),
        (["--config=configs/pretrain_tiny.py", "--config.data.store=/nowhere", "--config.workdir=w"],
         "bertjax.main: error: /nowhere: no token store (no store.json); make one with bertjax.prepare"),
    ],
    ids=["no config", "no field", "no store"],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, args, message):
    output = tmp_path / "output"
    assert start(args, output).wait(120) == 2
    assert output.read_text() == message + "\n"


def exits(monkeypatch, capsys, *args):
    """(exit code, stderr) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["bertjax", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workdir=", "--config.workdir is empty; name a folder"),
        ("data.store=", "--config.data.store is empty"),
        ("model.vocab_size=50", "set --config.model.vocab_size=96"),
        ("mesh.data=3", "does not divide the 8 devices"),
        ("train.batch_rows=12", "--config.mesh: data x fsdp=8 does not divide train.batch_rows"),
        ("init_from=/nowhere", "/nowhere: no such folder"),
        ("task=nothing", "task='nothing': no such task"),
    ],
)
def test_what_cannot_run_is_one_line(tmp_path, monkeypatch, capsys, store, override, message):
    args = arguments(write_config(tmp_path), **{"data.store": store, "workdir": tmp_path / "run"})
    code, error = exits(monkeypatch, capsys, *args, f"--config.{override}")
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert ": error: " in error


def test_a_mistake_leaves_no_checkpoint_behind(tmp_path, monkeypatch, capsys, store):
    args = arguments(write_config(tmp_path), **{"data.store": store, "workdir": tmp_path / "run"})
    assert exits(monkeypatch, capsys, *args, "--config.model.vocab_size=50")[0] == 2
    assert not (tmp_path / "run").exists()  # so the right command does not meet a wrong config.json


def test_help_is_short_and_lists_the_recipes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert "pretrain_large_lamb, pretrain_mini, pretrain_tiny" in output
    assert "--print_config" in output
    assert len(output.splitlines()) < 25


FAILING = """
import sys
from bertjax.errors import run_command

def command(args):
    print("x" * int(args[0]))
    if len(args) > 1:
        open(args[1])

run_command(command)
"""


def failing(args, stdout):
    command = [sys.executable, "-c", FAILING, *args]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("size", [10, 1_000_000])  # what is written at the end, and before
def test_a_reader_that_has_ended_is_no_error(size):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = failing([str(size)], writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_file_that_fails_is_one_line(tmp_path):
    for args, output, message in (
        (["1", "/nowhere/x"], "/dev/null", "/nowhere/x: No such file or directory; mend the path"),
        (["1"], "/dev/full", "standard output: No space left on device; make room, then the same command"),
    ):
        with open(output, "w") as file:
            failed = failing(args, file)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert failed.stderr.count("\n") == 1


def test_the_function_does_not_start_its_callers_program_again(tmp_path, monkeypatch, store):
    """In a notebook or a test, execv() would end the session; only `python -m bertjax.main` may do that."""
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr("os.execv", lambda *args: pytest.fail("the program was started again"))
    with pytest.raises(InputError, match=r"data\.store is empty"):
        main(arguments(write_config(tmp_path), workdir=tmp_path / "run"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BERTJAX_COORDINATOR": "localhost:1", "BERTJAX_PROCESS_COUNT": "two"},
         "set the numbers BERTJAX_PROCESS_COUNT and BERTJAX_PROCESS_ID"),
        ({"SLURM_NTASKS": "two"}, "SLURM_NTASKS=two: not a number"),
    ],
)  # fmt: skip
def test_unclear_processes_are_one_line(monkeypatch, capsys, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["bertjax"])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda args: start_processes())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
