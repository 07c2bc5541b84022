"""Runs that are stopped, killed, moved to another mesh and repeated end like a run that nothing disturbs."""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from store_fixture import make_store, start

import bertjax
from bertjax import train
from bertjax.checkpoint import load_params
from bertjax.convert.export import export
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.errors import Interrupted, run_command
from bertjax.logs import read_metrics
from bertjax.main import main

TOTAL = 80  # steps of the reference run, 40 in each phase
COMPARED = {"loss", "mlm_loss", "nsp_loss", "learning_rate", "bad_steps", "eval/loss", "eval/mlm_loss"}


def last_step(workdir):
    path = Path(workdir, "metrics.jsonl")
    return max((row["step"] for row in read_metrics(str(path))), default=0) if path.exists() else 0


def wait_until(process, condition, output):
    """Waits for the condition of a process that must not end before."""
    end = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.001)


@pytest.fixture
def begin():
    """`start`, but what is still running at the end of the test is killed."""
    processes = []

    def begin(*args, **kwargs):
        processes.append(start(*args, **kwargs))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def kill(process):
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def assert_ended_like(workdir, reference_workdir):
    """The same parameters bit for bit, and the same figures in the log."""
    params, _, step = load_params(str(workdir))
    expected, _, _ = load_params(str(reference_workdir))
    assert step == TOTAL
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert_logged_like(workdir, reference_workdir, rtol=0)


def figures(workdir):
    """({(first, last) step of a training line: figures}, {step: held-out figures}); no step is in two lines.

    A line tells the means since the line before it, so only lines over the same steps can be compared.
    """
    train, held_out, first = {}, {}, 1
    for row in read_metrics(str(Path(workdir, "metrics.jsonl"))):
        step = row.pop("step")
        if "eval/loss" in row:
            assert step not in held_out
            held_out[step] = row
        else:
            assert step >= first
            train[first, step] = row
            first = step + 1
    assert first == TOTAL + 1
    return train, held_out


def assert_logged_like(workdir, reference_workdir, rtol):
    for found, expected in zip(figures(workdir), figures(reference_workdir), strict=True):
        common = found.keys() & expected.keys()
        # A stop begins a new line, but otherwise the lines are over the same steps.
        assert len(common) >= max(len(found), len(expected)) - 2
        for steps in common:
            for name in COMPARED & (found[steps].keys() | expected[steps].keys()):
                np.testing.assert_allclose(
                    found[steps][name], expected[steps][name], rtol=rtol, err_msg=f"{steps}: {name}"
                )


def refused(monkeypatch, capsys, args):
    monkeypatch.setattr(sys, "argv", ["bertjax", *args])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    return error


def test_the_reference_has_its_lines_and_checkpoints(reference):
    _, workdir = reference
    train, held_out = figures(workdir)
    assert list(held_out) == [40, 80]
    assert all(row["eval/unigram_entropy"] > 3 for row in held_out.values())
    # A step of phase 2 has twice the tokens, and its time is that much longer.
    last_of_phase_1 = train[max(steps for steps in train if steps[1] <= 40)]
    steps_left = last_of_phase_1["seconds_left"] * last_of_phase_1["steps_per_second"]
    assert 2 * 40 * 0.9 < steps_left < 2 * 40 * 1.1
    for (_, step), row in train.items():
        rate = 0 if step == 1 else 0.5e-3 if step == 2 else 1e-3 * (1 - (step - 1) / TOTAL)
        np.testing.assert_allclose(row["learning_rate"], rate, rtol=1e-5)
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == list(range(10, TOTAL + 1, 10))


def test_a_run_stopped_by_sigterm_and_continued_ends_the_same(reference, tmp_path, begin):
    args, expected = reference
    args = [*args, f"--config.workdir={tmp_path / 'run'}"]
    output = tmp_path / "output"
    process = begin(args, output)
    wait_until(process, lambda: last_step(tmp_path / "run") >= 3, output)
    process.terminate()
    assert process.wait(120) == 75, output.read_text()
    stopped = last_step(tmp_path / "run")
    assert 3 <= stopped < TOTAL
    last_line = output.read_text().splitlines()[-1]
    saved = f"step {stopped} of {TOTAL} is saved; the same command continues"
    assert last_line == f"bertjax.main: interrupted: {saved}"
    assert "Traceback" not in output.read_text()
    main(args)
    assert_ended_like(tmp_path / "run", expected)


def test_a_stop_between_the_phases_does_not_wait_for_the_second(reference, tmp_path, monkeypatch, capsys):
    args, expected = reference
    args = [*args, f"--config.workdir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "_stop_signal", lambda: contextlib.nullcontext(lambda step: step == 40))
        with pytest.raises(Interrupted, match="step 40 of 80 is saved"):
            main(args)
    assert capsys.readouterr().out.count("compiled for") == 1
    main(args)
    assert_ended_like(tmp_path / "run", expected)


def test_a_run_killed_in_phase_2_and_in_a_save_ends_the_same(reference, tmp_path, begin, monkeypatch, capsys):
    args, expected = reference
    args = [*args, f"--config.workdir={tmp_path / 'run'}"]
    output, checkpoints = tmp_path / "output", tmp_path / "run" / "checkpoints"
    # Any step of phase 2 will do, and each run of the test takes another one.
    at = random.SystemRandom().randint(41, 60)
    process = begin(args, output)
    wait_until(process, lambda: last_step(tmp_path / "run") >= at, output)
    kill(process)
    for path in checkpoints.glob("saving-*"):  # if that was in a save too
        shutil.rmtree(path)

    # The next run is halted as soon as a save has begun, and killed if it has not ended by then.
    process = begin(args, output)
    for _ in range(4):
        wait_until(process, lambda: any(checkpoints.glob("saving-*")), output)
        process.send_signal(signal.SIGSTOP)
        if list(checkpoints.glob("saving-*")):
            break
        process.send_signal(signal.SIGCONT)
    leftover = list(checkpoints.glob("saving-*"))
    assert leftover
    assert f"in use by pid {process.pid} on " in refused(monkeypatch, capsys, args)  # the second writer
    kill(process)

    main(args)
    assert_ended_like(tmp_path / "run", expected)
    assert not list(checkpoints.glob("saving-*"))


@pytest.mark.parametrize(
    ("devices", "axes", "form"),
    [
        (8, (4, 2, 1), {}),
        (8, (2, 2, 2), {"train.accumulation": 2, "model.scan_layers": False, "train.remat": "full"}),
        (1, (1, 1, 1), {}),
    ],
    ids=str,
)
def test_a_run_goes_on_on_another_mesh_and_in_another_form(reference, tmp_path, begin, devices, axes, form):
    """The reference's mesh is 8 x 1 x 1; its last 50 steps are computed again, in both phases."""
    args, expected = reference
    workdir, output = tmp_path / "run", tmp_path / "output"
    shutil.copytree(expected, workdir)
    for path in (workdir / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > TOTAL - 50:
            shutil.rmtree(path)
    mesh = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), axes, strict=True))
    flags = [f"--config.{name}={value}" for name, value in {"workdir": workdir, **mesh, **form}.items()]
    environment = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    process = begin([*args, *flags], output, XLA_FLAGS=environment)
    assert process.wait(200) == 0, output.read_text()
    assert f"(data={axes[0]} x fsdp={axes[1]} x tensor={axes[2]}), step 30 of 80" in output.read_text()
    assert_logged_like(workdir, expected, rtol=1e-6)


def test_a_rerun_of_a_complete_run_does_nothing_and_says_so(reference, monkeypatch, capsys):
    args, workdir = reference
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (workdir / "checkpoints").rglob("*")
        if path.is_file()
    }
    metrics = (workdir / "metrics.jsonl").read_bytes()

    def rows(*args):
        raise AssertionError("a complete run asked for rows")

    monkeypatch.setattr(Examples, "rows", rows)
    main([*args, f"--config.workdir={workdir}"])
    assert f"complete: step {TOTAL} of {TOTAL}" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == metrics
    after = {path for path in (workdir / "checkpoints").rglob("*") if path.is_file()}
    assert after == before.keys()
    assert all(path.stat().st_mtime_ns == time for path, (time, _) in before.items())


def test_another_recipe_in_the_same_workdir_is_refused(reference, monkeypatch, capsys):
    args, workdir = reference
    command = [*args, f"--config.workdir={workdir}", "--config.optim.learning_rate=1e-2"]
    error = refused(monkeypatch, capsys, command)
    assert "the run began with another config: optim.learning_rate was 0.001, now 0.01" in error


def test_another_store_is_refused_and_a_moved_one_is_not(reference, store, tmp_path, monkeypatch, capsys):
    args, workdir = reference
    args = [*args, f"--config.workdir={workdir}"]
    vocabulary = (workdir / "vocab.txt").read_bytes()
    error = refused(monkeypatch, capsys, [*args, f"--config.data.store={make_store(tmp_path, seed=1)}"])
    assert "the run began with another config: data.store sha256 was " in error
    assert (workdir / "vocab.txt").read_bytes() == vocabulary
    shutil.copytree(store, tmp_path / "moved")
    main([*args, f"--config.data.store={tmp_path / 'moved'}"])
    assert f"complete: step {TOTAL}" in capsys.readouterr().out


def test_init_from_takes_the_parameters_alone(reference, tmp_path, monkeypatch, capsys):
    args, workdir = reference
    command = [*args, f"--config.workdir={tmp_path / 'run'}", f"--config.init_from={workdir}"]
    command += ["--config.train.steps=1", "--config.phase2.steps=0", "--config.eval.enabled=False"]
    main([*command, "--config.optim.warmup_steps=5"])  # the rate of step 0 is 0
    params, _, step = load_params(str(tmp_path / "run"))
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, params, load_params(str(workdir))[0])
    error = refused(
        monkeypatch, capsys,
        [*command, f"--config.workdir={tmp_path / 'other'}", "--config.model.num_hidden_layers=3"],
    )  # fmt: skip
    assert "to train one like it add --config.model.num_hidden_layers=2" in error
    assert os.path.basename(str(workdir)) in error


def test_init_from_a_hugging_face_folder(reference, tmp_path, monkeypatch, capsys):
    args, workdir = reference
    model = bertjax.load(workdir)
    bare = {
        name: x for name, x in model.params.items() if name in ("encoder", "pooler_kernel", "pooler_bias")
    }
    export(dataclasses.replace(model, params=bare, head="encoder"), str(tmp_path / "theirs"))
    command = [*args, f"--config.workdir={tmp_path / 'run'}", f"--config.init_from={tmp_path / 'theirs'}"]
    command += ["--config.train.steps=1", "--config.phase2.steps=0", "--config.eval.enabled=False"]
    main([*command, "--config.optim.warmup_steps=5"])  # the rate of step 0 is 0
    line = f"parameters of {tmp_path / 'theirs'}: encoder, pooler; newly drawn: mlm, nsp"
    assert line in capsys.readouterr().out.splitlines()
    params, _, _ = load_params(str(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, {name: params[name] for name in bare}, bare)
    assert not np.array_equal(params["mlm_kernel"], model.params["mlm_kernel"])

    vocabulary = tmp_path / "theirs/vocab.txt"
    tokens = vocabulary.read_text().split("\n")
    tokens[10], tokens[11] = tokens[11], tokens[10]
    vocabulary.write_text("\n".join(tokens))
    (tmp_path / "theirs/tokenizer.json").unlink()
    error = refused(monkeypatch, capsys, [*command, f"--config.workdir={tmp_path / 'other'}"])
    assert "its vocabulary, or its case, is not that of the data" in error
