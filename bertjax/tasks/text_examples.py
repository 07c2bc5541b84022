"""What tasks share whose examples are records of a table, each of one or more texts.

Shapes: N examples that a row has room for, C labels.
"""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.finetuning.records import Record, read_table, read_text
from bertjax.data.finetuning.sequences import Text, encode
from bertjax.metrics import ClassFigures, class_table
from bertjax.models import kind_of
from bertjax.models.interface import Reader
from bertjax.sections import batch_size
from bertjax.tasks.example_rows import PackedRows, Places
from bertjax.tasks.finetuning import TEST, Examples, FineTuning, files_section
from bertjax.tasks.interface import Outputs, Shapes

_SHOWN = 20  # classes of a table on the terminal


class TextTask(FineTuning[list[Record]]):
    """The skeleton of such a task."""

    @abc.abstractmethod
    def label(self, config: ConfigDict, record: Record) -> Any:
        """The record's label as a number, or an array of numbers. Raises InputError."""

    def label_type(self, config: ConfigDict) -> type:
        """Of the numbers of `label`."""
        return np.int32

    def pairs(self, config: ConfigDict) -> bool:
        return bool(config.examples.text_b)

    def texts(self, config: ConfigDict, record: Record) -> list[Text]:
        """The record's texts or pairs of texts, as many as `sequences`. Raises InputError."""
        return [read_text(record, config.examples.text_a, config.examples.text_b)]

    def batch_labels(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        labels = jax.ShapeDtypeStruct((batch_size(phase), 1), self.label_type(config))
        return super().batch_labels(config, phase) | {"labels": labels}

    def read(self, config: ConfigDict, path: str, use: str) -> list[Record]:
        return read_table(path, config.examples.columns if use != TEST else ())

    def encode(
        self, config: ConfigDict, reader: Reader, records: list[Record], path: str, use: str, notes: list[str]
    ) -> tuple[PackedRows, None]:
        most, arrays = config.train.seq_length, dict[str, np.ndarray]()
        if use != TEST:
            labels = [self.label(config, record) for record in records]
            arrays["labels"] = np.array(labels, self.label_type(config))
            arrays["label_weights"] = np.ones(len(records), np.float32)
        texts = [text for record in records for text in self.texts(config, record)]
        rows = encode(reader.tokenizer, reader.form, texts, most, truncate=True)
        full = sum(len(row.ids) == most for row in rows)
        if full:
            notes.append(f"{path}: {full} of {len(rows)} texts fill {most} tokens or were cut to them")
        kind = kind_of(config.model.kind)
        return PackedRows(
            rows, reader.tokenizer.pad_id, arrays, {}, at_end=kind.class_at_end(config.model),
            alone=not kind.packs, each=self.sequences(config),
        ), None  # fmt: skip

    def gold(self, examples: Examples[list[Record]]) -> np.ndarray:
        """The numbers of the examples' labels, [examples] or [examples, ...]."""
        assert isinstance(examples.rows, PackedRows)  # `encode`
        return examples.rows.of_example["labels"]

    def predictions(
        self, config: ConfigDict, examples: Examples[list[Record]], outputs: Outputs, places: Places
    ) -> np.ndarray:
        """float32 logits [examples, C]."""
        logits: np.ndarray = outputs["logits"][places.rows, places.slots]
        return logits


def table_section() -> ConfigDict:
    """The fields of config.examples that name the files and columns of a table."""
    c = files_section()
    c.columns = ()  # their names in train and dev, where the files have no line with them
    c.text_a = "sentence1"  # columns
    c.text_b = ""  # "": single texts
    c.label = "label"
    c.id = ""  # that predictions are written with; "": the number of the line, from 0
    return c


def write_per_class(path: str, rows: Sequence[ClassFigures]) -> str:
    """Writes a table of precision, recall, F1 and number of each class; returns it for the terminal."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(class_table(rows, aligned=False))
    if len(rows) > _SHOWN:
        return f"{path}: the figures of {len(rows)} classes"
    return f"{path}:\n{class_table(rows, aligned=True).rstrip()}"
