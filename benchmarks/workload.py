"""What every peer computes in benchmarks.pretrain_step, how much work that is, and on what machine."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from ml_collections import ConfigDict

from bertjax.config import files
from bertjax.errors import InputError
from bertjax.tasks.pretrain import TASK as pretrain

CLS, SEP, MASK, FIRST_WORD = 101, 102, 103, 1000  # ids in the English uncased vocabulary

# Run on the measured device, in a process of its own so that it holds no memory there afterwards.
PEAK_PROGRAM = """
import json, jax
from bertjax.throughput import device_peak_flops
print(json.dumps(device_peak_flops(jax.devices()[0])))
"""


def positive(text: str) -> int:
    """A positive whole number, as an argparse type."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a positive whole number")
    return int(text)


def make_batch(settings: SimpleNamespace) -> dict[str, np.ndarray]:
    """A batch (see bertjax.data.pretraining.bert_examples.Batch), one sequence a row, words drawn uniformly.

    Rows are full unless settings.real_lengths: then one in ten is shorter, as with short_seq_prob 0.1.
    """
    random = np.random.default_rng(0)
    B, S, P = settings.batch, settings.seq_length, settings.predictions
    batch = {
        "input_ids": np.zeros((B, S), np.int32),
        "token_type_ids": np.zeros((B, S), np.int32),
        "position_ids": np.tile(np.arange(S, dtype=np.int32), (B, 1)),
        "segment_ids": np.zeros((B, S), np.int32),
        "masked_lm_positions": np.zeros((B, P), np.int32),
        "masked_lm_ids": np.zeros((B, P), np.int32),
        "masked_lm_weights": np.zeros((B, P), np.float32),
        "next_sentence_positions": np.zeros((B, 1), np.int32),
        "next_sentence_labels": random.integers(0, 2, (B, 1), dtype=np.int32),
        "next_sentence_weights": np.ones((B, 1), np.float32),
    }
    for b in range(B):
        short = settings.real_lengths and random.random() < 0.1
        length = int(random.integers(5, S + 1)) if short else S
        middle = int(random.integers(2, length - 2))
        words = random.integers(FIRST_WORD, settings.vocab_size, length)
        words[[0, middle, length - 1]] = CLS, SEP, SEP
        candidates = np.setdiff1d(np.arange(length), [0, middle, length - 1])
        count = min(P, max(1, round(0.15 * length)), len(candidates))
        masked = np.sort(random.choice(candidates, count, replace=False))
        batch["masked_lm_positions"][b, :count] = masked
        batch["masked_lm_ids"][b, :count] = words[masked]
        batch["masked_lm_weights"][b, :count] = 1
        words[masked] = MASK
        batch["input_ids"][b, :length] = words
        batch["token_type_ids"][b, middle + 1 : length] = 1
        batch["segment_ids"][b, :length] = 1
    return batch


def parameter_count(settings: SimpleNamespace) -> int:
    """Parameters of BERT with both pre-training heads and 512 positions, the output embedding tied."""
    H, V = settings.hidden, settings.vocab_size
    layer = 4 * (H * H + H) + (H * 4 * H + 4 * H) + (4 * H * H + H) + 2 * 2 * H
    embeddings = (V + 512 + 2) * H + 2 * H
    heads = (H * H + H) + (H * H + H + 2 * H + V) + (2 * H + 2)  # pooler; MLM; NSP
    return embeddings + settings.layers * layer + heads


def bertjax_config(settings: SimpleNamespace) -> ConfigDict:
    """bertjax's config of the same step, with settings.override applied. Raises InputError."""
    path = Path(__file__).parent / "bertjax_config.py"
    return files.load(f"{path}:{json.dumps(vars(settings))}", settings.override)


def step_flops(settings: SimpleNamespace) -> float:
    """Floating-point operations that the paper's step needs: see bertjax.tasks.pretrain.flops_per_step.

    The same figure for every peer, whatever it really computes.
    """
    c = bertjax_config(settings)
    return pretrain.flops_per_step(c, c.train)


def peak_flops(device: str) -> tuple[float, str]:
    """(FLOP/s, where the figure is from) of the first "cpu" or "gpu": see bertjax.throughput."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu" if device == "cpu" else "cuda"}
    command = [sys.executable, "-c", PEAK_PROGRAM]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent
    )
    if result.returncode:
        raise InputError(f"JAX finds no {device} here: {result.stderr.strip().splitlines()[-1]}")
    peak, source = json.loads(result.stdout)
    return peak, source


def hardware() -> dict[str, str | int]:
    """CPU model, cores this process may use, memory, GPU ("" without one)."""
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "memory_gib": memory, "gpu": gpu}


def warn_of_load(load: float) -> None:
    """Says on stderr that the machine was busy, from its load average before the measurement."""
    if load > 0.3 * len(os.sched_getaffinity(0)):
        print(
            f"warning: the load average was {load:.1f} before: not a quiet machine. Threads that wait for"
            " each other (PyTorch's OpenMP) lose most by it; do not compare these figures",
            file=sys.stderr,
        )


def described(machine: dict[str, str | int]) -> str:
    """`hardware()` in a line."""
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    return f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
