"""The token ids of a task's texts, kept in files for the next run on them: a sweep tokenises once.

A file is named by everything that its ids depend on, so whatever changes makes another one.
"""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain

import numpy as np

from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import naming
from bertjax.files import write_whole

_RULES = 1  # of bertjax.data; another number where they give other ids
_LIBRARIES = ("tokenizers", "sentencepiece")
_LEAST = 100_000  # characters that are worth a file


def cached(tokenizer: Tokenizer, folder: str) -> Tokenizer:
    """The tokenizer, which looks in `folder` for what encode_batch gives, and writes there what it lacks."""
    rules = [_RULES, tokenizer.kind, tokenizer.lower_case, tokenizer.sha256, *map(version, _LIBRARIES)]

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        if sum(map(len, texts)) < _LEAST:
            return tokenizer.encode_batch(texts)
        digest = hashlib.sha256(repr(rules).encode())
        for text in texts:
            data = text.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(8) + data)
        path = os.path.join(folder, f"{digest.hexdigest()}.npz")
        found = _read(path, len(texts))
        if found is None:
            found = tokenizer.encode_batch(texts)
            _write(path, found)
        return found

    return dataclasses.replace(tokenizer, _encode_batch=encode_batch)


def _read(path: str, count: int) -> list[list[int]] | None:
    """The ids of `count` texts; None where the file is absent or not whole."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, ends = arrays["ids"].tolist(), np.cumsum(arrays["lengths"]).tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if len(ends) != count or ends[-1] != len(ids):
        return None
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _write(path: str, found: Sequence[Sequence[int]]) -> None:
    lengths = np.array([len(ids) for ids in found], np.int32)
    flat = np.fromiter(chain.from_iterable(found), np.int32)
    with naming(path), write_whole(path) as part:
        os.makedirs(os.path.dirname(part), exist_ok=True)
        with open(part, "wb") as file:
            np.savez(file, ids=flat, lengths=lengths)
