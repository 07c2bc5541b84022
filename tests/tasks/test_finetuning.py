"""What the fine-tuning tasks share: the order of examples, steps from epochs, rows as batches."""

import math

import numpy as np
import pytest

from bertjax.config import default
from bertjax.data.finetuning.sequences import Row
from bertjax.errors import InputError
from bertjax.tasks.example_rows import EncodedRows, shuffled
from bertjax.tasks.interface import perplexity, with_epochs


def test_every_epoch_has_all_examples_in_an_order_of_its_own():
    epochs = shuffled(7, 100, 0, 400).reshape(4, 100)
    for i, order in enumerate(epochs):
        assert np.array_equal(np.sort(order), np.arange(100))
        for other in (np.arange(100), *epochs[:i], shuffled(8, 100, 100 * i, 100)):
            assert (order == other).mean() < 0.1


def test_the_order_does_not_depend_on_how_it_is_asked_for():
    whole = shuffled(7, 10, 0, 40)
    for first, number in ((0, 3), (8, 5), (9, 1), (10, 10), (5, 30)):
        np.testing.assert_array_equal(shuffled(7, 10, first, number), whole[first : first + number])


@pytest.mark.parametrize(
    ("count", "epochs", "proportion", "steps", "warmup"),
    [
        (10, 3.0, 0.5, 7, 3),  # 7.5 batches, and a warm-up of 3.5: neither is rounded
        (10, 1.0, 0.9, 2, 1),
        (15, 1.0, 0.1, 3, 0),
        (16, 1.0, 1.0, 4, 4),
        (7, 4.0, 0.0, 7, 100),  # of the whole epochs, not 4 times a whole batch; the warm-up stays
    ],
)
def test_epochs_give_the_steps_of_the_release(count, epochs, proportion, steps, warmup):
    config = default("classify")
    config.train.update(batch_examples=4, epochs=epochs, steps=5)
    config.optim.update(warmup_proportion=proportion, warmup_steps=100)
    found = with_epochs(config, count, "examples")
    assert (found.train.steps, found.optim.warmup_steps) == (steps, warmup)
    assert config.train.steps == 5  # the config given is as it was


def test_without_epochs_the_steps_are_those_of_the_config():
    config = default("classify")
    config.train.update(steps=5, epochs=0.0)
    assert with_epochs(config, 1000, "examples").train.steps == 5


def test_fewer_examples_than_a_batch_are_refused():
    config = default("classify")
    config.train.update(batch_examples=4, epochs=1.0)
    message = r"epochs=1\.0: 3 examples give no batch of 4; lower --config\.train\.batch_examples"
    with pytest.raises(InputError, match=message):
        with_epochs(config, 3, "examples")


def toy_rows(count=20, most=128):
    """Examples of 3, 10, 17, ... tokens, whose one array has their numbers."""
    lengths = [3 + 7 * (7 * i % count) % (most - 3) for i in range(count)]
    rows = [Row([100 + i] * n, [0] * n) for i, n in enumerate(lengths)]
    return EncodedRows(rows, {"number": np.arange(1, count + 1)}, 0, most), np.array(lengths)


def toy_config(seed=0):
    """Batches of eight rows."""
    config = default("answer")
    config.seed, config.train.batch_windows, config.eval.batch_rows = seed, 8, 8
    return config


def test_outputs_come_back_in_the_order_of_the_examples():
    rows, lengths = toy_rows()
    source, count, places = rows.once(toy_config())
    assert count == 20
    batches = [source(first, 8) for first in (0, 8, 16)]
    found = np.concatenate([batch["number"] for batch in batches])
    assert not found[20:].any()  # what fills up the last batch
    np.testing.assert_array_equal(lengths[found[:20] - 1], np.sort(lengths))
    np.testing.assert_array_equal(found[places.rows], np.arange(1, 21))
    assert not places.slots.any()
    assert not places.offsets.any()


def test_a_part_of_a_batch_is_as_long_as_the_batch():
    """Else the hosts that make the parts would compile programs of different shapes."""
    rows, _ = toy_rows()
    train, batch_rows = rows.shuffled(toy_config(seed=3))
    assert batch_rows == 8
    for source in (train, rows.once(toy_config())[0]):
        for first in (0, 8, 16):
            whole = source(first, 8)
            for i in range(8):
                part = source(first + i, 1)
                for name, x in part.items():
                    np.testing.assert_array_equal(x, whole[name][i : i + 1])
    lengths = {train(first, 8)["input_ids"].shape[1] for first in range(0, 160, 8)}
    assert len(lengths) > 1


def test_a_perplexity_is_a_number_however_large_the_loss():
    assert perplexity(2.0) == pytest.approx(math.exp(2))
    assert perplexity(1e6) == perplexity(700.0) < math.inf
