"""Random numbers as a function of (key, counter): nothing has a state, so any draw can be made again at any
time.

`draw(key, counter)` is the counter-th output of SplitMix64 (Steele, Lea and Flood 2014) seeded with key; an
output may be used as a number or as the key of a stream of its own. All functions are compiled by numba and
give the same values without it (NUMBA_DISABLE_JIT=1, where NumPy warns about the intended overflow).
"""

import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

_HERE = Path(__file__).parent
_SOURCES = b"".join(path.read_bytes() for path in sorted(_HERE.rglob("*.py")))
# In the user's cache, not beside this file: pip leaves behind what it did not install, and the folders that
# are left would hide a later editable install.
_USER_CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
_CACHE = Path(_USER_CACHE, "bertjax", f"numba-{hashlib.sha256(_SOURCES).hexdigest()[:16]}")


def jit(function: Callable[..., Any]) -> Any:
    """`function` compiled by numba without the GIL and kept on disk.

    numba checks a kept kernel against the kernel's own file only, not against the files of the functions that
    it calls. So the folder's name holds a digest of the sources of bertjax/data: a change to any of them
    compiles anew.
    """
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = before or str(_CACHE)
    try:
        return numba.njit(nogil=True, cache=True)(function)
    finally:
        config.CACHE_DIR = before


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment and multipliers
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ONE, _27, _30, _31, _32 = np.uint64(1), np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_11 = np.uint64(11)
_ROUND = np.uint64(1 << 40)
_ROUNDS = (
    4  # pairs of Feistel rounds; 3 rounds suffice in theory (Luby and Rackoff 1988) for a strong function
)


@jit
def draw(key: np.uint64, counter: Any) -> Any:
    """The counter-th (uint64 or a non-negative integer) random uint64 of the stream `key` (uint64)."""
    x = key + (np.uint64(counter) + _ONE) * _GOLDEN
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


@jit
def below(key: np.uint64, counter: Any, n: int) -> Any:
    """A random integer of [0, n), 0 < n < 2**32; the shares of two values differ by at most n / 2**32."""
    return np.int64(((draw(key, counter) >> _32) * np.uint64(n)) >> _32)


@jit
def chance(key: np.uint64, counter: Any) -> Any:
    """A random float of [0, 1)."""
    return np.float64(draw(key, counter) >> _11) * 2.0**-53


@jit
def permute(index: Any, n: int, key: np.uint64) -> Any:
    """The place of `index` in a random order of range(n), n < 2**52: a bijection for each key, with no array.

    A Feistel network over a grid of `side` x ceil(n / side) cells, which exceeds n by less than one row; an
    index that lands outside [0, n) walks on until it is inside.
    """
    side = np.int64(math.sqrt(n))
    side += side * side < n
    left_n = np.uint64(side)
    right_n = np.uint64((n + side - 1) // side)
    x = np.uint64(index)
    while True:
        left = x % left_n
        right = x // left_n
        for i in range(_ROUNDS):
            left += ((draw(key, np.uint64(2 * i) * _ROUND + right) >> _32) * left_n) >> _32
            if left >= left_n:
                left -= left_n
            right += ((draw(key, np.uint64(2 * i + 1) * _ROUND + left) >> _32) * right_n) >> _32
            if right >= right_n:
                right -= right_n
        x = right * left_n + left
        if x < np.uint64(n):
            return np.int64(x)


@jit
def permute_range(first: int, count: int, n: int, key: np.uint64) -> Any:
    """int64 [count]: permute(first), permute(first + 1), ..."""
    places = np.empty(count, np.int64)
    for i in range(count):
        places[i] = permute(first + i, n, key)
    return places


def root_key(*values: int) -> np.uint64:
    """A key that follows from integers (a seed, a phase), negative ones too."""
    key = int(_MIX_1)  # any number but 0, which -1 would map to 0 again
    with np.errstate(over="ignore"):
        for value in values:
            key = int(draw(np.uint64(key), np.uint64(value % 2**64)))
    return np.uint64(key)
