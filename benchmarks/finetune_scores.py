"""Fine-tuned by bertjax and by Hugging Face's PyTorch classes: the official metrics side by side.

    python -m benchmarks.finetune_scores --model=MINILM --config=configs/glue.py:mrpc --folder=GLUE/MRPC \\
        --seeds=0,1,2 --out=scores.json

Both begin from the same parameters, a new head among them, and take the same steps: the same examples in the
same batches, AdamW with the same rates, dropout of their own. Dropout apart, the recipes are one, so with
--dropout=0 both should answer alike. PyTorch's answers are scored by bertjax's metrics. What the file --out
has is not measured again, so the command goes on where it was stopped; it prints all that the file has.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import peer as peer_lib
from benchmarks import workload
from bertjax.config import files
from bertjax.convert.export import export
from bertjax.convert.load import load
from bertjax.errors import InputError, run_command
from bertjax.files import write_atomically
from bertjax.flags import Parser
from bertjax.init_from import initial_params
from bertjax.logs import read_metrics
from bertjax.mesh import make_mesh
from bertjax.models.interface import NUMBER
from bertjax.tasks import task_of
from bertjax.tasks.finetuning import FineTuning
from bertjax.tasks.interface import Data, EvalSet, Outputs
from bertjax.train import make_train_step
from bertjax.trained_model import Trained

ROOT = Path(__file__).parent.parent
_OPTIM = ("learning_rate", "warmup_steps", "weight_decay", "eps", "clip_norm")


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The flags. Raises InputError."""
    parser = Parser(prog="benchmarks.finetune_scores", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("--model", required=True, metavar="FOLDER", help="Hugging Face's, of a BERT")
    add("--config", required=True, metavar="FILE", help="such as configs/glue.py:mrpc")
    add("--folder", required=True, help="of the task's files")
    add(
        "--override",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="of the config; may be repeated",
    )
    add("--seeds", default="0,1,2", metavar="N,N...", help="default 0,1,2")
    add("--dropout", type=float, default=0.1, metavar="P", help="of both (default 0.1)")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="default cpu")
    peer_lib.add_flags(parser)
    flags = parser.parse_args(args)
    if not all(seed.isdigit() for seed in flags.seeds.split(",")):
        raise InputError(f"--seeds={flags.seeds}: use whole numbers, such as --seeds=0,1,2")
    return flags


def overrides_of(flags: argparse.Namespace, seed: int) -> list[str]:
    """Of the config's fields, for both libraries."""
    names = ("model.hidden_dropout_prob", "model.attention_probs_dropout_prob")
    return [
        f"init_from={flags.model}", f"examples.folder={flags.folder}", "examples.test=()", f"seed={seed}",
        "optim.name=adamw", "model.dtype=float32", f"model.scan_layers={flags.device != 'cpu'}",
        *(f"{name}={flags.dropout}" for name in names), *flags.override,
    ]  # fmt: skip


class Sequences:
    """The sequences of batches, one after the other, as the other library gets them.

    Args:
      batches: of the task's rows, on this machine whole.
    """

    def __init__(self, batches: Iterable[dict[str, np.ndarray]]):
        self.places: list[tuple[int, int, int]] = []  # row, place in it, first token
        self._parts: dict[str, list[np.ndarray]] = {"ids": [], "types": [], "labels": []}
        rows = 0
        for batch in batches:
            self._add(batch, rows)
            rows += len(batch["segment_ids"])

    def _add(self, batch: dict[str, np.ndarray], before: int) -> None:
        ids, types, segments = (batch[name] for name in ("input_ids", "token_type_ids", "segment_ids"))
        for row in range(len(ids)):
            for place in range(segments[row].max()):
                tokens = np.flatnonzero(segments[row] == place + 1)
                self.places.append((before + row, place, int(tokens[0])))
                self._parts["ids"].append(ids[row, tokens])
                self._parts["types"].append(types[row, tokens])
                self._parts["labels"].append(_label(batch, row, place, tokens))

    def arrays(self) -> dict[str, np.ndarray]:
        """ids and types [tokens], lengths [sequences], labels [sequences, ...] or [tokens]."""
        lengths = np.array([len(ids) for ids in self._parts["ids"]])
        return {name: np.concatenate(parts) for name, parts in self._parts.items()} | {"lengths": lengths}


def _label(batch: dict[str, np.ndarray], row: int, place: int, tokens: np.ndarray) -> np.ndarray:
    if "label_weights" not in batch:  # questions to be answered
        return np.zeros(0, np.int32)
    if "start_positions" in batch:
        return np.array([[batch["start_positions"][row], batch["end_positions"][row]]])
    labels, weights = batch["labels"], batch["label_weights"]
    if labels.shape == batch["input_ids"].shape:  # tags; -100 is what the other library leaves out
        return np.where(weights[row, tokens] > 0, labels[row, tokens], -100)
    each = batch["class_positions"].shape[1] // labels.shape[1]  # sequences of an example: choices
    return labels[row, place // each, None]


def outputs_of(task: str, evals: EvalSet, sequences: Sequences, found: dict[str, np.ndarray]) -> Outputs:
    """The other library's answers to an evaluation set, as bertjax's own would come."""
    shapes = {name: x.shape[1:] for name, x in found.items()}
    rows, places, starts = np.array(sequences.places).T
    if task in ("classify", "choose"):
        each = len(rows) // len(found["logits"])  # sequences of an example
        logits = np.zeros((evals.num_rows, places.max() // each + 1, *shapes["logits"]), np.float32)
        logits[rows[::each], places[::each] // each] = found["logits"]
        return {"logits": logits}
    if task == "answer":
        return found
    tags = np.zeros((evals.num_rows, int((starts + found["lengths"]).max())), np.int32)
    ends = np.cumsum(found["lengths"])
    for row, start, length, end in zip(rows, starts, found["lengths"], ends, strict=True):
        tags[row, start : start + length] = found["tags"][end - length : end]
    return {"tags": tags}


def compare(flags: argparse.Namespace, python: str, seed: int) -> dict[str, Any]:
    """Figures, and seconds, of both for one seed."""
    config = files.load(flags.config, overrides_of(flags, seed))
    task = task_of(config.task)
    if not isinstance(task, FineTuning):
        raise InputError(f"--config={flags.config}: name one of a fine-tuning task")
    source = load(config.init_from)
    data = task.open_data(task.resolve(config, source), source)
    config, rows = data.config, data.rows["train"]
    training = Sequences(rows.train(i * rows.batch_rows, rows.batch_rows) for i in range(config.train.steps))
    size = config.eval.batch_rows
    held_out = [
        Sequences(evals.rows(i, min(size, evals.num_rows - i)) for i in range(0, evals.num_rows, size))
        for evals in rows.evals
    ]
    with tempfile.TemporaryDirectory() as folder:
        begin_from(config, task, source, data, f"{folder}/begin")
        arrays = {f"train_{name}": x for name, x in training.arrays().items()}
        for i, sequences in enumerate(held_out):
            arrays |= {f"eval{i}_{name}": x for name, x in sequences.arrays().items()}
        np.savez(f"{folder}/data.npz", **arrays)  # type: ignore[arg-type]
        optim, sequences_each = config.optim, task.sequences(config)
        settings = {
            "task": config.task,
            "number": data.labels == NUMBER,
            "choices": sequences_each if sequences_each > 1 else 0,
            "steps": config.train.steps,
            "seq_length": config.train.seq_length,
            "betas": (optim.beta1, optim.beta2),
            **{name: optim[name] for name in _OPTIM},
            "model": f"{folder}/begin",
            "data": f"{folder}/data.npz",
            "out": f"{folder}/out.npz",
            "evals": len(held_out),
            "seed": seed,
            "dropout": flags.dropout,
            "device": flags.device,
            "threads": len(os.sched_getaffinity(0)),
        }
        ours, our_seconds = run_bertjax(flags, seed, f"{folder}/run")
        began = time.perf_counter()
        run(
            [python, str(ROOT / "benchmarks/peers/torch_scores.py"), json.dumps(settings)], {"PYTHONPATH": ""}
        )
        seconds = time.perf_counter() - began
        theirs: dict[str, float] = {}
        with np.load(f"{folder}/out.npz", allow_pickle=False) as file:
            for i, (evals, sequences) in enumerate(zip(rows.evals, held_out, strict=True)):
                found = {
                    name.partition("_")[2]: file[name] for name in file.files if name.startswith(f"eval{i}_")
                }
                assert evals.score
                figures = evals.score(outputs_of(config.task, evals, sequences, found))
                theirs |= {f"{evals.name}/{name}": value for name, value in figures.items()}
    return {
        "bertjax": {name: ours[name] for name in theirs},
        "torch": theirs,
        "seconds": {"bertjax": our_seconds, "torch": seconds},
        "steps": config.train.steps,
    }


def begin_from(config: ConfigDict, task: FineTuning[Any], source: Trained, data: Data, folder: str) -> None:
    """Writes what bertjax's run begins with as a Hugging Face folder."""
    mesh = make_mesh(config)
    _, init, shardings = make_train_step(config, task, mesh)
    params, _ = initial_params(config, task, source, data, init()["params"], shardings["params"])
    export(dataclasses.replace(source, config=config.model, params=jax.device_get(params), head=task.head,
                               labels=data.labels, left_out=()), folder)  # fmt: skip


def run_bertjax(flags: argparse.Namespace, seed: int, workdir: str) -> tuple[dict[str, float], float]:
    """(figures of the evaluation sets, seconds of the command)"""
    overrides = [f"--config.{override}" for override in overrides_of(flags, seed)]
    command = [
        sys.executable,
        "-m",
        "bertjax.main",
        f"--config={flags.config}",
        f"--config.workdir={workdir}",
        *overrides,
    ]
    began = time.perf_counter()
    run(command, {"PYTHONPATH": str(ROOT)})
    seconds = time.perf_counter() - began
    lines = read_metrics(f"{workdir}/metrics.jsonl")
    return {name: value for line in lines for name, value in line.items() if name.startswith("eval")}, seconds


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    """Runs a command. Raises InputError with the last line that it said if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if result.returncode:
        said = (result.stdout + result.stderr).strip().splitlines() or ["no output"]
        raise InputError(f"{' '.join(command[:3])}: {said[-1]}")


def table(results: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds of each figure, in points, as a Markdown table."""
    head = ("config", "steps", "dropout", "metric", "bertjax", "PyTorch", "difference", "seconds a run")
    lines = [head, ("---",) * len(head)]
    for result in results:
        seeds = list(result["seeds"].values())
        seconds = [statistics.mean(seed["seconds"][name] for seed in seeds) for name in ("bertjax", "torch")]
        for metric in seeds[0]["torch"]:
            both = [[100 * seed[name][metric] for seed in seeds] for name in ("bertjax", "torch")]
            ours, theirs = map(statistics.mean, both)
            lines.append((
                result["config"], str(seeds[0]["steps"]), str(result["dropout"]), metric, *map(_shown, both),
                f"{ours - theirs:+.2f}", f"{seconds[0]:.0f}, {seconds[1]:.0f}",
            ))  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main(args: Sequence[str]) -> None:
    """Measures and prints. Raises InputError."""
    flags = parse(args)
    python = peer_lib.pythons(flags.python, ["torch"], flags.device)["torch"]
    results = json.loads(Path(flags.out).read_text()) if flags.out and Path(flags.out).is_file() else []
    key = {"config": flags.config, "folder": flags.folder, "model": flags.model, "dropout": flags.dropout,
           "override": flags.override, "hardware": workload.hardware()}  # fmt: skip
    result = next((each for each in results if all(each[name] == value for name, value in key.items())), None)
    if result is None:
        result = key | {"seeds": {}}
        results.append(result)
    for seed in flags.seeds.split(","):
        if seed not in result["seeds"]:
            result["seeds"][seed] = compare(flags, python, int(seed))
            print(json.dumps(result["seeds"][seed]), file=sys.stderr, flush=True)
            if flags.out:
                write_atomically(flags.out, json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    run_command(main)
