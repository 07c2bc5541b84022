"""Text of TensorFlow Datasets that are prepared as ArrayRecord, read without TensorFlow.

A set is named as tfds does ("name", "name/config", "name/config:1.0.0") and looked for in the folder of the
environment variable TFDS_DATA_DIR, else in tfds' own default; or it is the folder of a prepared set, where
dataset_info.json is. Nothing is downloaded or prepared here.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any

from bertjax.errors import InputError


@functools.lru_cache(maxsize=4)
def open_set(path: str) -> Any:
    """tfds' builder of the set `path`. Raises InputError: it is not there."""
    import tensorflow_datasets as tfds  # here, since few runs need it and it is slow to load

    try:
        if os.path.isdir(path):
            builder = tfds.builder_from_directory(path)
        else:
            builder = tfds.builder(path, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except Exception as error:  # tfds raises many kinds, AssertionError among them
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{path}: cannot be opened by tfds ({reason}); check the name and TFDS_DATA_DIR"
        ) from error
    if not builder.info.splits:
        raise InputError(f"{path}: not prepared in {builder.data_path}; run: {_prepare(builder)}")
    return builder


def _prepare(builder: Any) -> str:
    return f"tfds build {builder.info.name} --file_format=array_record"


@functools.lru_cache(maxsize=4)
def open_split(path: str, split: str) -> tuple[Any, Any]:
    """(records with random access, SplitInfo).

    Raises:
      InputError: as open_set; no such split; the set is not prepared as ArrayRecord.
    """
    builder = open_set(path)
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise InputError(f"{path}: no split '{split}'; choose from {known}")
    try:
        return builder.as_data_source(split), builder.info.splits[split]
    except (NotImplementedError, ImportError) as error:
        raise InputError(
            f"{path}: prepared as {builder.info.file_format}, not ArrayRecord; "
            f"run: {_prepare(builder)} --overwrite"
        ) from error


def total_bytes(path: str, split: str) -> int:
    """Bytes of the split's records. Raises InputError as `read_texts` does."""
    return int(open_split(path, split)[1].num_bytes)


def record_ranges(path: str, split: str, block_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(first record, end record, bytes up to the end) of runs of records of about `block_bytes` in all.

    Raises:
      InputError: as `read_texts`; or the split has no records.
    """
    source, info = open_split(path, split)
    records = len(source)
    if not records:
        raise InputError(f"{path}: split '{split}' has no records; choose another")
    step = max(1, block_bytes * records // max(1, info.num_bytes))
    for start in range(0, records, step):
        end = min(start + step, records)
        yield start, end, info.num_bytes * end // records


def read_texts(path: str, split: str, text_field: str, start: int, end: int) -> list[str]:
    """The text of records start..end.

    Raises:
      InputError: as open_split and read_records; no such feature; the feature is no string, or not UTF-8.
    """
    records = read_records(path, split, start, end)
    return [_text(f"{path}:{split}[{start + i}]", record, text_field) for i, record in enumerate(records)]


def read_records(path: str, split: str, start: int, end: int) -> list[Any]:
    """The records start..end as tfds decodes them. Raises InputError as open_split, and if one is broken."""
    source, _ = open_split(path, split)
    try:
        found: list[Any] = source.__getitems__(range(start, end))
    except Exception as error:  # array_record's and protobuf's own kinds
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: split '{split}' is broken ({reason}); prepare it again") from error
    return found


def _text(where: str, record: Any, text_field: str) -> str:
    if not isinstance(record, dict) or text_field not in record:
        known = ", ".join(record) if isinstance(record, dict) else "none"
        raise InputError(f"{where}: no feature '{text_field}' among {known}; name the text field")
    value = decoded(where, text_field, record[text_field])
    if not isinstance(value, str):
        kind = type(value).__name__
        raise InputError(f"{where}: feature '{text_field}' is {kind}, not text; name the text field")
    return value


def decoded(where: str, feature: str, value: Any) -> Any:
    """The value of a feature, bytes as text. Raises InputError if they are not UTF-8."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: feature '{feature}' is not UTF-8; prepare the set again") from error
