"""A table of the paper as Markdown, JSON and a plot: our figures over seeds beside the paper's."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from bertjax.files import write_atomically
from bertjax.models import kind_of
from bertjax.sections import fields
from bertjax.sweep.results import Finished, summarize
from bertjax.sweep.runs import OUTPUT, seconds_of
from bertjax.tables.plan import Plan, TablePlan
from bertjax.tables.rows import SCALES, TABLES, Column, Table, TableRow

_DEVICES = re.compile(r"M parameters on (\d+) (.+?) devices? \(")  # of the line that a run begins with


def write_table(name: str, plan: Plan, finished: Mapping[str, Finished], flags: Any, command: str) -> str:
    """Writes OUT/NAME.json and OUT/NAME.md, each whole or not at all; returns the rows as Markdown."""
    found = describe(name, plan, finished, flags, command)
    lines = "\n".join(rows_as_markdown(found))
    write_atomically(os.path.join(flags.out, f"{name}.json"), json.dumps(found, indent=1) + "\n")
    write_atomically(os.path.join(flags.out, f"{name}.md"), as_markdown(found, lines))
    return lines


def describe(
    name: str, plan: Plan, finished: Mapping[str, Finished], flags: Any, command: str
) -> dict[str, Any]:
    """All of a table as what JSON can hold: the content of NAME.json."""
    table, part = TABLES[name], plan.tables[name]
    runs = [run for cell in part.cells.values() for run in cell]
    workdirs = dict.fromkeys([*(plan.needs[run] for run in runs if run in plan.needs), *runs])
    done = [workdir for workdir in workdirs if workdir in finished]
    return {
        "table": name,
        "title": table.title,
        "scale": flags.scale,
        "command": command,
        "model": _about_pretraining(plan, part),
        "fine_tuning": _about_tasks(plan, part),
        "hardware": _hardware(done),
        "seconds": {what: round(sum(seconds_of(run) for run in done if (run in plan.needs) == fine))
                    for what, fine in (("pretraining", False), ("fine_tuning", True))},
        "finished": [len(done), len(workdirs)],
        "left_out": part.left_out,
        "columns": [column.name for column in part.columns],
        "rows": [
            {
                "name": row.name,
                "shown": _shown(table, row, flags.scale),
                "cells": {column.name: _cell(row, column, part, finished, flags.out)
                          for column in part.columns},
            }
            for row in part.rows
        ],
    }  # fmt: skip


def _cell(
    row: TableRow, column: Column, part: TablePlan, finished: Mapping[str, Finished], out: str
) -> dict[str, Any]:
    runs = part.cells[row.name, column.name]
    values = [finished[run].figures.get(column.metric) for run in runs if run in finished]
    factor = 100 if column.percent else 1
    values = [None if value is None else factor * value for value in values]
    return {
        **summarize(values),
        "values": values,
        "wanted": len(runs),
        "paper": row.paper.get(column.name),
        "runs": [os.path.relpath(run, out) for run in runs],
    }


def _shown(table: Table, row: TableRow, scale: str) -> str:
    size = "/".join(map(str, SCALES[scale].sizes[row.size]))
    return row.name if not table.by_size or size == row.name else f"{size} (the paper's {row.name})"


def _about_pretraining(plan: Plan, part: TablePlan) -> list[str]:
    """A line for each system: its model, its steps, its rate."""
    configs: dict[str, list[ConfigDict]] = {}
    for run in dict.fromkeys(run for cell in part.cells.values() for run in cell):
        workdir = plan.needs.get(run, run)
        configs.setdefault(os.path.basename(workdir).partition("-")[0], []).append(plan.models[workdir])
    lines = []
    for system, each in configs.items():
        c, sizes = each[0], dict.fromkeys(_size(config) for config in each)
        line = f"{system}: {'sizes as the rows say' if len(sizes) > 1 else next(iter(sizes))}; "
        line += _length(c.train.epochs, c.train.steps)
        line += f" of {c.train.batch_rows} x {c.train.seq_length} tokens"
        if c.phase2.steps:
            line += f" and {c.phase2.steps:,} of {c.phase2.batch_rows} x {c.phase2.seq_length}"
        store = plan.stores[system]
        text = f"a text of {store.tokens:,} tokens, {store.vocab_size:,} in the vocabulary"
        dropout = _dropout(dict(fields(c)))
        lines.append(f"{line}; dropout {dropout:g}, rate {c.optim.learning_rate:g}, {c.model.dtype}; {text}")
    return lines


def _length(epochs: float, steps: int) -> str:
    return f"{epochs:g} epochs" if epochs else f"{steps:,} steps"


def _size(c: ConfigDict) -> str:
    return kind_of(c.model.kind).describe(dict(fields(c)))


def _about_tasks(plan: Plan, part: TablePlan) -> list[str]:
    """A line for each task: its steps, its rate, its examples; more of a line where rows differ in them."""
    found: dict[str, dict[str, None]] = {}
    for run in dict.fromkeys(run for cell in part.cells.values() for run in cell if run in plan.needs):
        found.setdefault(plan.runs[run].task, {})[_about_training(plan.runs[run].asked)] = None
    lines = []
    for task, each in found.items():
        train, dev = plan.examples[task].counts()
        lines.append(f"{task}: {train:,} training and {dev:,} dev examples; {'; '.join(each)}")
    return lines


def _about_training(asked: Mapping[str, Any]) -> str:
    """Steps, rate and dropout of a fine-tuning, and what reads an encoder that is frozen."""
    batch = next(value for name, value in asked.items() if name.startswith("train.batch_"))
    what = ""
    if asked["train.freeze_encoder"]:
        what = f"a {asked['head.lstm_layers']} x {asked['head.lstm_size']} BiLSTM on a frozen encoder, "
    length = f"{_length(asked['train.epochs'], asked['train.steps'])} of {batch}"
    return f"{what}{length}, rate {asked['optim.learning_rate']:g}, dropout {_dropout(asked):g}"


def _dropout(values: Mapping[str, Any]) -> float:
    """That of a run's encoder; of what reads the encoder, where it is frozen and has none. By the names of
    fields."""
    of_encoder = ("model.hidden_dropout_prob", "model.dropout_prob")
    names = ("head.dropout_prob", *of_encoder) if values.get("train.freeze_encoder") else of_encoder
    return next(float(values[name]) for name in names if name in values)


def _hardware(workdirs: Sequence[str]) -> str:
    """What the runs say that they computed on."""
    found = dict.fromkeys(
        device for workdir in workdirs for device in _devices(os.path.join(workdir, OUTPUT))
    )
    return "; ".join(found) or "not known"


def _devices(path: str) -> list[str]:
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", errors="replace") as file:
        found = _DEVICES.findall(file.read())
    return [f"{os.cpu_count()} CPU cores" if kind == "cpu" else f"{count} {kind}" for count, kind in found]


def rows_as_markdown(found: Mapping[str, Any]) -> list[str]:
    """The lines of the table itself."""
    names = [cell for column in found["columns"] for cell in (column, "paper")]
    lines = [["", *names], ["---", *["---:"] * len(names)]]
    for row in found["rows"]:
        cells = [text for column in found["columns"] for text in _texts(row["cells"][column])]
        lines.append([row["shown"], *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def _texts(cell: Mapping[str, Any]) -> tuple[str, str]:
    mean, std, done, wanted = cell["mean"], cell["std"], len(cell["values"]), cell["wanted"]
    ours = "-" if mean is None else f"{mean:.1f}" + (f" ± {std:.1f}" if std is not None else "")
    if done < wanted and done:
        ours += f" ({done} of {wanted})"
    paper = cell["paper"]
    return ours, "-" if paper is None else f"{paper:.1f}" if paper == round(paper, 1) else f"{paper:.2f}"


def as_markdown(found: Mapping[str, Any], rows: str) -> str:
    """The whole of NAME.md."""
    seeds = max(cell["wanted"] for row in found["rows"] for cell in row["cells"].values())
    seconds, (done, wanted) = found["seconds"], found["finished"]
    parts = [
        f"# {found['title']}",
        rows,
        f"Scale `{found['scale']}`. Per cent of the dev set, but for perplexities, which are held-out; mean "
        f"and standard deviation (of the sample) over the fine-tuning seeds ({seeds}) of one "
        "pre-training. The paper's columns are of its own models and data.",
        "\n".join(f"- {line}" for line in (*found["model"], *found["fine_tuning"])),
        f"Hardware: {found['hardware']}. Processes ran {_duration(seconds['pretraining'])} for pre-training, "
        f"{_duration(seconds['fine_tuning'])} for fine-tuning. {done} of {wanted} runs are finished.",
        f"```\n{found['command']}\n```",
        f"![{found['title']}]({found['table']}.png)",
    ]
    if found["left_out"]:
        parts.insert(2, "Left out: " + "; ".join(found["left_out"]) + ".")
    return "\n\n".join(parts) + "\n"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
