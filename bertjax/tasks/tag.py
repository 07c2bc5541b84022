"""A tag for each word, such as named entities (Devlin et al. 2018, section 5.3): BERT has a dense layer on
the state of each word's first WordPiece, ELMo a BiLSTM and a conditional random field (Peters et al. 2018,
section 4).

Shapes: B rows, S sequence, C tags.
"""

import os

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning import tfds_sets
from bertjax.data.finetuning.conll import Sentence, conll_lines, read_conll
from bertjax.data.finetuning.word_windows import Window, cut_windows, tag_numbers, word_weights
from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.models.interface import Batch, ModelKind, Params, Reader, Sums
from bertjax.sections import batch_size
from bertjax.tasks.example_rows import PackedRows, Places, is_packed
from bertjax.tasks.finetuning import DEV, TEST, Examples, FineTuning, file_paths, files_section
from bertjax.tasks.interface import Outputs, Shapes, bind
from bertjax.tasks.text_examples import write_per_class

Tagged = Examples[list[Sentence]]


class Tag(FineTuning[list[Sentence]]):
    name, head, unit, reads_every_state = "tag", "token_classification", "windows", True

    def examples(self, kind: ModelKind) -> ConfigDict:
        c = files_section()
        c.train, c.dev = "train.txt", ("dev.txt",)
        c.labels = ()  # in the order of the classifier; (): O, and B and I of the types in train, sorted
        if kind.packs:
            c.document_context = False  # a row holds the sentences around, as far as it reaches
        return c

    def read(self, config: ConfigDict, path: str, use: str) -> list[Sentence]:
        if _context(config) and tfds_sets.is_tfds(path):
            raise InputError("--config.examples.document_context=True: sets of tfds do not mark documents; "
                             "take the benchmark's own files")  # fmt: skip
        return read_conll(path, tagged=use != TEST)

    def find_labels(self, config: ConfigDict, records: list[Sentence]) -> tuple[str, ...]:
        types = sorted({tag[2:] for sentence in records for tag in sentence.tags if tag != "O"})
        labels = config.examples.labels or ("O", *(f"{b_or_i}-{x}" for x in types for b_or_i in "BI"))
        if len(labels) == 1:
            raise InputError(f"{config.examples.train}: every tag is O; there is nothing to learn")
        return tuple(labels)

    def encode(
        self, config: ConfigDict, reader: Reader, records: list[Sentence], path: str, use: str,
        notes: list[str],
    ) -> tuple[PackedRows, list[Window]]:  # fmt: skip
        most = config.train.seq_length
        windows = cut_windows(records, reader.tokenizer, reader.form, most, _context(config))
        arrays = {"label_weights": word_weights(windows)}
        if use != TEST:
            arrays["labels"] = tag_numbers(windows, records, config.examples.labels, path)
        rows, alone = [window.row for window in windows], not kind_of(config.model.kind).packs
        return PackedRows(rows, reader.tokenizer.pad_id, {}, arrays, alone=alone), windows

    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        sums: Sums = bind(config, params, remat).tag_sums(
            batch, keys=keys, frozen=config.train.freeze_encoder, packed=is_packed(batch)
        )
        return sums

    def batch_outputs(self, config: ConfigDict, params: Params, batch: Batch) -> Batch:
        """The likeliest tag at each token, int32 [B, S]."""
        model, labels = bind(config, params), config.examples.labels
        return {"tags": model.best_tags(batch, labels, packed=is_packed(batch))[0]}

    def batch_labels(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        shape = batch_size(phase), phase.seq_length
        labels = jax.ShapeDtypeStruct(shape, jnp.int32)
        return {"labels": labels, "label_weights": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def figures(self, config: ConfigDict) -> list[str]:
        """The F1 of each type in config.examples.dev among them."""
        dev = (read_conll(path, True) for path in file_paths(config.examples)[DEV])
        gold = [sentence.tags for sentences in dev for sentence in sentences]
        return list(official.entities(gold, gold))

    def predictions(
        self, config: ConfigDict, examples: Tagged, outputs: Outputs, places: Places
    ) -> list[list[str]]:
        """The tag of each word of each sentence."""
        tags = [["O"] * len(sentence.words) for sentence in examples.records]
        for window, row, start in zip(examples.more, places.rows, places.offsets, strict=True):
            for sentence, word, position in window.words:
                tags[sentence][word] = config.examples.labels[outputs["tags"][row, start + position]]
        return tags

    def score(self, config: ConfigDict, examples: Tagged, found: list[list[str]]) -> dict[str, float]:
        return official.entities([sentence.tags for sentence in examples.records], found)

    def write(self, config: ConfigDict, examples: Tagged, found: list[list[str]], folder: str) -> str | None:
        path = os.path.join(folder, examples.stem)
        with open(f"{path}_predictions.conll", "w", encoding="utf-8") as file:
            file.writelines(conll_lines(examples.records, found))
        if examples.use == TEST:
            return None
        gold = [sentence.tags for sentence in examples.records]
        return write_per_class(f"{path}_per_class.tsv", official.per_type(gold, found))


def _context(config: ConfigDict) -> bool:
    return bool(kind_of(config.model.kind).packs and config.examples.document_context)


TASK = Tag()
