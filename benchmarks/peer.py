"""The processes of the libraries that a benchmark compares, and their turns."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environments
from bertjax.errors import InputError
from bertjax.host import MALLOC_TUNABLES


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--python and --out."""
    parser.add_argument("--python", action="append", default=[], metavar="ENV=FILE",
                        help="an interpreter that has the packages of benchmarks/peers/ENV.txt, instead of "
                        "one made here; may be repeated")  # fmt: skip
    parser.add_argument("--out", default="", metavar="FILE.json", help="write the report here too")


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
        self.stdin.write(f"{steps}\n")
        self.stdin.flush()
        return self.read()

    def close(self) -> None:
        """Ends the process."""
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
