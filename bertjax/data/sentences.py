"""Rows of whole sentences from a store of words: row `position` of an endless stream of rows.

Each sentence stands between its begin and its end, and is a segment of its own. One with more words than a
row has room for is cut into several, each with both marks. Content and order are a pure function of (seed,
phase, position); each epoch has all sentences once, in another order and other company.
"""

import bisect
import functools
import threading

import numpy as np
from ml_collections import ConfigDict

from bertjax.data import packing
from bertjax.data.characters import token_characters
from bertjax.data.examples import document_weights
from bertjax.data.rng import root_key
from bertjax.data.store import Store
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import InputError

KIND = "words"  # of the tokenizer
_MARKS = 2  # of a sentence


class Words:
    """What words are predicted, and the characters of all.

    Args:
      store, tokenizer: the token store and its tokenizer, of KIND.
      predicted: the first so many tokens are told apart; the others count as unknown, but have their own
        characters.
      most: characters of a word, see bertjax.data.characters.

    Raises:
      InputError: the store is of another kind, or has fewer words.
    """

    def __init__(self, store: Store, tokenizer: Tokenizer, predicted: int, most: int):
        if tokenizer.kind != KIND:
            raise InputError(
                f"{store.path}: a store of {tokenizer.kind} tokens, but ELMo reads words; prepare one with "
                f"--tokenizer={KIND}"
            )
        if predicted > tokenizer.vocab_size:
            raise InputError(
                f"--config.elmo.vocab_size={predicted}: {store.path} has {tokenizer.vocab_size} words; set "
                f"--config.elmo.vocab_size={tokenizer.vocab_size}, or less to leave out rare ones"
            )
        self.store, self.predicted, self.unknown = store, predicted, tokenizer.unk_id
        self.begin, self.end = tokenizer.cls_id, tokenizer.sep_id
        self.characters = token_characters(tokenizer.tokens, most)

    def unigram_entropy(self) -> float:
        """Of the predicted words' frequencies and the sentences' ends, nats a word. Reads all tokens."""
        counts = np.zeros(len(self.characters), np.int64)
        for first in range(0, len(self.store.tokens), 1 << 20):
            counts += np.bincount(self.store.tokens[first : first + (1 << 20)], minlength=len(counts))
        counts[self.unknown] += counts[self.predicted :].sum()
        counts[self.end] += len(self.store.sentences) - 1
        counts = counts[: self.predicted]
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())


class Sentences:
    """The sentences of some of a store's documents. Safe to use from several threads.

    Args:
      words: of the store.
      data_config: `config.data`, of which pack and weights are read.
      seed, phase: integers that the order follows from.
      seq_length: S, words in a row with the sentences' marks.
      documents: int64 ids of the documents to use.

    Raises:
      InputError: there is no sentence, or a document's weight is no whole number.
    """

    def __init__(
        self,
        words: Words,
        data_config: ConfigDict,
        *,
        seed: int,
        phase: int,
        seq_length: int,
        documents: np.ndarray,
    ):
        store = words.store
        weights = document_weights(store, data_config)[documents]
        if (weights != np.floor(weights)).any():
            raise InputError("--config.data.weights: sentences are read a whole number of times; a weight of "
                             f"{store.path} is {weights[weights != np.floor(weights)][0]}")  # fmt: skip
        documents = np.repeat(documents, weights.astype(np.int64))
        first, last = store.documents[documents], store.documents[documents + 1]
        sentences = np.repeat(first - np.cumsum(last - first) + (last - first), last - first)
        sentences += np.arange(len(sentences))
        starts = store.sentences[sentences]
        lengths = store.sentences[sentences + 1] - starts
        room = seq_length - _MARKS
        parts = -(-lengths // room)
        part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        self.cut = int((parts > 1).sum())  # sentences that are longer than a row
        self._starts = np.repeat(starts, parts) + part * room
        self._lengths = np.minimum(np.repeat(lengths, parts) - part * room, room).astype(np.uint16) + _MARKS
        if not len(self._lengths):
            raise InputError(f"{store.path}: no sentence to train on or to evaluate; give prepare more text")
        self.words, self.seq_length, self.pack = words, seq_length, int(data_config.pack)
        self._seeds = seed, phase
        self._windows = functools.lru_cache(maxsize=2)(self._count_windows)
        self._window = functools.lru_cache(maxsize=8)(self._make_window)
        self._lock, self._ends = threading.Lock(), [0]

    def epoch_rows(self, epoch: int) -> int:
        """The number of rows of an epoch."""
        with self._lock:
            while len(self._ends) <= epoch + 1:
                self._ends.append(self._ends[-1] + int(self._windows(len(self._ends) - 1)[-1]))
        return self._ends[epoch + 1] - self._ends[epoch]

    def rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        """Rows position, ..., position + count - 1 of the endless stream.

        Returns:
          int32 input_ids [B, S], the predicted words; segment_ids [B, S], from 1 in each row; character_ids
          [B, S, C]. All are 0 where nothing stands.
        """
        words, shape = self.words, (count, self.seq_length)
        ids, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
        done = 0
        while done < count:
            row, taken, pieces, places = self._from(position + done, count - done)
            for piece, (at, slot, begin) in zip(pieces, places.T, strict=True):
                start, length = self._starts[piece], int(self._lengths[piece])
                of_row = ids[done + at - row, begin : begin + length]
                of_row[0], of_row[-1] = words.begin, words.end
                of_row[1:-1] = words.store.tokens[start : start + length - _MARKS]
                segments[done + at - row, begin : begin + length] = slot + 1
            done += taken
        characters = np.where(segments[..., None] > 0, words.characters[ids], 0).astype(np.int32)
        predicted = np.where(ids < words.predicted, ids, words.unknown).astype(np.int32)
        return {"input_ids": predicted, "segment_ids": segments, "character_ids": characters}

    def _from(self, position: int, count: int) -> tuple[int, int, np.ndarray, np.ndarray]:
        """From a row on: (row in its window, rows taken, their pieces, places int32 [3, pieces])."""
        while self._ends[-1] <= position:
            self.epoch_rows(len(self._ends) - 1)
        epoch = bisect.bisect_right(self._ends, position) - 1
        row, windows = position - self._ends[epoch], self._windows(epoch)
        window = int(np.searchsorted(windows, row, side="right")) - 1
        taken = min(count, int(windows[window + 1]) - row)
        row -= int(windows[window])
        pieces, places = self._window(epoch, window)
        first, stop = np.searchsorted(places[0], (row, row + taken))
        return row, taken, pieces[first:stop], places[:, first:stop]

    def _key(self, epoch: int) -> np.uint64:
        return root_key(*self._seeds, 1, epoch)

    def _count_windows(self, epoch: int) -> np.ndarray:
        """int64: the first row of each window of an epoch, and last its rows."""
        windows = np.zeros(1 - (-len(self._lengths) // packing.WINDOW), np.int64)
        packing.count_rows(
            self._lengths, self._key(epoch), 0, len(windows) - 1, self.seq_length, self.pack, windows
        )
        return np.cumsum(windows, out=windows)

    def _make_window(self, epoch: int, window: int) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of a window and their places (row, number in it, first word), in order of place."""
        pieces = np.empty(packing.WINDOW, np.int64)
        places = np.empty((3, packing.WINDOW), np.int32)
        n, _ = packing.pack_window(
            self._lengths, self._key(epoch), window, self.seq_length, self.pack, pieces, *places
        )
        order = np.lexsort((places[1, :n], places[0, :n]))
        return pieces[order], places[:, order]


def step_keys(seed: int, phase: int, step: int, count: int) -> np.ndarray:
    """uint32 [count, 2]: the same random key in each of `count` rows, another one in every step."""
    key = int(root_key(seed, phase, 3, step))
    return np.tile(np.array([key >> 32, key & 0xFFFFFFFF], np.uint32), (count, 1))
