"""Shows that the tests notice faults: makes one small change of the package at a time and runs its tests.

    python tests/mutants/run.py [--jobs N] [WORDS ...]

The changes are listed in mutants.toml beside this file. Each is made in a copy of the package and of its
tests, never in the working tree. A line for each change says whether its tests noticed it. The exit status is
1 if one went unnoticed, if the tests fail without any change, or if the text that a change replaces is not in
its file exactly once.
"""

import argparse
import dataclasses
import importlib.util
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
_LAST_LINES = 30  # of the output of tests that should have passed


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault that tests should notice."""

    name: str  # the fault in words
    file: str  # of the package
    old: str  # stands in the file exactly once
    new: str
    tests: tuple[str, ...]  # files or node ids, below tests/
    equivalent: str = ""  # why nobody could tell the difference; then nothing is run


class ListError(Exception):
    """The list does not fit the package. The message names each entry and what is wrong with it."""


def read_list(path: Path) -> list[Mutant]:
    """The mutants of a file. Raises ListError."""
    found = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
        try:
            found.append(Mutant(**entry | {"tests": tuple(entry.get("tests", ()))}))
        except TypeError as error:
            raise ListError(f"{path.name}: {entry.get('name', entry)}: {error}") from error
    return found


def mutated(mutant: Mutant, package: Path) -> str:
    """The mutant's file with its change. Raises ListError."""
    path = package / mutant.file
    if not path.is_file():
        raise ListError(f"{mutant.name}: {mutant.file}: no such file; mend the entry")
    text = path.read_text(encoding="utf-8")
    count = text.count(mutant.old)
    if count != 1:
        raise ListError(f"{mutant.name}: {mutant.file}: its old text is there {count} times; mend the entry")
    changed = text.replace(mutant.old, mutant.new)
    try:
        compile(changed, mutant.file, "exec")
    except SyntaxError as error:
        raise ListError(f"{mutant.name}: {mutant.file}: the change is not Python: {error}") from error
    return changed


def check(mutants: Sequence[Mutant], root: Path, package: str) -> None:
    """Raises ListError, with a line for each entry that does not fit."""
    faults = []
    names = [mutant.name for mutant in mutants]
    faults += [
        f"{name}: the name is there twice" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    for mutant in mutants:
        if not mutant.equivalent and not mutant.tests:
            faults.append(f"{mutant.name}: names no test")
        for test in mutant.tests:
            file, _, function = test.partition("::")
            path = root / "tests" / file
            definition = f"def {function.partition('[')[0]}(" if function else ""
            if not path.is_file() or definition not in path.read_text(encoding="utf-8"):
                faults.append(f"{mutant.name}: tests/{test}: no such test; mend the entry")
        try:
            mutated(mutant, root / package)
        except ListError as error:
            faults.append(str(error))
    if faults:
        raise ListError("\n".join(faults))


class Copy:
    """A copy of the package and of its tests in which one change at a time is made."""

    def __init__(self, root: Path, package: str, folder: Path):
        self.folder, self.package = folder, folder / package
        folder.mkdir()
        for path in root.iterdir():
            if path.name in (package, "tests"):
                leave = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, folder / path.name, ignore=leave)
            elif not path.name.startswith("."):  # what tests read beside them
                (folder / path.name).symlink_to(path)

    def test(
        self, tests: Sequence[str], seconds: float, mutant: Mutant | None = None
    ) -> tuple[int | None, str]:
        """(exit status of pytest, None past the time limit; its output), with a change or without."""
        if mutant is None:
            return self._pytest(tests, seconds, self._environment(kernels_changed=False))
        path = self.package / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            self._write(path, mutated(mutant, self.package))
            return self._pytest(tests, seconds, self._environment(kernels_changed="@jit" in text))
        finally:
            self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Python compares sizes and whole seconds, which both may be those of the text before.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def _environment(self, kernels_changed: bool) -> dict[str, str]:
        # What the tests of one mutant have compiled need not be compiled again.
        programs = str(self.folder.parent / "jax")
        environment = os.environ | {"PYTHONPATH": str(self.folder), "JAX_COMPILATION_CACHE_DIR": programs}
        if not kernels_changed:  # nor need numba's kernels
            environment["NUMBA_CACHE_DIR"] = str(self.folder / ".numba")
        return environment

    def _pytest(
        self, tests: Sequence[str], seconds: float, environment: dict[str, str]
    ) -> tuple[int | None, str]:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += [f"tests/{test}" for test in tests]
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                status: int | None = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)  # and what the tests have started
                process.wait()
                status = None
            output.seek(0)
            return status, output.read()


def _print(line: str) -> None:
    print(line, flush=True)


def run(
    mutants: Sequence[Mutant],
    root: Path = ROOT,
    package: str = "bertjax",
    jobs: int = 1,
    seconds: float = 300.0,
    report: Callable[[str], None] = _print,
) -> bool:
    """Whether tests notice every mutant, and pass without one. Reports a line for each.

    Args:
      seconds: of the tests of one mutant. One that exceeds them hangs, which is noticed too.

    Raises:
      ListError: a mutant does not fit the package.
    """
    check(mutants, root, package)
    wanted = [mutant for mutant in mutants if not mutant.equivalent]
    for mutant in mutants:
        if mutant.equivalent:
            report(f"equivalent  {mutant.name}: {mutant.equivalent}")
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for i in range(jobs):
            copies.put(Copy(root, package, Path(folder, str(i))))

        def one(tests: Sequence[str], mutant: Mutant | None) -> tuple[int | None, str]:
            copy = copies.get()
            try:
                return copy.test(tests, seconds if mutant else seconds * len(tests), mutant)
            finally:
                copies.put(copy)

        def attempt(mutant: Mutant) -> str:
            status, output = one(mutant.tests, mutant)
            result = {0: "SURVIVED", 1: "killed", None: "killed"}.get(status, "ERROR")
            report(f"{result:10}  {mutant.name}{' (time limit)' if status is None else ''}")
            if result == "ERROR":
                report("\n".join(output.splitlines()[-_LAST_LINES:]))
            return result

        with ThreadPoolExecutor(jobs) as threads:
            every = sorted({test for mutant in wanted for test in mutant.tests})
            groups = [every[i::jobs] for i in range(min(jobs, len(every)))]
            for status, output in threads.map(lambda tests: one(tests, None), groups):
                if status != 0:
                    report("\n".join(output.splitlines()[-_LAST_LINES:]))
                    report("the tests do not pass without a change; mend them first")
                    return False
            results = list(threads.map(attempt, wanted))
    killed, equivalent = results.count("killed"), len(mutants) - len(wanted)
    report(f"{killed} of {len(wanted)} killed, {len(wanted) - killed} not; {equivalent} equivalent")
    return killed == len(wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time")
    parser.add_argument("--seconds", type=float, default=300.0, help="time limit of one mutant's tests")
    parser.add_argument("words", nargs="*", help="only mutants whose name or file has one of these in it")
    args = parser.parse_args()
    try:
        mutants = read_list(LIST)
        check(mutants, ROOT, "bertjax")
        chosen = [m for m in mutants if not args.words or any(w in m.name or w in m.file for w in args.words)]
        if not chosen:
            parser.error(f"no mutant has {' or '.join(args.words)} in its name or file")
        return 0 if run(chosen, jobs=args.jobs, seconds=args.seconds) else 1
    except ListError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
