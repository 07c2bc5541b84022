"""Runs of bertjax.main as processes, side by side: planned, started, stopped, and what they came to.

A run is finished when its workdir has a `result.json`, which is written last.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bertjax.checkpoint import FOLDER
from bertjax.errors import EXIT_INTERRUPTED, InputError, Interrupted, naming, stop_signals
from bertjax.files import read_json, write_atomically
from bertjax.logs import METRICS, read_metrics
from bertjax.sweep.results import Finished

RESULT = "result.json"  # of a workdir whose run is finished
OUTPUT = "output.txt"  # what a run printed
_LOCK = ".started"  # held by the process that works for a workdir, from its first moment to its last
_POLL_SECONDS = 0.05


class Process(Protocol):
    """What is asked of a run's process."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...


Start = Callable[[Sequence[str], Mapping[str, str], str], Process]


@dataclass(frozen=True)
class Planned:
    """A run that is wanted."""

    task: str
    setting: str
    seed: int
    workdir: str
    arguments: tuple[str, ...]  # of bertjax.main
    asked: dict[str, Any]  # its config's fields and its files' digests

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.task, self.setting, f"seed={self.seed}")))


def shared_programs(out: str) -> dict[str, str]:
    """What to set in the environment of runs so that what one has compiled is there for the others.

    It is kept in `out`/compiled, unless JAX_COMPILATION_CACHE_DIR names another place.
    """
    name = "JAX_COMPILATION_CACHE_DIR"
    return {} if name in os.environ else {name: os.path.join(os.path.abspath(out), "compiled")}


def start_process(arguments: Sequence[str], environment: Mapping[str, str], output: str) -> Process:
    """`python -m bertjax.main` with more in its environment, and all that it prints added to a file.

    If a process that an earlier command began still works there, since that command was killed, it is left
    to end first.
    """
    return _Child(arguments, environment, output)


class _Child:
    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], output: str):
        self._arguments, self._environment, self._output = arguments, environment, output
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        if not self._begin():
            print(f"{os.path.dirname(output)}: waits for the process that is left there", flush=True)

    def poll(self) -> int | None:
        if self._process is None and (self._stopped or not self._begin()):
            return EXIT_INTERRUPTED if self._stopped else None
        assert self._process
        return self._process.poll()

    def terminate(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def _begin(self) -> bool:
        """Starts the process unless another one holds the lock, which it inherits: so there is no moment
        without it, and it goes with the process however that ends."""
        with open(os.path.join(os.path.dirname(self._output), _LOCK), "a") as lock:
            try:
                with naming(lock.name):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            with open(self._output, "ab") as file:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "bertjax.main", *self._arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self._environment,
                    pass_fds=(lock.fileno(),),
                )
        return True


def run_all(
    waiting: Sequence[Planned],
    shares: Sequence[Mapping[str, str]],
    start: Callable[[Planned, Mapping[str, str]], Process],
    ended: Callable[[Planned, int], None],
    ready: Callable[[Planned], bool] = lambda run: True,
) -> bool:
    """Runs all of them in order, one on each share of the devices at a time.

    After SIGTERM or SIGINT nothing is started any more, and what runs is told to save and end.

    Args:
      ended: is told of each run that ended, and its exit code; not of those that were interrupted.
      ready: whether a run can begin. The first that can is the next; what never can is left out.

    Returns:
      Whether it was interrupted.
    """
    rest, running = list(waiting), dict[int, tuple[Planned, Process]]()
    told = False

    def tell_all() -> None:
        for _, process in running.values():
            process.terminate()

    with stop_signals() as came, contextlib.ExitStack() as stack:
        stack.callback(tell_all)  # in an error no run may be left behind
        while running or (rest and not came):
            for slot in sorted(set(range(len(shares))) - running.keys()):
                run = next((each for each in rest if not came and ready(each)), None)
                if run:
                    rest.remove(run)
                    running[slot] = run, start(run, shares[slot])
            if not running:
                break
            if came and not told:
                tell_all()
                told = True
            for slot, (run, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[slot]
                    if not (came and code in (EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)):
                        ended(run, code)
            if running:
                time.sleep(_POLL_SECONDS)
    return bool(came)


def start_run(run: Planned, environment: Mapping[str, str], start: Start) -> Process:
    """Starts a run in its workdir."""
    os.makedirs(run.workdir, exist_ok=True)
    return start(run.arguments, environment, os.path.join(run.workdir, OUTPUT))


def read_overrides(rest: Sequence[str], own: Collection[str], advice: str) -> list[str]:
    """The overrides ("train.epochs=4") of `rest`, "--config.FIELD=VALUE" each.

    Raises:
      InputError: another flag; or a field of `own`, with the advice.
    """
    for arg in rest:
        if not arg.startswith("--config.") or "=" not in arg:
            raise InputError(f"{arg}: not understood; see --help")
        if arg.partition("=")[0].removeprefix("--config.") in own:
            raise InputError(f"{arg}: {advice}")
    return [arg.removeprefix("--config.") for arg in rest]


def read_result(run: Planned) -> Finished | None:
    """What a finished run came to; None if it is not finished.

    Raises:
      InputError: it was another run: its config or its files have changed; or the file is broken.
    """
    path = os.path.join(run.workdir, RESULT)
    if not os.path.exists(path):
        return None
    advice = "remove the file to run again"
    result = read_json(path, advice)
    old, figures = result.get("asked"), result.get("figures")
    if not (isinstance(old, dict) and isinstance(figures, dict) and figures
            and all(value is None or type(value) in (int, float) for value in figures.values())):  # fmt: skip
        raise InputError(f"{path}: does not say what was asked for and what came out; {advice}")
    changed = [f"{name} was {old.get(name)!r}, now {run.asked.get(name)!r}"
               for name in sorted(old.keys() | run.asked.keys())
               if old.get(name) != run.asked.get(name)]  # fmt: skip
    if changed:
        raise InputError(f"{path}: the run had another config: {'; '.join(changed)}; use another --out")
    return Finished(run.task, run.setting, run.seed, run.workdir, figures)


def write_result(run: Planned) -> Finished:
    """Notes that a run is finished, with the figures of its last evaluation.

    Raises:
      InputError: it was not evaluated.
    """
    path = os.path.join(run.workdir, METRICS)
    rows = [row for row in read_metrics(path) if any(name.startswith("eval") for name in row)]
    if not rows:
        raise InputError(f"{path}: the run ended without an evaluation; give it held-out text or a dev set")
    last = rows[-1]
    figures = {name: value for name, value in last.items() if name.startswith("eval")}
    text = json.dumps({"figures": figures, "asked": run.asked}, indent=1)
    write_atomically(os.path.join(run.workdir, RESULT), text + "\n")
    return Finished(run.task, run.setting, run.seed, run.workdir, figures)


def last_line(run: Planned, code: int) -> str:
    path = os.path.join(run.workdir, OUTPUT)
    lines = Path(path).read_text(errors="replace").split("\n") if os.path.exists(path) else []
    return next((line for line in reversed(lines) if line.strip()), f"exit code {code}, nothing printed")


def has_checkpoint(workdir: str) -> bool:
    """Whether the workdir has checkpoints."""
    return os.path.isdir(os.path.join(workdir, FOLDER))


def tell_unfinished(finished: int, total: int, stopped: bool, failed: Sequence[str]) -> None:
    """Ends a command whose runs are not all finished.

    Args:
      stopped: whether a signal came.
      failed: names of the runs that failed.

    Raises:
      Interrupted: `stopped`.
      InputError: runs failed.
    """
    if stopped:
        raise Interrupted(f"{finished} of {total} runs are finished; the same command continues")
    if failed:
        raise InputError(
            f"{len(failed)} of {total} failed: {', '.join(failed)}; see their last lines above, and "
            f"{OUTPUT} in their workdirs"
        )
