"""A tag for each word, such as named entities (Devlin et al. 2018, section 5.3): one dense layer on the state
of each word's first WordPiece.

A unit of text, a sentence or a whole document, is cut into windows as long as the model takes, each half a
window after the one before. A word counts in the one window where it has the most context.

Shapes: B rows, S sequence, C tags.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning import tfds_sets
from bertjax.data.finetuning.conll import Sentence, conll_lines, read_conll
from bertjax.data.finetuning.sequences import Row
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.models.layers import HEAD_DROPOUT, cross_entropy, dropout, fold_in
from bertjax.tasks import classify
from bertjax.tasks.example_rows import PackedRows, is_packed
from bertjax.tasks.finetuning import (
    encoder_flops,
    eval_name,
    file_paths,
    fine_tuned_config,
    fingerprints,
    need_model,
    write_per_class,
)
from bertjax.tasks.interface import Data, EvalSet, Outputs, Rows, Sums
from bertjax.trained_model import Trained

HEAD = "token_classification"  # of bertjax.models.bert.HEADS
FINE_TUNES = True

batch_loss, metrics, batch_weights = classify.batch_loss, classify.metrics, classify.batch_weights


def init_params(config: ConfigDict, key: jax.Array) -> bert.Params:
    """Parameters of the encoder with its classifier as a nested dict of float32 arrays."""
    return bert.init_params(config.model, key, bert.HEADS[HEAD], len(config.examples.labels), config.head)


def batch_sums(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> Sums:
    """Losses and correct tags, summed over the words of a batch or a part of it."""
    loss_BS, correct_BS = cross_entropy(_logits(config, params, batch, keys), batch["labels"])
    weights_BS = batch["label_weights"]
    return {"loss": (loss_BS * weights_BS).sum(), "correct": (correct_BS * weights_BS).sum()}


def batch_outputs(config: ConfigDict, params: bert.Params, batch: bert.Batch) -> dict[str, jax.Array]:
    """The likeliest tag at each token, int32 [B, S]."""
    return {"tags": _logits(config, params, batch, None).argmax(-1).astype(jnp.int32)}


def _logits(config: ConfigDict, params: bert.Params, batch: bert.Batch, keys: jax.Array | None) -> jax.Array:
    model = bert.bind(config.model, params, config.head)
    frozen = config.train.freeze_encoder
    x_BSW = model.head_states(batch, packed=is_packed(batch), keys=keys, frozen=frozen)
    keys = None if keys is None else fold_in(keys, HEAD_DROPOUT)
    return model.classify(dropout(x_BSW, config.model.hidden_dropout_prob, keys))


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the encoder's products in a step of windows that each fill a row."""
    return encoder_flops(config, np.array([section.seq_length]))


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of windows that each fill a row."""
    shape = section.batch_size, section.seq_length
    names = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "labels")
    return {
        **{name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names},
        "class_positions": jax.ShapeDtypeStruct((section.batch_size, 1), jnp.int32),
        "label_weights": jax.ShapeDtypeStruct(shape, jnp.float32),
    }


class Word(NamedTuple):
    """A word that counts in a window: which, and where its first WordPiece lies."""

    sentence: int
    word: int
    position: int


class Window(NamedTuple):
    row: Row
    words: list[Word]


def cut_windows(
    sentences: Sequence[Sentence], tokenizer: Tokenizer, most: int, document_context: bool
) -> list[Window]:
    """The windows of all sentences, or of all documents.

    Args:
      most: tokens of a window, [CLS] and [SEP] among them.
      document_context: whether a window goes over the ends of sentences, as far as the document does.
    """
    windows: list[Window] = []
    unit: list[tuple[int, int, list[int]]] = []  # (sentence, word, its WordPieces)
    encoded = tokenizer.encode_batch([word for sentence in sentences for word in sentence.words])
    pieces = iter(encoded)
    for number, sentence in enumerate(sentences):
        unit += [(number, i, next(pieces) or [tokenizer.unk_id]) for i in range(len(sentence.words))]
        last = number + 1 == len(sentences)
        if last or not document_context or sentences[number + 1].document != sentence.document:
            windows += _cut(unit, tokenizer, most - 2)
            unit = []
    return windows


def _cut(unit: Sequence[tuple[int, int, list[int]]], tokenizer: Tokenizer, room: int) -> Iterator[Window]:
    starts = np.cumsum([0, *(len(pieces) for _, _, pieces in unit)])
    ids = [i for _, _, pieces in unit for i in pieces]
    firsts = [0]
    while firsts[-1] + room < len(ids):
        firsts.append(min(firsts[-1] + room // 2, len(ids) - room))
    words: list[list[Word]] = [[] for _ in firsts]
    for (sentence, word, _), start in zip(unit, starts, strict=False):
        # The context of a first WordPiece is what lies before and behind it, and the smaller of both counts.
        # Only windows that begin less than their length before it hold it.
        near = min(int(start) // (room // 2), len(firsts) - 1)
        context = {
            i: min(start - firsts[i], firsts[i] + room - 1 - start)
            for i in range(max(near - 3, 0), min(near + 2, len(firsts)))
        }
        best = max(context, key=context.__getitem__)
        words[best].append(Word(sentence, word, int(start) - firsts[best] + 1))
    for first, counted in zip(firsts, words, strict=True):
        if not counted:
            continue
        row = [tokenizer.cls_id, *ids[first : first + room], tokenizer.sep_id]
        yield Window(Row(row, [0] * len(row)), counted)


def word_weights(windows: Sequence[Window]) -> list[np.ndarray]:
    """float32 [tokens] of each window: 1 at the first WordPieces of the words that count in it, else 0."""
    weights: list[np.ndarray] = [np.zeros(len(window.row.ids), np.float32) for window in windows]
    for of_window, window in zip(weights, windows, strict=True):
        of_window[[position for _, _, position in window.words]] = 1.0
    return weights


def figures(config: ConfigDict) -> list[str]:
    """Names of what a dev set is measured by, the F1 of each type in config.examples.dev among them."""
    paths = [os.path.join(config.examples.folder, name) for name in config.examples.dev]
    gold = [sentence.tags for path in paths for sentence in read_conll(path, tagged=True)]
    return list(official.entities(gold, gold))


def open_data(config: ConfigDict, source: Trained | None) -> Data:
    """Reads the files of config.examples. Raises InputError for whatever does not fit."""
    c = config.examples
    source, paths = need_model(config, source, pairs=False), file_paths(c)
    read = {path: read_conll(path, tagged=name != "test") for name, files in paths.items() for path in files}
    train = read[paths["train"][0]]
    if c.document_context and tfds_sets.is_tfds(c.folder):
        raise InputError(
            "--config.examples.document_context=True: sets of tfds do not tell documents apart; take the "
            "benchmark's own files"
        )
    kinds = sorted({tag[2:] for sentence in train for tag in sentence.tags if tag != "O"})
    labels = tuple(c.labels) or ("O", *(f"{place}-{kind}" for kind in kinds for place in "BI"))
    if len(labels) == 1:
        raise InputError(f"{paths['train'][0]}: every tag is O; there is nothing to learn")
    most, numbers = config.train.seq_length, {label: i for i, label in enumerate(labels)}

    def encoded(path: str, tagged: bool) -> tuple[PackedRows, list[Window]]:
        windows = cut_windows(read[path], source.tokenizer, most, c.document_context)
        arrays = {"label_weights": word_weights(windows)}
        if tagged:
            tags = [np.zeros(len(window.row.ids), np.int32) for window in windows]
            for i, window in enumerate(windows):
                for sentence, word, position in window.words:
                    tag = read[path][sentence].tags[word]
                    if tag not in numbers:
                        line = read[path][sentence].line + word
                        raise InputError(f"{path}:{line}: unknown tag {tag!r}; known are {', '.join(labels)}")
                    tags[i][position] = numbers[tag]
            arrays["labels"] = tags
        rows, alone = [window.row for window in windows], config.model.kind == "elmo"
        return PackedRows(rows, source.tokenizer.pad_id, {}, arrays, alone=alone), windows

    training, _ = encoded(paths["train"][0], tagged=True)
    config = fine_tuned_config(config, source, labels, len(training))
    rows, batch_rows = training.shuffled(config)
    evals: list[EvalSet] = []
    for name in ("dev", "test"):
        for path in paths[name]:
            examples, windows = encoded(path, tagged=name == "dev")
            evals.append(_eval_set(config, examples, windows, read[path], path))
    return Data(
        config,
        {"train": Rows(rows, tuple(evals), batch_rows, encoder_flops(config, training.lengths))},
        source.tokenizer,
        fingerprints(c),
        labels=labels,
    )


def _eval_set(
    config: ConfigDict,
    examples: PackedRows,
    windows: Sequence[Window],
    sentences: Sequence[Sentence],
    path: str,
) -> EvalSet:
    labels, stem = config.examples.labels, Path(path).stem
    rows, num_rows, places = examples.once()

    def answers(outputs: Outputs) -> list[list[str]]:
        tags = [["O"] * len(sentence.words) for sentence in sentences]
        for window, row, start in zip(windows, places.rows, places.offsets, strict=True):
            for sentence, word, position in window.words:
                tags[sentence][word] = labels[outputs["tags"][row, start + position]]
        return tags

    gold = [sentence.tags for sentence in sentences]

    def write(outputs: Outputs, folder: str) -> str | None:
        found, path = answers(outputs), os.path.join(folder, stem)
        with open(f"{path}_predictions.conll", "w", encoding="utf-8") as file:
            file.writelines(conll_lines(sentences, found))
        if not gold[0]:
            return None
        return write_per_class(f"{path}_per_class.tsv", official.per_type(gold, found))

    return EvalSet(
        name=eval_name(config.examples, path),
        rows=rows,
        num_rows=num_rows,
        score=(lambda outputs: official.entities(gold, answers(outputs))) if gold[0] else None,
        write=write,
    )
