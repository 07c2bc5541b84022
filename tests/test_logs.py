import errno
import io
import math
import sys
import types

import jax
import pytest

from bertjax.errors import InputError
from bertjax.logs import Log, format_line, read_metrics


def open_log(workdir, start_step=0, **changes):
    options = {
        "total_steps": 4000,
        "tensorboard": False,
        "wandb_project": "",
        "config": {"train.steps": 4000},
    }
    return Log(str(workdir), start_step=start_step, **(options | changes))


def test_one_object_a_line_and_nan_is_null(tmp_path, capsys):
    log = open_log(tmp_path)
    log.metrics(100, {"loss": 5.5, "grad_norm": math.nan})
    path = tmp_path / "metrics.jsonl"
    assert path.read_text() == '{"step": 100, "loss": 5.5, "grad_norm": null}\n'  # before close()
    log.note("something")
    log.close()
    assert capsys.readouterr().out == "step  100/4000  loss 5.500  grad norm nan\nsomething\n"
    assert read_metrics(str(path)) == [{"step": 100, "loss": 5.5, "grad_norm": None}]


def test_the_line_says_what_a_reader_needs():
    values = {
        "loss": 5.1234,
        "mlm_accuracy": 0.2126,
        "learning_rate": 1e-4,
        "steps_per_second": 14.0,
        "seconds_left": 200.0,
        "sequences_per_second": 812.3,
        "mfu": 0.312,
        "peak_flops_per_second": 0.45e12,
        "memory_bytes": 2.1 * 2**30,
        "spearman": 0.5,
    }
    assert format_line(1200, 4000, values) == (
        "step 1200/4000  loss 5.123  mlm acc 0.213  lr 1.00e-04  812 seq/s"
        "  MFU 31.2% of 0.45 TFLOP/s  2.1 GiB  spearman 0.5  ends in 3m20s"
    )
    assert format_line(7, 4000, {"eval/mlm_loss": 2}) == "step    7/4000  held-out:  mlm loss 2.000"
    two = {"eval/accuracy": 0.5, "eval_mismatched/accuracy": 0.25}
    assert format_line(7, 9, two) == "step 7/9  held-out:  accuracy 0.5  mismatched/accuracy 0.25"
    assert format_line(0, 1, {"seconds_left": 3730}).endswith("ends in 1h02m")
    assert format_line(0, 1, {"seconds_left": 200_000}).endswith("ends in 2d07h")


def test_a_resumed_run_cuts_what_it_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1, "loss": 3.0}',
        '{"step": 2, "loss": null}',
        '{"step": 3, "loss": 1.0}',
        '{"step": 4, "lo',
    ]
    path.write_text("\n".join(lines))
    log = open_log(tmp_path, start_step=2)
    log.metrics(3, {"loss": 0.5})
    log.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(str(path))] == [(1, 3.0), (2, None), (3, 0.5)]
    open_log(tmp_path, start_step=0).close()
    assert path.read_text() == ""


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for bad in ("nonsense", "[1]", '{"loss": 1.0}', '{"step": "x"}'):
        path.write_text('{"step": 1}\n' + bad + '\n{"step": 3}\n')
        with pytest.raises(InputError, match=f"{path}:2: not a JSON object with a step; remove the line"):
            open_log(tmp_path, start_step=5)
    with pytest.raises(InputError, match="not readable"):
        read_metrics(str(tmp_path / "absent"))


def test_tensorboard_forgets_what_is_repeated(tmp_path):
    event_file = pytest.importorskip("tensorboardX.proto.event_pb2")
    log = open_log(tmp_path, start_step=2, tensorboard=True)
    log.metrics(3, {"loss": 0.5, "grad_norm": math.inf})
    log.close()
    (path,) = (tmp_path / "events").iterdir()
    data, events = path.read_bytes(), []
    while data:  # TFRecord: length, its CRC, content, its CRC
        size = int.from_bytes(data[:8], "little")
        events.append(event_file.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert events[0].file_version == "brain.Event:2"
    assert all(event.wall_time > 1e9 for event in events)
    assert 3 in [event.step for event in events if event.HasField("session_log")]
    assert [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value] == [(3, "loss", 0.5)]


def test_wandb_is_asked_for_clearly_and_a_resumed_run_keeps_its_page(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        InputError, match=r'wandb_project=demo: wandb is not installed; run: pip install "bertjax\[wandb\]"'
    ):
        open_log(tmp_path, wandb_project="demo")

    calls: list[tuple] = []
    run = types.SimpleNamespace(
        define_metric=lambda name, step_metric: calls.append(("axis", name, step_metric)),
        log=lambda values: calls.append(("log", values)),
        finish=lambda: calls.append(("finish",)),
    )
    fake = types.SimpleNamespace(init=lambda **options: calls.append(("init", options)) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for start_step in (0, 1):
        log = open_log(tmp_path, start_step=start_step, wandb_project="demo")
        log.metrics(start_step + 1, {"loss": 1.0})
        log.close()
    assert [call[0] for call in calls] == ["init", "axis", "log", "finish"] * 2
    first, second = (call[1] for call in calls if call[0] == "init")
    assert first["id"] == second["id"]
    assert (first["project"], first["resume"]) == ("demo", "allow")
    assert first["config"] == {"train.steps": 4000}
    assert calls[2] == ("log", {"step": 1, "loss": 1.0})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_there_is_a_bar(tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    log = open_log(tmp_path, start_step=1000)
    log.metrics(2000, {"loss": 5.1234, "sequences_per_second": 812.0})
    log.metrics(2000, {"eval/mlm_loss": 4.5})
    log.close()
    text = screen.getvalue()
    assert "2000/4000" in text
    assert "loss 5.123  812 seq/s" in text
    assert "held-out:  mlm loss 4.500\n" in text


def test_other_processes_are_silent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    log = open_log(tmp_path, tensorboard=True, wandb_project="demo")
    log.metrics(1, {"loss": 1.0})
    log.note("something")
    log.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = open_log(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(log, "_file", types.SimpleNamespace(write=full))
        with pytest.raises(InputError, match=f"{tmp_path}/metrics.jsonl: No space left on device"):
            log.metrics(1, {"loss": 1.0})
    log.close()


@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_disk_that_stays_full_is_told_once(tmp_path, tensorboard, monkeypatch, capfd):
    log = open_log(tmp_path, tensorboard=tensorboard)
    name = "events/events" if tensorboard else "metrics.jsonl"
    with open("/dev/full", "wb" if tensorboard else "w") as file:
        owner = log._events if tensorboard else log
        owner._file.close()
        monkeypatch.setattr(owner, "_file", file)
        with pytest.raises(InputError, match=f"{tmp_path}/{name}.*: No space left on device; run the same"):
            log.metrics(1, {"loss": 1.0})
        log.close()
        assert file.closed
    assert capfd.readouterr().err == ""
