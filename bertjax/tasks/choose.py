"""Which of several texts goes on from a text (SWAG; Devlin et al. 2018, section 4.4): each choice is a
sequence [CLS] context [SEP] choice [SEP], one dense unit on its pooled output scores it, and softmax goes
over the choices; or GPT's start context delimiter choice extract, scored on its last token's state.

Shapes: B rows, S sequence, N examples that a row has room for, C choices, M = N C, D hidden.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning.records import Record, read_table
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.models.kinds import MODULES
from bertjax.tasks import classify
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
    write_predictions,
)
from bertjax.tasks.interface import Data, EvalSet, Outputs, Rows, Sums
from bertjax.trained_model import Trained

HEAD = "multiple_choice"  # of HEADS of the kind's module
FINE_TUNES = True

batch_loss, metrics, batch_weights = classify.batch_loss, classify.metrics, classify.batch_weights


def init_params(config: ConfigDict, key: jax.Array) -> bert.Params:
    """Parameters of the encoder with the unit that scores, as a nested dict of float32 arrays."""
    module = MODULES[config.model.kind]
    params: bert.Params = module.init_params(config.model, key, module.HEADS[HEAD], 1, config.head)
    return params


def batch_sums(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> Sums:
    """Losses and right choices, summed over a batch or a part of it."""
    logits_BNC, lm_loss = _logits(config, params, batch, keys, lm=True)
    return with_lm_loss(config, classify.sums_of(config, logits_BNC, batch), lm_loss, logits_BNC.shape[2])


def batch_outputs(config: ConfigDict, params: bert.Params, batch: bert.Batch) -> dict[str, jax.Array]:
    """float32 scores [B, N, C]."""
    return {"logits": _logits(config, params, batch, None, lm=False)[0]}


def _logits(
    config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None, lm: bool
) -> tuple[jax.Array, jax.Array | None]:
    """float32 scores [B, N, C], and the language model's loss where it counts."""
    model = MODULES[config.model.kind].bind(config.model, params, config.head)
    positions_BM = batch["class_positions"]
    x_BMD, lm_loss = told_states(config, model, batch, positions_BM, keys, is_packed(batch), lm)
    logits_BM1 = model.class_logits(x_BMD, keys)
    return logits_BM1.reshape(len(logits_BM1), -1, len(config.examples.choices)), lm_loss


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the encoder's products in a step of choices as long as they may be."""
    return len(config.examples.choices) * text_flops(config, np.array([section.seq_length]))


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of examples that each fill a row."""
    b, c = section.batch_size, len(config.examples.choices)
    names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
    return {
        **{name: jax.ShapeDtypeStruct((b, c * section.seq_length), jnp.int32) for name in names},
        "class_positions": jax.ShapeDtypeStruct((b, c), jnp.int32),
        "labels": jax.ShapeDtypeStruct((b, 1), jnp.int32),
        "label_weights": jax.ShapeDtypeStruct((b, 1), jnp.float32),
    }


def figures(config: ConfigDict) -> list[str]:
    """Names of what a dev set is measured by."""
    return ["accuracy"]


def open_data(config: ConfigDict, source: Trained | None) -> Data:
    """Reads the files of config.examples. Raises InputError for whatever does not fit."""
    c = config.examples
    if len(c.choices) < 2 or len(set(c.choices)) < len(c.choices):
        raise InputError(f"--config.examples.choices={c.choices}: name the columns of two choices or more")
    if c.metric != "accuracy":
        raise InputError(f"--config.examples.metric={c.metric}: choices are measured by accuracy")
    if c.number:
        raise InputError("--config.examples.number=True: choices have labels, not numbers; leave it out")
    labels = tuple(map(str, c.labels or range(len(c.choices))))
    if len(labels) != len(c.choices) or len(set(labels)) < len(labels):
        raise InputError(f"--config.examples.labels={labels}: give each of {len(c.choices)} choices its own")
    source, paths = need_model(config, source, pairs=True), file_paths(c)
    train = read_table(paths["train"][0], c.columns)
    config = fine_tuned_config(config, source, labels, len(train))
    notes: list[str] = []

    def encoded(records: Sequence[Record], path: str, labelled: bool) -> PackedRows:
        arrays = {}
        if labelled:
            numbers = [classify.read_label(config, record) for record in records]
            arrays["labels"] = np.array(numbers, np.int32)
            arrays["label_weights"] = np.ones(len(records), np.float32)
        pairs = [pair for record in records for pair in read_pairs(config, record)]
        rows = encode_file(path, pairs, source.tokenizer, config.train.seq_length, notes)
        at_end = told_at_end(config)
        return PackedRows(rows, source.tokenizer.pad_id, arrays, {}, at_end, each=len(c.choices))

    training = encoded(train, paths["train"][0], labelled=True)
    lengths = np.array([len(row.ids) for row in training.rows])
    flops = len(c.choices) * text_flops(config, lengths)
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
        notes=tuple(notes),
    )


def read_pairs(config: ConfigDict, record: Record) -> list[tuple[str, str]]:
    """The context with each choice, which the text of config.examples.text_b, if there is one, stands before.

    Raises InputError if the context or a choice is empty.
    """
    c = config.examples
    for column in (c.text_a, *c.choices):
        if not record[column].strip():
            raise InputError(f"{record.where}: {column} is empty; remove the example")
    start = f"{record[c.text_b]} " if c.text_b else ""
    return [(record[c.text_a], start + record[choice]) for choice in c.choices]


def _eval_set(config: ConfigDict, examples: PackedRows, records: Sequence[Record], path: str) -> EvalSet:
    stem = Path(path).stem
    rows, num_rows, places = examples.once()

    def answers(outputs: Outputs) -> np.ndarray:
        best: np.ndarray = outputs["logits"][places.rows, places.slots].argmax(-1)
        return best

    def write(outputs: Outputs, folder: str) -> None:
        found = [config.examples.labels[answer] for answer in answers(outputs)]
        path = os.path.join(folder, f"{stem}_predictions.tsv")
        write_predictions(path, records, config.examples.id, found)

    return EvalSet(
        name=eval_name(config.examples, path),
        rows=rows,
        num_rows=num_rows,
        score=(lambda outputs: official.accuracy(examples.of_example["labels"], answers(outputs)))
        if examples.of_example
        else None,
        write=write,
    )
