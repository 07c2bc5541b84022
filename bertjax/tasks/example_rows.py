"""Short examples that share rows, for tasks whose heads stand on single tokens.

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

from bertjax import sharding
from bertjax.data.finetuning.sequences import Row
from bertjax.data.packing import pack
from bertjax.tasks.finetuning import shuffled
from bertjax.tasks.interface import RowSource

_LENGTHS = 32  # rows are as long as a batch needs, rounded up, so that few shapes are compiled
_ROWS = 8  # of a batch, at least, so that as many devices have work: shorter rows hold as much
_FILLED = 0.95  # of a row, at most, by examples of average length
_FULL = 128  # tokens that a row may have for the sake of sharing it: the lanes of a TPU


class Places(NamedTuple):
    """Where examples lie: int64 arrays [examples]."""

    rows: np.ndarray
    slots: np.ndarray  # the number in the row, from 0
    offsets: np.ndarray  # the first token's position in the row


class PackedRows:
    """Encoded examples as rows that hold one or several of them.

    A batch has the encoder's arrays, in which example n of a row is segment n + 1; `class_positions` [B, N],
    where its class is told; what belongs to an example [B, N, ...]; what belongs to its tokens [B, S]. Where
    nothing lies it is 0. Where an example is K sequences, they are segments K n + 1 to K n + K, and
    class_positions is [B, N * K].

    Args:
      rows: the token ids of each example, or of its sequences, one after the other.
      pad_id: of the tokenizer.
      of_example: an array [examples, ...] for each name.
      of_token: for each name an array [tokens] of each example.
      at_end: whether the class is told at the last token, not at [CLS].
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

    def __len__(self) -> int:
        return len(self.lengths)

    def shuffled(self, config: ConfigDict) -> tuple[RowSource, int]:
        """Endless rows of batches of config.train.batch_size examples, and how many rows a batch has.

        Each epoch has another order, a pure function of config.seed. A batch's rows are as long as it needs.
        Which examples share a row depends on neither devices nor accumulation: for these, empty rows follow.
        """
        size, parts = config.train.batch_size, sharding.batch_parts(config)
        share = min(max(size // _ROWS, 1), self._share())
        filled = -(-size // share)
        count = -(-filled // parts) * parts

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            step = first // count
            examples = shuffled(config.seed, len(self), step * size, size)
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

    def once(self) -> tuple[RowSource, int, Places]:
        """All examples in rows of one length, how many rows that are, and the examples' places in them."""
        share = self._share()
        places = _place(self.lengths, self._full, share)

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            return self._batch(np.arange(len(self)), places, first, number, self._full, share)

        return rows, int(places.rows.max()) + 1, places

    def _batch(
        self, examples: np.ndarray, places: Places, first: int, count: int, length: int, share: int
    ) -> dict[str, np.ndarray]:
        """The rows `first` to `first + count` of those that the places tell of."""
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
