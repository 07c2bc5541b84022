"""Several sequences in a row: first-fit-decreasing within blocks of the epoch's random order.

A block is small enough to be packed again whenever one of its rows is needed, and large enough to fill its
rows well.
"""

from typing import Any

import numpy as np

from bertjax.data.rng import draw, jit, permute

BLOCK = 2048  # sequences
_ROW_ORDER = np.uint64(1 << 63)  # beside the counters that permute() draws from the same key


@jit
def pack(
    lengths: np.ndarray, capacity: int, most: int, rows: np.ndarray, slots: np.ndarray, offsets: np.ndarray
) -> Any:
    """Packs sequences, the longest first, each into the first row with room for it and fewer than `most`.

    Writes each sequence's row, number in the row and first token to rows, slots and offsets (int32 [n]) and
    returns the number of rows. Every length is at most `capacity`.
    """
    n = len(lengths)
    ends = np.zeros(capacity + 2, np.int64)  # counting sort: sequences longer than a length come before it
    for i in range(n):
        ends[capacity - lengths[i] + 1] += 1
    for i in range(capacity + 1):
        ends[i + 1] += ends[i]
    order = np.empty(n, np.int64)
    for i in range(n):
        order[ends[capacity - lengths[i]]] = i
        ends[capacity - lengths[i]] += 1

    leaves = 1
    while leaves < n:
        leaves *= 2
    room = np.full(2 * leaves, capacity, np.int64)  # a tree of maxima: leaf r is the room in row r
    counts = np.zeros(n, np.int64)
    used = 0
    for sequence in order:
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < lengths[sequence]:
                node += 1
        row = node - leaves
        rows[sequence] = row
        slots[sequence] = counts[row]
        offsets[sequence] = capacity - room[node]
        counts[row] += 1
        room[node] -= lengths[sequence]
        if row == used:
            used += 1
        if counts[row] == most:
            room[node] = 0
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return used


@jit
def pack_block(
    lengths: np.ndarray,
    key: np.uint64,
    block: int,
    capacity: int,
    most: int,
    instances: np.ndarray,
    rows: np.ndarray,
    slots: np.ndarray,
    offsets: np.ndarray,
) -> Any:
    """Packs block `block` of the order `key` of all sequences (lengths uint16 [n]).

    Writes the block's sequences to instances (int64 [BLOCK]) and their places as in `pack`, the rows in
    random order, since first-fit-decreasing sorts them by length. Returns (sequences, rows) of the block.
    """
    first = block * BLOCK
    n = min(BLOCK, len(lengths) - first)
    block_lengths = np.empty(n, np.int64)
    for i in range(n):
        instances[i] = permute(first + i, len(lengths), key)
        block_lengths[i] = lengths[instances[i]]
    used = pack(block_lengths, capacity, most, rows, slots, offsets)
    row_key = draw(draw(key, _ROW_ORDER), block)
    for i in range(n):
        rows[i] = permute(rows[i], used, row_key)
    return n, used


@jit
def count_rows(
    lengths: np.ndarray, key: np.uint64, begin: int, stop: int, capacity: int, most: int, counts: np.ndarray
) -> None:
    """Writes the number of rows of blocks begin..stop to counts[block + 1] (int64)."""
    instances = np.empty(BLOCK, np.int64)
    rows, slots, offsets = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32), np.empty(BLOCK, np.int32)
    for block in range(begin, stop):
        _, used = pack_block(lengths, key, block, capacity, most, instances, rows, slots, offsets)
        counts[block + 1] = used
