"""A toy GPT: its vocabulary, a store in it, the workdir of a pre-trained model."""

import os

import jax
import numpy as np
from store_fixture import VOCAB, make_store, toy_config

from bertjax.data.tokenizers import gpt_bpe
from bertjax.data.tokenizers.tokenizer import add_task_tokens, gpt_tokenizer
from bertjax.models import gpt
from bertjax.sections import fields as config_fields
from bertjax.trained_model import Trained, save_trained

GPT = {
    "optim.name": "adamw",
}


def make_tokenizer(size=VOCAB):
    """Letters, "the" and, to fill up, numbers that no text has."""
    letters = [chr(ord("a") + i) for i in range(26)]
    tokens = [gpt_bpe.UNKNOWN, *letters, *(c + "</w>" for c in letters), "th", "the</w>"]
    merges = [("t", "h"), ("th", "e</w>")]
    return gpt_tokenizer([*tokens, *(f"{i}" for i in range(size - len(tokens)))], merges, "made")


def make_gpt_store(path, **arguments):
    """A store of generated text in that vocabulary."""
    os.makedirs(path, exist_ok=True)
    return make_store(path, tokenizer=make_tokenizer(), **arguments)


def lm_config(store="", workdir="", **fields):
    """toy_config() of the task "language_model"."""
    return toy_config(store, workdir, "language_model", **GPT | fields)


def make_gpt(workdir, types=0):
    """Writes the workdir of a GPT with random parameters, and returns the model.

    Args:
      types: 2: it has token types, and start, delimiter and extract tokens.
    """
    tokenizer = make_tokenizer() if not types else add_task_tokens(make_tokenizer())
    fields = {"model.type_vocab_size": types, "model.vocab_size": tokenizer.vocab_size,
              "model.intermediate_size": 128}  # fmt: skip
    config = lm_config(**fields)
    params = jax.device_get(gpt.KIND.init_params(config.model, jax.random.key(5), ()))
    # Larger than the paper's, so that no layer is nearly nothing in so small a model.
    params = jax.tree.map(lambda x: 5 * x if x.ndim > 1 and x.std() < 0.1 else x, params)
    params["encoder"]["layers"]["attention"]["output_bias"] += np.float32(0.01)
    meta = {"resolved_config": dict(config_fields(config)), "metrics": {}}
    model = Trained(config.model, "causal_lm", (), params, tokenizer, meta, 3)
    save_trained(model, str(workdir))
    return model
