"""Damaged files for the tests of the readers of weight files."""

import contextlib
import random
import tracemalloc

from bertjax.errors import InputError


def truncations(content):
    """Every prefix, the empty one too."""
    return [content[:end] for end in range(len(content))]


def bit_flips(content, count=250):
    """`count` copies with one bit, and as many with three bits changed."""
    rng = random.Random(0)
    for flips in [1] * count + [3] * count:
        copy = bytearray(content)
        for _ in range(flips):
            copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        yield bytes(copy)


def read_all(read, path):
    """{name: array} of a file, or None where it is refused, which must take one line that names the file."""
    try:
        return {name: tensor.read() for name, tensor in read(str(path)).items()}
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith(str(path.parent))
    return None


def same(found, wanted):
    return found.keys() == wanted.keys() and all(
        (found[k].dtype, found[k].shape, found[k].tobytes())
        == (wanted[k].dtype, wanted[k].shape, wanted[k].tobytes())
        for k in wanted
    )


@contextlib.contextmanager
def little_memory(limit=8_000_000):
    """Fails if more than `limit` bytes are held at once within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
