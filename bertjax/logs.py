"""What a run tells while it goes: metrics.jsonl, TensorBoard, Weights & Biases, the terminal."""

import contextlib
import json
import math
import os
import secrets
import socket
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from bertjax.checksums import masked_crc32c
from bertjax.errors import InputError, extra, naming
from bertjax.files import write_atomically

METRICS = "metrics.jsonl"  # in a workdir
_EVENTS = "events"
_HELD_OUT = ("eval/", "eval_")  # how the names of such metrics begin
_WANDB_ID = "wandb_id.txt"

_GIB = 2**30
_TERMINAL = {  # metric: how a line shows it; "" hides it. Others are shown by name.
    "loss": "loss {:.3f}",
    "mlm_loss": "mlm loss {:.3f}",
    "mlm_accuracy": "mlm acc {:.3f}",
    "nsp_loss": "nsp loss {:.3f}",
    "nsp_accuracy": "nsp acc {:.3f}",
    "learning_rate": "lr {:.2e}",
    "grad_norm": "grad norm {:.2f}",
    "steps_per_second": "",
    "seconds_left": "",
    "sequences_per_second": "{:,.0f} seq/s",
    "tokens_per_second": "{:,.0f} tok/s",
    "peak_flops_per_second": "",
}


class Log:
    """Writes a run's metrics; only process 0 does, the methods of the others do nothing.

    Args:
      workdir: must exist.
      total_steps: of the whole run.
      start_step: updates already made. What metrics.jsonl holds of later steps is cut off, since the run
        repeats them, and TensorBoard is told to forget them.
      tensorboard: write events to workdir/events.
      wandb_project: "" for none. A resumed run continues its page there, with "step" as the axis.
      config: {"train.steps": value}, for Weights & Biases.

    Raises:
      InputError: metrics.jsonl or events is not readable or writable, or wandb is asked for and not
        installed.
    """

    def __init__(self, workdir: str, *, total_steps: int, start_step: int, tensorboard: bool,
                 wandb_project: str, config: Mapping[str, Any]):  # fmt: skip
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        self._total = total_steps
        self._path = os.path.join(workdir, METRICS)
        self._wandb = _start_wandb(workdir, wandb_project, config) if wandb_project else None
        _cut(self._path, start_step)
        self._events = None
        if tensorboard:
            self._events = _Events(os.path.join(workdir, _EVENTS), start_step + 1 if start_step else 0)
        self._file = _open(self._path, "a")
        self._bar = None
        if sys.stdout.isatty():
            self._bar = tqdm(
                total=total_steps, initial=start_step, unit="step", file=sys.stdout, dynamic_ncols=True
            )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` of `step`; names of held-out ones begin with "eval/", of a second
        set with "eval_NAME/".

        In metrics.jsonl a value that is not finite is null. Raises InputError if the disk is full.
        """
        if not self._writes:
            return
        values = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        _write(self._file, self._path, json.dumps({"step": step, **finite}) + "\n")
        if self._events:
            self._events.scalars(step, {name: x for name, x in finite.items() if x is not None})
        if self._wandb:
            self._wandb.log({"step": step, **values})
        self._show(step, values)

    def note(self, text: str) -> None:
        """Prints a line."""
        if not self._writes:
            return
        if self._bar is None:
            with naming("standard output"):
                print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)

    def close(self) -> None:
        """Ends the files; what was given to `metrics` is in them."""
        if not self._writes:
            return
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):  # of what `metrics` could not write, as it has said
                if file:
                    file.close()
        if self._wandb:
            self._wandb.finish()
        if self._bar is not None:
            self._bar.close()

    def _show(self, step: int, values: Mapping[str, float]) -> None:
        held_out = any(name.startswith("eval/") for name in values)
        if self._bar is None or held_out:
            self.note(format_line(step, self._total, values))
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            if not held_out:
                shown = (
                    "loss",
                    "sampled_loss",
                    "mlm_accuracy",
                    "sequences_per_second",
                    "mfu",
                    "peak_flops_per_second",
                )
                self._bar.set_postfix_str("  ".join(_parts({k: values[k] for k in shown if k in values})))


class _Events:
    """TensorBoard's file, written at once. tensorboardX's own writer is a thread that fails with tracebacks.

    The file is a TFRecord: for each event its length, the length's CRC, the event, the event's CRC.

    Args:
      folder: made if absent.
      purge_step: what older files of the folder hold of this and later steps is forgotten.

    Raises:
      InputError, from each method: the file cannot be made or written.
    """

    def __init__(self, folder: str, purge_step: int):
        # TensorBoard reads the files in the order of their names.
        self._path = os.path.join(folder, f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}")
        self._file = _open(self._path, "wb")
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one event."""
        summary = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=summary)))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        record = b"".join(part + struct.pack("<I", masked_crc32c([part])) for part in (length, data))
        _write(self._file, self._path, record)


def format_line(step: int, total: int, values: Mapping[str, float]) -> str:
    """'step  1200/4000  loss 5.123  mlm acc 0.213  812 seq/s  MFU 31.2% of 0.45 TFLOP/s  ends in 3m20s'."""
    parts = [f"step {step:>{len(str(total))}}/{total}"]
    parts += _parts({name: x for name, x in values.items() if not name.startswith(_HELD_OUT)})
    held_out = {
        name.removeprefix("eval/").removeprefix("eval_"): x
        for name, x in values.items()
        if name.startswith(_HELD_OUT)
    }
    if held_out:
        parts += ["held-out:", *_parts(held_out)]
    if "seconds_left" in values:
        parts.append(f"ends in {_duration(values['seconds_left'])}")
    return "  ".join(parts)


def read_metrics(path: str) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl, in order; a torn last line, left by a kill, is left out.

    Raises:
      InputError: no such file, or a line before the last is not a JSON object with a step.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not readable ({error}); name the workdir of a run that has logged"
        ) from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn, or nothing
        try:
            row = json.loads(line)
            row["step"] + 0
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}:{number}: not a JSON object with a step; remove the line") from error
        rows.append(row)
    return rows


def _cut(path: str, start_step: int) -> None:
    if not os.path.exists(path):
        return
    kept = [row for row in read_metrics(path) if start_step > 0 and row["step"] <= start_step]
    try:
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make room, or the workdir writable") from error


def _write(file: Any, path: str, data: str | bytes) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run the same command again when mended") from error


def _open(path: str, mode: str) -> Any:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, mode, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make room, or the workdir writable") from error


def _start_wandb(workdir: str, project: str, config: Mapping[str, Any]) -> Any:
    with extra("wandb", f"--config.log.wandb_project={project}"):
        import wandb
    path = os.path.join(workdir, _WANDB_ID)
    if not os.path.exists(path):
        write_atomically(path, secrets.token_hex(4) + "\n")
    with open(path, encoding="utf-8") as file:
        run_id = file.read().strip()
    run = wandb.init(project=project, dir=workdir, config=dict(config), id=run_id, resume="allow")
    run.define_metric("*", step_metric="step")
    return run


def _parts(values: Mapping[str, float]) -> list[str]:
    parts = []
    for name, value in values.items():
        if name == "mfu":
            peak = values.get("peak_flops_per_second")
            parts.append(f"MFU {value:.1%}" + (f" of {peak / 1e12:.3g} TFLOP/s" if peak else ""))
        elif name == "memory_bytes":
            parts.append(f"{value / _GIB:.1f} GiB")
        elif name in _TERMINAL:
            parts.append(_TERMINAL[name].format(value))
        else:
            parts.append(f"{name.replace('_', ' ')} {value:.4g}")
    return [part for part in parts if part]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s"
