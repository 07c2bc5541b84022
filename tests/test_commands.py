"""The command `bertjax`: what it lists, what it runs, and that it is `python -m` by another name."""

import functools
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_fixture import TESTS, arguments, start, write_config

import bertjax
from bertjax import __main__ as bertjax_main

COMMANDS = bertjax_main.COMMANDS

PACKAGE = Path(bertjax.__file__).parent
SUBCOMMANDS = ("fill-mask", "next-sentence", "classify", "choose", "tag", "answer", "embed")
# As pip writes it.
SCRIPT = """import sys
from bertjax.__main__ import run
if __name__ == "__main__":
    sys.exit(run())
"""
MODULE = ("-m", "bertjax")


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("bin") / "bertjax"
    path.write_text(SCRIPT)
    return (str(path),)


def ended(*args, folder=None):
    """The finished process of `python ARGS`."""
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    return subprocess.run(
        [sys.executable, *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
    )


def test_every_command_is_listed_with_one_line():
    modules = {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    modules |= {path.stem for path in PACKAGE.glob("*.py") if "run_command(main)" in path.read_text()}
    assert COMMANDS.keys() == modules - {"__main__"}
    listed = ended(*MODULE).stdout.splitlines()
    for name, line in COMMANDS.items():
        assert [text for text in listed if text.split()[:1] == [name]] == [f"  {name:8}  {line}"]
    assert max(map(len, listed)) <= 100


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_the_list_is_quick_and_needs_no_jax(script, tmp_path, args):
    for program in (MODULE, script):
        listed = ended("-X", "importtime", *program, *args, folder=tmp_path)
        assert listed.returncode == 0
        assert listed.stdout.startswith("usage: bertjax COMMAND")
        imported = {line.split("|")[-1].strip() for line in listed.stderr.splitlines()}
        assert "bertjax.errors" in imported
        assert not imported & {"jax", "numpy", "ml_collections", "matplotlib"}


def test_the_version(script):
    for program in (MODULE, script):
        assert ended(*program, "--version").stdout == f"bertjax {bertjax.__version__}\n"


def test_an_unknown_command_is_one_line_with_the_nearest(script):
    for program in (MODULE, script):
        failed = ended(*program, "predit", "--help")
        assert (failed.returncode, failed.stdout) == (2, "")
        assert failed.stderr == (
            "bertjax: error: predit: no such command; the nearest is predict; see bertjax --help\n"
        )


def ended_here(monkeypatch, capsys, name, *args, by_script):
    """(exit code, stdout, stderr) of a command that is run in this process, where its imports are there."""
    monkeypatch.setattr("resource.getrlimit", lambda which: (0, 0))  # else bertjax.plan starts pytest again
    monkeypatch.setattr(sys, "argv", ["bertjax", *([name] if by_script else []), *args])
    module = functools.partial(runpy.run_module, f"bertjax.{name}", None, "__main__", alter_sys=True)
    with pytest.raises(SystemExit) as stop:
        (bertjax_main.run if by_script else module)()
    return stop.value.code or 0, *capsys.readouterr()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")  # no line is folded, wherever the names of the programs end
    called = [
        ended_here(monkeypatch, capsys, name, flag, by_script=by_script)
        for flag in ("-h", "--help")
        for by_script in (False, True)
    ]
    assert {code for code, _, _ in called} == {0}
    assert {error for _, _, error in called} == {""}
    short, short_by_script, long, long_by_script = (output for _, output, _ in called)
    assert (short, short_by_script) == (long, long_by_script)
    module, script = f"usage: python -m bertjax.{name} ", f"usage: bertjax {name} "
    assert short.startswith(module)
    assert short_by_script == script + short.removeprefix(module)
    assert not list(tmp_path.iterdir())


def test_every_subcommand_has_help(capsys):
    from bertjax.predict.__main__ import main

    for name in SUBCOMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        output = capsys.readouterr().out
        assert output.startswith(f"usage: python -m bertjax.predict {name} ")
        assert "--model" in output


def test_every_command_of_the_documents_exists():
    texts = [
        path.read_text() for path in (TESTS.parent / "README.md", *(TESTS.parent / "docs").rglob("*.md"))
    ]
    found = {
        name
        for text in texts
        for name in re.findall(r"(?:^|\$ |`|&& )bertjax ([a-z]\w*)", text, re.MULTILINE)
    }
    found |= {name for text in texts for name in re.findall(r"python -m bertjax\.(\w+)", text)}
    assert "main" in found
    assert found <= COMMANDS.keys()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("prepare", ["--format=text"], "the following arguments are required: --input, --out; see --help"),
        ("report", ["--workdir=/nowhere"], "/nowhere/metrics.jsonl: "),
        ("ensemble", ["a", "--out=b"], "a: name two or more runs, each once"),
        (
            "plan",
            ["--devices=x", "--config", "pretrain_tiny", "--config.seed", "1"],
            "--devices=x: use a TPU",
        ),
        ("predict", [], "the following arguments are required: COMMAND; see --help"),
    ],
)
def test_errors_name_the_command_as_it_was_called(monkeypatch, capsys, name, args, message):
    for by_script, program in ((False, f"bertjax.{name}"), (True, f"bertjax {name}")):
        code, output, error = ended_here(monkeypatch, capsys, name, *args, by_script=by_script)
        assert (code, output) == (2, "")
        assert error.startswith(f"{program}: error: {message}")
        assert error.count("\n") == 1


def test_the_program_is_the_same_in_a_process_of_its_own(script):
    message = "absent: neither a file nor a shipped recipe; the nearest of those is "
    for program, name in (
        (("-m", "bertjax.main"), "bertjax.main"),
        ((*MODULE, "main"), "bertjax main"),
        ((*script, "main"), "bertjax main"),
    ):
        failed = ended(*program, "--config", "absent")
        assert failed.returncode == 2
        assert failed.stderr.startswith(f"{name}: error: {message}")
        assert failed.stderr.count("\n") == 1


def test_modules_of_the_current_folder_are_found(script, tmp_path):
    (tmp_path / "mine.py").write_text("FORMAT = 1\n")
    for program in (("-m", "bertjax.prepare"), (*MODULE, "prepare"), (*script, "prepare")):
        failed = ended(
            *program, "--input=x", "--format=mine:FORMAT", "--out=y", "--vocab_size=9", folder=tmp_path
        )
        assert failed.returncode == 2
        assert "mine:FORMAT: is a int, not a Format" in failed.stderr.replace("'", "")


def test_a_signal_saves_the_run(script, store, tmp_path, monkeypatch, one_device):
    """By the script, which starts itself again with malloc set; that keeps its process number."""
    monkeypatch.delenv("GLIBC_TUNABLES")
    fields = {
        "data.store": store,
        "workdir": tmp_path / "run",
        "train.steps": 100_000,
        "train.save_every": 10**6,
    }
    args = arguments(write_config(tmp_path), **fields)
    output = tmp_path / "output"
    process = start(args, output, program=(*script, "main"))
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75, output.read_text()
    finally:
        process.kill()
    last = output.read_text().splitlines()[-1]
    assert last.startswith("bertjax main: interrupted: ")
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_workers_start_from_the_script_too(script, tmp_path):
    text = "\n\n".join(f"word{i % 7} is here .\nthe other word{i % 5} is not ." for i in range(200))
    (tmp_path / "text.txt").write_text(text + "\n")
    flags = ["--input=text.txt", "--format=sentences", "--vocab_size=60", "--out=store", "--processes=2"]
    made = ended(*script, "prepare", *flags, folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "store" / "store.json").is_file()
