"""The processes of the libraries that a benchmark compares, and their turns."""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments, workload
from bertjax.cpu_memory import MALLOC_TUNABLES
from bertjax.errors import InputError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--python and --out."""
    parser.add_argument("--python", action="append", default=[], metavar="ENV=FILE",
                        help="an interpreter that has the packages of benchmarks/peers/ENV.txt, instead of "
                        "one made here; may be repeated")  # fmt: skip
    parser.add_argument("--out", default="", metavar="FILE.json", help="write the report here too")


def add_step_flags(
    parser: argparse.ArgumentParser, numbers: Mapping[str, int], peers: Collection[str], default: str
) -> None:
    """The flags of a benchmark of steps: `numbers` with their defaults, --device, --dtype, --keep_memory,
    --peers, and those of `add_flags`."""
    for name, value in numbers.items():
        parser.add_argument(
            f"--{name}", type=workload.positive, default=value, metavar="N", help=f"default {value}"
        )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32",
                        help="of the computation; parameters are float32 (default float32)")  # fmt: skip
    parser.add_argument("--keep_memory", action="store_true",
                        help="every peer gets the malloc settings that bertjax makes on a CPU")  # fmt: skip
    parser.add_argument("--peers", default=default,
                        help=f"of {','.join(peers)}; ratios are to the first")  # fmt: skip
    add_flags(parser)


def give_report(result: Mapping[str, Any], text: str, load: float, out: str) -> None:
    """Prints a report's text, and a warning where the machine was busy, and writes the report to --out.

    Args:
      load: the load average before the measurement.
    """
    print(text)
    workload.warn_of_load(load)
    if out:
        Path(out).write_text(json.dumps(result, indent=1) + "\n")


def read_peers(text: str, known: Collection[str]) -> list[str]:
    """The names of --peers, each once. Raises InputError."""
    names = text.split(",")
    for name in names:
        if name not in known:
            raise InputError(f"--peers={name}: no such peer; there are {', '.join(known)}")
    if len(set(names)) < len(names):
        raise InputError(f"--peers={text}: a peer is named twice")
    return names


def pythons(given: Sequence[str], names: Sequence[str], device: str) -> dict[str, str]:
    """The interpreter of each environment of `names`, "" for this one; those not given are made. Raises
    InputError."""
    found = {"": sys.executable}
    for item in given:
        name, equals, file = item.partition("=")
        if not equals or not Path(file).is_file():
            raise InputError(f"--python={item}: use --python=ENV=FILE with an interpreter that exists")
        found[name] = file
    for name in names:
        if name not in found:
            found[name] = str(environments.python_of(name, device))
    return found


class Peer:
    """A library's process, answering the lines of peers/protocol.py."""

    def __init__(self, name: str, python: str, script: str, settings: dict, batch_file: Path):
        logs = environments.REPOSITORY / "build" / "benchmark-logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, logs / f"{name}.log"
        path = environments.REPOSITORY / "benchmarks" / "peers" / script
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu" if settings["device"] == "cpu" else "cuda",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # Left alone, the first JAX process would reserve most of a GPU's memory.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONPATH": str(environments.REPOSITORY) if python == sys.executable else "",
        }
        if settings["keep_memory"]:
            environment["GLIBC_TUNABLES"] = MALLOC_TUNABLES
        command = [python, str(path), json.dumps({**settings, "peer": name}), str(batch_file)]
        pipe = subprocess.PIPE
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=file, text=True, env=environment
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.about: dict[str, Any] = {}

    def wait(self) -> None:
        """Reads what it says after its first step into `about`: {"loss", "parameters", "versions"}."""
        self.about = self.read()

    def read(self) -> dict:
        line = self.stdout.readline()
        if not line:
            self.close()
            last = (self.log.read_text().strip().splitlines() or ["no output"])[-1]
            raise InputError(
                f"{self.name} ended with code {self.process.returncode}: {last} (all of it: {self.log})"
            )
        return json.loads(line)

    def run(self, steps: int) -> dict:
        """{"seconds", "loss"} of `steps` steps."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, which `read` says
            self.stdin.write(f"{steps}\n")
            self.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.process.wait()
        self.stdout.close()


def measure(peers: Sequence[Peer], rounds: int, steps: int) -> dict[str, list[dict]]:
    """The answers of every peer, round by round."""
    answers: dict[str, list[dict]] = {peer.name: [] for peer in peers}
    for peer in peers:
        peer.run(2)  # what only the second call compiles, and caches
    for number in range(rounds):
        for peer in [*peers[number % len(peers) :], *peers[: number % len(peers)]]:
            answers[peer.name].append(peer.run(steps))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return answers


def compare(
    flags: argparse.Namespace,
    scripts: Mapping[str, tuple[str, str]],
    settings: dict[str, Any],
    batch: Mapping[str, np.ndarray],
    check: Callable[[Sequence[Peer]], None],
) -> list[dict[str, Any]]:
    """Starts the libraries of flags.peers and measures them in turn.

    Args:
      scripts: the environment and the script of each.
      settings, batch: what they are told.
      check: raises InputError if the last of those it is given does other work than it should.

    Returns:
      The figures of each; "ratio" is to the first.
    """
    interpreters = pythons(flags.python, [scripts[name][0] for name in flags.peers], flags.device)
    peers: list[Peer] = []
    with tempfile.TemporaryDirectory() as folder:
        batch_file = Path(folder) / "batch.npz"
        np.savez(batch_file, **batch)  # type: ignore[arg-type]
        try:
            for name in flags.peers:
                print(f"starting {name}", file=sys.stderr)
                environment, script = scripts[name]
                peers.append(Peer(name, interpreters[environment], script, settings, batch_file))
            for i, peer in enumerate(peers):  # they have compiled side by side
                peer.wait()
                check(peers[: i + 1])
            return figures(peers, measure(peers, flags.rounds, flags.steps), flags.batch, flags.steps)
        finally:
            for peer in peers:
                peer.close()


def figures(
    peers: Sequence[Peer], answers: Mapping[str, list[dict]], batch: int, steps: int
) -> list[dict[str, Any]]:
    """What `measure` found, for `batch` sequences or examples a step."""
    rows: list[dict[str, Any]] = []
    for peer in peers:
        seconds = [answer["seconds"] / steps for answer in answers[peer.name]]
        median = statistics.median(seconds)
        rows.append({
            "peer": peer.name,
            "per_second": batch / median,
            "step_seconds": seconds,
            "step_seconds_median": median,
            "ratio": batch / median / (rows[0]["per_second"] if rows else batch / median),
            "first_loss": peer.about["loss"],
            "last_loss": answers[peer.name][-1]["loss"],
            "parameters": peer.about["parameters"],
            "versions": peer.about["versions"],
        })  # fmt: skip
    return rows


def table(rows: Sequence[dict[str, Any]], what: str) -> list[str]:
    """Lines of the figures, a library each; `what` is what a step's batch is of."""
    lines = [
        f"{'':22}{f'{what}/s':>12}{'ms/step':>10}{'fastest':>9}{'slowest':>9}{'ratio':>7}{'loss':>8}{'->':>7}"
        f"{'MFU':>7}  versions"
    ]
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        mfu = f"{row['mfu']:7.1%}" if "mfu" in row else f"{'':7}"
        lines.append(
            f"{row['peer']:22}{row['per_second']:12.1f}{1e3 * row['step_seconds_median']:10.1f}"
            f"{1e3 * min(row['step_seconds']):9.1f}{1e3 * max(row['step_seconds']):9.1f}{row['ratio']:7.2f}"
            f"{row['first_loss']:8.3f}{row['last_loss']:7.3f}{mfu}  {versions}"
        )
    return lines
