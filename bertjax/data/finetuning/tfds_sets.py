"""Labelled examples of TensorFlow Datasets, as the benchmarks' own files hold them.

A path is "tfds:SET/FILE". SET is named as in tfds_text, such as "glue/mrpc". FILE is a split of the set, or,
in GLUE, SQuAD and CoNLL-2003, the benchmark's own file of it, such as "dev.tsv".
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.tfds import decoded, open_set, open_split, read_records
from bertjax.errors import InputError, quoted

PREFIX = "tfds:"
_BLOCK = 4096  # records that are read at a time

# The split of each file.
_SPLITS = {
    "glue": {
        "train.tsv": "train", "dev.tsv": "validation", "test.tsv": "test", "diagnostic.tsv": "test",
        "dev_matched.tsv": "validation_matched", "dev_mismatched.tsv": "validation_mismatched",
        "test_matched.tsv": "test_matched", "test_mismatched.tsv": "test_mismatched",
    },
    "squad": {
        "train-v1.1.json": "train", "dev-v1.1.json": "validation",
        "train-v2.0.json": "train", "dev-v2.0.json": "validation",
    },
    "conll2003": {"train.txt": "train", "dev.txt": "dev", "valid.txt": "dev", "test.txt": "test"},
}  # fmt: skip
# What GLUE's files call the features that have other names there.
_NLI = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
_COLUMNS: dict[str, dict[str, str]] = {
    "mrpc": {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"},
    "qqp": {"label": "is_duplicate"},
    "stsb": {"label": "score"},
    "mnli": _NLI, "mnli_matched": _NLI, "mnli_mismatched": _NLI, "ax": _NLI,
}  # fmt: skip
_NUMBERED = ("cola", "sst2", "mrpc", "qqp", "wnli")  # whose files have the numbers of the classes
_UNLABELLED = -1  # tfds' label of an example that has none


class _Source(NamedTuple):
    path: str  # as given
    folder: str  # the set, without the prefix
    split: str

    @property
    def info(self) -> Any:
        return open_set(self.folder).info

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(place, features by name) of each record. Raises InputError if there is none."""
        count = len(open_split(self.folder, self.split)[0])
        if not count:
            raise InputError(f"{self.path}: has no example")
        for start in range(0, count, _BLOCK):
            found = read_records(self.folder, self.split, start, min(start + _BLOCK, count))
            for number, record in enumerate(found, start):
                yield f"{self.path}[{number}]", record


def is_tfds(path: str) -> bool:
    """Whether a path names a set."""
    return path.startswith(PREFIX)


def _source(path: str) -> _Source:
    # The diagnostic set's own folder is beside MNLI's, which configs/glue.py names so.
    folder, _, file = os.path.normpath(path.removeprefix(PREFIX)).rpartition("/")
    if folder.endswith("glue/diagnostic"):
        folder = folder.removesuffix("diagnostic") + "ax"
    if not folder:
        raise InputError(f"{path}: names no set; --config.examples.tfds=glue/mrpc names one")
    info = open_set(folder).info
    if not hasattr(info.features, "items"):
        raise InputError(f"{path}: its records have no features by name; take another set")
    return _Source(path, folder, _SPLITS.get(info.name, {}).get(file, file))


def exists(path: str) -> bool:
    """Whether the split is prepared."""
    try:
        source = _source(path)
        open_split(source.folder, source.split)
    except InputError:
        return False
    return True


def digest(path: str) -> str:
    """The sha256 of the files of a split, one behind the other. Raises InputError as tfds_text.open_split."""
    source = _source(path)
    found = hashlib.sha256()
    for file in open_split(source.folder, source.split)[1].filepaths:
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def read_rows(path: str) -> list[tuple[str, dict[str, str]]]:
    """(place, text by column) of each example, of every feature that is a text, a number or a class.

    GLUE's examples have their files' columns, labels and order. Where there is no label, there is no column.

    Raises:
      InputError: see tfds_text; no example; a text that is not UTF-8.
    """
    source = _source(path)
    info, set_ = source.info, source.info.config_name
    glue = info.name == "glue"
    columns = {"idx": "index"} | _COLUMNS.get(set_, {}) if glue else {}
    classes = {name: feature for name, feature in info.features.items() if hasattr(feature, "int2str")}
    labels = [*classes, *(["label"] if glue else [])]
    rows = []
    for where, record in source.records():
        fields = {}
        for name, value in record.items():
            value, column = decoded(where, name, value), columns.get(name, name)
            if name in labels and value == _UNLABELLED:
                where += ", which has no label (-1)"
            elif name in classes and not (glue and set_ in _NUMBERED):
                fields[column] = classes[name].int2str(int(value))
            elif isinstance(value, str | bool | int | float | np.generic):
                fields[column] = str(value)
        rows.append((int(record["idx"]) if glue else 0, where, fields))
    rows.sort(key=lambda row: row[0])  # tfds shuffles the examples when it writes them
    return [(where, fields) for _, where, fields in rows]


def read_sentences(path: str) -> Iterator[tuple[list[str], list[str]]]:
    """(words, their tags) of each sentence, of the features "tokens" and "ner".

    Raises:
      InputError: see tfds_text; no sentence; no such features; a word without a tag, or with white space.
    """
    source = _source(path)
    features = dict(source.info.features.items())
    tag_name = getattr(getattr(features.get("ner"), "feature", None), "int2str", None)
    if "tokens" not in features or tag_name is None:
        raise InputError(
            f"{path}: no features 'tokens' and 'ner', words and their classes, among {', '.join(features)}; "
            "take a set of tagged words, such as conll2003"
        )
    for where, record in source.records():
        words = [decoded(where, "tokens", word) for word in record["tokens"]]
        tags = [int(tag) for tag in record["ner"]]
        if len(words) != len(tags) or min(tags, default=0) < 0:
            raise InputError(f"{where}: has words without a tag; prepare the set again")
        for word in words:
            if len(word.split()) != 1 or word != word.strip():
                raise InputError(f"{where}: {quoted(word)} is no word; take the benchmark's own files")
        if words:
            yield words, [tag_name(tag) for tag in tags]


def read_fields(path: str) -> Iterator[tuple[dict[str, Any], str]]:
    """(fields, place) of each question: id, context, question, answers, and is_impossible in v2.0.

    Raises:
      InputError: see tfds_text; no question; a text that is not UTF-8.
    """
    source = _source(path)
    contexts: dict[str, str] = {}  # questions on one text share the string
    for where, record in source.records():
        fields = {name: decoded(where, name, record[name])
                  for name in ("id", "context", "question") if name in record}  # fmt: skip
        if "context" in fields:
            fields["context"] = contexts.setdefault(fields["context"], fields["context"])
        answers = record.get("answers")
        if isinstance(answers, dict) and {"text", "answer_start"} <= answers.keys():
            fields["answers"] = {
                "text": [decoded(where, "answers", text) for text in answers["text"]],
                "answer_start": [int(start) for start in answers["answer_start"]],
            }
            fields["is_impossible"] = bool(record.get("is_impossible", not fields["answers"]["text"]))
        yield fields, where
