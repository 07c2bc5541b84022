"""One pre-training step of bertjax and of other libraries, timed in turn in one run on the same batch.

    python -m benchmarks.pretrain_step --layers=4 --hidden=256 --batch=32 --peers=torch,hf_flax

Every library is a process of its own, started once. A round runs each of them in turn for a few steps, and
the next round starts with another one, so that what else the machine does falls on all. The report gives
medians over rounds. See benchmarks/README.md.
"""

import argparse
import math
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from benchmarks import peer as peer_lib
from benchmarks import workload
from benchmarks.peer import Peer
from bertjax.errors import InputError, run_command
from bertjax.flags import Parser

# name: (environment, or "" for this interpreter's; script)
PEERS = {
    "bertjax": ("", "bertjax_step.py"),
    "torch": ("torch", "torch_step.py"),
    "torch_eager_attention": ("torch", "torch_step.py"),
    "torch_compiled": ("torch", "torch_step.py"),
    "torch_gathered": ("torch", "torch_step.py"),
    "hf_flax": ("hf_flax", "hf_flax_step.py"),
    "keras_hub": ("keras_hub", "keras_hub_step.py"),
}

NUMBERS = {
    "layers": 4,
    "hidden": 256,
    "batch": 32,
    "seq_length": 128,
    "predictions": 20,
    "vocab_size": 30522,
    "rounds": 5,
    "steps": 5,
}


def parse(args: Sequence[str]) -> argparse.Namespace:
    """The flags. Raises InputError."""
    parser = Parser(prog="benchmarks.pretrain_step", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    peer_lib.add_step_flags(parser, NUMBERS, PEERS, "bertjax,torch,torch_compiled,hf_flax,keras_hub")
    parser.add_argument("--heads", type=workload.positive, metavar="N", help="default hidden / 64")
    parser.add_argument("--dropout", type=float, default=0.1, metavar="P", help="default 0.1")
    parser.add_argument(
        "--real_lengths", action="store_true", help="one row in ten is shorter than seq_length"
    )
    parser.add_argument("--override", action="append", default=[], metavar="FIELD=VALUE",
                        help="of bertjax's config; may be repeated")  # fmt: skip
    flags = parser.parse_args(args)
    flags.peers = peer_lib.read_peers(flags.peers, PEERS)
    flags.heads = flags.heads or max(1, flags.hidden // 64)
    if flags.hidden % flags.heads:
        raise InputError(f"--heads={flags.heads}: must divide --hidden={flags.hidden}")
    if not 16 <= flags.seq_length <= 512:
        raise InputError(f"--seq_length={flags.seq_length}: must be from 16 to 512")
    if flags.predictions > flags.seq_length - 3:
        raise InputError(f"--predictions={flags.predictions}: must be at most seq_length - 3")
    if flags.vocab_size <= workload.FIRST_WORD:
        raise InputError(f"--vocab_size={flags.vocab_size}: must be above {workload.FIRST_WORD}")
    if not 0 <= flags.dropout < 1:
        raise InputError(f"--dropout={flags.dropout}: must be at least 0 and below 1")
    return flags


def settings_of(flags: argparse.Namespace) -> SimpleNamespace:
    """What the peers are told. Raises InputError if bertjax's config refuses it."""
    settings = SimpleNamespace(**vars(flags), threads=len(os.sched_getaffinity(0)), learning_rate=1e-4)
    workload.bertjax_config(settings)
    return settings


def check_same_work(peer: Peer, settings: SimpleNamespace) -> None:
    """Raises InputError if a peer's model is not BERT of these sizes or its first loss is off."""
    expected = workload.parameter_count(settings)
    if peer.about["parameters"] != expected:
        raise InputError(
            f"{peer.name} trains {peer.about['parameters']} parameters, BERT of this size has {expected}"
        )
    fresh = math.log(settings.vocab_size) + math.log(2)
    if not abs(peer.about["loss"] - fresh) < 0.1 * fresh:
        raise InputError(
            f"{peer.name}: first loss {peer.about['loss']:.3f}, but fresh parameters give about {fresh:.3f}"
        )


def report(flags: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the libraries with their MFU, as they are written to --out."""
    settings = settings_of(flags)
    flops = workload.step_flops(settings)
    peak, peak_source = workload.peak_flops(flags.device)
    return {
        "settings": {name: value for name, value in vars(flags).items() if name not in ("out", "python")},
        "hardware": workload.hardware(),
        "step_flops": flops,
        "peak_flops": peak,
        "peak_source": peak_source,
        "peers": [row | {"mfu": flops / row["step_seconds_median"] / peak} for row in rows],
    }


def table(result: dict) -> str:
    """The report for people."""
    s = result["settings"]
    lines = [
        f"{s['layers']} layers x {s['hidden']}, batch {s['batch']} x {s['seq_length']}, {s['predictions']} "
        f"predictions, dropout {s['dropout']}, {s['dtype']}; {result['peers'][0]['parameters']:,} parameters",
        f"{workload.described(result['hardware'])}; median of {s['rounds']} rounds of {s['steps']} steps",
        f"MFU against {result['peak_flops'] / 1e9:,.0f} GFLOP/s ({result['peak_source']})",
        "",
        *peer_lib.table(result["peers"], "sequences"),
    ]
    return "\n".join(lines)


def main(args: Sequence[str]) -> None:
    """Measures and prints. Raises InputError."""
    flags = parse(args)
    load = os.getloadavg()[0]
    settings = settings_of(flags)
    rows = peer_lib.compare(flags, PEERS, vars(settings), workload.make_batch(settings),
                            lambda peers: check_same_work(peers[-1], settings))  # fmt: skip
    result = report(flags, rows) | {"load_before": load}
    peer_lib.give_report(result, table(result), load, flags.out)


if __name__ == "__main__":
    run_command(main)
