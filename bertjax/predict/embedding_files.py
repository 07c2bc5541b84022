"""Files of hidden states, as `python -m bertjax.predict embed` writes them: .npz, or HDF5, which grows on the
disk, so that no more than a part of it is in memory."""

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from bertjax.errors import InputError, check_utf8, extra, naming
from bertjax.files import write_whole

ENDINGS = (".npz", ".h5", ".hdf5")


class Writer(Protocol):
    """Arrays by name, which grow on their first axis."""

    shapes: dict[str, list[int]]

    def add(self, **arrays: np.ndarray) -> None:
        """Appends to the arrays of these names; strings are an array of Python's."""

    def close(self) -> None: ...


class _Npz:
    def __init__(self, path: str):
        self.path = path
        self.parts: dict[str, list[np.ndarray]] = {}
        self.shapes: dict[str, list[int]] = {}

    def add(self, **arrays: np.ndarray) -> None:
        for name, x in arrays.items():
            self.parts.setdefault(name, []).append(x.astype(str) if x.dtype == object else x)
            _grow(self.shapes, name, x)

    def close(self) -> None:
        with open(self.path, "wb") as file:
            np.savez(file, **{name: np.concatenate(each) for name, each in self.parts.items()})  # type: ignore


class _Hdf5:
    def __init__(self, path: str):
        import h5py

        self._string = h5py.string_dtype()
        self.file = h5py.File(path, "w")
        self.shapes: dict[str, list[int]] = {}

    def add(self, **arrays: np.ndarray) -> None:
        for name, x in arrays.items():
            if name not in self.shapes:
                kind = self._string if x.dtype == object else x.dtype
                shape, most = (0, *x.shape[1:]), (None, *x.shape[1:])
                self.file.create_dataset(name, shape, kind, maxshape=most, chunks=True)
            _grow(self.shapes, name, x)
            stored = self.file[name]
            stored.resize(self.shapes[name][0], axis=0)
            stored[len(stored) - len(x) :] = x

    def close(self) -> None:
        self.file.close()


def _grow(shapes: dict[str, list[int]], name: str, x: np.ndarray) -> None:
    shapes[name] = [shapes.get(name, [0])[0] + len(x), *x.shape[1:]]


def check_path(flag: str, path: str) -> None:
    """Raises InputError if no file of ENDINGS can be written there. `flag` is what named it."""
    check_utf8(path)
    folder = os.path.dirname(path) or "."
    if not path.endswith(ENDINGS):
        raise InputError(f"{flag}={path}: must end with {', '.join(ENDINGS)}")
    if not path.endswith(".npz"):
        with extra("hdf5", f"{flag}={path}"):
            import h5py  # noqa: F401
    if not os.path.isdir(folder):
        raise InputError(f"{flag}={path}: no such folder; make it first")
    if os.path.isdir(path):
        raise InputError(f"{flag}={path}: is a folder; name a file")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{flag}={path}: its folder cannot be written; name another one")


@contextlib.contextmanager
def open_writer(path: str) -> Iterator[Writer]:
    """Writes the file of one of ENDINGS: all of it or nothing."""
    with write_whole(path) as part:
        with naming(path):
            writer: Writer = _Npz(part) if path.endswith(".npz") else _Hdf5(part)
        try:
            yield writer
        finally:
            with naming(path):
                writer.close()
