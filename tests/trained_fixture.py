"""The workdir of a run that never was: a toy model with random parameters, its tokenizer and a checkpoint."""

import contextlib
import dataclasses
import os

import jax
import numpy as np
from store_fixture import VOCAB, random_params, toy_config

from bertjax.checkpoint import Checkpoints
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.models import bert
from bertjax.sections import fields as config_fields
from bertjax.trained_model import checkpoint_meta

METRICS = {"eval/mlm_loss": 3.25, "eval/nsp_accuracy": 0.75, "eval/unigram_entropy": 4.5}


def make_trained(workdir, step=7, tokens=VOCAB, **fields):
    """Writes a checkpoint of `step` and a vocabulary of `tokens`; returns (config, parameters)."""
    config = toy_config(workdir=workdir, **{"model.num_hidden_layers": 3, **fields})
    params = random_params(config)
    os.makedirs(workdir, exist_ok=True)
    words = [
        "The",
        "##s",
        *(f"{'##' if i % 4 == 3 else ''}w{i}" for i in range(len(SPECIAL_TOKENS) + 2, tokens)),
    ]
    tokenizer = wordpiece_tokenizer([*SPECIAL_TOKENS, *words], lower_case=False, name="fixture")
    tokenizer.save(workdir)
    meta = checkpoint_meta(dict(config_fields(config)), "pretraining", (), tokenizer, METRICS)
    folder = os.path.join(workdir, "checkpoints")
    with contextlib.closing(Checkpoints(folder, keep_last=2, keep_every=0)) as checkpoints:
        checkpoints.save(step, {"params": jax.device_put(params)}, meta, wait=True)
    return config, params


def with_classifier(model, head, labels, width=None):
    """The model with random parameters of a fine-tuned head: `width` of them, or one for each label."""
    rng = np.random.default_rng(0)
    width = width or len(labels)
    part = "span" if head == "question_answering" else "classifier"
    drawn = {
        f"{part}_kernel": rng.normal(size=(32, width)).astype(np.float32),
        f"{part}_bias": np.zeros(width, np.float32),
    }
    kept = ("encoder", *(["pooler"] if "pooler" in bert.KIND.heads[head] else []))
    params = {name: x for name, x in model.params.items() if name.startswith(kept)} | drawn
    return dataclasses.replace(model, params=params, head=head, labels=labels)
