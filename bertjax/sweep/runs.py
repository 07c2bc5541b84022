"""Runs of bertjax.main as processes, side by side: planned, started, stopped, and what they came to.

A run is finished when its workdir has a `result.json`, which is written last. A command plans the runs that
it wants; `Runs` says which of them are finished, and runs the others.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bertjax.checkpoint import FOLDER
from bertjax.errors import EXIT_INTERRUPTED, InputError, Interrupted, naming, stop_signals
from bertjax.files import read_json, write_atomically
from bertjax.logs import METRICS, read_metrics
from bertjax.sweep.results import Finished

RESULT = "result.json"  # of a workdir whose run is finished
OUTPUT = "output.txt"  # what a run printed
SECONDS = "seconds.txt"  # how long the workdir's processes ran, all together
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


def has_checkpoint(workdir: str) -> bool:
    """Whether the workdir has checkpoints."""
    return os.path.isdir(os.path.join(workdir, FOLDER))


def seconds_of(workdir: str) -> float:
    """How long the workdir's processes ran."""
    path = os.path.join(workdir, SECONDS)
    if not os.path.exists(path):
        return 0.0
    with open(path, encoding="utf-8") as file:
        return float(file.read())


def _add_seconds(workdir: str, seconds: float) -> None:
    write_atomically(os.path.join(workdir, SECONDS), f"{seconds_of(workdir) + seconds:.1f}\n")


def _last_line(run: Planned, code: int) -> str:
    path = os.path.join(run.workdir, OUTPUT)
    lines = Path(path).read_text(errors="replace").split("\n") if os.path.exists(path) else []
    return next((line for line in reversed(lines) if line.strip()), f"exit code {code}, nothing printed")


@dataclass
class Runs:
    """All runs that a command wants, and what has become of them."""

    planned: Sequence[Planned]
    finished: dict[str, Finished] = field(default_factory=dict)  # by workdir
    failed: list[str] = field(default_factory=list)  # names, in this command
    stopped: bool = False  # whether SIGTERM or SIGINT came

    @classmethod
    def of(cls, planned: Sequence[Planned]) -> "Runs":
        """Those that are finished already are told by their workdirs. Raises InputError as `read_result`."""
        return cls(planned, {run.workdir: found for run in planned if (found := read_result(run))})

    @property
    def waiting(self) -> list[Planned]:
        """Those that are not finished, in order."""
        return [run for run in self.planned if run.workdir not in self.finished]

    def run(
        self,
        out: str,
        shares: Sequence[Mapping[str, str]],
        start: Start,
        metric: Callable[[Finished], str],
        then: Callable[[Planned], None],
        ready: Callable[[Planned], bool] = lambda run: True,
    ) -> None:
        """Runs those that are not finished, and prints a line for each that ends.

        What one run has compiled is there for the others in `out`/compiled, unless JAX_COMPILATION_CACHE_DIR
        names another place.

        Args:
          shares, ready: see `run_all`.
          metric: the figure that the line of a finished run names.
          then: is called after each run that has finished.
        """
        print(f"{len(self.planned)} runs, {len(self.finished)} of them finished", flush=True)
        cache = "JAX_COMPILATION_CACHE_DIR"
        programs = {} if cache in os.environ else {cache: os.path.join(os.path.abspath(out), "compiled")}
        began: dict[str, float] = {}

        def started(run: Planned, environment: Mapping[str, str]) -> Process:
            began[run.workdir] = time.monotonic()
            os.makedirs(run.workdir, exist_ok=True)
            return start(run.arguments, {**programs, **environment}, os.path.join(run.workdir, OUTPUT))

        def ended(run: Planned, code: int) -> None:
            seconds = time.monotonic() - began.pop(run.workdir)
            _add_seconds(run.workdir, seconds)
            try:
                if code:
                    raise InputError(_last_line(run, code))
                found = write_result(run)
            except InputError as error:
                self.failed.append(run.name)
                print(f"failed: {run.name}: {error}", flush=True)
                return
            self.finished[run.workdir] = found
            name = metric(found)
            line = f"{run.name}: {name} {found.figures.get(name)} ({seconds:.0f} s)"
            print(f"{len(self.finished)} of {len(self.planned)}: {line}", flush=True)
            then(run)

        self.stopped = run_all(self.waiting, shares, started, ended, ready)
        for workdir, start_time in began.items():  # of those that were interrupted
            _add_seconds(workdir, time.monotonic() - start_time)

    def check_all_finished(self) -> None:
        """Ends a command whose runs are not all finished.

        Raises:
          Interrupted: a signal came.
          InputError: runs failed.
        """
        finished, failed, total = len(self.finished), len(self.failed), len(self.planned)
        if self.stopped:
            raise Interrupted(f"{finished} of {total} runs are finished; the same command continues")
        if self.failed:
            raise InputError(
                f"{failed} of {total} failed: {', '.join(self.failed)}; see their last lines above, and "
                f"{OUTPUT} in their workdirs"
            )
