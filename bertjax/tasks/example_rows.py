"""Encoded examples as batches: several short ones in a row, or each in a row of its own.

Half of a batch of sentence pairs is padding otherwise. Attention stays inside each example, so it is computed
as if it were alone.

Shapes: B rows, S sequence, N examples that a row has room for.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.finetuning.sequences import Row, batch_length, make_batch
from bertjax.data.packing import pack
from bertjax.data.rng import permute_range, root_key
from bertjax.mesh import batch_parts
from bertjax.sections import batch_size
from bertjax.tasks.interface import RowSource

_LENGTHS = 32  # rows are as long as a batch needs, rounded up, so that few shapes are compiled
_ROWS = 8  # of a batch, at least, so that as many devices have work: shorter rows hold as much
_FILLED = 0.95  # of a row, at most, by examples of average length
_FULL = 128  # tokens that a row may have for the sake of sharing it: the lanes of a TPU


class Places(NamedTuple):
    """Where examples lie: integer arrays [examples]."""

    rows: np.ndarray
    slots: np.ndarray  # the number in the row, from 0
    offsets: np.ndarray  # the first token's position in the row


class PackedRows:
    """Encoded examples as rows that hold one or several of them.

    A batch has the encoder's arrays, in which example n of a row is segment n + 1; `class_positions` [B, N],
    of the token that stands for the whole of it; what belongs to an example [B, N, ...]; what belongs to its
    tokens [B, S]. Where nothing lies it is 0. Where an example is K sequences, they are segments K n + 1 to
    K n + K, and class_positions is [B, N * K].

    Args:
      rows: the token ids of each example, or of its sequences, one after the other.
      pad_id: of the tokenizer.
      of_example: an array [examples, ...] for each name.
      of_token: for each name an array [tokens] of each example.
      at_end: whether the last token stands for the whole of a sequence, not the first.
      alone: whether each example has a row of its own: an LSTM takes a step for each token of a row.
      each: K.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        pad_id: int,
        of_example: Mapping[str, np.ndarray],
        of_token: Mapping[str, Sequence[np.ndarray]],
        at_end: bool = False,
        alone: bool = False,
        each: int = 1,
    ):
        self.at_end, self.each = at_end, each
        self.rows, self.pad_id, self.of_example, self.of_token = rows, pad_id, of_example, of_token
        self.lengths = np.array([len(row.ids) for row in rows]).reshape(-1, each).sum(1)
        self._alone = alone
        self._full = max(0 if alone else _FULL, _rounded(self.lengths.max()))

    @property
    def count(self) -> int:
        """The number of examples."""
        return len(self.lengths)

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        return np.array([len(row.ids) for row in self.rows])

    def shuffled(self, config: ConfigDict) -> tuple[RowSource, int]:
        """Endless rows of batches as large as config.train says, and how many rows a batch has.

        Each epoch has another order, a pure function of config.seed. A batch's rows are as long as it needs.
        Which examples share a row depends on neither devices nor accumulation: for these, empty rows follow.
        """
        size, parts = batch_size(config.train), batch_parts(config)
        share = min(max(size // _ROWS, 1), self._share())
        filled = -(-size // share)
        count = -(-filled // parts) * parts

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            step = first // count
            examples = shuffled(config.seed, self.count, step * size, size)
            places, length = self._fit(self.lengths[examples], filled, share)
            return self._batch(examples, places, first - step * count, number, length, share)

        return rows, count

    def _share(self) -> int:
        """How many examples of average length a row has room for."""
        return 1 if self._alone else max(1, int(_FILLED * self._full / self.lengths.mean()))

    def _fit(self, lengths: np.ndarray, count: int, share: int) -> tuple[Places, int]:
        """Places in `count` rows, and the shortest length for which there are any."""
        length = _rounded(max(lengths.max(), math.ceil(lengths.sum() / count)))
        while True:
            places = _place(lengths, length, share)
            if places.rows.max() < count:
                return places, length
            length += _LENGTHS

    def once(self, config: ConfigDict) -> tuple[RowSource, int, Places]:
        """All examples in rows of one length, how many rows that is, and the examples' places in them."""
        share = self._share()
        places = _place(self.lengths, self._full, share)

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            return self._batch(np.arange(self.count), places, first, number, self._full, share)

        return rows, int(places.rows.max()) + 1, places

    def _batch(
        self, examples: np.ndarray, places: Places, first: int, count: int, length: int, share: int
    ) -> dict[str, np.ndarray]:
        """The rows `first` to `first + count` of those with places."""
        slots = _slots(share)
        tokens = {name: np.zeros((count, length), np.int32) for name in ("token_type_ids", "segment_ids")}
        batch = {
            "input_ids": np.full((count, length), self.pad_id, np.int32),
            **tokens,
            "position_ids": np.tile(np.arange(length, dtype=np.int32), (count, 1)),
            "class_positions": np.zeros((count, slots * self.each), np.int32),
            **{name: np.zeros((count, slots, *x.shape[1:]), x.dtype) for name, x in self.of_example.items()},
            **{name: np.zeros((count, length), x[0].dtype) for name, x in self.of_token.items()},
        }
        for i in np.flatnonzero((places.rows >= first) & (places.rows < first + count)):
            example, row, slot = examples[i], places.rows[i] - first, places.slots[i]
            start = places.offsets[i]
            whole = row, slice(start, start + self.lengths[example])
            for k in range(self.each):
                ids, types = self.rows[example * self.each + k]
                here, segment = (row, slice(start, start + len(ids))), slot * self.each + k
                batch["input_ids"][here] = ids
                batch["token_type_ids"][here] = types
                batch["segment_ids"][here] = segment + 1
                batch["position_ids"][here] = np.arange(len(ids))
                batch["class_positions"][row, segment] = start + (len(ids) - 1) * self.at_end
                start += len(ids)
            for name, x in self.of_example.items():
                batch[name][row, slot] = x[example]
            for name, of_example in self.of_token.items():
                batch[name][whole] = of_example[example]
        return batch


class EncodedRows:
    """Encoded examples with their labels and what else belongs to each.

    Args:
      rows: the token ids of each example.
      arrays: [examples, ...] of each further array of a batch; what lies past the last example is 0.
      pad_id: of the tokenizer.
      most: S at most.
      full: whether S is always `most`.
      count: of examples of an epoch; None: as many as rows.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        arrays: Mapping[str, np.ndarray],
        pad_id: int,
        most: int,
        full: bool = False,
        count: int | None = None,
    ):
        self.rows, self.arrays, self.pad_id, self.most, self.full = rows, arrays, pad_id, most, full
        self.count = len(rows) if count is None else count
        self.lengths = np.array([len(row.ids) for row in rows])
        self.by_length = np.argsort(self.lengths, kind="stable")

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return self.lengths

    def shuffled(self, config: ConfigDict) -> tuple[RowSource, int]:
        """Endless rows in batches as large as config.train says, each epoch in another order, a pure function
        of config.seed; and how many rows a batch has.

        Every batch is as long as its own longest row needs.
        """
        seed, size = config.seed, batch_size(config.train)

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            batch = shuffled(seed, len(self.lengths), first // size * size, size)
            some = shuffled(seed, len(self.lengths), first, number)
            return self._batch(some, number, self._length(batch))

        return rows, size

    def once(self, config: ConfigDict) -> tuple[RowSource, int, Places]:
        """All rows once, in batches of config.eval.batch_rows, the short ones first; their number, and the
        places of the examples in them."""
        size = config.eval.batch_rows

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            start = first // size * size
            batch = self.by_length[start : start + size]
            return self._batch(self.by_length[first : first + number], number, self._length(batch))

        back, zeros = np.argsort(self.by_length, kind="stable"), np.zeros_like(self.by_length)
        return rows, len(self.lengths), Places(back, zeros, zeros)

    def _length(self, indices: np.ndarray) -> int:
        if self.full:
            return self.most
        return batch_length(int(self.lengths[indices].max()), self.most)

    def _batch(self, indices: np.ndarray, count: int, length: int) -> dict[str, np.ndarray]:
        fill = count - len(indices)
        rows = [self.rows[i] for i in indices] + [Row([], [])] * fill
        batch = make_batch(rows, self.pad_id, length)
        for name, x in self.arrays.items():
            batch[name] = np.concatenate([x[indices], np.zeros((fill, *x.shape[1:]), x.dtype)])
        return batch


def shuffled(seed: int, count: int, first: int, number: int) -> np.ndarray:
    """`number` of `count` examples from the `first` on, int64, each epoch in another order."""
    found = []
    while number:
        epoch, at = divmod(first, count)
        taken = min(number, count - at)
        found.append(permute_range(at, taken, count, root_key(seed, 0, 2, epoch)))
        first, number = first + taken, number - taken
    return np.concatenate(found)


def is_packed(batch: Mapping[str, jax.Array]) -> bool:
    """Whether rows of a batch may hold several examples."""
    return batch["class_positions"].shape[1] > 1


def _place(lengths: np.ndarray, length: int, share: int) -> Places:
    rows, slots, offsets = (np.empty(len(lengths), np.int32) for _ in range(3))
    pack(lengths, length, _slots(share), rows, slots, offsets)
    return Places(rows, slots, offsets)


def _slots(share: int) -> int:
    """N, where `share` examples are in a row on average."""
    return 2 * share if share > 1 else 1


def _rounded(length: int) -> int:
    return -(-int(length) // _LENGTHS) * _LENGTHS
