"""Sentences and documents as windows of tokens, each as long as a model takes, for tags of words.

A unit of text, a sentence or a whole document, is cut into windows, each half a window after the one before.
A word counts in the one window where it has the most context.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.finetuning.conll import Sentence
from bertjax.data.finetuning.sequences import Row
from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError


class Word(NamedTuple):
    """A word that counts in a window: which, and where its first token is."""

    sentence: int
    word: int
    position: int


class Window(NamedTuple):
    row: Row
    words: list[Word]


def cut_windows(
    sentences: Sequence[Sentence], tokenizer: Tokenizer, form: RowForm, most: int, document_context: bool
) -> list[Window]:
    """The windows of all sentences, or of all documents.

    Args:
      form: the marks around a text.
      most: tokens of a window, its marks among them.
      document_context: whether a window goes over the ends of sentences, as far as the document does.
    """
    windows: list[Window] = []
    unit: list[tuple[int, int, list[int]]] = []  # (sentence, word, its tokens)
    encoded = tokenizer.encode_batch([word for sentence in sentences for word in sentence.words])
    pieces = iter(encoded)
    for number, sentence in enumerate(sentences):
        unit += [(number, i, next(pieces) or [tokenizer.unk_id]) for i in range(len(sentence.words))]
        last = number + 1 == len(sentences)
        if last or not document_context or sentences[number + 1].document != sentence.document:
            windows += _cut(unit, form, most - 2)
            unit = []
    return windows


def _cut(unit: Sequence[tuple[int, int, list[int]]], form: RowForm, room: int) -> Iterator[Window]:
    starts = np.cumsum([0, *(len(pieces) for _, _, pieces in unit)])
    ids = [i for _, _, pieces in unit for i in pieces]
    firsts = [0]
    while firsts[-1] + room < len(ids):
        firsts.append(min(firsts[-1] + room // 2, len(ids) - room))
    words: list[list[Word]] = [[] for _ in firsts]
    for (sentence, word, _), start in zip(unit, starts, strict=False):
        # The context of a word's first token is what lies before and behind it, and the smaller of both
        # counts. Only windows that begin less than their length before it hold it.
        near = min(int(start) // (room // 2), len(firsts) - 1)
        context = {
            i: min(start - firsts[i], firsts[i] + room - 1 - start)
            for i in range(max(near - 3, 0), min(near + 2, len(firsts)))
        }
        best = max(context, key=context.__getitem__)
        words[best].append(Word(sentence, word, int(start) - firsts[best] + 1))
    for first, counted in zip(firsts, words, strict=True):
        if not counted:
            continue
        row = [form.before, *ids[first : first + room], form.after]
        yield Window(Row(row, [0] * len(row)), counted)


def word_weights(windows: Sequence[Window]) -> list[np.ndarray]:
    """float32 [tokens] of each window: 1 at the first tokens of the words that count in it, else 0."""
    weights: list[np.ndarray] = [np.zeros(len(window.row.ids), np.float32) for window in windows]
    for of_window, window in zip(weights, windows, strict=True):
        of_window[[position for _, _, position in window.words]] = 1.0
    return weights


def tag_numbers(
    windows: Sequence[Window], sentences: Sequence[Sentence], labels: Sequence[str], path: str
) -> list[np.ndarray]:
    """int32 [tokens] of each window: the numbers of the tags of the words that count in it, else 0.

    Raises InputError, which names the line of the file at `path`, if a tag is none of `labels`.
    """
    numbers = {label: i for i, label in enumerate(labels)}
    found: list[np.ndarray] = [np.zeros(len(window.row.ids), np.int32) for window in windows]
    for of_window, window in zip(found, windows, strict=True):
        for sentence, word, position in window.words:
            tag = sentences[sentence].tags[word]
            if tag not in numbers:
                line = sentences[sentence].line + word
                raise InputError(f"{path}:{line}: unknown tag {tag!r}; known are {', '.join(labels)}")
            of_window[position] = numbers[tag]
    return found
