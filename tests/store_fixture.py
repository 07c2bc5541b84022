"""For the tests of the core: a tiny token store, a config that fits it, random batches, the command."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from bertjax.config import default
from bertjax.data.pretraining.store import StoreWriter
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.tasks.pretrain import TASK

TESTS = Path(__file__).parent
VOCAB = 96
_FIRST = len(SPECIAL_TOKENS)


def make_store(path, documents=48, seed=0, tokenizer=None):
    """Writes a store of generated text to the empty folder `path` and returns it.

    Args:
      tokenizer: of VOCAB tokens; None: a WordPiece one.
    """
    path = Path(path)
    rng = np.random.default_rng(seed)
    words = [f"{'##' if i % 4 == 3 else ''}w{i}" for i in range(_FIRST, VOCAB)]
    tokenizer = tokenizer or wordpiece_tokenizer([*SPECIAL_TOKENS, *words], lower_case=True, name="fixture")
    tokenizer.save(path)
    sentences = rng.integers(3, 8, documents)
    lengths = rng.integers(3, 9, sentences.sum())
    # Each token mostly follows from the one before it, so that there is something to learn.
    tokens = np.zeros(lengths.sum(), np.int64)
    for i in range(1, len(tokens)):
        tokens[i] = (5 * tokens[i - 1] + 1 + rng.choice(2, p=(0.9, 0.1))) % len(words)
    writer = StoreWriter(path, VOCAB)
    writer.append(_FIRST + tokens, lengths, sentences)
    shares = np.bincount(tokens) / len(tokens)
    shares = shares[shares > 0]
    manifest = {
        "tokenizer": {
            "kind": tokenizer.kind,
            "lower_case": tokenizer.lower_case,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
        },
        "inputs": [
            {
                "path": "made",
                "format": "sentences",
                "weight": 1.0,
                "first_document": 0,
                "end_document": documents,
            }
        ],
        "heldout": 0.1,
        "summary": {
            "documents": documents,
            "tokens": len(tokens),
            "unigram_entropy": float(-(shares * np.log(shares)).sum()),
        },
    }
    writer.finish(path, manifest, sorted(tokenizer.files))
    return path


def toy_config(store="", workdir="", task="pretrain", **fields):
    """A 2-layer Transformer of 32 units; `fields` by their dotted names: **{"train.steps": 3}. Held-out text
    is not read, unless eval.enabled is among them."""
    own = {
        "workdir": str(workdir), "data.store": str(store), "model.vocab_size": VOCAB, "model.hidden_size": 32,
        "model.num_hidden_layers": 2, "model.num_attention_heads": 2, "model.intermediate_size": 64,
        "model.max_position_embeddings": 64, "model.dtype": "float32", "train.steps": 8,
        "train.batch_rows": 8, "train.seq_length": 16, "train.log_every": 1, "train.save_every": 1000,
        "train.keep_every": 0, "phase2.steps": 0, "phase2.batch_rows": 8, "phase2.seq_length": 32,
        "optim.learning_rate": 1e-2, "optim.warmup_steps": 2, "eval.enabled": False, "eval.batch_rows": 8,
        "log.tensorboard": False,
    }  # fmt: skip
    if task == "pretrain":
        own |= {"train.max_predictions_per_seq": 3, "phase2.max_predictions_per_seq": 5}
    return with_fields(default(task), own | fields)


def with_fields(config, fields):
    """The config with `fields`, by their dotted names, which it must have."""
    for name, value in fields.items():
        section, _, leaf = name.rpartition(".")
        target = config[section] if section else config
        assert leaf in target, name
        target[leaf] = value
    return config


def make_batch(config, rows=8, seed=0):
    """A random batch of the shapes that config.train asks for: padding, pairs, unused predictions."""
    rng = np.random.default_rng(seed)
    m = config.model
    section = config.train.copy_and_resolve_references()
    section.batch_rows = rows
    batch = {name: np.zeros(x.shape, x.dtype) for name, x in TASK.batch_shapes(config, section).items()}
    s = section.seq_length
    for r in range(rows):
        length = int(rng.integers(8, s + 1))
        second = int(rng.integers(3, length - 2))
        batch["input_ids"][r, :length] = rng.integers(_FIRST, m.vocab_size, length)
        batch["token_type_ids"][r, second:length] = m.type_vocab_size - 1
        batch["position_ids"][r, :length] = np.arange(length)
        batch["segment_ids"][r, :length] = 1
        masked = rng.permutation(np.arange(1, length))[: rng.integers(1, section.max_predictions_per_seq + 1)]
        batch["masked_lm_positions"][r, : len(masked)] = masked
        batch["masked_lm_ids"][r, : len(masked)] = rng.integers(_FIRST, m.vocab_size, len(masked))
        batch["masked_lm_weights"][r, : len(masked)] = 1.0
        batch["next_sentence_labels"][r] = rng.integers(2)
        batch["next_sentence_weights"][r] = 1.0
    return batch


def random_params(config, seed=0):
    """Parameters of the shapes of a pre-training's; no zero bias and no scale of one hides a mistake."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: TASK.init_params(config, jax.random.key(0)))

    def draw(path, shape):
        x = rng.normal(0, 0.07, shape.shape).astype(np.float32)
        return x + 1 if path[-1].key == "scale" else x

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    params["encoder"]["embeddings"]["word"][config.model.vocab_size :] = 0
    params["mlm_output_bias"][config.model.vocab_size :] = 0
    return params


def write_config(folder):
    """A config file whose recipe is toy_config()."""
    path = Path(folder, "toy.py")
    path.write_text("from store_fixture import toy_config\n\n\ndef get_config():\n    return toy_config()\n")
    return path


def arguments(config_file, **fields):
    """Command-line arguments for the fields."""
    return [f"--config={config_file}", *(f"--config.{name}={value}" for name, value in fields.items())]


def start(args, output, program=("-m", "bertjax.main"), **environment):
    """`python -m bertjax.main ARGS` as a process that writes stdout and stderr to the file `output`."""
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    with open(output, "w") as file:
        return subprocess.Popen(
            [sys.executable, *program, *args],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=TESTS.parent,
            env=os.environ | {"PYTHONPATH": paths} | environment,
        )
