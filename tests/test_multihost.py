"""Two processes of four devices each train like one process of eight, and stop together."""

import errno
import json
import os
import signal
import socket

import pytest
from store_fixture import start
from test_resume import assert_logged_like, last_step, wait_until
from trained_fixture import make_trained

from bertjax import distributed
from bertjax.logs import read_metrics
from bertjax.main import main
from bertjax.workdir import lock_workdir

# The command as it is, but each call for rows is written down.
RECORDING = """
import json, os, runpy, sys
from bertjax.data.pretraining.bert_examples import Examples

rows, log = Examples.rows, open(os.environ["ROWS_LOG"], "w", buffering=1)


def recorded(self, position, count):
    print(json.dumps([position, count]), file=log)
    return rows(self, position, count)


Examples.rows = recorded
runpy.run_module("bertjax.main", run_name="__main__", alter_sys=True)
"""
FLAGS = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_two(args, folder):
    port = free_port()
    return [
        start(
            args,
            folder / f"output{i}",
            program=("-c", RECORDING),
            ROWS_LOG=str(folder / f"rows{i}"),
            XLA_FLAGS=FLAGS,
            BERTJAX_COORDINATOR=f"localhost:{port}",
            BERTJAX_PROCESS_COUNT="2",
            BERTJAX_PROCESS_ID=str(i),
        )
        for i in range(2)
    ]


@pytest.fixture(scope="module")
def stopped(reference, tmp_path_factory):
    """(folder, flags, exit codes) of a run of two processes of which the second alone got SIGTERM."""
    folder = tmp_path_factory.mktemp("multihost")
    args = [*reference[0], f"--config.workdir={folder / 'run'}"]
    processes = start_two(args, folder)
    try:
        wait_until(processes[0], lambda: last_step(folder / "run") >= 3, folder / "output0")
        processes[1].send_signal(signal.SIGTERM)
        codes = [process.wait(200) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return folder, args, codes


def outputs(folder):
    return "".join((folder / f"output{i}").read_text() for i in range(2))


def test_both_processes_stop_at_the_same_step_and_have_saved_it(stopped):
    folder, _, codes = stopped
    assert codes == [75, 75], outputs(folder)
    step = last_step(folder / "run")
    assert (folder / "run" / "checkpoints" / str(step)).is_dir()
    for i in range(2):
        last_line = (folder / f"output{i}").read_text().splitlines()[-1]
        assert f"interrupted: step {step} of 80 is saved" in last_line
    assert "8 cpu devices" in (folder / "output0").read_text()


def test_each_process_makes_its_own_rows_only(stopped):
    folder, _, _ = stopped
    step = last_step(folder / "run")
    for i in range(2):
        calls = [json.loads(line) for line in (folder / f"rows{i}").read_text().splitlines()]
        assert len(calls) >= min(step, 40)
        for number, (position, count) in enumerate(calls[:40]):
            assert (position, count) == (8 * number + 4 * i, 4)


def test_the_run_goes_on_in_one_process_and_ends_with_the_same_losses(stopped, reference):
    folder, args, _ = stopped
    before = last_step(folder / "run")
    main(args)
    assert before >= 20
    assert_logged_like(folder / "run", reference[1], rtol=1e-5)


def test_what_stops_one_process_stops_the_other(reference, tmp_path):
    workdir = tmp_path / "run"
    with lock_workdir(str(workdir)):
        processes = start_two([*reference[0], f"--config.workdir={workdir}"], tmp_path)
        try:
            codes = [process.wait(100) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert codes == [2, 2], outputs(tmp_path)
    for i, message in enumerate((f"{workdir}: in use by pid", "another process of the run could not go on")):
        assert message in (tmp_path / f"output{i}").read_text()
    assert "Traceback" not in outputs(tmp_path)


def test_fine_tuning_by_two_processes_is_that_by_one(tmp_path):
    """Examples that share rows: the losses, the figures, and the predictions in the examples' order."""
    make_trained(str(tmp_path / "model"))
    for name, count in (("train", 64), ("dev", 29)):
        texts = [
            f"{i % 2}\t" + " ".join([f"w{8 + i % 2}", *[f"w{12 + i % 70}"] * (i % 9)]) for i in range(count)
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["label\ttext", *texts]) + "\n")
    fields = {
        "examples.folder": tmp_path, "init_from": tmp_path / "model", "model.dtype": "float32",
        "train.batch_examples": 32, "eval.batch_rows": 8, "train.epochs": 4.0, "train.seq_length": 32,
        "train.log_every": 1, "optim.learning_rate": 1e-3, "log.tensorboard": False,
    }  # fmt: skip
    args = ["--config=configs/classify.py", *(f"--config.{name}={value}" for name, value in fields.items())]
    processes = start_two([*args, f"--config.workdir={tmp_path / 'two'}"], tmp_path)
    try:
        assert [process.wait(200) for process in processes] == [0, 0], outputs(tmp_path)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    main([*args, f"--config.workdir={tmp_path / 'one'}"])
    logs = [read_metrics(str(tmp_path / name / "metrics.jsonl")) for name in ("one", "two")]
    losses = [{row["step"]: row["loss"] for row in log if "loss" in row} for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert len(losses[0]) > 5
    assert logs[0][-1]["eval/accuracy"] == logs[1][-1]["eval/accuracy"]
    one, two = ((tmp_path / name / "dev_predictions.tsv").read_text() for name in ("one", "two"))
    assert one == two
    assert one.count("\n") == 30


def test_an_error_of_the_disk_is_told_to_the_others(monkeypatch):
    told = []
    monkeypatch.setattr(distributed, "any_process", lambda failed: told.append(failed) or failed)

    def write():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        distributed.together(write)
    assert told == [True]
