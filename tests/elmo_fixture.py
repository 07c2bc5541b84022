"""For the tests of ELMo's tasks: a corpus with something to learn, its store of words, a config that fits."""

import random
from pathlib import Path

import jax
from store_fixture import toy_config

from bertjax import config as config_lib
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.prepare import __main__ as prepare
from bertjax.tasks import elmo
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
        "task": "elmo", "model.kind": "elmo", "elmo.vocab_size": 40, "elmo.characters": 9,
        "elmo.character_size": 4, "elmo.filters": ((1, 8), (2, 8), (3, 16)), "elmo.highway_layers": 1,
        "elmo.cells": 16, "elmo.layers": 1, "elmo.projection": 16, "elmo.samples": 12, "elmo.head_cells": 16,
        "elmo.head_layers": 1, "elmo.head_hidden": 16, "elmo.head_dropout_prob": 0.1, "data.pack": 3,
        "train.seq_length": 24, "optim.name": "adamw", "optim.weight_decay": 0.0,
    }  # fmt: skip
    return toy_config(store, workdir, **own | fields)


def make_elmo(folder):
    """Writes a workdir with an ELMo of random parameters and the words of a store; returns its path."""
    store = make_word_store(folder)
    config = toy_elmo(store)
    params = jax.jit(lambda key: elmo.init_params(config, key))(jax.random.key(1))
    of_model = config.model.copy_and_resolve_references()
    of_model.elmo = config.elmo
    meta = {"config": dict(config_lib.fields(config)), "metrics": {}}
    tokenizer = load_tokenizer(store)
    model = Trained(of_model, elmo.HEAD, (), jax.device_get(params), tokenizer, meta, 1)
    save_trained(model, str(Path(folder, "model")))
    return str(Path(folder, "model"))
