"""Batches made ahead of time by one thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], start: int, stop: int, depth: int = 2) -> Iterator[T]:
    """make(start), ..., make(stop - 1), in order, up to `depth` of them made ahead in a thread.

    An exception of `make` is raised here, after the items before it. The thread starts at the first item and
    ends before the iterator is closed (at its end, by close(), or when it is dropped).
    """
    ready: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    slots = threading.Semaphore(depth)
    closed = threading.Event()

    def work() -> None:
        for step in range(start, stop):
            slots.acquire()
            if closed.is_set():
                return
            try:
                ready.put((make(step), None))
            except BaseException as error:  # whatever it is, the consumer must see it instead of waiting
                ready.put((None, error))
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = ready.get()
            if error is not None:
                raise error
            slots.release()
            yield item  # type: ignore[misc]  # None is an item only if make returned it
            del item
    finally:
        closed.set()
        slots.release()
        thread.join()
