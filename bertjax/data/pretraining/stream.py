"""An endless stream of rows that hold sequences of tokens, one each or several.

In each epoch come all of its sequences once, in an order of its own. Content and order are a pure function of
(seed, phase, position), and rows are made when asked for.
"""

import abc
import bisect
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from bertjax.data import packing
from bertjax.data.rng import permute_range, root_key

_GRAIN = 256  # visits or blocks that a thread takes at a time, at least


class Stream(abc.ABC):
    """Rows of the sequences that a subclass counts and writes. Safe to use from several threads.

    Args:
      seed: any integer; other seeds give another order.
      phase: 0 or 1, the part of training; works like a part of the seed.
      seq_length: S, tokens in a row.
      pack: most sequences in a row.
    """

    def __init__(self, seed: int, phase: int, seq_length: int, pack: int) -> None:
        self.seq_length, self.pack = seq_length, pack
        self._seeds = (seed, phase)
        self._blocks = functools.lru_cache(maxsize=2)(self._count_blocks)
        self._block = functools.lru_cache(maxsize=8)(self._make_block)
        self._lock = threading.Lock()
        self._ends = [0]  # rows before each epoch, as far as known

    @abc.abstractmethod
    def count(self, epoch: int) -> int:
        """Sequences of an epoch."""

    @abc.abstractmethod
    def lengths(self, epoch: int) -> np.ndarray:
        """Their lengths, uint16; asked for only if rows hold several."""

    @abc.abstractmethod
    def empty(self, count: int) -> Any:
        """Rows that hold nothing, as a NamedTuple of arrays [count, ...]."""

    @abc.abstractmethod
    def write(self, epoch: int, instances: np.ndarray, places: np.ndarray, batch: Any) -> None:
        """Writes sequences `instances` [M] of the epoch to their places (int32 [3, M]: row, number in it,
        first token).

        The places are in order, and a row's sequences are all among them.
        """

    def epoch_rows(self, epoch: int) -> int:
        """The number of rows of an epoch."""
        with self._lock:
            while len(self._ends) <= epoch + 1:
                rows = int(self._blocks(len(self._ends) - 1)[-1])
                self._ends.append(self._ends[-1] + rows)
        return self._ends[epoch + 1] - self._ends[epoch]

    def rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        """Rows position, ..., position + count - 1 of the endless stream, as a batch."""
        batch = self.empty(count)
        done = 0
        while done < count:
            epoch, row = self._locate(position + done)
            blocks = self._blocks(epoch)
            if self.pack == 1:
                taken = min(count - done, int(blocks[-1]) - row)
                instances = permute_range(row, taken, int(blocks[-1]), self._order_key(epoch))
                places = np.zeros((3, taken), np.int32)
                places[0] = np.arange(done, done + taken)
            else:
                block = int(np.searchsorted(blocks, row, side="right")) - 1
                taken = min(count - done, int(blocks[block + 1]) - row)
                row -= int(blocks[block])
                instances, places = self._block(epoch, block)
                first, stop = np.searchsorted(places[0], (row, row + taken))
                instances, places = instances[first:stop], places[:, first:stop].copy()
                places[0] += done - row
            self.write(epoch, instances, places, batch)
            done += taken
        rows: dict[str, np.ndarray] = batch._asdict()
        return rows

    def _order_key(self, epoch: int) -> np.uint64:
        return root_key(*self._seeds, 1, epoch)

    def _locate(self, position: int) -> tuple[int, int]:
        """(epoch, row of the epoch) of a row of the endless stream."""
        while self._ends[-1] <= position:
            self.epoch_rows(len(self._ends) - 1)
        epoch = bisect.bisect_right(self._ends, position) - 1
        return epoch, position - self._ends[epoch]

    def _count_blocks(self, epoch: int) -> np.ndarray:
        """int64: the first row of each block of an epoch, and last its rows; [0, rows] if unpacked."""
        if self.pack == 1:
            return np.array([0, self.count(epoch)])
        lengths = self.lengths(epoch)
        blocks = np.zeros(1 - (-len(lengths) // packing.BLOCK), np.int64)
        key = self._order_key(epoch)
        spread(
            lambda a, b: packing.count_rows(lengths, key, a, b, self.seq_length, self.pack, blocks),
            len(blocks) - 1,
        )
        return np.cumsum(blocks, out=blocks)

    def _make_block(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of a block and their places (row, number in it, first token), in order of place."""
        instances = np.empty(packing.BLOCK, np.int64)
        places = np.empty((3, packing.BLOCK), np.int32)
        n, _ = packing.pack_block(
            self.lengths(epoch), self._order_key(epoch), block, self.seq_length, self.pack, instances,
            *places,
        )  # fmt: skip
        order = np.lexsort((places[1, :n], places[0, :n]))
        return instances[order], places[:, order]


def frozen(array: np.ndarray, dtype: Any) -> np.ndarray:
    """A read-only plain view, so that kernels are compiled for one kind of array, memory-mapped or not."""
    view = np.ascontiguousarray(array, dtype).view(np.ndarray)[:]
    view.flags.writeable = False
    return view


def spread(work: Callable[[int, int], None], n: int) -> None:
    """work(begin, stop) over parts of range(n), on all cores."""
    workers = os.cpu_count() or 1
    grain = max(_GRAIN, -(-n // (8 * workers)))
    if n <= grain:
        work(0, n)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda begin: work(begin, min(begin + grain, n)), range(0, n, grain)))
