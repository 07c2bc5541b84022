"""Words as character ids for ELMo (Peters et al. 2018, in the numbering of the paper's code).

A word is its UTF-8 bytes between a begin and an end mark, filled up with padding. Every id is one more than
the mark's or byte's number, and 0 only fills up rows of words.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bertjax.data.tokenizers import words as words_lib
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import check_utf8

CHARACTER_IDS = 262  # 256 bytes, begin and end of sentences and words, and two kinds of padding
_SENTENCE_BEGIN, _SENTENCE_END, _WORD_BEGIN, _WORD_END, _PADDING = range(257, CHARACTER_IDS)


def word_characters(words: Sequence[str], most: int) -> np.ndarray:
    """int32 [words, most] character ids.

    Args:
      most: characters of a word, both marks among them; further bytes of a word are left out.

    Raises:
      InputError: a word comes from bytes that are not UTF-8.
    """
    ids = np.full((len(words), most), _PADDING, np.int32)
    ids[:, 0] = _WORD_BEGIN
    for row, word in zip(ids, words, strict=True):
        check_utf8(word)
        bytes_ = np.frombuffer(word.encode()[: most - 2], np.uint8)
        row[1 : len(bytes_) + 1] = bytes_
        row[1 : len(bytes_) + 1] += 1
        row[len(bytes_) + 1] = _WORD_END
    return ids


def sentence_characters(words: Sequence[str], most: int) -> np.ndarray:
    """int32 [words + 2, most]: those of the words of a sentence between its begin and its end."""
    marks = word_characters(["", ""], most)
    marks[:, 1], marks[:, 2] = (_SENTENCE_BEGIN, _SENTENCE_END), _WORD_END
    return np.concatenate([marks[:1], word_characters(words, most), marks[1:]])


def token_characters(tokens: Sequence[str], most: int) -> np.ndarray:
    """uint16 [tokens, most]: those of a sentence's begin and end, and of words from the third on."""
    marks = sentence_characters((), most)
    return np.concatenate([marks, word_characters(tokens[len(marks) :], most)]).astype(np.uint16)


class AnyWords:
    """Numbers for whatever words come, known to a model's vocabulary or not, and the words' characters.

    Texts are encoded first, and characters are asked for afterwards.

    Args:
      tokenizer: of kind "words", whose rules cut text and whose marks have the first numbers.
      most: characters of a word, see word_characters.
    """

    def __init__(self, tokenizer: Tokenizer, most: int):
        self._split, self._most = words_lib.Splitter(tokenizer.lower_case), most
        self._numbers = {mark: i for i, mark in enumerate(words_lib.MARKS)}
        self._table = token_characters(words_lib.MARKS, most)
        self.tokenizer = dataclasses.replace(tokenizer, _encode_batch=self._encode)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of each text's words; a text that has none is one unknown word."""
        found = []
        for text in texts:
            check_utf8(text)
            words = self._split(text) or [words_lib.MARKS[-1]]
            found.append([self._numbers.setdefault(word, len(self._numbers)) for word in words])
        return found

    def characters(self, ids: np.ndarray) -> np.ndarray:
        """int32 [..., most] for ids [...]."""
        if len(self._table) < len(self._numbers):
            new = list(self._numbers)[len(self._table) :]
            self._table = np.concatenate([self._table, word_characters(new, self._most).astype(np.uint16)])
        found: np.ndarray = self._table[ids].astype(np.int32)
        return found
