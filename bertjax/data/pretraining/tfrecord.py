"""Google's TFRecord files, read in any order: where each record lies, and its bytes, checked.

A record is a length (uint64), a checksum of the length (uint32), the data, and a checksum of the data, all
little-endian. Opening reads the lengths and checks them; the data are checked whenever they are read.
"""

import hashlib
import mmap
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertjax.checksums import masked_crc32c
from bertjax.errors import InputError, naming

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_FRAME = _HEADER.size + _CHECKSUM.size
_COMPRESSED = (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")  # how gzip and zlib begin


@dataclass(frozen=True)
class RecordFile:
    """A file and where its records lie. `index_file` makes it."""

    path: str
    offsets: np.ndarray  # int64 [records + 1], the last is the file's size
    digest: bytes  # SHA-256 of the records' own checksums, so of their content and order


class Records:
    """The records of some files. Safe to use from several threads.

    They are numbered from 0 through all files. The files follow each other in the order of their digests, so
    the numbers stay when files are moved or renamed.
    """

    def __init__(self, files: Sequence[RecordFile]) -> None:
        self._files = sorted(files, key=lambda file: file.digest)
        self._first = np.cumsum([0, *(len(file.offsets) - 1 for file in self._files)])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def firsts(self) -> np.ndarray:
        """int64: the number of each file's first record."""
        return self._first[:-1]

    def read(self, numbers: np.ndarray) -> list[bytes]:
        """The data of the records with these numbers. Raises InputError for the first that is damaged."""
        data = [b""] * len(numbers)
        files = np.searchsorted(self._first, numbers, side="right") - 1
        # A file is open only while it is read, since there may be more of them than may be open at once.
        for f in np.unique(files):
            path, offsets = self._files[f].path, self._files[f].offsets
            with naming(path), open(path, "rb") as file:
                for i in np.flatnonzero(files == f):
                    record = numbers[i] - self._first[f]
                    file.seek(offsets[record] + _HEADER.size)
                    framed = file.read(offsets[record + 1] - offsets[record] - _HEADER.size)
                    data[i] = framed[: -_CHECKSUM.size]
                    if framed[-_CHECKSUM.size :] != _CHECKSUM.pack(masked_crc32c([data[i]])):
                        raise _damaged(path, record, "its data are not what was written")
        return data

    def name(self, number: int) -> str:
        """ "FILE: record 7", counted from 1 in its file; for messages."""
        f = int(np.searchsorted(self._first, number, side="right")) - 1
        return f"{self._files[f].path}: record {number - self._first[f] + 1}"


def index_file(path: str) -> RecordFile:
    """Finds the records of a file.

    Raises:
      InputError: the file is empty, compressed, cut short or no TFRecord file, or a length is damaged.
    """
    offsets, checksums = array("q"), bytearray()
    size = Path(path).stat().st_size
    if not size:
        raise InputError(f"{path}: is empty; make it again or leave it out")
    at = 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while at < size:
            header = data[at : at + _HEADER.size]
            if len(header) < _HEADER.size:
                raise _damaged(path, len(offsets), "the file is cut short in it")
            length, checksum = _HEADER.unpack(header)
            if checksum != masked_crc32c([header[:8]]):
                if offsets:
                    raise _damaged(path, len(offsets), "its length is not what was written")
                raise _no_tfrecord(path, header)
            offsets.append(at)
            at += length + _FRAME
            if at > size:
                raise _damaged(path, len(offsets) - 1, "the file is cut short in it")
            checksums += data[at - _CHECKSUM.size : at]
    offsets.append(at)
    return RecordFile(path, np.array(offsets, np.int64), hashlib.sha256(checksums).digest())


def _damaged(path: str, record: int, fault: str) -> InputError:
    return InputError(f"{path}: record {record + 1}: {fault}; copy the file again, or make it again")


def _no_tfrecord(path: str, header: bytes) -> InputError:
    if header.startswith(_COMPRESSED):
        return InputError(f"{path}: is compressed, so its records cannot be read in any order; decompress it")
    return InputError(
        f"{path}: is no TFRecord file, or its first length is damaged; leave it out, as with the glob "
        "'folder/*.tfrecord', or make it again"
    )
