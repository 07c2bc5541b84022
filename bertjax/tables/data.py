"""The examples that the paper's tables are fine-tuned on: found in the folders given, and made fewer where a
scale has time for so many only."""

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertjax.errors import InputError
from bertjax.files import read_json, write_folder
from bertjax.sweep.glue_submission import FOLDERS

_SQUAD = ("train-v1.1.json", "dev-v1.1.json")


@dataclass(frozen=True)
class Examples:
    """The files of a task."""

    task: str
    folder: str
    train: str
    dev: str
    most: tuple[int, int]  # of train and of dev; 0: all

    @property
    def digests(self) -> dict[str, str]:
        """What they are, by names that say which."""
        return {f"{self.task} {name}": sha256(os.path.join(self.folder, name))
                for name in (self.train, self.dev)}  # fmt: skip

    def counts(self) -> tuple[int, int]:
        """How many are taken of train and of dev. Raises InputError if a file is broken or empty."""
        found = [_count(self.task, os.path.join(self.folder, name)) for name in (self.train, self.dev)]
        train, dev = (min(n, most or n) for n, most in zip(found, self.most, strict=True))
        return train, dev

    def folder_in(self, out: str) -> str:
        """Where the examples lie that are taken: the folder itself, or one below `out`."""
        if not any(self.most):
            return os.path.abspath(self.folder)
        name = hashlib.sha256(json.dumps([self.digests, self.most]).encode()).hexdigest()[:10]
        return os.path.join(os.path.abspath(out), "data", f"{self.task}-{name}")

    def write(self, out: str) -> None:
        """Writes those that are taken, if they are not all. Raises InputError if one is broken or empty."""
        self.counts()  # reads all of the files
        folder = self.folder_in(out)
        if not any(self.most) or os.path.isdir(folder):
            return
        with write_folder(folder) as part:
            for name, most in zip((self.train, self.dev), self.most, strict=True):
                source, target = os.path.join(self.folder, name), os.path.join(part, name)
                if not most:
                    shutil.copyfile(source, target)
                elif self.task == "squad":
                    _questions(source, target, most)
                elif self.task == "ner":
                    _sentences(source, target, most)
                else:
                    _lines(source, target, most, _header(self.task))


def find(task: str, given: Mapping[str, str], most: tuple[int, int]) -> Examples | str:
    """The examples of a task, or a line that says why there are none.

    Args:
      given: folders by the names of the flags: "glue", "squad", "ner"; "" for none.
    """
    flag = task if task in ("squad", "ner") else "glue"
    if not given[flag]:
        return f"no --{flag}=DIR"
    folder = given[flag]
    if flag == "glue":
        folder = os.path.join(folder, FOLDERS[task][0])
        names = ("train.tsv", "dev_matched.tsv" if task == "mnli" else "dev.tsv")
    elif flag == "squad":
        names = _SQUAD
    else:
        ending = ".conll" if os.path.exists(os.path.join(folder, "train.conll")) else ".txt"
        names = (f"train{ending}", f"dev{ending}")
    absent = [path for name in names if not os.path.isfile(path := os.path.join(folder, name))]
    return f"no {absent[0]}" if absent else Examples(task, folder, *names, most)


@functools.cache
def sha256(path: str) -> str:
    """The digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _count(task: str, path: str) -> int:
    if task == "squad":
        count = sum(questions for _, _, questions in _paragraphs(path))
    elif task == "ner":
        count = len(_blocks(path))
    else:
        count = len(_read_lines(path)) - _header(task)
    if count < 1:
        raise InputError(f"{path}: no examples; take a whole copy")
    return count


def _header(task: str) -> int:
    """How many lines a GLUE task's files begin with that are no examples."""
    return 0 if task == "cola" else 1


def _read_lines(path: str) -> list[bytes]:
    content = Path(path).read_bytes().rstrip(b"\n")
    return content.split(b"\n") if content else []


def _blocks(path: str) -> list[bytes]:
    """The sentences of a CoNLL file, without the marks where documents begin."""
    blocks = re.split(rb"\n[^\S\n]*\n\s*", Path(path).read_bytes().strip())
    return [block for block in blocks if block and not block.startswith(b"-DOCSTART-")]


def _paragraphs(path: str) -> list[tuple[str, dict[str, Any], int]]:
    """Titles, paragraphs and their numbers of questions."""
    try:
        return [
            (article.get("title", ""), paragraph, len(paragraph["qas"]))
            for article in read_json(path)["data"]
            for paragraph in article["paragraphs"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not in SQuAD's format ({error!r}); take a whole copy") from error


def _spread(items: list[Any], most: int) -> list[Any]:
    """`most` of the items at equal distances, in order; all if there are no more."""
    return [items[i * len(items) // most] for i in range(most)] if most < len(items) else items


def _lines(source: str, target: str, most: int, header: int) -> None:
    lines = _read_lines(source)
    some = _spread(lines[header:], most)
    Path(target).write_bytes(b"\n".join([*lines[:header], *some, b""]))


def _sentences(source: str, target: str, most: int) -> None:
    Path(target).write_bytes(b"\n\n".join(_spread(_blocks(source), most)) + b"\n")


def _questions(source: str, target: str, most: int) -> None:
    """Whole paragraphs at equal distances, until they have `most` questions."""
    paragraphs = _paragraphs(source)
    total = sum(count for _, _, count in paragraphs)
    wanted, data, taken, seen = min(most, total), [], 0, 0
    for title, paragraph, count in paragraphs:
        # Taken as soon as what is taken falls behind the same share of what was seen.
        if taken < wanted and taken * total <= seen * wanted:
            qas = paragraph["qas"][: wanted - taken]
            data.append({"title": title, "paragraphs": [{**paragraph, "qas": qas}]})
            taken += len(qas)
        seen += count
    Path(target).write_text(json.dumps({"version": "1.1", "data": data}), encoding="utf-8")
