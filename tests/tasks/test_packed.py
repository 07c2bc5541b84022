"""Examples that share rows: nothing lost, nothing twice, the same whatever part of a batch is asked for."""

import numpy as np
import pytest

from bertjax import config as config_lib
from bertjax.data.finetuning.sequences import Row
from bertjax.tasks.example_rows import PackedRows

COUNT = 100
RNG = np.random.default_rng(0)
# Example i begins with the token 1000 + i, and its tokens' labels are 10 i, 10 i + 1, ...
LENGTHS = RNG.integers(3, 55, COUNT)
EXAMPLES = PackedRows(
    [Row([1000 + i, *range(5, 4 + n)], [0] * 2 + [1] * (n - 2)) for i, n in enumerate(LENGTHS)],
    pad_id=3,
    of_example={"labels": np.arange(COUNT, dtype=np.int32), "weights": np.ones(COUNT, np.float32)},
    of_token={"tags": [10 * i + np.arange(n, dtype=np.int32) for i, n in enumerate(LENGTHS)]},
)


def settings(batch_examples=20, **train):
    config = config_lib.default("classify")
    config.train.update(batch_examples=batch_examples, **train)
    config.mesh.data = 1  # of the mesh's axes only the product is looked at
    return config


def examples_of(batch):
    """The numbers of the examples, after a look at everything that belongs to each."""
    found = []
    for row, slot in zip(*np.nonzero(batch["weights"]), strict=True):
        i, start = batch["labels"][row, slot], batch["class_positions"][row, slot]
        here = slice(start, start + LENGTHS[i])
        ids, types = EXAMPLES.rows[i]
        assert batch["input_ids"][row, here].tolist() == ids
        assert batch["token_type_ids"][row, here].tolist() == types
        assert batch["position_ids"][row, here].tolist() == list(range(len(ids)))
        assert batch["tags"][row, here].tolist() == EXAMPLES.of_token["tags"][i].tolist()
        assert (
            np.flatnonzero(batch["segment_ids"][row] == slot + 1).tolist()
            == list(range(len(batch["input_ids"][row])))[here]
        )
        found.append(int(i))
    empty = batch["segment_ids"] == 0
    assert (batch["input_ids"][empty] == 3).all()
    assert not batch["tags"][empty].any()
    assert (batch["segment_ids"] > 0).sum() == sum(LENGTHS[i] for i in found)
    return found


@pytest.mark.parametrize(
    ("size", "accumulation", "count"), [(20, 1, 10), (20, 4, 12), (20, 20, 20), (7, 1, 7), (32, 2, 8)]
)
def test_every_example_once_in_an_epoch(size, accumulation, count):
    rows, batch_rows = EXAMPLES.shuffled(settings(size, accumulation=accumulation))
    assert batch_rows == count
    steps = [rows(step * count, count) for step in range(2 * COUNT // size)]
    seen = [examples_of(batch) for batch in steps]
    assert {len(examples) for examples in seen} == {size}
    flat = [i for examples in seen for i in examples]
    whole = COUNT // size * size if COUNT % size else COUNT
    assert len(set(flat[:whole])) == whole
    if not COUNT % size:
        assert sorted(flat[COUNT:]) == list(range(COUNT))
        assert flat[:COUNT] != flat[COUNT:]
    lengths = {batch["input_ids"].shape[1] for batch in steps}
    assert all(length % 32 == 0 for length in lengths)
    assert len(lengths) <= 3


@pytest.mark.parametrize("parts", [4, 20])
def test_where_examples_lie_does_not_depend_on_the_parts_of_a_batch(parts):
    """For dropout goes by row and position."""
    rows, count = EXAMPLES.shuffled(settings())
    others, more = EXAMPLES.shuffled(settings(accumulation=parts))
    for step in range(3):
        batch, other = rows(step * count, count), others(step * more, more)
        for name, x in batch.items():
            np.testing.assert_array_equal(x, other[name][:count])
        assert not other["segment_ids"][count:].any()
        assert not other["weights"][count:].any()


def test_a_part_of_a_batch_is_that_part():
    rows, count = EXAMPLES.shuffled(settings())
    whole = rows(3 * count, count)
    parts = [rows(3 * count + first, number) for first, number in ((0, 1), (1, 3), (4, 6))]
    for name, x in whole.items():
        np.testing.assert_array_equal(x, np.concatenate([part[name] for part in parts]))


def test_the_class_is_told_at_the_end_where_it_is_asked_for():
    rows, count, places = EXAMPLES.once(settings())
    at_end = PackedRows(EXAMPLES.rows, 3, EXAMPLES.of_example, EXAMPLES.of_token, at_end=True).once(
        settings()
    )[0]
    found, ends = rows(0, count)["class_positions"], at_end(0, count)["class_positions"]
    here = places.rows, places.slots
    np.testing.assert_array_equal(ends[here], found[here] + LENGTHS - 1)


def test_once_has_all_in_rows_of_one_length_and_empty_rows_behind():
    rows, count, places = EXAMPLES.once(settings())
    batch = rows(0, count + 3)
    assert sorted(examples_of(batch)) == list(range(COUNT))
    assert batch["input_ids"].shape == (count + 3, 128)
    assert not batch["segment_ids"][count:].any()
    assert batch["segment_ids"][count - 1].any()
    np.testing.assert_array_equal(batch["labels"][places.rows, places.slots], np.arange(COUNT))
    np.testing.assert_array_equal(batch["input_ids"][places.rows, places.offsets], 1000 + np.arange(COUNT))
    assert LENGTHS.sum() / (count * 128) > 0.9  # the rows are full


def test_the_sequences_of_an_example_lie_side_by_side():
    """Segments of their own, each with its place for the class; and the example's arrays once."""
    pairs = PackedRows(
        EXAMPLES.rows, 3, {"labels": np.arange(COUNT // 2, dtype=np.int32)}, {}, at_end=True, each=2
    )
    assert pairs.count == COUNT // 2
    np.testing.assert_array_equal(pairs.lengths, LENGTHS[::2] + LENGTHS[1::2])
    rows, count, places = pairs.once(settings())
    batch = rows(0, count)
    assert batch["class_positions"].shape[1] == 2 * batch["labels"].shape[1] > 2
    for i, (row, slot, start) in enumerate(zip(*places, strict=True)):
        assert batch["labels"][row, slot] == i
        for k in range(2):
            ids, types = EXAMPLES.rows[2 * i + k]
            here = slice(start, start + len(ids))
            assert batch["input_ids"][row, here].tolist() == ids
            assert batch["token_type_ids"][row, here].tolist() == types
            assert batch["position_ids"][row, here].tolist() == list(range(len(ids)))
            assert set(batch["segment_ids"][row, here]) == {2 * slot + k + 1}
            start += len(ids)
            assert batch["class_positions"][row, 2 * slot + k] == start - 1
    assert (batch["segment_ids"] > 0).sum() == LENGTHS.sum()
