"""The plot of a table: how far its rows are from one of them, here and in the paper; or over steps."""

from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bertjax.errors import naming
from bertjax.files import write_whole
from bertjax.tables.rows import CHECKPOINTS, TABLES

_OURS, _PAPER, _REFERENCE = "#4477aa", "#cc3311", "#777777"  # told apart also without colour vision
_ACROSS = 5  # panels beside each other at most


def draw_table(found: Mapping[str, Any], path: str) -> None:
    """Writes the plot of a table (bertjax.tables.write.describe) to `path`, whole or not at all."""
    table = TABLES[found["table"]]
    with matplotlib.rc_context({"font.size": 10}):
        figure = _curves(found) if table.curve else _differences(found, table.rows[table.reference].name)
    with naming(path), write_whole(path) as part:
        figure.savefig(part, dpi=120, format="png")


def _figure(found: Mapping[str, Any], width: float, height: float, what: str) -> Figure:
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
    figure.suptitle(f"{found['title']}: {what}\nscale {found['scale']}, {found['hardware']}", fontsize=11)
    return figure


def _differences(found: Mapping[str, Any], reference: str) -> Figure:
    """A panel for each column. A row's place is its figure less that of the reference's row."""
    rows, columns = found["rows"], found["columns"]
    first = next((row for row in rows if row["name"] == reference), rows[0])
    base = first["cells"]
    lines = -(-len(columns) // _ACROSS)
    across = -(-len(columns) // lines)
    height = 1.3 + lines * (0.8 + 0.42 * len(rows))
    figure = _figure(found, 2.4 + 2.4 * across, height, f"difference from {first['shown']}")
    grid = figure.subplots(lines, across, sharey=True, squeeze=False)
    axes = grid.flatten()
    for axis in axes[len(columns) :]:
        axis.set_visible(False)
    axes = axes[: len(columns)]
    for axis, column in zip(axes, columns, strict=True):
        relative = column == "perplexity"
        for places, key, color, marker, shift in (
            ([row["cells"][column]["mean"] for row in rows], "mean", _OURS, "o", -0.12),
            ([row["cells"][column]["paper"] for row in rows], "paper", _PAPER, "D", 0.12),
        ):
            start = base[column][key]
            points = [(value - start if not relative else 100 * (value / start - 1), i)
                      for i, value in enumerate(places) if None not in (value, start)]  # fmt: skip
            if not points:
                continue
            bars = None
            if key == "mean" and not relative:
                bars = [row["cells"][column]["std"] or 0.0 for row in rows
                        if None not in (row["cells"][column]["mean"], start)]  # fmt: skip
            axis.errorbar([x for x, _ in points], [i + shift for _, i in points], xerr=bars, fmt=marker,
                          color=color, markersize=5, capsize=2, linewidth=1.2,
                          markerfacecolor=color if key == "mean" else "white",
                          label="here" if key == "mean" else "the paper")  # fmt: skip
        axis.axvline(0, color=_REFERENCE, linewidth=1, linestyle="--", zorder=0)
        axis.set_title(column)
        axis.set_xlabel("% of it" if relative else "points")
        _plain(axis)
    for axis in grid[:, 0]:
        axis.set_yticks(range(len(rows)), [row["shown"] for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower right", frameon=False, ncols=2, fontsize=9)
    return figure


def _curves(found: Mapping[str, Any]) -> Figure:
    """A figure over the share of the steps, a line for each pre-training."""
    [column, *_] = found["columns"]
    figure = _figure(found, 6.4, 4.2, column)
    axis = figure.add_subplot()
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in found["rows"]:
        name, _, share = row["name"].rpartition(", ")
        cell = row["cells"][column]
        if cell["mean"] is not None:
            lines.setdefault(name, []).append((float(share.rstrip("%")), cell["mean"], cell["std"] or 0.0))
    for (name, points), color, marker in zip(lines.items(), (_OURS, _PAPER), "os", strict=False):
        x, y, bars = zip(*points, strict=True)
        axis.errorbar(x, y, yerr=bars, color=color, marker=marker, markersize=5, capsize=3, label=name)
    axis.set_xticks([100 * (i + 1) / CHECKPOINTS for i in range(CHECKPOINTS)])
    axis.set_xlim(0, 105)
    axis.set_xlabel("% of the pre-training's steps")
    axis.set_ylabel(f"{column}, % of the dev set")
    _plain(axis)
    if lines:
        axis.legend(frameon=False)
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
