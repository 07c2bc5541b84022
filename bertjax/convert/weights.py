"""What the readers of weight files share: a tensor that is read when asked for, out of a mapped file."""

import dataclasses
import math
import mmap
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

from bertjax.errors import InputError

# Types by NumPy's names, as they lie in the file; of bfloat16, which NumPy lacks, `read` makes float32.
TYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
} | {"bfloat16": np.dtype("<u2")}
MAX_DIMENSIONS = 32  # what every NumPy can hold


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a weight file, not read yet.

    Attributes:
      shape: its dimensions.
      dtype: its type in the file, by NumPy's name where it has one: "float32", "int64", "bfloat16", ...
      read: gives it as a new array of that shape and type; of float32 where NumPy lacks the type. Raises
        InputError if the type is not supported or the bytes are not those that were written.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def map_file(path: str) -> mmap.mmap:
    """The bytes of a file, paged in as they are used. Raises InputError."""
    if not os.path.isfile(path):  # opening a pipe would wait for a writer
        raise InputError(f"{path}: no such file; check the path, or whether the download is complete")
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(f"{path}: is empty; download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; mend the path or its permissions") from error


def count_bytes(where: str, dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a contiguous tensor. Raises InputError if NumPy could not hold the shape."""
    size = TYPES[dtype].itemsize
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise InputError(f"{where}: is not a shape of a tensor; the file is damaged, download it again")
    if math.prod(max(n, 1) for n in shape) * size > sys.maxsize:
        raise InputError(f"{where}: is larger than any memory; the file is damaged, download it again")
    return math.prod(shape) * size


def to_array(
    data: mmap.mmap, offset: int, dtype: str, shape: Sequence[int], strides: Sequence[int] | None = None
) -> np.ndarray:
    """Copies a tensor, which the caller knows to lie within `data`.

    Args:
      data: bytes of the file.
      offset: in bytes, of the first element.
      dtype: one of TYPES.
      shape: its dimensions.
      strides: in elements; None if contiguous.

    Returns:
      A new contiguous array of `shape`, aligned and in the byte order of this machine.
    """
    stored = TYPES[dtype]
    steps = None if strides is None else [n * stored.itemsize for n in strides]
    view: np.ndarray = np.ndarray(tuple(shape), stored, buffer=data, offset=offset, strides=steps)
    if dtype == "bfloat16":  # the upper half of a float32
        return (view.astype(np.uint32, order="C") << 16).view(np.float32)
    return np.array(view, dtype=stored.newbyteorder("="), order="C")
