"""Labelled examples from TSV, CSV and JSON Lines files, a record a line, and from sets of tfds_sets: a record
has its columns by name."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertjax.data.finetuning import tfds_sets
from bertjax.errors import InputError, nearest
from bertjax.files import utf8_lines

ENDINGS = (".tsv", ".csv", ".jsonl")


@dataclass(frozen=True)
class Record:
    """One example as it is in its file."""

    where: str  # "file:line", or what tfds_sets gives
    fields: dict[str, str]

    def __getitem__(self, column: str) -> str:
        """The column's text. Raises InputError if there is none, naming the nearest."""
        if column not in self.fields:
            known = f"the nearest is {nearest(column, self.fields)!r}" if self.fields else "it has none"
            raise InputError(f"{self.where}: no column {column!r}; {known}")
        return self.fields[column]


def read_number(record: Record, column: str) -> float:
    """The number in a column. Raises InputError."""
    try:
        value = float(record[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{record.where}: {column}={record[column]!r}: expected a number")
    return value


def read_label(record: Record, column: str, labels: Sequence[str]) -> int:
    """The number of the label in a column. Raises InputError if it is none of `labels`."""
    if record[column] not in labels:
        raise InputError(f"{record.where}: unknown label {record[column]!r}; known are {', '.join(labels)}")
    return labels.index(record[column])


def split_labels(record: Record, column: str, separator: str) -> list[str]:
    """The labels in a column, with separators between them, without the blanks around them; none if it is
    blank. Raises InputError if one is empty or there twice."""
    text = record[column]
    labels = [label.strip() for label in text.split(separator)] if text.strip() else []
    if not all(labels) or len(set(labels)) < len(labels):
        raise InputError(f"{record.where}: {column}={text!r}: expected labels with {separator!r} between "
                         "them, each once")  # fmt: skip
    return labels


def read_flags(record: Record, columns: Sequence[str]) -> np.ndarray:
    """float32 [columns] of columns that each hold 0 or 1. Raises InputError."""
    for column in columns:
        if record[column].strip() not in ("0", "1"):
            raise InputError(f"{record.where}: {column}={record[column]!r}: expected 0 or 1")
    return np.array([record[column].strip() == "1" for column in columns], np.float32)


def read_texts(record: Record, columns: Sequence[str]) -> list[str]:
    """The texts of some columns. Raises InputError if one is empty."""
    for column in columns:
        if not record[column].strip():
            raise InputError(f"{record.where}: {column} is empty; remove the example")
    return [record[column] for column in columns]


def read_text(record: Record, text_a: str, text_b: str) -> str | tuple[str, str]:
    """The text of one column or, where the second is not "", the pair of two. Raises InputError."""
    texts = read_texts(record, [column for column in (text_a, text_b) if column])
    return (texts[0], texts[1]) if len(texts) == 2 else texts[0]


def find_labels(records: Sequence[Record], column: str) -> tuple[str, ...]:
    """The labels of a column, sorted. Raises InputError if there is only one, or they look like numbers."""
    labels = tuple(sorted({record[column] for record in records}))
    if len(labels) == 1:
        raise InputError(f"{records[0].where}: all labels are {labels[0]!r}; there is nothing to learn")
    if len(labels) > len(records) // 2 and len(labels) > 50:
        raise InputError(
            f"{records[0].where}: {len(labels)} labels for {len(records)} examples; if column {column!r} is "
            "a number, set --config.examples.number=True --config.examples.metric=correlations"
        )
    return labels


def write_predictions(
    path: str, records: Sequence[Record], id_column: str, predictions: Sequence[str]
) -> None:
    """Writes a line for each record: its `id_column`, or its number where that is "", and the prediction."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("index\tprediction\n")
        for i, (record, prediction) in enumerate(zip(records, predictions, strict=True)):
            file.write(f"{record[id_column] if id_column else i}\t{prediction}\n")


def read_table(path: str, columns: Sequence[str] = ()) -> list[Record]:
    """The records of a file, or of a split of a set, to which `columns` says nothing.

    .tsv has no quotes (as GLUE's files), .csv has those of RFC 4180, and .jsonl has an object a line. The
    first line of the first two names the columns, unless `columns` does.

    Raises:
      InputError: no such file, another ending, no record, bytes that are not UTF-8, a line with another
        number of columns than the first, or a line that is no JSON object; or see tfds_sets.
    """
    if tfds_sets.is_tfds(path):
        return [Record(where, fields) for where, fields in tfds_sets.read_rows(path)]
    file = Path(path)
    if file.suffix not in ENDINGS:
        raise InputError(f"{path}: the name must end with {', '.join(ENDINGS)}, which says what it holds")
    if not file.is_file():
        raise InputError(f"{path}: no such file")
    lines = utf8_lines(path)
    records = list(_objects(path, lines) if file.suffix == ".jsonl" else _rows(path, lines, columns))
    if not records:
        raise InputError(f"{path}: has no example")
    return records


def _rows(path: str, lines: Iterator[str], columns: Sequence[str]) -> Iterator[Record]:
    tabs = path.endswith(".tsv")
    reader = csv.reader(lines, strict=True)
    cells = (line.removesuffix("\n").removesuffix("\r").split("\t") for line in lines) if tabs else reader
    names, number = list(columns), 0
    while True:
        number = number + 1 if tabs else reader.line_num + 1
        try:
            row = next(cells)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{number}: {error}; mend the line's quotes") from error
        if not names:
            names = row
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise InputError(f"{path}:{number}: the column {repeated[0]!r} is named twice")
        elif len(row) != len(names):
            raise InputError(
                f"{path}:{number}: expected {len(names)} columns ({', '.join(names)}), found {len(row)}"
            )
        else:
            yield Record(f"{path}:{number}", dict(zip(names, row, strict=True)))


def _objects(path: str, lines: Iterator[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            if isinstance(fields, dict):
                fields = {name: _text(value) for name, value in fields.items()}
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise InputError(f"{path}:{number}: expected a JSON object, found {type(fields).__name__}")
        yield Record(f"{path}:{number}", fields)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
