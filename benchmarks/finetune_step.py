"""A fine-tuning step on real texts: bertjax and Hugging Face's PyTorch classes, timed in turn in one run.

    python -m benchmarks.finetune_step --model=MINILM --data=GLUE/MRPC --task=mrpc

All begin from the same model and get the same examples in the same batches, tokenised before. Each makes its
batches as its users do: bertjax puts short examples into one row, PyTorch fills a batch up to its longest
example. Every library is a process of its own; see benchmarks.pretrain_step and benchmarks/README.md.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from benchmarks import peer as peer_lib
from benchmarks import workload
from benchmarks.peer import Peer
from bertjax.config import files
from bertjax.convert.load import load
from bertjax.errors import InputError, run_command
from bertjax.flags import Parser
from bertjax.tasks.classify import TASK as classify

# name: (environment, or "" for this interpreter's; script)
PEERS = {
    "bertjax": ("", "bertjax_finetune.py"),
    "torch": ("torch", "torch_finetune.py"),
    "torch_compiled": ("torch", "torch_finetune.py"),
}


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The flags. Raises InputError."""
    parser = Parser(prog="benchmarks.finetune_step", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", required=True, metavar="FOLDER", help="Hugging Face's, of a BERT")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="of the task's official files")
    parser.add_argument("--task", default="mrpc", help="of configs/glue.py (default mrpc)")
    peer_lib.add_step_flags(parser, {"batch": 32, "rounds": 5, "steps": 5}, PEERS, "bertjax,torch")
    flags = parser.parse_args(args)
    flags.peers = peer_lib.read_peers(flags.peers, PEERS)
    flags.threads = len(os.sched_getaffinity(0))
    return flags


def config_of(settings: argparse.Namespace) -> ConfigDict:
    """bertjax's config of the measured steps. Raises InputError."""
    overrides = [
        f"init_from={settings.model}", f"examples.folder={settings.data}", "examples.dev=()",
        f"train.batch_examples={settings.batch}", f"eval.batch_rows={settings.batch}", "optim.name=adamw",
        f"model.dtype={settings.dtype}", f"model.scan_layers={settings.device != 'cpu'}",
    ]  # fmt: skip
    path = Path(__file__).parent.parent / "configs" / "glue.py"
    return files.load(f"{path}:{settings.task}", overrides)


def make_batches(config: ConfigDict, count: int) -> dict[str, np.ndarray]:
    """bertjax's first batches, each example in a row of its own: ids, types, mask int32 [batches, B, S] and
    labels [batches, B]. Raises InputError."""
    source = load(config.init_from)
    data = classify.open_data(classify.resolve(config, source), source)
    rows, size = data.rows["train"], data.config.train.batch_examples
    shape = count, size, config.train.seq_length
    batches = {name: np.zeros(shape, np.int32) for name in ("ids", "types", "mask")}
    batches["labels"] = np.zeros(shape[:2], np.int32)
    for number in range(count):
        batch = rows.train(number * rows.batch_rows, rows.batch_rows)
        for i, (row, slot) in enumerate(zip(*np.nonzero(batch["label_weights"]), strict=True)):
            tokens = batch["segment_ids"][row] == slot + 1
            here = number, i, slice(tokens.sum())
            batches["ids"][here] = batch["input_ids"][row, tokens]
            batches["types"][here] = batch["token_type_ids"][row, tokens]
            batches["mask"][here] = 1
            batches["labels"][number, i] = batch["labels"][row, slot]
    return batches


def check_same_model(peers: Sequence[Peer]) -> None:
    """Raises InputError if the newest trains another number of parameters than the first."""
    newest, first = (peer.about["parameters"] for peer in (peers[-1], peers[0]))
    if newest != first:
        raise InputError(f"{peers[-1].name}: trains {newest} parameters, {peers[0].name} {first}")


def table(result: dict) -> str:
    """The report for people."""
    s = result["settings"]
    lines = [
        f"{s['task']}, batches of {s['batch']} examples, {s['dtype']}; {result['mean_tokens']:.1f} tokens an "
        f"example on average, {result['mean_longest']:.1f} in the longest of a batch",
        f"{workload.described(result['hardware'])}; median of {s['rounds']} rounds of {s['steps']} steps",
        "",
        *peer_lib.table(result["peers"], "examples"),
    ]
    return "\n".join(lines)


def main(args: Sequence[str]) -> None:
    """Measures and prints. Raises InputError."""
    flags = parse(args)
    load_before = os.getloadavg()[0]
    # The first step, two to warm up, and then as many as are measured, each on another batch.
    batches = make_batches(config_of(flags), 3 + flags.rounds * flags.steps)
    lengths = batches["mask"].sum(-1)
    result = {
        "settings": {name: value for name, value in vars(flags).items() if name not in ("out", "python")},
        "hardware": workload.hardware(),
        "mean_tokens": lengths.mean(),
        "mean_longest": lengths.max(-1).mean(),
        "load_before": load_before,
        "peers": peer_lib.compare(flags, PEERS, vars(flags), batches, check_same_model),
    }
    peer_lib.give_report(result, table(result), load_before, flags.out)


if __name__ == "__main__":
    run_command(main)
