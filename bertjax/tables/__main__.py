"""The paper's tables: runs what is missing of their rows, then writes them beside the paper's figures.

    python -m bertjax.tables --table=pretraining_tasks --scale=cpu --store=STORE --glue=GLUE --squad=SQUAD \\
        --out=runs/tables

Each pre-training and each fine-tuning is `python -m bertjax.main` in a workdir below OUT/runs, and is run
once for all tables. The same command continues what was stopped. docs/tables.md has the tables and scales.
"""

import argparse
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence

from bertjax.checkpoint import FOLDER
from bertjax.config import files
from bertjax.errors import InputError, run_command
from bertjax.files import lock_folder, read_json, write_atomically
from bertjax.flags import Parser
from bertjax.sweep.devices import device_shares
from bertjax.sweep.runs import (
    Planned,
    Runs,
    Start,
    has_checkpoint,
    read_overrides,
    read_result,
    start_process,
)
from bertjax.tables.plan import Plan, make_plan
from bertjax.tables.rows import SCALES, TABLES
from bertjax.tables.write import describe, write_table

_SETTINGS = "settings.json"  # in OUT: what all that lies there was made with
_OWN = ("seed", "workdir", "init_from", "data.store", "examples.folder", "examples.tfds",
        "train.keep_every")  # fmt: skip


def main(args: Sequence[str], start: Start = start_process) -> None:
    """Reads the flags, runs what is not finished, writes the tables after each run.

    Raises:
      InputError: something is wrong with the input, which is found before anything runs; or runs failed,
        said at the end.
      Interrupted: SIGTERM or SIGINT came; the runs have saved their state.
    """
    flags, overrides = _read_flags(args)
    shares = device_shares(flags.parallel, several=True)
    plan = make_plan(flags, overrides)
    for name, part in plan.tables.items():
        for line in part.left_out:
            print(f"{name}: left out: {line}")
    settings = _merged_settings(flags.out, plan)
    if flags.dry_run:
        for run in plan.runs.values():
            if not read_result(run):
                print(shlex.join(["python", "-m", "bertjax.main", *run.arguments]))
        return
    with lock_folder(flags.out):
        for examples in plan.examples.values():
            examples.write(flags.out)
        write_atomically(os.path.join(flags.out, _SETTINGS), json.dumps(settings, indent=1) + "\n")
        command = shlex.join(["python", "-m", "bertjax.tables", *args])
        _run(plan, flags, shares, start, command)


def _run(plan: Plan, flags: argparse.Namespace, shares: Sequence[Mapping[str, str]], start: Start,
         command: str) -> None:  # fmt: skip
    runs = Runs.of(list(plan.runs.values()))
    for workdir in runs.finished:
        _drop_checkpoint(plan, workdir)
    for run in runs.waiting:
        begin = plan.needs.get(run.workdir)
        if begin in runs.finished and not has_checkpoint(begin):
            raise InputError(f"{begin}: its checkpoints are gone; remove the folder to pre-train it again")

    def write() -> dict[str, str]:
        return {name: write_table(name, plan, runs.finished, flags, command) for name in plan.tables}

    def then(run: Planned) -> None:
        _drop_checkpoint(plan, run.workdir)
        write()

    runs.run(
        flags.out, shares, start, lambda run: plan.metrics[run.workdir], then,
        ready=lambda run: plan.needs.get(run.workdir) in (None, *runs.finished),
    )  # fmt: skip
    for name, lines in write().items():
        _draw(describe(name, plan, runs.finished, flags, command), os.path.join(flags.out, f"{name}.png"))
        print("", TABLES[name].title, lines, os.path.join(flags.out, f"{name}.md"), sep="\n", flush=True)
    runs.check_all_finished()


def _read_flags(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the overrides ("model.dtype=float32") of all runs."""
    parser = Parser(
        command="tables", description=__doc__.splitlines()[0],
        epilog="--config.FIELD=VALUE sets a field of every run that has it. docs/tables.md has examples.",
    )  # fmt: skip
    add = parser.add_argument
    add("--table", required=True, metavar="NAME,NAME", help=f"of {', '.join(TABLES)}; or all")
    add("--scale", required=True, metavar="NAME", help=f"one of {', '.join(SCALES)}")
    add("--out", required=True, metavar="DIR", help="folder for the runs and the tables")
    add("--store", default="", metavar="DIR", help="BERT's pre-training text, by bertjax.prepare")
    add("--gpt_store", default="", metavar="DIR", help="OpenAI GPT's, for the table systems")
    add("--elmo_store", default="", metavar="DIR", help="ELMo's, for the table systems")
    add("--glue", default="", metavar="DIR", help="the benchmark's folder, with MRPC, SST-2 and so on in it")
    add("--squad", default="", metavar="DIR", help="with train-v1.1.json and dev-v1.1.json")
    add("--ner", default="", metavar="DIR", help="with train and dev as .conll or .txt")
    add("--tasks", default="", metavar="NAME,NAME", help="only the columns of these, such as mnli,mrpc")
    add(
        "--seeds",
        type=int,
        default=None,
        metavar="N",
        help="fine-tunings of each kind (default: the scale's)",
    )
    add("--parallel", type=int, default=1, metavar="N", help="runs at a time; several may share a GPU")
    add("--dry-run", action="store_true", help="print the commands of the runs that are not finished")
    flags, rest = parser.parse_known_args(files.joined(args))
    flags.tables = list(dict.fromkeys(TABLES if flags.table == "all" else flags.table.split(",")))
    for name in flags.tables:
        if name not in TABLES:
            raise InputError(f"--table={name}: no such table; there are {', '.join(TABLES)}, all")
    if flags.scale not in SCALES:
        raise InputError(f"--scale={flags.scale}: no such scale; there are {', '.join(SCALES)}")
    for name in ("seeds", "parallel"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise InputError(f"--{name}={value}: must be positive")
    return flags, read_overrides(rest, _OWN, "the tables set it themselves; leave it out")


def _merged_settings(out: str, plan: Plan) -> dict[str, object]:
    """The settings of `out` with those of the plan. More data may come to it; nothing may become another.

    Raises:
      InputError: what lies there was made with others.
    """
    path = os.path.join(out, _SETTINGS)
    old = read_json(path, "remove the folder to begin anew") if os.path.exists(path) else {}
    for name, value in plan.settings.items():
        if name in old and old[name] != value:
            raise InputError(f"{path}: {name} was {old[name]!r}, now {value!r}; use another --out")
    return old | plan.settings


def _drop_checkpoint(plan: Plan, workdir: str) -> None:
    """A finished fine-tuning's: its figures are all that is asked of it."""
    if workdir in plan.needs:
        shutil.rmtree(os.path.join(workdir, FOLDER), ignore_errors=True)


def _draw(found: Mapping[str, object], path: str) -> None:
    from bertjax.tables.plot import draw_table  # slow to import, and wanted at the end only

    draw_table(found, path)


if __name__ == "__main__":
    run_command(main)
