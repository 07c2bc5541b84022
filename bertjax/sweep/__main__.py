"""The paper's fine-tuning protocol: a grid of settings times seeds, for one config or several.

    python -m bertjax.sweep --config=glue:mrpc --glue=GLUE --config.init_from=MODEL \\
        --grid=optim.learning_rate=5e-5,4e-5,3e-5,2e-5 --seeds=5 --out=runs/mrpc

Each run is `python -m bertjax.main` in a workdir below --out. The same command continues what was stopped.
"""

import argparse
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from bertjax.checkpoint import FOLDER
from bertjax.config import files
from bertjax.convert.load import kind_of
from bertjax.data.finetuning import tfds_sets
from bertjax.errors import InputError, run_command
from bertjax.files import write_atomically
from bertjax.flags import Parser
from bertjax.sections import fields
from bertjax.sweep.devices import device_shares
from bertjax.sweep.glue_submission import FOLDERS, check_planned, write_submission
from bertjax.sweep.results import as_markdown, as_text, collect, metric_of
from bertjax.sweep.runs import (
    Planned,
    Runs,
    Start,
    has_checkpoint,
    read_overrides,
    start_process,
)
from bertjax.tasks import task_of
from bertjax.tasks.finetuning import eval_name, fingerprints
from bertjax.workdir import may_change

_OWN = ("seed", "workdir")  # fields that the sweep sets itself
_GLUE_CONFIGS = ("glue", "gpt_glue", "elmo_glue")


def main(args: Sequence[str], start: Start = start_process) -> None:
    """Reads the flags, runs what is not finished, writes the results.

    Raises:
      InputError: something is wrong with the input, which is found before anything runs; or runs failed, said
        at the end; or the predictions are not what a submission takes.
      Interrupted: SIGTERM or SIGINT came; the runs have saved their state.
    """
    flags, overrides = _read_flags(args)
    shares = device_shares(flags.parallel)
    runs = Runs.of(plan(flags, overrides))
    models = (run.asked["init_from"] for run in runs.waiting if not has_checkpoint(run.workdir))
    for model in dict.fromkeys(models):
        kind_of(model)  # raises

    def drop_checkpoints(run: Planned) -> None:
        if not flags.keep_all:
            _drop_checkpoints(runs, flags)

    runs.run(
        flags.out, shares, start, lambda run: metric_of(run.task, run.figures, flags.metric), drop_checkpoints
    )
    results = _collect(runs, flags)
    lost = []
    for task, result in results["tasks"].items():
        best = result["settings"][0]["best_run"]
        result["has_checkpoint"] = has_checkpoint(best)
        if not result["has_checkpoint"]:
            lost.append(f"the best run of {task} has no checkpoint any more; remove {best} to train it again")
    if runs.finished:
        for name, text in (("results.json", json.dumps(results, indent=1) + "\n"),
                           ("results.md", as_markdown(results, flags.seeds))):  # fmt: skip
            write_atomically(os.path.join(flags.out, name), text)
        table = as_text(results, flags.seeds)
        print("", table, "", *lost, os.path.join(flags.out, "results.md"), sep="\n", flush=True)
    runs.check_all_finished()
    if flags.submission:
        best = {task: result["settings"][0]["best_run"] for task, result in results["tasks"].items()}
        filled = write_submission(flags.submission, best, flags.fill_missing)
        line = f"; filled with one answer: {', '.join(filled)}" if filled else ""
        print(f"{flags.submission}{line}")


def _read_flags(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the overrides ("train.epochs=4") for all runs."""
    parser = Parser(
        command="sweep", description=__doc__.splitlines()[0],
        epilog="--config.FIELD=VALUE sets a field of every run. docs/finetuning.md has examples.",
    )  # fmt: skip
    add = parser.add_argument
    add("--config", action="append", required=True, metavar="RECIPE",
        help="of a fine-tuning task; may be repeated; glue:all is all of GLUE")  # fmt: skip
    add("--out", required=True, metavar="DIR", help="folder for the runs and the results")
    add(
        "--grid",
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="values to try; may be repeated",
    )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="runs of each setting, with the seeds 0 to N-1 (default: 1)",
    )
    add(
        "--parallel",
        type=int,
        default=1,
        metavar="K",
        help="runs at a time, each on its share of the devices",
    )
    add("--glue", default="", metavar="DIR", help="the benchmark's folder, with CoLA, SST-2 and so on in it; "
        "or tfds:glue")  # fmt: skip
    add("--metric", default="", metavar="NAME", help="what the best setting is chosen by, such as eval/f1 "
        "(default: the paper's, or the task's first)")  # fmt: skip
    add("--keep_all", action="store_true", help="keep every run's checkpoint, not only those of the best")
    add(
        "--submission", default="", metavar="FILE.zip", help="predictions of the best runs, for GLUE's server"
    )
    add("--fill_missing", action="store_true", help="one answer in all rows of files that no run predicts")
    flags, rest = parser.parse_known_args(files.joined(args))
    for name in ("seeds", "parallel"):
        if getattr(flags, name) < 1:
            raise InputError(f"--{name}={getattr(flags, name)}: must be positive")
    glue = [path for path in flags.config if _is_glue(path)]
    if flags.glue and not glue:
        names = ", ".join(f"{name}.py" for name in _GLUE_CONFIGS)
        raise InputError(f"--glue={flags.glue}: is read by {names}; for others use --config.examples.folder")
    for path in glue:
        if not flags.glue and path.endswith(":all"):
            raise InputError(f"--config={path}: name the benchmark's folder with --glue=DIR")
    return flags, read_overrides(rest, _OWN, "the sweep sets it itself; use --seeds=N and --out=DIR")


def plan(flags: argparse.Namespace, overrides: Sequence[str]) -> list[Planned]:
    """Every run, in order: config, setting, seed. Raises InputError if something is wrong with one."""
    axes: dict[str, list[str]] = {}
    for text in flags.grid:
        field, equals, values = text.partition("=")
        if not equals or not values:
            raise InputError(f"--grid={text}: use --grid=FIELD=VALUE,VALUE")
        if field in _OWN:
            raise InputError(f"--grid={text}: the sweep sets {field} itself; use --seeds=N and --out=DIR")
        if field in axes:
            raise InputError(f"--grid={text}: {field} has values already; give all of them in one --grid")
        axes[field] = [f"{field}={value}" for value in values.split(",")]
    planned: dict[str, Planned] = {}
    for path in flags.config:
        file, _, argument = path.partition(":")
        glue = _is_glue(path)
        for name in FOLDERS if glue and argument == "all" else [argument]:
            task = name.partition("+")[0] if glue else "-".join(filter(None, (Path(file).stem, name)))
            source = f"{file}:{name}" if name else file
            if not task_of(files.load(source).task).fine_tunes:
                raise InputError(f"{source}: a sweep is over fine-tuning tasks; pre-train with bertjax.main")
            given = [*_glue_fields(flags.glue, task), *overrides]
            for setting in itertools.product(*axes.values()):
                config = files.load(source, [*given, *setting])
                _check_fits(task, config, flags.metric)
                values = dict(fields(config))
                changed = [each.partition("=")[0] for each in setting]
                text = " ".join(f"{field}={values[field]}" for field in changed)
                digests = fingerprints(config.examples)
                for seed in range(flags.seeds):
                    folder = text.replace(os.sep, "_").replace(" ", ",") or "default"
                    workdir = os.path.join(flags.out, task, folder, f"seed{seed}")
                    if workdir in planned:
                        twice = f"{task} {text}".strip()
                        raise InputError(f"{twice}: asked for twice by --config and --grid")
                    arguments = (*given, *setting, f"seed={seed}", f"workdir={workdir}")
                    asked = values | digests | {"seed": seed}
                    asked = {name: value for name, value in asked.items()
                             if name == "init_from" or not may_change(name)}  # fmt: skip
                    planned[workdir] = Planned(
                        task, text, seed, workdir,
                        (f"--config={source}", *(f"--config.{each}" for each in arguments)),
                        json.loads(json.dumps(asked)),
                    )  # fmt: skip
    if flags.submission:
        check_planned(
            flags.submission,
            {(run.task, f"{Path(test).stem}_predictions.tsv")
             for run in planned.values() for test in run.asked["examples.test"]},
            flags.fill_missing,
        )  # fmt: skip
    return list(planned.values())


def _is_glue(path: str) -> bool:
    """Whether a config ("file.py:task") is of GLUE's tasks."""
    return Path(path.partition(":")[0]).stem in _GLUE_CONFIGS


def _glue_fields(folder: str, task: str) -> list[str]:
    """Overrides for a GLUE task: its folder or set, and those of its test files that are there."""
    if not folder or task not in FOLDERS:
        return []
    name, tests = FOLDERS[task]
    of_sets = tfds_sets.is_tfds(folder)
    path = os.path.join(folder, task if of_sets else name)
    exists = tfds_sets.exists if of_sets else os.path.isfile
    there = tuple(test for test in tests if exists(os.path.join(path, test)))
    source = f"tfds={path.removeprefix(tfds_sets.PREFIX)}" if of_sets else f"folder={path}"
    return [f"examples.{source}", f"examples.test={there!r}"]


def _check_fits(task: str, config: ConfigDict, metric: str) -> None:
    """That it is a run that ends with figures, `metric` among them."""
    if not config.init_from:
        raise InputError("--config.init_from is empty; name a pre-trained model (see docs/models.md)")
    if not config.examples.dev:
        raise InputError("--config.examples.dev=(): a sweep compares dev figures; name a file with labels")
    if metric:
        sets = [eval_name(config.examples, file) for file in config.examples.dev]
        figures = task_of(config.task).figures(config)
        metric_of(task, {f"{each}/{figure}": None for each in sets for figure in figures}, metric)


def _collect(runs: Runs, flags: argparse.Namespace) -> dict[str, Any]:
    """Results in the order of the plan: of runs with equal figures the first is the best."""
    finished = [runs.finished[run.workdir] for run in runs.planned if run.workdir in runs.finished]
    return collect(finished, flags.seeds, flags.metric)


def _drop_checkpoints(runs: Runs, flags: argparse.Namespace) -> None:
    """Keeps the checkpoint of each setting's best run; when all of a task are finished, of its best."""
    finished = runs.finished.keys()
    for task, result in _collect(runs, flags)["tasks"].items():
        workdirs = {run.workdir for run in runs.planned if run.task == task}
        settings = result["settings"][:1] if workdirs <= finished else result["settings"]
        kept = {setting["best_run"] for setting in settings}
        for workdir in workdirs & finished - kept:
            shutil.rmtree(os.path.join(workdir, FOLDER), ignore_errors=True)


if __name__ == "__main__":
    run_command(main)
