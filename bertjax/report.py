"""Draws a run: python -m bertjax.report --workdir=DIR [--out=FILE.png]

Loss, accuracies and learning rate over the steps, training and held-out, in one PNG.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from bertjax.errors import InputError, run_command
from bertjax.files import read_json
from bertjax.flags import Parser
from bertjax.logs import METRICS, read_metrics
from bertjax.models import kind_of

_TRAIN, _HELD_OUT, _REFERENCE = "#4477aa", "#cc3311", "#777777"  # told apart also without colour vision
_PANELS = (  # title, metric, unit of the axis
    ("Masked-LM loss", "mlm_loss", "nats per masked token"),
    ("Masked-LM accuracy", "mlm_accuracy", "share of masked tokens"),
    ("Next-sentence accuracy", "nsp_accuracy", "share of sequences"),
    ("Sampled-softmax loss", "sampled_loss", "nats a word"),
    ("Loss", "loss", "nats"),
    ("Learning rate", "learning_rate", "learning rate"),
)
_BASELINE = "eval/unigram_entropy"

Series = tuple[list[int], list[float]]


def main(args: Sequence[str]) -> None:
    """Reads the flags, draws, prints the file's name. Raises InputError."""
    parser = Parser(command="report", description="Draws a run: its metrics over the steps, in one PNG.")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="the folder of a run")
    parser.add_argument("--out", metavar="FILE.png", help="where to (default: report.png in the workdir)")
    flags = parser.parse_args(args)
    out = flags.out or os.path.join(flags.workdir, "report.png")
    if os.path.isdir(out):  # matplotlib would write a file of this name with .png behind it
        raise InputError(f"{out}: is a folder; use --out=FILE.png")
    try:
        draw(flags.workdir).savefig(out)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{out}: not written ({error}); use another --out=FILE.png") from error
    print(out)


def draw(workdir: str) -> Figure:
    """The figure of a run, a panel for each metric that it has logged.

    Raises:
      InputError: the workdir has no metrics, or none that can be drawn.
    """
    path = os.path.join(workdir, METRICS)
    rows = read_metrics(path)
    panels = [
        panel for panel in _panels(rows) if _series(rows, panel[1])[0] or _series(rows, f"eval/{panel[1]}")[0]
    ]
    if not panels:
        raise InputError(f"{path}: holds no metrics yet; let the run log a step first")
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)  # inches
    figure = Figure(figsize=(6.4 * columns, 3.6 * lines + 0.8), dpi=120, layout=layout)
    with matplotlib.rc_context({"font.size": 11}):
        figure.suptitle(_title(workdir), fontsize=13)
        axes = [figure.add_subplot(lines, columns, i + 1) for i in range(len(panels))]
        for axis, (title, metric, unit) in zip(axes, panels, strict=True):
            _draw_panel(axis, rows, title, metric, unit)
    return figure


def _panels(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The known panels, and one for each other held-out metric, such as a task's F1."""
    names = {name for row in rows for name in row}
    panels = [panel for panel in _PANELS if panel[1] != "loss" or "mlm_loss" not in names]
    known = {panel[1] for panel in _PANELS} | {"nsp_loss", _BASELINE.removeprefix("eval/")}
    others = sorted({name.removeprefix("eval/") for name in names if name.startswith("eval/")} - known)
    return panels + [(f"Held-out {name.replace('_', ' ')}", name, name.replace("_", " ")) for name in others]


def _draw_panel(axis: Axes, rows: list[dict[str, Any]], title: str, metric: str, unit: str) -> None:
    train, held_out = _series(rows, metric), _series(rows, f"eval/{metric}")
    if train[0]:
        axis.plot(*train, color=_TRAIN, linewidth=1.5, label="training")
    if held_out[0]:
        axis.plot(*held_out, color=_HELD_OUT, linewidth=1.5, marker="o", markersize=4, label="held-out")
    entropy = _series(rows, _BASELINE)[1]
    if metric in ("mlm_loss", "loss") and entropy:
        axis.axhline(entropy[-1], color=_REFERENCE, linestyle="--", linewidth=1.2,
                     label=f"unigram entropy, {entropy[-1]:.2f}")  # fmt: skip
    axis.set_title(title, fontsize=12)
    axis.set_xlabel("step")
    axis.set_ylabel(unit)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    if metric == "learning_rate":
        axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axis.grid(color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.get_lines()) > 1:
        axis.legend(frameon=False, fontsize=10)


def _series(rows: list[dict[str, Any]], metric: str) -> Series:
    """Steps and values of one metric; a value that was not finite is a gap."""
    found = [(row["step"], row[metric]) for row in rows if metric in row]
    return [step for step, _ in found], [math.nan if value is None else value for _, value in found]


def _title(workdir: str) -> str:
    """The workdir's name, with the model and batch of its config.json where it has one."""
    name = os.path.basename(os.path.abspath(workdir))
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return name
    try:
        config = read_json(path, "mend or remove it")
        batches = {name.partition(".")[0]: value for name, value in config.items() if ".batch_" in name}
        phases = ["train", "phase2"] if config.get("phase2.steps") else ["train"]
        rows = (f"{batches[phase]} × {config[f'{phase}.seq_length']}" for phase in phases)
        model = kind_of(config["model.kind"]).describe(config)
        return f"{name}: {config['task']}, {model}, batch {', then '.join(rows)} tokens"
    except InputError:
        raise
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a run's config ({error}); mend or remove it") from error


if __name__ == "__main__":
    run_command(main)
