"""Contiguous text for a language model: each document of a store cut into pieces of so many tokens.

A piece lies within one document, and begins with the last token of the piece before it. So every token but
the first of a document is predicted once in an epoch, each from up to seq_length - 1 tokens before it. In
training a long document's first piece ends at a random place, anew in each epoch, so that the cuts lie
elsewhere.
"""

import functools
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from bertjax.data.pretraining.bert_examples import corpus_of, document_weights
from bertjax.data.pretraining.sentence_pairs import Corpus
from bertjax.data.pretraining.store import Store
from bertjax.data.pretraining.stream import Stream, frozen
from bertjax.data.rng import below, chance, draw, jit, root_key
from bertjax.errors import InputError


class TextBatch(NamedTuple):
    """B rows of S tokens, int32."""

    input_ids: np.ndarray  # [B,S]
    token_type_ids: np.ndarray  # [B,S], all 0
    position_ids: np.ndarray  # [B,S]
    segment_ids: np.ndarray  # [B,S]


class _Index(NamedTuple):
    first: np.ndarray  # int64 [E + 1], the index of each entry's first piece; the last is their number
    predicted: np.ndarray  # int64 [E], tokens that the entry's first piece predicts
    lengths: np.ndarray  # uint16 of each piece; none if rows hold one each


class Pieces(Stream):
    """The pieces of some of a store's documents.

    Args:
      store: the token store.
      data_config: `config.data`, of which weights and pack are read.
      pad_id: of the tokenizer.
      seed, phase, seq_length: see Stream; other seeds cut at other places too.
      documents: int64 ids of the documents to use, such as `store.train_documents`.
      shifted: False: every document is cut from its beginning on, as evaluation wants it.

    Raises:
      InputError: the weights do not fit the store, or the documents have nothing to predict.
    """

    def __init__(
        self,
        store: Store,
        data_config: ConfigDict,
        pad_id: int,
        *,
        seed: int,
        phase: int,
        seq_length: int,
        documents: np.ndarray,
        shifted: bool = True,
    ) -> None:
        super().__init__(seed, phase, seq_length, data_config.pack)
        self._tokens = store.tokens
        self._pad_id, self._shifted = pad_id, shifted
        weights = document_weights(store, data_config)[documents]
        self._corpus = corpus_of(store, documents, weights)
        self._begins = frozen(store.sentences[store.documents[self._corpus.entry_document]], np.int64)
        ends = frozen(store.sentences[store.documents[self._corpus.entry_document + 1]], np.int64)
        self._sizes = frozen(ends - self._begins, np.int64)  # tokens of each entry's document
        self._index = functools.lru_cache(maxsize=2)(self._make_index)
        if not self.epoch_rows(0):
            raise InputError(
                f"{store.path}: the documents have no token that another one follows; give prepare more "
                "text, or raise --config.data.weights"
            )

    def count(self, epoch: int) -> int:
        return int(self._index(epoch).first[-1])

    def lengths(self, epoch: int) -> np.ndarray:
        return self._index(epoch).lengths

    def empty(self, count: int) -> TextBatch:
        shape = count, self.seq_length
        ids = np.full(shape, self._pad_id, np.int32)
        return TextBatch(ids, *(np.zeros(shape, np.int32) for _ in TextBatch._fields[1:]))

    def write(self, epoch: int, instances: np.ndarray, places: np.ndarray, batch: TextBatch) -> None:
        begins, ends, entries = self._places(self._index(epoch), instances)
        begins += self._begins[entries]
        ends += self._begins[entries]
        for begin, end, row, slot, at in zip(begins, ends, *places, strict=True):
            here = row, slice(at, at + end - begin)
            batch.input_ids[here] = self._tokens[begin:end]
            batch.position_ids[here] = np.arange(end - begin)
            batch.segment_ids[here] = slot + 1

    def _make_index(self, epoch: int) -> _Index:
        first, predicted = (np.zeros(len(self._sizes) + more, np.int64) for more in (1, 0))
        key, stride = root_key(*self._seeds, 0, epoch), self.seq_length - 1
        count_pieces(self._corpus, self._sizes, key, stride, self._shifted, first, predicted)
        index = _Index(np.cumsum(first, out=first), predicted, np.empty(0, np.uint16))
        if self.pack > 1:
            begins, ends, _ = self._places(index, np.arange(first[-1]))
            index = index._replace(lengths=(ends - begins).astype(np.uint16))
        return index

    def _places(self, index: _Index, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each piece, int64: its first token and end, counted within its document, and its entry."""
        stride = self.seq_length - 1
        entries = np.searchsorted(index.first, pieces, side="right") - 1
        number = pieces - index.first[entries]  # of the document's
        # A piece's first token is the last that the piece before it predicts.
        begins = (index.predicted[entries] + (number - 1) * stride) * (number > 0)
        ends = np.minimum(index.predicted[entries] + number * stride + 1, self._sizes[entries])
        return begins, ends, entries


@jit
def count_pieces(
    corpus: Corpus,
    sizes: np.ndarray,
    key: np.uint64,
    stride: int,
    shifted: bool,
    counts: np.ndarray,
    predicted: np.ndarray,
) -> None:
    """Writes the number of pieces of each entry to counts[entry + 1], and what the first of them predicts.

    A document of at most `stride` + 1 tokens is one piece; one of a single token is none.
    """
    for e in range(len(sizes)):
        own = draw(draw(key, corpus.entry_document[e]), corpus.entry_copy[e])
        rest = sizes[e] - 1  # tokens to be predicted
        if rest == 0 or chance(own, 0) >= corpus.entry_share[e]:
            continue
        predicted[e] = min(rest, stride)
        if shifted and rest > stride:
            predicted[e] = 1 + below(own, 1, stride)
        counts[e + 1] = 1 + (rest - predicted[e] + stride - 1) // stride
