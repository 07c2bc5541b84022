"""A class or a number for each text or pair of texts: the pooled output, dropout and one dense layer (Devlin
et al. 2018, section 4.1; run_classifier.py of the 2018 release); or GPT's dense layer on the extract token's
state, for similarity on the sum of the states of both orders (Radford et al. 2018, section 3.3).

Shapes: B rows, S sequence, N examples that a row has room for, D hidden, C labels; C is 1 for a number.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning.records import Record, read_table
from bertjax.data.finetuning.sequences import Text
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.models.kinds import MODULES
from bertjax.models.layers import cross_entropy
from bertjax.tasks.example_rows import PackedRows, is_packed
from bertjax.tasks.finetuning import (
    encode_file,
    eval_name,
    file_paths,
    fine_tuned_config,
    fingerprints,
    need_model,
    text_flops,
    told_at_end,
    told_states,
    with_lm_loss,
    write_per_class,
    write_predictions,
)
from bertjax.tasks.interface import Data, EvalSet, Outputs, Rows, Sums
from bertjax.trained_model import Trained

HEAD = "sequence_classification"  # of HEADS of the kind's module
FINE_TUNES = True


def init_params(config: ConfigDict, key: jax.Array) -> bert.Params:
    """Parameters of the encoder with its classifier as a nested dict of float32 arrays."""
    module = MODULES[config.model.kind]
    params: bert.Params = module.init_params(
        config.model, key, module.HEADS[HEAD], len(config.examples.labels), config.head
    )
    return params


def batch_weights(batch: bert.Batch) -> Sums:
    """What the sums of `batch_sums` are divided by."""
    return {"examples": batch["label_weights"].sum()}


def batch_sums(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> Sums:
    """Losses, and correct predictions of classes, summed over a batch or a part of it."""
    logits_BNC, lm_loss = _logits(config, params, batch, keys, lm=True)
    return with_lm_loss(config, sums_of(config, logits_BNC, batch), lm_loss, _sequences(config))


def sums_of(config: ConfigDict, logits_BNC: jax.Array, batch: bert.Batch) -> Sums:
    """The sums of a batch by its float32 logits."""
    weights_BN = batch["label_weights"]
    if config.examples.number:
        return {"loss": (jnp.square(logits_BNC[..., 0] - batch["labels"]) * weights_BN).sum()}
    loss_BN, correct_BN = cross_entropy(logits_BNC, batch["labels"])
    return {"loss": (loss_BN * weights_BN).sum(), "correct": (correct_BN * weights_BN).sum()}


def batch_loss(sums: Sums, weights: Sums) -> jax.Array:
    """Mean cross-entropy, or mean squared error of numbers; and the language model's, where it counts."""
    return sums["loss"] / jnp.maximum(weights["examples"], 1.0)


def batch_outputs(config: ConfigDict, params: bert.Params, batch: bert.Batch) -> dict[str, jax.Array]:
    """float32 logits [B, N, C], which the evaluation sets are scored by."""
    return {"logits": _logits(config, params, batch, None, lm=False)[0]}


def _logits(
    config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None, lm: bool
) -> tuple[jax.Array, jax.Array | None]:
    """float32 logits [B, N, C], and the language model's loss where it counts."""
    model = MODULES[config.model.kind].bind(config.model, params, config.head)
    positions, packed = batch["class_positions"], is_packed(batch)
    x_BMD, lm_loss = told_states(config, model, batch, positions, keys, packed, lm)
    if config.examples.both_orders:
        x_BMD = x_BMD.reshape(len(x_BMD), -1, 2, x_BMD.shape[-1]).sum(2)
    return model.class_logits(x_BMD, keys), lm_loss


def _sequences(config: ConfigDict) -> int:
    """Of an example."""
    return 2 if config.examples.both_orders else 1


def metrics(totals: dict[str, float]) -> dict[str, float]:
    """Means over whatever was added up: `totals` holds the names of batch_sums and of batch_weights."""
    values = {"loss": totals["loss"] / totals["examples"]}
    for name, total in (("accuracy", "correct"), ("lm_loss", "lm_loss")):
        if total in totals:
            values[name] = totals[total] / totals["examples"]
    return values


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the encoder's products in a step of examples that each fill a row."""
    return _sequences(config) * text_flops(config, np.array([section.seq_length]))


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of examples that each fill a row."""
    each = _sequences(config)
    b, s = section.batch_size, section.seq_length * each
    names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
    labels = jnp.float32 if config.examples.number else jnp.int32
    return {
        **{name: jax.ShapeDtypeStruct((b, s), jnp.int32) for name in names},
        "class_positions": jax.ShapeDtypeStruct((b, each), jnp.int32),
        "labels": jax.ShapeDtypeStruct((b, 1), labels),
        "label_weights": jax.ShapeDtypeStruct((b, 1), jnp.float32),
    }


def figures(config: ConfigDict) -> list[str]:
    """Names of what a dev set is measured by. Raises InputError if there is no such metric."""
    metric = config.examples.metric
    if metric not in official.BY_NAME:
        raise InputError(f"--config.examples.metric={metric}: must be one of {', '.join(official.BY_NAME)}")
    return list(official.BY_NAME[metric](np.arange(2), np.arange(2)))


def open_data(config: ConfigDict, source: Trained | None) -> Data:
    """Reads the files of config.examples. Raises InputError for whatever does not fit."""
    c = config.examples
    figures(config)
    if (c.metric == "correlations") != c.number:
        raise InputError(
            f"--config.examples.metric={c.metric}: numbers (--config.examples.number=True) are measured by "
            "correlations, classes by another metric"
        )
    source, paths = need_model(config, source, pairs=bool(c.text_b)), file_paths(c)
    train = read_table(paths["train"][0], c.columns)
    labels = bert.NUMBER if c.number else tuple(map(str, c.labels)) or _find_labels(train, c.label)
    config = fine_tuned_config(config, source, labels, len(train))
    if c.metric == "f1" and len(labels) != 2:
        raise InputError(f"--config.examples.metric=f1: is of two classes, there are {len(labels)}")
    notes: list[str] = []

    def encoded(records: Sequence[Record], path: str, labelled: bool) -> PackedRows:
        arrays = {}
        if labelled:
            values = [read_label(config, record) for record in records]
            arrays["labels"] = np.array(values, np.float32 if c.number else np.int32)
            arrays["label_weights"] = np.ones(len(records), np.float32)
        texts = [read_text(config, record) for record in records]
        if c.both_orders:
            texts = [text for pair in texts for text in (pair, pair[::-1])]
        rows = encode_file(path, texts, source.tokenizer, config.train.seq_length, notes)
        at_end = told_at_end(config)
        alone = config.model.kind == "elmo"
        return PackedRows(rows, source.tokenizer.pad_id, arrays, {}, at_end, alone, _sequences(config))

    training = encoded(train, paths["train"][0], labelled=True)
    flops = _sequences(config) * text_flops(config, np.array([len(row.ids) for row in training.rows]))
    rows, batch_rows = training.shuffled(config)
    evals: list[EvalSet] = []
    for name in ("dev", "test"):
        for path in paths[name]:
            records = read_table(path, c.columns if name == "dev" else ())
            examples = encoded(records, path, labelled=name == "dev")
            evals.append(_eval_set(config, examples, records, path))
    return Data(
        config,
        {"train": Rows(rows, tuple(evals), batch_rows, flops)},
        source.tokenizer,
        fingerprints(c),
        labels=labels,
        notes=tuple(notes),
    )


def _find_labels(records: Sequence[Record], column: str) -> tuple[str, ...]:
    labels = tuple(sorted({record[column] for record in records}))
    if len(labels) == 1:
        raise InputError(f"{records[0].where}: all labels are {labels[0]!r}; there is nothing to learn")
    if len(labels) > len(records) // 2 and len(labels) > 50:
        raise InputError(
            f"{records[0].where}: {len(labels)} labels for {len(records)} examples; if column {column!r} is "
            "a number, set --config.examples.number=True --config.examples.metric=correlations"
        )
    return labels


def read_label(config: ConfigDict, record: Record) -> int | float:
    """The label's number, or the number that it is. Raises InputError."""
    text, labels = record[config.examples.label], config.examples.labels
    if config.examples.number:
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise InputError(f"{record.where}: {config.examples.label}={text!r}: expected a number")
        return value
    if text not in labels:
        raise InputError(f"{record.where}: unknown label {text!r}; known are {', '.join(labels)}")
    return labels.index(text)


def read_text(config: ConfigDict, record: Record) -> Text:
    """The record's text or pair of texts. Raises InputError if one is empty."""
    columns = [column for column in (config.examples.text_a, config.examples.text_b) if column]
    texts = [record[column] for column in columns]
    for column, text in zip(columns, texts, strict=True):
        if not text.strip():
            raise InputError(f"{record.where}: {column} is empty; remove the example")
    return (texts[0], texts[1]) if len(texts) == 2 else texts[0]


def _eval_set(config: ConfigDict, examples: PackedRows, records: Sequence[Record], path: str) -> EvalSet:
    number, labels = config.examples.number, config.examples.labels
    stem = Path(path).stem
    rows, num_rows, places = examples.once()

    def answers(outputs: Outputs) -> np.ndarray:
        logits = outputs["logits"][places.rows, places.slots]
        return logits[:, 0] if number else logits.argmax(-1)

    def score(outputs: Outputs) -> dict[str, float]:
        found: Callable[..., dict[str, float]] = official.BY_NAME[config.examples.metric]
        return found(examples.of_example["labels"], answers(outputs))

    def write(outputs: Outputs, folder: str) -> str | None:
        found = answers(outputs)
        predictions = [f"{answer:.4f}" if number else labels[answer] for answer in found]
        path = os.path.join(folder, stem)
        write_predictions(f"{path}_predictions.tsv", records, config.examples.id, predictions)
        if number or not examples.of_example:
            return None
        table = official.per_class(examples.of_example["labels"], found, labels)
        return write_per_class(f"{path}_per_class.tsv", table)

    return EvalSet(
        name=eval_name(config.examples, path),
        rows=rows,
        num_rows=num_rows,
        score=score if examples.of_example else None,
        write=write,
    )
