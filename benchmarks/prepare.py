"""bertjax.prepare's speed against a plain loop over lines, in one run, with one vocabulary.

    python -m benchmarks.prepare --input=corpus.txt

The whole of each command is timed, start-up included: each is run in turn, and the next round starts with
another one. The input has one sentence a line and a blank line between documents.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer

from benchmarks import workload
from bertjax.errors import InputError, run_command
from bertjax.flags import Parser

REPOSITORY = Path(__file__).parent.parent


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The flags. Raises InputError."""
    parser = Parser(prog="benchmarks.prepare", description=__doc__,
                          formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--input", action="append", required=True, metavar="FILE", help="may be repeated")
    parser.add_argument(
        "--vocab", default="", metavar="FILE", help="WordPiece; default: learnt from the input"
    )
    parser.add_argument(
        "--processes", default="1,2", metavar="N,N...", help="of bertjax.prepare (default 1,2)"
    )
    parser.add_argument("--rounds", type=workload.positive, default=3, metavar="N", help="default 3")
    parser.add_argument("--out", default="", metavar="FILE.json", help="write the report here too")
    parsed = parser.parse_args(args)
    for file in [*parsed.input, *filter(None, [parsed.vocab])]:
        if not Path(file).is_file():
            raise InputError(f"{file}: no such file")
    if not all(n.isdigit() and int(n) for n in parsed.processes.split(",")):
        raise InputError(
            f"--processes={parsed.processes}: use positive whole numbers, such as --processes=1,2"
        )
    return parsed


def join_inputs(paths: Sequence[str], out: Path) -> None:
    """One file of all, a blank line between them."""
    with out.open("wb") as file:
        for path in paths:
            file.write(Path(path).read_bytes().rstrip(b"\n") + b"\n\n")


def timed(command: Sequence[str], log: Path) -> float:
    """Seconds. Raises InputError if the command fails."""
    start = time.perf_counter()
    with log.open("w") as file:
        code = subprocess.run(command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT).returncode
    seconds = time.perf_counter() - start
    if code:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise InputError(f"{' '.join(command)}: ended with code {code}: {last}")
    return seconds


def measure(parsed: argparse.Namespace, folder: Path) -> tuple[dict[str, list[float]], dict[str, int], int]:
    """(seconds by name, tokens by name, bytes of input)."""
    source, vocab = (
        folder / "input.txt",
        Path(parsed.vocab).resolve() if parsed.vocab else folder / "vocab.txt",
    )
    join_inputs(parsed.input, source)
    if not parsed.vocab:
        print("learning a vocabulary", file=sys.stderr)
        learner = BertWordPieceTokenizer(lowercase=True)
        learner.train([str(source)], vocab_size=30522, show_progress=False)
        learner.save_model(str(folder))
    plain, store = folder / "plain.bin", folder / "store"
    python = sys.executable
    commands = {
        "plain loop": [python, "benchmarks/plain_tokenize.py", str(source), str(vocab), str(plain)],
        **{
            f"prepare, processes={n}": [
                python, "-m", "bertjax.prepare", f"--input={source}", "--format=sentences",
                f"--vocab={vocab}", f"--out={store}", f"--processes={n}",
            ]
            for n in parsed.processes.split(",")
        },
    }  # fmt: skip
    answers: dict[str, list[float]] = {name: [] for name in commands}
    tokens: dict[str, int] = {}
    names = list(commands)
    for number in range(parsed.rounds):
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            shutil.rmtree(store, ignore_errors=True)
            answers[name].append(timed(commands[name], folder / "log"))
            written = plain if name == "plain loop" else store / "tokens.bin"
            tokens[name] = written.stat().st_size // 2  # uint16
        print(f"round {number + 1} of {parsed.rounds}", file=sys.stderr)
    for name, count in tokens.items():
        if abs(count / tokens["plain loop"] - 1) > 0.01:
            raise InputError(
                f"{name}: {count} tokens, but the plain loop has {tokens['plain loop']}: not the same work"
            )
    return answers, tokens, source.stat().st_size


def main(args: Sequence[str]) -> None:
    """Measures and prints. Raises InputError."""
    parsed = parse(args)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        answers, tokens, size = measure(parsed, Path(folder))
    rows: list[dict[str, Any]] = []
    for name, seconds in answers.items():
        rows.append({
            "name": name,
            "mb_per_second": size / 1e6 / statistics.median(seconds),
            "seconds": seconds,
            "tokens": tokens[name],
        })  # fmt: skip
    for row in rows:
        row["ratio"] = row["mb_per_second"] / rows[0]["mb_per_second"]
    machine = workload.hardware()
    print(f"{size / 1e6:.1f} MB of text; {workload.described(machine)}; median of {parsed.rounds} rounds")
    workload.warn_of_load(load)
    print(f"\n{'':22}{'MB/s':>8}{'ratio':>7}{'fastest s':>11}{'slowest s':>11}{'tokens':>12}")
    for row in rows:
        print(f"{row['name']:22}{row['mb_per_second']:8.2f}{row['ratio']:7.2f}{min(row['seconds']):11.2f}"
              f"{max(row['seconds']):11.2f}{row['tokens']:12,}")  # fmt: skip
    if parsed.out:
        result = {"input_bytes": size, "hardware": machine, "load_before": load, "rows": rows}
        Path(parsed.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main)
