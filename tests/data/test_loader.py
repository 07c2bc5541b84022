import threading

import pytest

from bertjax.data.loader import prefetch

HANGS = 60  # seconds after which a wait has failed


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


def test_items_come_in_order():
    assert list(prefetch(lambda i: i * i, 3, 9)) == [9, 16, 25, 36, 49, 64]
    assert list(prefetch(lambda i: i, 4, 4)) == []
    assert not threads()


def test_no_more_than_depth_are_made_ahead():
    """The one in use and three ahead, whenever the thread works."""
    asked, too_early = [0], []
    made = [threading.Event() for _ in range(100)]

    def make(i):
        if i >= asked[0] + 3:
            too_early.append(i)
        made[i].set()
        return i

    batches = prefetch(make, 0, 100, depth=3)
    for i in range(90):
        asked[0] = i + 1
        assert next(batches) == i
        assert made[i + 3].wait(HANGS)  # and these are made
    batches.close()
    assert not too_early
    assert not threads()


def test_work_goes_on_while_the_consumer_is_busy():
    ready = threading.Event()
    batches = prefetch(lambda i: ready.set() if i == 1 else None, 0, 3)
    next(batches)
    assert ready.wait(HANGS)
    batches.close()


def test_nothing_is_begun_after_close():
    made = []
    batches = prefetch(made.append, 0, 4)
    next(batches)  # lets the thread make three at most
    batches.close()
    assert 3 not in made
    assert not threads()


def test_close_waits_for_what_is_being_made(monkeypatch):
    at_work, go_on = threading.Event(), threading.Event()

    def make(i):
        if i == 1:
            at_work.set()
            assert go_on.wait(HANGS)

    join = threading.Thread.join

    def joined(thread, timeout=None):
        go_on.set()
        join(thread, timeout)

    batches = prefetch(make, 0, 100)
    next(batches)
    assert at_work.wait(HANGS)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", joined)
        batches.close()
    still_there = threads()
    go_on.set()
    assert not still_there


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
