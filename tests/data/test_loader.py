import threading
import time

import pytest

from bertjax.data.loader import prefetch


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


def test_items_come_in_order():
    assert list(prefetch(lambda i: i * i, 3, 9)) == [9, 16, 25, 36, 49, 64]
    assert list(prefetch(lambda i: i, 4, 4)) == []
    assert not threads()


def test_no_more_than_depth_are_made_ahead():
    made = []

    def make(i):
        made.append(i)
        return i

    batches = prefetch(make, 0, 100, depth=3)
    assert next(batches) == 0
    time.sleep(0.1)
    assert made == [0, 1, 2, 3]  # the one in use and three ahead
    batches.close()
    assert len(made) < 6
    assert not threads()


def test_work_goes_on_while_the_consumer_is_busy():
    ready = threading.Event()
    batches = prefetch(lambda i: ready.set() if i == 1 else None, 0, 3)
    next(batches)
    assert ready.wait(timeout=5)
    batches.close()


def test_an_error_surfaces_after_the_items_before_it():
    def make(i):
        if i == 2:
            raise KeyError("broken")
        return i

    batches = prefetch(make, 0, 5)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(KeyError, match="broken"):
        next(batches)
    assert not threads()


def test_an_abandoned_iterator_leaves_no_thread():
    batches = prefetch(lambda i: i, 0, 1000)
    next(batches)
    assert threads()
    del batches
    assert not threads()

    def consume():
        for _ in prefetch(lambda i: i, 0, 1000):
            raise ValueError("consumer")

    with pytest.raises(ValueError, match="consumer"):
        consume()
    assert not threads()
