import numpy as np
import pytest

from bertjax.data import packing
from bertjax.data.rng import root_key

KEY = root_key(2)


def pack(lengths, capacity, most):
    rows, slots, offsets = (np.zeros(len(lengths), np.int32) for _ in range(3))
    used = packing.pack(np.asarray(lengths), capacity, most, rows, slots, offsets)
    return rows, slots, offsets, used


@pytest.mark.parametrize(("n", "capacity", "most"), [(1, 10, 4), (300, 128, 8), (500, 64, 2), (64, 64, 1)])
def test_pack_is_first_fit_decreasing(n, capacity, most):
    for seed in range(5):
        lengths = np.random.default_rng(seed).integers(min(5, capacity), capacity + 1, n)
        rows, slots, offsets, used = pack(lengths, capacity, most)
        open_rows: list[list[int]] = []
        for i in np.argsort(-lengths, kind="stable"):
            row = next(
                (r for r in open_rows if len(r) < most and sum(lengths[r]) + lengths[i] <= capacity), None
            )  # fmt: skip
            if row is None:
                row = []
                open_rows.append(row)
            assert slots[i] == len(row)
            assert offsets[i] == sum(lengths[row])
            row.append(i)
            assert rows[i] == next(k for k, r in enumerate(open_rows) if r is row)
        assert used == len(open_rows)


def test_blocks_hold_every_sequence_once_and_counts_agree():
    n = 2 * packing.BLOCK + 77
    lengths = np.random.default_rng(0).integers(5, 65, n).astype(np.uint16)
    blocks = 3
    counts = np.zeros(blocks + 1, np.int64)
    packing.count_rows(lengths, KEY, 0, 2, 64, 4, counts)
    packing.count_rows(lengths, KEY, 2, 3, 64, 4, counts)
    seen = []
    for block in range(blocks):
        instances = np.zeros(packing.BLOCK, np.int64)
        rows, slots, offsets = (np.zeros(packing.BLOCK, np.int32) for _ in range(3))
        m, used = packing.pack_block(lengths, KEY, block, 64, 4, instances, rows, slots, offsets)
        assert used == counts[block + 1]
        assert np.array_equal(np.unique(rows[:m]), np.arange(used))
        filled = np.bincount(rows[:m], weights=lengths[instances[:m]])
        assert filled.max() <= 64
        assert filled.mean() / 64 > 0.9
        assert abs(np.corrcoef(np.arange(used), filled)[0, 1]) < 0.3  # rows are not sorted
        longest = np.zeros(used)
        np.maximum.at(longest, rows[:m], lengths[instances[:m]])
        assert abs(np.corrcoef(np.arange(used), longest)[0, 1]) < 0.3
        seen.append(instances[:m])
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(n))


def test_each_block_has_an_order_of_its_own():
    """Sequences that fill a row each: a block's rows are its sequences in another order."""
    n = 3 * packing.BLOCK
    lengths = np.full(n, 64, np.uint16)
    orders = []
    for block in range(3):
        instances = np.zeros(packing.BLOCK, np.int64)
        rows, slots, offsets = (np.zeros(packing.BLOCK, np.int32) for _ in range(3))
        assert packing.pack_block(lengths, KEY, block, 64, 4, instances, rows, slots, offsets) == (
            packing.BLOCK,
            packing.BLOCK,
        )
        orders.append(rows)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (orders[a] == orders[b]).mean() < 0.01
