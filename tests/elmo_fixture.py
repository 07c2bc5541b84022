"""For the tests of ELMo's tasks: a corpus with something to learn, its store of words, a config that fits."""

import random
from pathlib import Path

import jax
from store_fixture import with_fields

from bertjax.config import default
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.prepare import __main__ as prepare
from bertjax.sections import fields
from bertjax.tasks.bidirectional_lm import TASK
from bertjax.trained_model import Trained, save_trained

NOUNS = ["cat", "dog", "naïve", "Émile", "tree", "houses", "is"]


def sentence(rng):
    """Of which nearly every word follows from the one before or the one behind it."""
    words = []
    for _ in range(rng.randrange(1, 5)):
        number = rng.randrange(len(NOUNS))
        last = f"end{number}" if rng.random() < 0.9 else f"r{rng.random():.4f}"  # mostly rare
        words += [f"the{number}", NOUNS[number], last]
    return " ".join(words) + "."


def make_word_store(folder, documents=60, more=()):
    """Writes a store of generated sentences, and `more` documents of given ones; returns its path."""
    rng = random.Random(0)
    texts = [[sentence(rng) for _ in range(rng.randrange(2, 6))] for _ in range(documents)]
    text = Path(folder, "text.txt")
    text.write_text("\n\n".join("\n".join(each) for each in [*texts, *more]) + "\n")
    out = Path(folder, "store")
    prepare.main([f"--input={text}", "--format=sentences", "--tokenizer=words", "--cased", "--heldout=0.1",
                  "--processes=1", f"--out={out}"])  # fmt: skip
    return out


def toy_elmo(store="", workdir="", **fields):
    """One layer of 16 cells; `fields` by their dotted names."""
    own = {
        "model.vocab_size": 40, "model.characters": 9, "model.character_size": 4,
        "model.filters": ((1, 8), (2, 8), (3, 16)), "model.highway_layers": 1, "model.cells": 16,
        "model.layers": 1, "model.projection": 16, "model.dtype": "float32", "train.samples": 12,
        "train.steps": 8, "train.batch_rows": 8, "train.seq_length": 24, "train.log_every": 1,
        "train.save_every": 1000, "train.keep_every": 0, "data.pack": 3, "data.store": str(store),
        "eval.enabled": False, "eval.batch_rows": 8, "log.tensorboard": False, "workdir": str(workdir),
        "optim.name": "adamw", "optim.weight_decay": 0.0, "optim.learning_rate": 1e-2,
        "optim.warmup_steps": 2, "phase2.batch_rows": 8, "phase2.seq_length": 32,
    }  # fmt: skip
    return with_fields(default("bidirectional_lm"), own | fields)


def make_elmo(folder):
    """Writes a workdir with an ELMo of random parameters and the words of a store; returns its path."""
    store = make_word_store(folder)
    config = toy_elmo(store)
    params = jax.jit(lambda key: TASK.init_params(config, key))(jax.random.key(1))
    meta = {"resolved_config": dict(fields(config)), "metrics": {}}
    tokenizer = load_tokenizer(store)
    model = Trained(config.model, TASK.head, (), jax.device_get(params), tokenizer, meta, 1)
    save_trained(model, str(Path(folder, "model")))
    return str(Path(folder, "model"))
