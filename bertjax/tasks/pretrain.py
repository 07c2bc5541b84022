"""Masked-LM and next-sentence pre-training (Devlin et al. 2018, section 3.1) from a token store, or from the
finished examples of the 2018 release.

Every loss and metric is a sum and a weight, added up over the whole batch (or evaluation) and divided once.

Shapes: B rows, S sequence, M masked positions, N sequences in a row, V vocabulary.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bertjax.config import sections
from bertjax.data.pretraining.bert_examples import Batch, Examples, predictions_per_row
from bertjax.data.pretraining.tf_examples import TfExamples, fingerprint, open_files
from bertjax.data.pretraining.tfrecord import RecordFile, Records
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.models.layers import cross_entropy
from bertjax.tasks.interface import Data, EvalSet, Rows, Sums, perplexity
from bertjax.tasks.pretraining import (
    EVAL_SEED,
    Wanted,
    check_vocab_size,
    examples_of,
    held_out_set,
    open_store_data,
)
from bertjax.trained_model import Trained

HEAD = "pretraining"  # of bertjax.models.bert.HEADS
FINE_TUNES = False


def init_params(config: ConfigDict, key: jax.Array) -> bert.Params:
    """Parameters of the encoder with its pre-training heads as a nested dict of float32 arrays."""
    return bert.init_params(config.model, key)


def batch_weights(batch: bert.Batch) -> Sums:
    """What the sums of `batch_sums` are divided by."""
    return {"mlm": batch["masked_lm_weights"].sum(), "nsp": batch["next_sentence_weights"].sum()}


def batch_sums(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> Sums:
    """Losses and correct predictions, summed over a batch or a part of it.

    Args:
      batch: see bertjax.data.pretraining.bert_examples.Batch.
      keys: uint32 [B, 2] for dropout (bertjax.models.layers.dropout_keys), None for none.
    """
    model = bert.bind(config.model, params)
    mlm_logits_BMV, nsp_logits_BN2 = model.pretraining(batch, packed=config.data.pack > 1, keys=keys)
    sums: Sums = {}
    for name, logits, labels, weights in (
        ("mlm", mlm_logits_BMV, batch["masked_lm_ids"], batch["masked_lm_weights"]),
        ("nsp", nsp_logits_BN2, batch["next_sentence_labels"], batch["next_sentence_weights"]),
    ):
        loss, correct = cross_entropy(logits, labels)
        sums[f"{name}_loss"] = (loss * weights).sum()
        sums[f"{name}_correct"] = (correct * weights).sum()
    return sums


def batch_loss(sums: Sums, weights: Sums) -> jax.Array:
    """Mean masked-LM loss plus mean next-sentence loss. run_pretraining.py of the 2018 release adds 1e-5 to
    the masked-LM weight."""
    mlm = sums["mlm_loss"] / (weights["mlm"] + 1e-5)
    return mlm + sums["nsp_loss"] / jnp.maximum(weights["nsp"], 1.0)


def metrics(totals: dict[str, float]) -> dict[str, float]:
    """Means over whatever was added up: `totals` holds the names of batch_sums and of batch_weights."""
    mlm = max(totals["mlm"], 1e-5)
    mlm_loss = totals["mlm_loss"] / mlm
    values = {
        "loss": mlm_loss,
        "mlm_loss": mlm_loss,
        "mlm_accuracy": totals["mlm_correct"] / mlm,
        "perplexity": perplexity(mlm_loss),
    }
    if totals["nsp"]:
        values["nsp_loss"] = totals["nsp_loss"] / totals["nsp"]
        values["nsp_accuracy"] = totals["nsp_correct"] / totals["nsp"]
        values["loss"] += values["nsp_loss"]
    return values


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the matrix products that a step needs, forward and backward.

    6 for each parameter of a matrix and token that meets it, and for attention's two products. Positions that
    are predicted alone meet the vocabulary, and the last layer but for its keys and values. What model.remat
    computes again does not count.

    Args:
      section: config.train or config.phase2, whose batch shape it is.
    """
    m = config.model
    d, f = m.hidden_size, m.intermediate_size
    tokens = section.batch_size * section.seq_length
    masked = section.batch_size * _predictions(config, section)
    first = section.batch_size * config.data.pack
    key_value = 2 * d * d
    other = 2 * d * d + 2 * d * f + 2 * section.seq_length * d
    layers = (m.num_hidden_layers - 1) * (key_value + other) * tokens
    last = key_value * tokens + other * (masked + first)
    return 6.0 * (layers + last + masked * (d * d + d * m.vocab_size) + first * d * d)


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of config.train or config.phase2; see data.pretraining.bert_examples."""
    b, s, n = section.batch_size, section.seq_length, config.data.pack
    m = _predictions(config, section)
    last = {"masked_lm": m, "next_sentence": n}
    return {
        name: jax.ShapeDtypeStruct(
            (b, next((size for prefix, size in last.items() if name.startswith(prefix)), s)),
            jnp.float32 if name.endswith("weights") else jnp.int32,
        )
        for name in Batch._fields
    }


def _predictions(config: ConfigDict, section: ConfigDict) -> int:
    return predictions_per_row(config.data, section.seq_length, section.max_predictions_per_seq)


def open_data(config: ConfigDict, source: Trained | None = None) -> Data:
    """Opens the store or the files of finished examples. Raises InputError for whatever does not fit."""
    if config.data.store and config.data.tfrecord:
        raise InputError(
            "--config.data.store and --config.data.tfrecord are both set; leave one of them empty"
        )
    types = config.model.type_vocab_size
    if types < 2:
        raise InputError(f"--config.model.type_vocab_size={types}: tokens are of type 0 and 1; it must be 2")
    return _open_tfrecord(config) if config.data.tfrecord else _open_store(config)


def _open_tfrecord(config: ConfigDict) -> Data:
    data = config.data
    heldout = data.tfrecord_heldout if config.train.eval_every else ""
    if not data.vocab:
        raise InputError(
            "--config.data.vocab is empty; name the vocab.txt that the files of --config.data.tfrecord were "
            "made with"
        )
    tokenizer = load_tokenizer(data.vocab)
    check_vocab_size(config, tokenizer, data.vocab)
    lengths = {name: config[name].seq_length for name in sections(config)}
    files = open_files("--config.data.tfrecord", data.tfrecord, lengths)
    heldout_files = open_files("--config.data.tfrecord_heldout", heldout, lengths) if heldout else {}

    def open_rows(phase: int, name: str) -> Rows:
        def examples(files: dict[int, list[RecordFile]], seed: int) -> TfExamples:
            return TfExamples(
                Records(files[lengths[name]]),
                tokenizer,
                seed=seed,
                phase=phase,
                seq_length=lengths[name],
                max_predictions_per_seq=config[name].max_predictions_per_seq,
                next_sentence=data.next_sentence,
                section=name,
            )

        train = examples(files, config.seed)
        evals: tuple[EvalSet, ...] = ()
        if heldout:
            once = examples(heldout_files, EVAL_SEED)
            evals = held_out_set(once.rows, len(once), config)
        return Rows(train.rows, evals, config[name].batch_size, flops_per_step(config, config[name]))

    return Data(
        config,
        {name: open_rows(phase, name) for phase, name in enumerate(sections(config))},
        tokenizer,
        {"data.tfrecord sha256": fingerprint(files), "data.vocab sha256": tokenizer.sha256},
    )


def _open_store(config: ConfigDict) -> Data:
    if not config.data.store:
        raise InputError(
            "--config.data.store is empty; name a folder written by python -m bertjax.prepare, or set "
            "--config.data.tfrecord"
        )
    for field in ("tfrecord_heldout", "vocab"):
        if config.data[field]:
            raise InputError(
                f"--config.data.{field}={config.data[field]}: is read with --config.data.tfrecord only, not "
                "with a store; leave it empty"
            )
    return open_store_data(config, _examples, flops_per_step)


def _examples(wanted: Wanted) -> Examples:
    data = wanted.config.data.copy_and_resolve_references()
    if wanted.held_out:
        data.update(dupe_factor=1, weights=(1.0,) * len(wanted.store.inputs))
        if data.masking != "next_token":
            data.masking = "static"
    return examples_of(wanted, data, Examples)
