"""Makes curves.json: what metrics.jsonl says of seeded runs of every task, for tests/test_golden_curves.py.

    PYTHONPATH=.:tests python tests/golden/make_curves.py [CASE ...]
    PYTHONPATH=.:tests python tests/golden/make_curves.py --check=tests/golden/curves.json --check_params=FILE

Write it again after a change that is meant to change training's numbers, and say why in the commit. With
--check nothing is written, and numbers must be the same bit for bit, which holds on one machine with one
version of JAX. --params keeps the sha256 of the last parameters and of the files of predictions too.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from golden.cases import CASES
from golden.inputs import write_inputs

from bertjax.main import main as train

CURVES = Path(__file__).with_name("curves.json")
# Of metrics.jsonl, what the machine decides.
_OF_MACHINE = re.compile("step|.*_per_second|mfu|memory_bytes|seconds_left")
_CONFIG = """\
from bertjax.config import default


def get_config():
    config = default({task!r}, {kind!r})
{lines}
    return config
"""


class Runs:
    """Cases that are run once each, with the folder of their inputs, which are written at the first one.

    Args:
      folder: an empty one.
    """

    def __init__(self, folder):
        self.folder, self.done = Path(folder), set()

    def workdir(self, case):
        """Where the case is trained; the one that it begins from first."""
        workdir = self.folder / "runs" / case
        if case in self.done:
            return workdir
        if not (self.folder / "inputs").exists():
            write_inputs(self.folder / "inputs")
        recipe, own = CASES[case]
        lines, fields = [], {"workdir": f"{{runs}}/{case}", **recipe, **own}
        task, kind = fields.pop("task", "pretrain"), fields.pop("model.kind", "")
        for name, value in fields.items():
            if isinstance(value, str):
                for first in re.findall(r"{runs}/(\w+)", value):
                    if first != case:
                        self.workdir(first)
                value = value.replace("{inputs}", f"{self.folder}/inputs")
                value = value.replace("{runs}", f"{self.folder}/runs")
            lines.append(f"    config.{name} = {value!r}")
        file = self.folder / f"{case}.py"
        file.write_text(_CONFIG.format(task=task, kind=kind, lines="\n".join(lines)))
        self.done.add(case)
        train([f"--config={file}"])
        return workdir

    def curves(self, case):
        """{metric: [its value at step 1, 2, ...]}, None at steps that have none."""
        lines = (self.workdir(case) / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        steps, found = max(row["step"] for row in rows), {}
        for row in rows:
            for name in row:
                if not _OF_MACHINE.fullmatch(name):
                    found.setdefault(name, [None] * steps)[row["step"] - 1] = row[name]
        return found

    def digests(self, case):
        """{path of a parameter, or name of a file of predictions: its sha256}."""
        from bertjax.checkpoint import load_params

        workdir, found = self.workdir(case), {}
        params, *_ = load_params(str(workdir))
        for path, x in jax.tree_util.tree_leaves_with_path(params):
            x = np.ascontiguousarray(x)
            content = f"{x.dtype} {x.shape} ".encode() + x.tobytes()
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = sha256(content)
        for file in workdir.iterdir():
            if re.search("prediction|per_class|null_odds", file.name):
                found[file.name] = sha256(file.read_bytes())
        return dict(sorted(found.items()))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def differences(case, found, wanted, rtol=0.0):
    """A line for each metric that differs, with the first step where it does.

    Args:
      found, wanted: of Runs.curves. A metric that only `found` has is no difference.
      rtol: of the wanted value; 0: bit for bit.
    """
    lines = []
    for name, values in wanted.items():
        here = found.get(name, [])
        if len(here) != len(values):
            lines.append(f"{case}: {name}: {len(here)} steps, expected {len(values)}")
            continue
        for step, (x, y) in enumerate(zip(here, values, strict=True), 1):
            same = x == y if None in (x, y) else abs(x - y) <= rtol * abs(y)
            if not same:
                lines.append(f"{case}: {name} at step {step}: {x!r}, expected {y!r}")
                break
    return lines


def digest_differences(case, found, wanted):
    """A line for each parameter and file that differs, or that is on one side alone."""
    names = sorted(found.keys() | wanted.keys())
    kinds = {(True, False): "is new", (False, True): "is missing", (True, True): "differs"}
    return [f"{case}: {name} {kinds[name in found, name in wanted]}"
            for name in names if found.get(name) != wanted.get(name)]  # fmt: skip


def write(path, content):
    """Writes one line for each metric or digest."""
    cases = []
    for case, lines in content.items():
        inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(x)}" for name, x in lines.items())
        cases.append(f' "{case}": {{\n{inner}\n }}')
    Path(path).write_text("{\n" + ",\n".join(cases) + "\n}\n")


def update(path, content):
    """Writes the cases into a file that may have others already, in the order of CASES."""
    kept = json.loads(Path(path).read_text()) if Path(path).is_file() else {}
    all_cases = kept | content
    write(path, {case: all_cases[case] for case in CASES if case in all_cases})


def main(argv):
    parser = argparse.ArgumentParser(description="Trains the cases, and writes or checks their curves.")
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    add("--out", default=str(CURVES), metavar="FILE", help="where curves go (default: curves.json)")
    add("--params", metavar="FILE", help="where digests of parameters and predictions go (default: nowhere)")
    add("--check", metavar="FILE", help="compare with these curves, and write nothing")
    add("--check_params", metavar="FILE", help="compare with these digests, and write nothing")
    args = parser.parse_args(argv)
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    checks = {path: json.loads(Path(path).read_text()) for path in (args.check, args.check_params) if path}
    curves, digests, lines = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(folder)
        for case in args.cases or CASES:
            begun = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                curves[case] = runs.curves(case)
                if args.params or args.check_params:
                    digests[case] = runs.digests(case)
            of_case = [f"{case}: not in {path}" for path, wanted in checks.items() if case not in wanted]
            if args.check and not of_case:
                of_case += differences(case, curves[case], checks[args.check][case])
            if args.check_params and not of_case:
                of_case += digest_differences(case, digests[case], checks[args.check_params][case])
            result = ("differs" if of_case else "is the same") if checks else "is trained"
            print(f"{case} {result} ({time.perf_counter() - begun:.1f} s)", flush=True)
            for line in of_case:
                print(f"  {line}", flush=True)
            lines += of_case
    if checks:
        return 1 if lines else 0
    update(args.out, curves)
    if args.params:
        update(args.params, digests)
    return 0


if __name__ == "__main__":
    import conftest  # noqa: F401  XLA's flags are those of the tests, so that their programs are the same

    os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    sys.exit(main(sys.argv[1:]))
