"""What came out of many runs: statistics over seeds, the best setting, tables beside the paper's figures.

Settings are written "train.batch_examples=32 optim.learning_rate=2e-05". Figures are those of a run's
metrics.jsonl, on the dev set; tables show them times 100, as the paper does.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertjax.errors import InputError
from bertjax.sweep import paper

_NOTE = (
    "Figures are of the dev set, times 100. The paper's of GLUE are of the benchmark's test server, on other "
    "examples: dev figures differ from them."
)
_STATISTICS = ("mean", "std", "median", "best")


@dataclass(frozen=True)
class Finished:
    """A run that is complete."""

    task: str
    setting: str
    seed: int
    workdir: str
    figures: dict[str, float | None]  # by names like "eval/f1"; None where it was not a number


def summarize(values: Sequence[float | None]) -> dict[str, float | None]:
    """{"mean", "std", "median", "best"}: std is the sample's (n - 1), None for one value.

    All are None if a value is, so that a setting with a run that came to nothing is never the best one.
    """
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers or len(numbers) < len(values):
        return dict.fromkeys(_STATISTICS)
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "median": statistics.median(numbers),
        "best": max(numbers),
    }


def metric_of(task: str, figures: Mapping[str, float | None], asked: str) -> str:
    """The figure that a task's settings are compared by: `asked`, or the paper's, or the task's first.

    Raises:
      InputError: the runs have no figure `asked`.
    """
    names = [name for name in figures if name.startswith("eval")]
    known = [figure.metric for figure in paper.FIGURES.get(task, ()) if figure.metric in names]
    if asked and asked not in names:
        raise InputError(f"--metric={asked}: {task} has no such figure; it has {', '.join(names)}")
    return asked or [*known, *names][0]


def collect(runs: Iterable[Finished], seeds: int, metric: str = "") -> dict[str, Any]:
    """All results as what JSON can hold: the content of results.json.

    The best setting of a task is that with the highest mean over the seeds, of those whose runs are all
    finished, if there is one; its best run is that with the highest figure.

    Args:
      runs: finished ones, the best first among equals.
      seeds: runs of each setting.
      metric: what to choose by; "" see `metric_of`.

    Raises:
      InputError: there is no such metric.
    """
    by_task: dict[str, dict[str, list[Finished]]] = {}
    for run in runs:
        by_task.setdefault(run.task, {}).setdefault(run.setting, []).append(run)
    tasks: dict[str, Any] = {}
    means: dict[str, float | None] = {}
    bests: dict[str, float | None] = {}
    for task, by_setting in by_task.items():
        first = next(iter(by_setting.values()))[0]
        chosen_by = metric_of(task, first.figures, metric)
        settings: list[dict[str, Any]] = []
        for setting, of_setting in by_setting.items():
            best = max(of_setting, key=lambda run: _order(run.figures.get(chosen_by)))
            settings.append({
                "setting": setting,
                "finished": len(of_setting),
                "figures": {name: summarize([run.figures.get(name) for run in of_setting])
                            for name in first.figures},
                "best_run": best.workdir,
                "runs": [{"seed": run.seed, "workdir": run.workdir, "figures": run.figures}
                         for run in of_setting],
            })  # fmt: skip
        settings.sort(
            key=lambda s: (s["finished"] == seeds, _order(s["figures"][chosen_by]["mean"])), reverse=True
        )
        for figure in paper.FIGURES.get(task, ()):
            summary = settings[0]["figures"].get(figure.metric, {})
            means[figure.name], bests[figure.name] = summary.get("mean"), summary.get("best")
        tasks[task] = {"metric": chosen_by, "settings": settings}
    average = {"mean": paper.glue_average(means), "best": paper.glue_average(bests)}
    return {"tasks": tasks, "glue_average": average if None not in average.values() else None}


def _order(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


def tables(results: Mapping[str, Any], seeds: int) -> list[tuple[str, list[list[str]]]]:
    """(title, rows of cells, the first with the columns' names): a table of each task, and one of all."""
    names = ["figure", "best setting", *_STATISTICS, "runs", "BERT_BASE", "BERT_LARGE", "paper's on"]
    found, overview = [], [names]
    for task, result in results["tasks"].items():
        rows = [["setting", *_STATISTICS, "runs"]]
        for setting in result["settings"]:
            rows.append([setting["setting"] or "as the config", *_cells(setting, result["metric"], seeds)])
        found.append((f"{task}: {result['metric']}", rows))
        best = result["settings"][0]
        figures = {figure.metric: figure for figure in paper.FIGURES.get(task, ())}
        for metric in dict.fromkeys([result["metric"], *figures]):
            if metric in best["figures"]:
                figure = figures.get(metric)
                given = _given(figure) if figure else ["-"] * 3
                name = f"{task} {metric}" + (f" ({figure.name})" if figure else "")
                overview.append(
                    [name, best["setting"] or "as the config", *_cells(best, metric, seeds), *given]
                )
    average = results["glue_average"]
    if average:
        mean, best = (_percent(average[name]) for name in ("mean", "best"))
        name, given = paper.GLUE_AVERAGE.name, _given(paper.GLUE_AVERAGE)
        overview.append([f"{name}, without WNLI", "-", mean, "-", "-", best, "-", *given])
    return [*found, ("The best settings beside the paper's figures", overview)]


def _given(figure: paper.Figure) -> list[str]:
    sizes = (figure.base, figure.large)
    return [*("-" if value is None else f"{value:.1f}" for value in sizes), figure.where]


def _cells(setting: Mapping[str, Any], metric: str, seeds: int) -> list[str]:
    figures = setting["figures"][metric]
    runs = setting["finished"]
    return [*(_percent(figures[name]) for name in _STATISTICS),
            str(runs) if runs == seeds else f"{runs} of {seeds}"]  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def as_text(results: Mapping[str, Any], seeds: int) -> str:
    """The tables for a terminal."""
    parts = []
    for title, rows in tables(results, seeds):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
                 for row in rows]  # fmt: skip
        parts.append("\n".join([title, *(f"  {line}" for line in lines)]))
    return "\n\n".join([*parts, _NOTE])


def as_markdown(results: Mapping[str, Any], seeds: int) -> str:
    """The tables as Markdown."""
    parts = []
    for title, rows in tables(results, seeds):
        lines = [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
        parts.append("\n".join([f"## {title}", "", *lines]))
    return "\n\n".join(["# Results", _NOTE, *parts]) + "\n"
