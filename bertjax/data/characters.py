"""Words as character ids for ELMo (Peters et al. 2018, in the numbering of the paper's code).

A word is its UTF-8 bytes between a begin and an end mark, filled up with padding. Every id is one more than
the mark's or byte's number, and 0 only fills up rows of words.
"""

from collections.abc import Sequence

import numpy as np

from bertjax.config import CHARACTER_IDS
from bertjax.data.texts import check_utf8

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
