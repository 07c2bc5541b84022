"""The runs that tables need: each pre-training and each fine-tuning once, whatever tables it is in.

A run's workdir is named by what it is: the digest of its config, of its files and, of a fine-tuning, of the
checkpoint that it begins from.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertjax import config as config_lib
from bertjax.checkpoint import FOLDER
from bertjax.config import files
from bertjax.errors import InputError
from bertjax.files import read_json
from bertjax.sweep.runs import Planned
from bertjax.tables.data import Examples, find
from bertjax.tables.rows import (
    BASE,
    CHECKPOINTS,
    COURSES,
    SCALES,
    SYSTEMS,
    TABLES,
    Column,
    Fields,
    Row,
    Scale,
)
from bertjax.workdir import may_change

_QUIET = "log.tensorboard=False"
_STORES = {"bert": "store", "gpt": "gpt_store", "elmo": "elmo_store"}  # flags
# The kinds of tokens that a system reads, as in --tokenizer of bertjax.prepare.
_KINDS = {"bert": ("wordpiece", "unigram", "bpe"), "gpt": ("gpt_bpe",), "elmo": ("words",)}


@dataclass(frozen=True)
class Store:
    """A token store, as far as a plan needs it."""

    path: str
    sha256: str
    vocab_size: int
    tokens: int


@dataclass(frozen=True)
class TablePlan:
    """A table's rows and columns that can be filled, and the workdirs that do so."""

    rows: list[Row]
    columns: list[Column]
    cells: dict[tuple[str, str], tuple[str, ...]]  # by the names of row and column
    left_out: list[str]  # lines that say what is, and why


@dataclass
class Plan:
    """All runs, by workdir, in the order in which they begin, and what they are for."""

    tables: dict[str, TablePlan] = field(default_factory=dict)
    runs: dict[str, Planned] = field(default_factory=dict)
    needs: dict[str, str] = field(default_factory=dict)  # the workdir of the pre-training, of a fine-tuning's
    metrics: dict[str, str] = field(default_factory=dict)  # what a run is told by
    models: dict[str, config_lib.ConfigDict] = field(default_factory=dict)  # configs of pre-trainings
    stores: dict[str, Store] = field(default_factory=dict)  # by system
    examples: dict[str, Examples] = field(default_factory=dict)  # by task
    settings: dict[str, Any] = field(default_factory=dict)  # that all runs below --out have in common


def make_plan(flags: argparse.Namespace, overrides: Sequence[str]) -> Plan:
    """The plan that the command's flags ask for.

    Raises:
      InputError: a folder is not there or not what it should be; a table has no column with data; a config
        does not fit.
    """
    plan, scale = Plan(), SCALES[flags.scale]
    for system, name in _STORES.items():
        if path := getattr(flags, name):
            plan.stores[system] = _open_store(system, path)
    if "bert" not in plan.stores:
        raise InputError("no --store=DIR; name a folder written by python -m bertjax.prepare")
    given = {name: getattr(flags, name) for name in ("glue", "squad", "ner")}
    for name, folder in given.items():
        if folder and not os.path.isdir(folder):
            raise InputError(f"--{name}={folder}: no such folder")
    tasks = [task for task in flags.tasks.split(",") if task]
    for task in tasks:
        if task not in scale.tasks:
            raise InputError(f"--tasks={task}: no such task; there are {', '.join(scale.tasks)}")
    planner = _Planner(plan, scale, flags, tuple(overrides))
    for name in flags.tables:
        plan.tables[name] = planner.table(name, given, tasks)
    # One seed of everything, then the next, so that tables fill evenly.
    plan.runs = dict(sorted(plan.runs.items(), key=lambda item: (item[0] in plan.needs, item[1].seed)))
    plan.settings = {
        "scale": flags.scale,
        "fields": sorted(each for each in overrides if not may_change(each.partition("=")[0])),
        **{f"{_STORES[system]} sha256": store.sha256 for system, store in plan.stores.items()},
        **{f"{name} sha256": digest for each in plan.examples.values()
           for name, digest in each.digests.items()},
    }  # fmt: skip
    return plan


def _open_store(system: str, path: str) -> Store:
    flag, kinds = _STORES[system], _KINDS[system]
    manifest = os.path.join(path, "store.json")
    if not os.path.isfile(manifest):
        raise InputError(f"--{flag}={path}: no token store (no store.json); make one with bertjax.prepare")
    values = read_json(manifest, "make the store again with bertjax.prepare")
    try:
        tokenizer, heldout = values["tokenizer"], values["heldout"]
        kind, vocab_size = tokenizer["kind"], tokenizer["vocab_size"]
        store = Store(os.path.abspath(path), values["sha256"], vocab_size, values["summary"]["tokens"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{manifest}: no finished store; make one with bertjax.prepare") from error
    if not heldout:
        raise InputError(f"--{flag}={path}: has no held-out documents to measure by; prepare it with "
                         "--heldout=0.01")  # fmt: skip
    if kind not in kinds:
        raise InputError(f"--{flag}={path}: has tokens of the kind {kind}; prepare it with "
                         f"--tokenizer={kinds[0]}")  # fmt: skip
    return store


class _Planner:
    """Adds runs to a plan."""

    def __init__(self, plan: Plan, scale: Scale, flags: argparse.Namespace, overrides: Fields):
        self.plan, self.scale, self.overrides = plan, scale, overrides
        self.out, self.seeds = os.path.abspath(flags.out), flags.seeds or scale.seeds
        self._values: dict[tuple[str, Fields], config_lib.ConfigDict] = {}

    def table(self, name: str, given: Mapping[str, str], tasks: Sequence[str]) -> TablePlan:
        """Plans all that the table needs."""
        table, found = TABLES[name], TablePlan([], [], {}, [])
        for column in table.columns:
            reason = self._find(column.task, given, tasks)
            if reason:
                found.left_out.append(f"{column.name}: {reason}")
            else:
                found.columns.append(column)
        if not any(column.task for column in found.columns):
            raise InputError(f"--table={name}: no examples for any column ({'; '.join(found.left_out)})")
        for row in table.rows:
            if row.system not in self.plan.stores:
                found.left_out.append(f"{row.name}: no --{_STORES[row.system]}=DIR")
                continue
            found.rows.append(row)
            pretraining = self._pretraining(row)
            for column in found.columns:
                runs = self._fine_tuning(row, column, pretraining) if column.task else (pretraining,)
                found.cells[row.name, column.name] = runs
        return found

    def _find(self, task: str, given: Mapping[str, str], tasks: Sequence[str]) -> str:
        """Why a task's column is left out; "" if it is not."""
        if not task or task in self.plan.examples:
            return ""
        if tasks and task not in tasks:
            return f"{task} is not in --tasks"
        budget = self.scale.tasks[task]
        examples = find(task, given, (budget.train, budget.dev))
        if isinstance(examples, str):
            return examples
        self.plan.examples[task] = examples
        return ""

    def _pretraining(self, row: Row) -> str:
        """Plans the pre-training of a row; returns its workdir."""
        path, fields = self.scale.pretraining[row.system]
        store, (layers, hidden, heads) = self.plan.stores[row.system], self.scale.sizes[row.size]
        size: Fields = (
            f"model.num_hidden_layers={layers}",
            f"model.hidden_size={hidden}",
            f"model.num_attention_heads={heads}",
            f"model.intermediate_size={4 * hidden}",
        )
        # Of ELMo's words, the most frequent ones are predicted, as many as its config says.
        words = self._load(path, fields).elmo.vocab_size
        of_elmo = row.system == "elmo"
        overrides = (
            *((f"elmo.vocab_size={min(words, store.vocab_size)}",) if of_elmo
              else (f"model.vocab_size={store.vocab_size}", *size)),
            *self.scale.common,
            *fields,
            *row.pretraining,
            "train.keep_last=1",
            "train.keep_every=0",
            _QUIET,
            *self.overrides,
            f"data.store={store.path}",
        )  # fmt: skip
        config = self._load(path, overrides)
        if not config.train.eval_every:
            raise InputError("--config.train.eval_every=0: tables have held-out figures; leave it out")
        if row.pretraining in COURSES and row.size == BASE and row.system == "bert":
            every, rest = divmod(steps_of(config), CHECKPOINTS)
            if rest:
                raise InputError(f"--config.train.steps={config.train.steps}: {steps_of(config)} steps of "
                                 f"pre-training are not a multiple of {CHECKPOINTS}, the checkpoints of its "
                                 "course")  # fmt: skip
            if every % config.train.save_every:
                raise InputError(f"--config.train.save_every={config.train.save_every}: must divide {every}, "
                                 "the steps from one checkpoint of the course to the next")  # fmt: skip
            overrides = (*overrides, f"train.keep_every={every}")
        asked = _asked(config, {"data.store sha256": store.sha256})
        workdir = os.path.join(self.out, "runs", f"{row.system}-{_digest(asked)}")
        self.plan.models[workdir] = config
        self._add("pretrain", row.name, 0, workdir, path, overrides, asked, "eval/perplexity")
        return workdir

    def _fine_tuning(self, row: Row, column: Column, pretraining: str) -> tuple[str, ...]:
        """Plans the fine-tunings of a row for a column; returns their workdirs."""
        path, scale, examples = SYSTEMS[row.system].get(column.task), self.scale, self.plan.examples
        if path is None:
            return ()
        step = round(row.share * steps_of(self.plan.models[pretraining]))
        part = () if row.share == 1 else (FOLDER, str(step))
        files, folder = examples[column.task], examples[column.task].folder_in(self.out)
        hidden = scale.sizes[row.size][1]
        layout = {
            "hidden": hidden,
            "lstm_size": scale.lstm_size or hidden,
            "feature_rate": scale.feature_rate,
        }
        overrides = (
            *scale.common,
            *scale.tasks[column.task].fields,
            *scale.fine_tuning.get(row.system, ()),
            *(each.format(**layout) for each in (*column.fine_tuning, *row.fine_tuning)),
            f"examples.train={files.train}",
            f"examples.dev=('{files.dev}',)",
            "examples.test=()",
            _QUIET,
            *self.overrides,
            f"examples.folder={folder}",
            f"init_from={os.path.join(pretraining, *part)}",
        )
        asked = _asked(self._load(path, overrides), {
            **files.digests, "most": files.most, "init": os.path.basename(pretraining), "init step": step,
        })  # fmt: skip
        parent = os.path.join(self.out, "runs", f"{column.task}-{_digest(asked)}")
        workdirs = []
        for seed in range(self.seeds):
            workdir = os.path.join(parent, f"seed{seed}")
            self.plan.needs[workdir] = pretraining
            more = (*overrides, f"seed={seed}")
            self._add(column.task, row.name, seed, workdir, path, more, asked | {"seed": seed}, column.metric)
            workdirs.append(workdir)
        return tuple(workdirs)

    def _load(self, path: str, overrides: Fields) -> config_lib.ConfigDict:
        if (path, overrides) not in self._values:
            self._values[path, overrides] = files.load(path, overrides)
        return self._values[path, overrides]

    def _add(self, task: str, name: str, seed: int, workdir: str, path: str, overrides: Fields,
             asked: dict[str, Any], metric: str) -> None:  # fmt: skip
        arguments = (f"--config={path}", *(f"--config.{each}" for each in (*overrides, f"workdir={workdir}")))
        self.plan.runs.setdefault(workdir, Planned(task, name, seed, workdir, arguments, asked))
        self.plan.metrics.setdefault(workdir, metric)


def steps_of(config: config_lib.ConfigDict) -> int:
    """The steps of a pre-training."""
    return int(config.train.steps + config.phase2.steps)


def _asked(config: config_lib.ConfigDict, more: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run what it is. Files are told by their digests, wherever they lie."""
    values = {name: value for name, value in config_lib.fields(config)
              if name != "examples.folder" and not may_change(name)}  # fmt: skip
    asked: dict[str, Any] = json.loads(json.dumps(values | dict(more)))
    return asked


def _digest(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
