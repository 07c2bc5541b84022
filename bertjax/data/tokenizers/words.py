"""Words as tokens, for models that read a word by its characters: the list of a corpus's words, and its file.

Text is cut as the 2018 release's BasicTokenizer cuts it (bertjax.data.tokenizers.wordpiece): at white
space, and round every punctuation character; control characters are dropped, and accents too in lower case.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from bertjax.data.tokenizers.wordpiece import Cache, raw_words, split_words
from bertjax.errors import InputError, quoted
from bertjax.files import read_json

FILE = "words.json"
# The first ids: a sentence's begin and end, and any word that is not in the list. No text has such a word, as
# "<" is one by itself.
MARKS = ("<S>", "</S>", "<UNK>")


class Splitter:
    """Text to words."""

    def __init__(self, lower_case: bool):
        self._of_raw_word = Cache(lambda raw: tuple(split_words(raw, lower_case)))

    def __call__(self, text: str) -> list[str]:
        return list(chain.from_iterable(map(self._of_raw_word.__getitem__, raw_words(text))))


def in_order(counts: Counter[str]) -> list[str]:
    """MARKS, and the words by falling frequency; equally frequent ones by code point.

    Raises:
      InputError: there is no word.
    """
    if not counts:
        raise InputError("the text has no word; check the inputs and their --format")
    return [*MARKS, *sorted(counts, key=lambda word: (-counts[word], word))]


def count(sentences: Iterable[str], lower_case: bool) -> Counter[str]:
    """How often each word is there."""
    return Counter(chain.from_iterable(map(Splitter(lower_case), sentences)))


def to_file(tokens: Sequence[str], lower_case: bool) -> bytes:
    """The content of FILE."""
    content = {"lower_case": lower_case, "words": list(tokens)}
    return json.dumps(content, ensure_ascii=False, indent=0).encode() + b"\n"


def read_file(path: Path) -> tuple[list[str], bool]:
    """The tokens of a FILE, MARKS first, and whether text is lower-cased. Raises InputError."""
    content = read_json(path, "take a whole copy of it, or make it anew with bertjax.prepare")
    tokens, lower_case = content.get("words"), content.get("lower_case")
    if not (
        isinstance(tokens, list)
        and all(isinstance(token, str) and token for token in tokens)
        and tuple(tokens[: len(MARKS)]) == MARKS
        and isinstance(lower_case, bool)
    ):
        raise InputError(f"{path}: not a list of words that begins with {' '.join(MARKS)}; make one with "
                         "bertjax.prepare --tokenizer=words")  # fmt: skip
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise InputError(f"{path}: {quoted(twice)} is there twice; keep one of them")
    return tokens, lower_case
