"""Faults of tables that are one line."""

import pytest

from bertjax.data.finetuning.records import read_table
from bertjax.errors import InputError


def test_a_deeply_nested_line_is_an_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": 1}\n{"a": ' + "[" * 100_000 + "\n")
    with pytest.raises(InputError, match=r"^.*train\.jsonl:2: not JSON \(.*\)$"):
        read_table(str(path))


def test_an_empty_object_has_no_column(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": 1}\n{}\n')
    first, second = read_table(str(path))
    assert first["a"] == "1"
    with pytest.raises(InputError, match=r"train\.jsonl:2: no column 'a'; it has none$"):
        second["a"]
