"""Labelled examples from TSV, CSV and JSON Lines files, a record a line, and from sets of tfds_sets: a record
has its columns by name."""

import csv
import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjax.data.finetuning import tfds_sets
from bertjax.errors import InputError
from bertjax.files import utf8_lines

KINDS = (".tsv", ".csv", ".jsonl")


@dataclass(frozen=True)
class Record:
    """One example as it is in its file."""

    where: str  # "file:line", or what tfds_sets gives
    fields: dict[str, str]

    def __getitem__(self, column: str) -> str:
        """The column's text. Raises InputError if there is none, naming the nearest."""
        if column not in self.fields:
            nearest = difflib.get_close_matches(column, self.fields, n=1, cutoff=0.0)
            known = f"the nearest is {nearest[0]!r}" if nearest else "it has none"
            raise InputError(f"{self.where}: no column {column!r}; {known}")
        return self.fields[column]


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
    if file.suffix not in KINDS:
        raise InputError(f"{path}: the name must end with {', '.join(KINDS)}, which says what it holds")
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
