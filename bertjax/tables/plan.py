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

from ml_collections import ConfigDict

from bertjax.checkpoint import FOLDER
from bertjax.config import files
from bertjax.errors import InputError
from bertjax.files import read_json
from bertjax.models import kind_of
from bertjax.sections import fields as fields_of
from bertjax.sections import total_steps
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
    Scale,
    TableRow,
)
from bertjax.workdir import may_change

_QUIET = "log.tensorboard=False"


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

    rows: list[TableRow]
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
    models: dict[str, ConfigDict] = field(default_factory=dict)  # configs of pre-trainings
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
    for system, (flag, *_) in SYSTEMS.items():
        if path := getattr(flags, flag):
            config = files.load(scale.pretraining[system][0])
            plan.stores[system] = _open_store(flag, path, kind_of(config.model.kind).tokenizers)
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
    planner.check_overrides()
    # One seed of everything, then the next, so that tables fill evenly.
    plan.runs = dict(sorted(plan.runs.items(), key=lambda item: (item[0] in plan.needs, item[1].seed)))
    plan.settings = {
        "scale": flags.scale,
        "fields": sorted(each for each in overrides if not may_change(each.partition("=")[0])),
        **{f"{SYSTEMS[system].store} sha256": store.sha256 for system, store in plan.stores.items()},
        **{f"{name} sha256": digest for each in plan.examples.values()
           for name, digest in each.digests.items()},
    }  # fmt: skip
    return plan


def _open_store(flag: str, path: str, tokenizers: Sequence[str]) -> Store:
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
    if kind not in tokenizers:
        raise InputError(f"--{flag}={path}: has tokens of the kind {kind}; prepare it with "
                         f"--tokenizer={tokenizers[0]}")  # fmt: skip
    return store


class _Planner:
    """Adds runs to a plan."""

    def __init__(self, plan: Plan, scale: Scale, flags: argparse.Namespace, overrides: Fields):
        self.plan, self.scale, self.overrides = plan, scale, overrides
        self.out, self.seeds = os.path.abspath(flags.out), flags.seeds or scale.seeds
        self._values: dict[tuple[str, Fields], ConfigDict] = {}
        self._overridden: set[str] = set()  # fields of `overrides` that a run has

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
                found.left_out.append(f"{row.name}: no --{SYSTEMS[row.system].store}=DIR")
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

    def _pretraining(self, row: TableRow) -> str:
        """Plans the pre-training of a row; returns its workdir."""
        path, fields = self.scale.pretraining[row.system]
        store, (layers, hidden, heads) = self.plan.stores[row.system], self.scale.sizes[row.size]
        system, vocab_size = SYSTEMS[row.system], store.vocab_size
        if system.frequent_words:
            vocab_size = min(vocab_size, self._load(path, fields).model.vocab_size)
        size: Fields = (
            f"model.num_hidden_layers={layers}",
            f"model.hidden_size={hidden}",
            f"model.num_attention_heads={heads}",
            f"model.intermediate_size={4 * hidden}",
        )
        overrides = (
            f"model.vocab_size={vocab_size}",
            *(size if system.sized else ()),
            *self.scale.common.get(row.system, ()),
            *fields,
            *row.pretraining,
            "train.keep_last=1",
            "train.keep_every=0",
            _QUIET,
            *self._given(path),
            f"data.store={store.path}",
        )
        config = self._load(path, overrides)
        if not config.eval.enabled:
            raise InputError("--config.eval.enabled=False: tables have held-out figures; leave it out")
        if row.pretraining in COURSES and row.size == BASE and row.system == "bert":
            steps = total_steps(config)
            every, rest = divmod(steps, CHECKPOINTS)
            if rest:
                raise InputError(
                    f"--config.train.steps={config.train.steps}: {steps} steps of pre-training are not a "
                    f"multiple of {CHECKPOINTS}, the checkpoints of its course"
                )
            if every % config.train.save_every:
                raise InputError(f"--config.train.save_every={config.train.save_every}: must divide {every}, "
                                 "the steps from one checkpoint of the course to the next")  # fmt: skip
            overrides = (*overrides, f"train.keep_every={every}")
        asked = _asked(config, {"data.store sha256": store.sha256})
        workdir = os.path.join(self.out, "runs", f"{row.system}-{_digest(asked)}")
        self.plan.models[workdir] = config
        self._add("pretrain", row.name, 0, workdir, path, overrides, asked, "eval/perplexity")
        return workdir

    def _fine_tuning(self, row: TableRow, column: Column, pretraining: str) -> tuple[str, ...]:
        """Plans the fine-tunings of a row for a column; returns their workdirs."""
        path, scale = SYSTEMS[row.system].fine_tuning.get(column.task), self.scale
        if path is None:
            return ()
        step = round(row.share * total_steps(self.plan.models[pretraining]))
        part = () if row.share == 1 else (FOLDER, str(step))
        examples = self.plan.examples[column.task]
        hidden = scale.sizes[row.size][1]
        layout = {
            "hidden": hidden,
            "lstm_size": scale.lstm_size or hidden,
            "feature_rate": scale.feature_rate,
        }
        overrides = (
            *scale.common.get(row.system, ()),
            *scale.tasks[column.task].fields,
            *scale.fine_tuning.get(row.system, ()),
            *(each.format(**layout) for each in (*column.fine_tuning, *row.fine_tuning)),
            f"examples.train={examples.train}",
            f"examples.dev=('{examples.dev}',)",
            "examples.test=()",
            _QUIET,
            *self._given(path),
            f"examples.folder={examples.folder_in(self.out)}",
            f"init_from={os.path.join(pretraining, *part)}",
        )
        asked = _asked(self._load(path, overrides), {
            **examples.digests, "most": examples.most, "init": os.path.basename(pretraining),
            "init step": step,
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

    def check_overrides(self) -> None:
        """Raises InputError for the first override that no run has the field of."""
        [(path, _), *_] = self.scale.pretraining.values()
        for each in self.overrides:
            if each.partition("=")[0] not in self._overridden:
                self._load(path, (each,))

    def _given(self, path: str) -> Fields:
        """The command's overrides of fields that the runs of a config have: not every run has all of them."""
        known = dict(fields_of(self._load(path, ())))
        found = tuple(each for each in self.overrides if each.partition("=")[0] in known)
        self._overridden |= {each.partition("=")[0] for each in found}
        return found

    def _load(self, path: str, overrides: Fields) -> ConfigDict:
        if (path, overrides) not in self._values:
            self._values[path, overrides] = files.load(path, overrides)
        return self._values[path, overrides]

    def _add(self, task: str, name: str, seed: int, workdir: str, path: str, overrides: Fields,
             asked: dict[str, Any], metric: str) -> None:  # fmt: skip
        arguments = (f"--config={path}", *(f"--config.{each}" for each in (*overrides, f"workdir={workdir}")))
        self.plan.runs.setdefault(workdir, Planned(task, name, seed, workdir, arguments, asked))
        self.plan.metrics.setdefault(workdir, metric)


def _asked(config: ConfigDict, more: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run what it is. Files are known by their digests, wherever they lie."""
    values = {name: value for name, value in fields_of(config)
              if name != "examples.folder" and not may_change(name)}  # fmt: skip
    asked: dict[str, Any] = json.loads(json.dumps(values | dict(more)))
    return asked


def _digest(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
