"""Tables stopped, killed and failing at every kind of place, and continued."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs_fixture import Ended, in_this_process
from store_fixture import TESTS, start
from tables_fixture import TWO_ROWS, Pieces, arguments, content

from bertjax.errors import InputError, Interrupted
from bertjax.sweep.runs import start_process
from bertjax.tables import rows as table_rows
from bertjax.tables.__main__ import main

pytestmark = pytest.mark.usefixtures("one_device")


class Killed(BaseException):
    """As SIGKILL, this passes every handler of errors."""


FEWER = ("--tasks=mnli", "--seeds=1")  # 3 pre-trainings and 13 fine-tunings


@pytest.fixture(scope="module")
def fewer(store, data, tmp_path_factory):
    """An undisturbed run with FEWER."""
    out = tmp_path_factory.mktemp("fewer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TESTS.parent)
        main(arguments(store, data, out, *FEWER), Pieces())
    return out


def same(out, other):
    """Whether two folders have the same tables, and plots."""
    names = ("pretraining_tasks", "training_steps")
    plots = [(folder / f"{name}.png").read_bytes()[:4] for folder in (out, other) for name in names]
    return [content(out, n) for n in names] == [content(other, n) for n in names] and set(plots) == {
        b"\x89PNG"
    }


@pytest.mark.parametrize("at", [1, 3, 15])
@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_in_a_run_it_continues_to_the_same_table(fewer, store, data, tmp_path, at, place):
    """Before a run has written anything, or when it has ended and its result is not noted yet."""
    args, pieces = arguments(store, data, tmp_path, *FEWER), Pieces()

    def killed(*given):
        if len(pieces.begun) == at and place == "before":
            raise Killed
        process = pieces(*given)
        if len(pieces.begun) == at + 1:
            raise Killed
        return process

    with pytest.raises(Killed):
        main(args, killed)
    main(args, pieces)
    assert same(tmp_path, fewer)
    assert len(pieces.begun) == 16 + (place == "after")


@pytest.mark.parametrize(
    ("name", "count"),
    [("settings.json", 0), ("result.json", 0), ("result.json", 5), ("seconds.txt", 5), ("tasks.json", 5),
     ("steps.md", 5), ("tasks.png", 0)],
)  # fmt: skip
def test_killed_in_writing_it_continues_to_the_same_table(
    fewer, store, data, tmp_path, monkeypatch, name, count
):
    """The kill comes when the new file is there, but has not taken the old one's place."""
    args, seen, replace = arguments(store, data, tmp_path, *FEWER), itertools.count(), os.replace

    def killed(source, target):
        if str(target).endswith(name) and next(seen) == count:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        main(args, Pieces())
    main(args, Pieces())
    assert same(tmp_path, fewer)


def test_side_by_side_nothing_begins_before_its_pretraining_has_ended(fewer, store, data, tmp_path):
    """Pieces asserts that there is a model to begin from; here all take some time, five at once."""
    main(arguments(store, data, tmp_path, *FEWER, "--parallel=5"), Pieces(polls=1))
    assert same(tmp_path, fewer)


def test_sigterm_ends_it_with_what_is_there(store, data, tmp_path, capsys):
    pieces = Pieces()

    def stopping(*given):
        process = pieces(*given)
        if len(pieces.begun) == 5:
            signal.raise_signal(signal.SIGTERM)
        return process

    args = arguments(store, data, tmp_path, "--tasks=mnli", "--seeds=2")
    with pytest.raises(Interrupted, match="5 of 29 runs are finished; the same command continues"):
        main(args, stopping)
    assert len(pieces.begun) == 5
    assert "(1 of 2)" in (tmp_path / "pretraining_tasks.md").read_text()
    main(args, pieces)
    assert len(pieces.begun) == 29


def test_the_time_of_an_interrupted_run_counts(store, data, tmp_path):
    def stopping(*given):
        signal.raise_signal(signal.SIGTERM)
        return Ended(75)

    with pytest.raises(Interrupted):
        main(arguments(store, data, tmp_path, "--tasks=mnli"), stopping)
    [seconds] = tmp_path.glob("runs/*/seconds.txt")
    assert float(seconds.read_text()) >= 0


def test_what_fails_does_not_stop_the_others(fewer, store, data, tmp_path, capsys):
    args = arguments(store, data, tmp_path, *FEWER)
    with pytest.raises(InputError, match=r"1 of 16 failed: pretrain LTR & No NSP seed=0; see"):
        main(args, Pieces(fails="--config.data.masking=next_token"))
    output = capsys.readouterr().out
    assert "failed: pretrain LTR & No NSP seed=0: bertjax.main: error: it is broken" in output
    cells = {row["name"]: row["cells"]["MNLI-m"] for row in content(tmp_path)["rows"]}
    assert (cells["No NSP"]["mean"] is None, cells["+ BiLSTM"]["values"]) == (False, [])
    main(args, Pieces())
    assert same(tmp_path, fewer)


def test_a_run_without_an_evaluation_has_failed(store, data, tmp_path, capsys):
    """As where the few held-out documents give no row."""
    pieces = Pieces()

    def unmeasured(args, environment, output):
        process = pieces(args, environment, output)
        Path(output).with_name("metrics.jsonl").write_text('{"step": 40, "loss": 1.0}\n')
        return process

    with pytest.raises(InputError, match="3 of 16 failed"):
        main(arguments(store, data, tmp_path, *FEWER), unmeasured)
    reason = "metrics.jsonl: the run ended without an evaluation; give it held"
    assert capsys.readouterr().out.count(reason) == 3


def test_a_pretraining_whose_checkpoint_has_gone_is_named(store, data, tmp_path):
    args = arguments(store, data, tmp_path, *FEWER)
    main(args, Pieces())
    for path in tmp_path.glob("runs/bert-*/checkpoints"):
        shutil.rmtree(path)
    with pytest.raises(InputError, match=r"runs/bert-\w+: its checkpoints are gone; remove the folder"):
        main([*args[:-1], "--seeds=2"], lambda *_: pytest.fail("something ran"))


def test_a_process_left_by_a_killed_command_ends_before_another_begins(tmp_path, capsys):
    with open(tmp_path / ".started", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(100)"], pass_fds=(lock.fileno(),)
        )
    try:
        process = start_process(["--help"], {}, str(tmp_path / "output.txt"))
        assert "waits for the process that is left there" in capsys.readouterr().out
        stopped = start_process(["--help"], {}, str(tmp_path / "output.txt"))
        stopped.terminate()
        assert stopped.poll() == 75
        assert process.poll() is None
    finally:
        left.kill()
        left.wait(10)
    end = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() == 0
    assert "usage: python -m bertjax.main" in (tmp_path / "output.txt").read_text()


COMMAND = """
from tables_fixture import TWO_ROWS
from bertjax.errors import run_command
from bertjax.tables.__main__ import main
from bertjax.tables.rows import TABLES
TABLES["two"] = TWO_ROWS
run_command(main)
"""


@pytest.mark.slow
def test_the_real_thing_killed_in_pretraining_and_in_fine_tuning(store, data, tmp_path, monkeypatch):
    """Two rows of one pre-training: the command is killed twice, what it began is left behind."""
    monkeypatch.setitem(table_rows.TABLES, "two", TWO_ROWS)
    out, log = tmp_path / "out", tmp_path / "log"
    args = arguments(store, data, out, "--seeds=1", "--parallel=2", table="two")
    for pattern in ("runs/bert-*/metrics.jsonl", "runs/mnli-*/seed0/output.txt"):
        process = start(args, log, program=("-c", COMMAND))
        end = time.monotonic() + 300
        while not list(out.glob(pattern)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
        process.wait(10)
        assert not (out / "two.png").exists()
    process = start(args, log, program=("-c", COMMAND))
    assert process.wait(300) == 0, log.read_text()
    alone = tmp_path / "alone"
    main(arguments(store, data, alone, "--seeds=1", table="two"), in_this_process)
    assert [row["cells"] for row in content(out, "two")["rows"]] == [
        row["cells"] for row in content(alone, "two")["rows"]
    ]
    found = content(out, "two")
    assert found["finished"] == [3, 3]
    assert found["hardware"] == f"{os.cpu_count()} CPU cores"
    frozen = out / found["rows"][1]["cells"]["MNLI-m"]["runs"][0] / "config.json"
    assert json.loads(frozen.read_text())["init_from"].endswith("/checkpoints/16")
