"""Rows of whole sentences from a store of words: row `position` of an endless stream of rows.

Each sentence stands between its begin and its end, and is a segment of its own. One with more words than a
row has room for is cut into several, each with both marks. Content and order are a pure function of (seed,
phase, position); each epoch has all sentences once, in another order and other company.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from bertjax.data.pretraining.bert_examples import document_weights
from bertjax.data.pretraining.store import Store
from bertjax.data.pretraining.stream import Stream
from bertjax.data.rng import root_key
from bertjax.data.tokenizers.characters import token_characters
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError

_MARKS = 2  # of a sentence
Rows = Callable[[int, int], dict[str, np.ndarray]]  # (first row, count) -> a batch


class Words:
    """What words are predicted, and the characters of all.

    Args:
      store, tokenizer: the token store and its tokenizer, of words.
      predicted: the first so many tokens are told apart; the others count as unknown, but have their own
        characters.
      most: characters of a word, see bertjax.data.tokenizers.characters.

    Raises:
      InputError: the store has fewer words.
    """

    def __init__(self, store: Store, tokenizer: Tokenizer, predicted: int, most: int):
        if predicted > tokenizer.vocab_size:
            raise InputError(
                f"--config.model.vocab_size={predicted}: {store.path} has {tokenizer.vocab_size} words; set "
                f"--config.model.vocab_size={tokenizer.vocab_size}, or less to leave out rare ones"
            )
        self.store, self.predicted, self.unknown = store, predicted, tokenizer.unk_id
        self.begin, self.end = tokenizer.bos_id, tokenizer.eos_id
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


class SentenceBatch(NamedTuple):
    """B rows of S words, 0 where nothing stands."""

    input_ids: np.ndarray  # int32 [B,S], of all the store's words
    segment_ids: np.ndarray  # int32 [B,S], from 1 in each row


class Sentences(Stream):
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
        self._lengths: np.ndarray = (
            np.minimum(np.repeat(lengths, parts) - part * room, room).astype(np.uint16) + _MARKS
        )
        if not len(self._lengths):
            raise InputError(f"{store.path}: no sentence to train on or to evaluate; give prepare more text")
        self.words = words
        super().__init__(seed, phase, seq_length, int(data_config.pack))

    def count(self, epoch: int) -> int:
        """Sentences, or parts of those that were cut."""
        return len(self._lengths)

    def lengths(self, epoch: int) -> np.ndarray:
        """Their lengths with their marks."""
        return self._lengths

    def empty(self, count: int) -> SentenceBatch:
        """Rows that hold nothing."""
        ids, segments = np.zeros((2, count, self.seq_length), np.int32)
        return SentenceBatch(ids, segments)

    def write(self, epoch: int, instances: np.ndarray, places: np.ndarray, batch: SentenceBatch) -> None:
        """Writes sentences to their places: see Stream."""
        words = self.words
        for sentence, (row, slot, begin) in zip(instances, places.T, strict=True):
            start, length = self._starts[sentence], int(self._lengths[sentence])
            of_row = batch.input_ids[row, begin : begin + length]
            of_row[0], of_row[-1] = words.begin, words.end
            of_row[1:-1] = words.store.tokens[start : start + length - _MARKS]
            batch.segment_ids[row, begin : begin + length] = slot + 1

    def rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        """Rows position, ..., position + count - 1 of the endless stream.

        Returns:
          int32 input_ids [B, S], the predicted words; segment_ids [B, S], from 1 in each row; character_ids
          [B, S, C]. All are 0 where nothing stands.
        """
        batch, words = super().rows(position, count), self.words
        ids, is_word = batch["input_ids"], batch["segment_ids"][..., None] > 0
        return batch | {
            "input_ids": np.where(ids < words.predicted, ids, words.unknown).astype(np.int32),
            "character_ids": np.where(is_word, words.characters[ids], 0).astype(np.int32),
        }


def with_step_keys(rows: Rows, seed: int, phase: int, batch_rows: int) -> Rows:
    """The rows with "step_key", uint32 [B, 2]: a random key, the same in all rows of a step."""

    def keyed(first: int, count: int) -> dict[str, np.ndarray]:
        key = int(root_key(seed, phase, 3, first // batch_rows))
        words = np.array([key >> 32, key & 0xFFFFFFFF], np.uint32)
        return rows(first, count) | {"step_key": np.tile(words, (count, 1))}

    return keyed
