"""Reads TensorFlow checkpoints, as of the 2018 release of BERT, without TensorFlow.

A checkpoint PREFIX ("tensor bundle", format V2) is PREFIX.index, which lists the tensors, and
PREFIX.data-00000-of-00001 or more such files, which hold their bytes. The index is a table as LevelDB's:
blocks of sorted keys and values, a block that lists those, and a footer that says where this is. The value of
the empty key is a BundleHeaderProto, that of each tensor's name a BundleEntryProto: see
tensorflow/core/protobuf/tensor_bundle.proto.
"""

import functools
import mmap
import os
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from bertjax.checksums import masked_crc32c
from bertjax.convert.weights import TYPES, Tensor, count_bytes, map_file, to_array
from bertjax.errors import InputError, quoted

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")  # the last 8 of a table's 48 bytes of footer
_MAX_KEY = 1000  # bytes; keys share prefixes, so a small file could make very much of long ones
_MAX_VALUE = 100_000  # bytes; of an entry of a tensor, which takes 30
_MAX_TENSORS = 100_000
_CHUNK = 1 << 20  # bytes of a tensor that are copied at once for its checksum
_AGAIN = "the file is damaged, download it again"
# tensorflow/core/framework/types.proto
_TYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    19: "float16",
}


def read_tf_checkpoint(prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by the names of their variables.

    A tensor that is partitioned, or not of numbers of weights.TYPES, is refused only when it is read.

    Raises:
      InputError: no such checkpoint, or one of format V1; its index is damaged; a tensor lies outside its
        file, or has another size than its shape.
    """
    path = f"{prefix}.index"
    if os.path.isfile(prefix) and not os.path.isfile(path):
        raise InputError(
            f"{prefix}: has no {os.path.basename(path)}; name a checkpoint by what its files have in common "
            "(bert_model.ckpt); if it is one file, of format V1, save it anew with tf.compat.v1.train.Saver"
        )
    try:
        table = dict(_table(path, map_file(path)))
        header = _fields(table.pop(b"", b""))
        if _number(header, 1) < 1:
            raise _damaged(path)
        if _number(header, 2):
            raise InputError(f"{path}: was written by a big-endian machine; write it anew on another")
        files = _Files(prefix, _number(header, 1))
        # A key with a leading zero is a part of a partitioned tensor, which has an entry of its own.
        names = {key: key.decode() for key in table if not key.startswith(b"\0")}
        return {name: _tensor(files, name, table[key]) for key, name in names.items()}
    except (IndexError, UnicodeDecodeError) as error:  # IndexError: what a length promises is not there
        raise _damaged(path) from error


def _damaged(where: str) -> InputError:
    return InputError(f"{where}: not the index of a TensorFlow checkpoint, or damaged; download it again")


class _Files:
    """The mapped data files of a checkpoint, opened as they are needed."""

    def __init__(self, prefix: str, count: int):
        self.prefix, self.count = prefix, count
        self.mapped: dict[int, mmap.mmap] = {}

    def name(self, number: int) -> str:
        return f"{self.prefix}.data-{number:05}-of-{self.count:05}"

    def data(self, number: int) -> mmap.mmap:
        if number not in self.mapped:
            self.mapped[number] = map_file(self.name(number))
        return self.mapped[number]


def _tensor(files: _Files, name: str, value: bytes) -> Tensor:
    where, entry = f"{files.prefix}.index: {quoted(name)}", _fields(value)
    dtype = _TYPES.get(_number(entry, 1), f"type {_number(entry, 1)}")
    dimensions = _fields(b"".join(entry.get((2, 2), [])))
    shape = tuple(_number(_fields(dimension), 1) for dimension in dimensions.get((2, 2), []))
    expected = count_bytes(where, dtype if dtype in TYPES else "uint8", shape)
    if (7, 2) in entry:
        return Tensor(shape, dtype, functools.partial(_refuse, f"{where} is partitioned; save it whole"))
    if dtype not in TYPES:
        return Tensor(shape, dtype, functools.partial(_refuse, f"{where} is of {dtype}, not of numbers"))
    number, offset, size = (_number(entry, field) for field in (3, 4, 5))
    if not 0 <= number < files.count:
        raise InputError(f"{where} is in data file {number} of {files.count}; download the checkpoint again")
    data = files.data(number)
    if offset < 0 or size != expected or offset + size > len(data):
        raise InputError(
            f"{where} has another size than its shape, or does not lie in {files.name(number)}; "
            "download the checkpoint again"
        )
    crc = int.from_bytes(entry.get((6, 5), [b""])[-1], "little")
    where = f"{files.name(number)}: {quoted(name)}"
    return Tensor(shape, dtype, functools.partial(_read, where, data, offset, dtype, shape, crc))


def _refuse(message: str) -> NoReturn:
    raise InputError(message)


def _read(
    where: str, data: mmap.mmap, offset: int, dtype: str, shape: tuple[int, ...], crc: int
) -> np.ndarray:
    if _masked_crc(data, offset, offset + count_bytes(where, dtype, shape)) != crc:
        raise InputError(f"{where}: its bytes do not have their checksum; download the checkpoint again")
    return to_array(data, offset, dtype, shape)


def _masked_crc(data: mmap.mmap, start: int, end: int) -> int:
    """Of the bytes from `start` to `end`, some at a time."""
    return masked_crc32c(data[at : min(at + _CHUNK, end)] for at in range(start, end, _CHUNK))


def _table(path: str, data: mmap.mmap) -> Iterator[tuple[bytes, bytes]]:
    """Keys, which ascend, and values."""
    footer = data[-48:]
    if len(footer) < 48 or not footer.endswith(_MAGIC):
        raise _damaged(path)
    _, _, *handle = _varints(footer, 0, 4)[0]  # the first two are of the block for filters, which has none
    free, last, count = 0, None, 0
    for _, value in _block(path, data, *handle):
        (offset, size), _ = _varints(value, 0, 2)
        if offset < free:  # no block twice: to read it again and again could take forever
            raise _damaged(path)
        free = offset + size
        for key, entry in _block(path, data, offset, size):
            count += 1
            if (last is not None and key <= last) or count > _MAX_TENSORS:
                raise _damaged(path)
            yield key, entry
            last = key


def _block(path: str, data: mmap.mmap, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries, then the offsets of some and their number (4 bytes each), the compression, the checksum."""
    kind = offset + size
    crc = int.from_bytes(data[kind + 1 : kind + 5], "little")
    if kind + 5 > len(data) or _masked_crc(data, offset, kind + 1) != crc:
        raise InputError(f"{path}: a block is cut off or does not have its checksum; download it again")
    if data[kind] != 0:
        raise InputError(f"{path}: is compressed, which TensorFlow's own are not; write it anew without")
    content = data[offset:kind]
    restarts = 4 * int.from_bytes(content[-4:], "little") + 4
    content = content[: max(len(content) - restarts, 0)]
    key, at = b"", 0
    while at < len(content):
        (shared, rest, length), at = _varints(content, at, 3)
        value, end = at + rest, at + rest + length
        if end > len(content):
            raise _damaged(path)
        if shared > len(key) or shared + rest > _MAX_KEY or length > _MAX_VALUE:
            raise _damaged(path)
        key = key[:shared] + content[at:value]
        yield key, content[value:end]
        at = end


def _varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """`count` unsigned numbers from offset `at`, and the offset behind. Raises IndexError."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        while data[at] & 0x80 and shift < 63:
            number |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        numbers.append((number | data[at] << shift) & (1 << 64) - 1)
        at += 1
    return numbers, at


def _fields(message: bytes) -> dict[tuple[int, int], list[Any]]:
    """Values of a protobuf message by (field, wire type): int of type 0, else bytes. Raises IndexError."""
    fields: dict[tuple[int, int], list[Any]] = {}
    at = 0
    while at < len(message):
        (tag,), at = _varints(message, at, 1)
        values = fields.setdefault((tag >> 3, tag & 7), [])
        if tag & 7 in (0, 2):
            (number,), at = _varints(message, at, 1)
            if tag & 7 == 0:
                values.append(number)
                continue
        else:
            number = {1: 8, 5: 4}.get(tag & 7, len(message))  # no other type is in use
        if at + number > len(message):
            raise IndexError("message index out of range")
        values.append(message[at : at + number])
        at += number
    return fields


def _number(fields: dict[tuple[int, int], list[Any]], field: int) -> int:
    """An int64, enum or bool field: the last one counts, and none is 0."""
    value = fields.get((field, 0), [0])[-1]
    return int(value - (1 << 64) if value >> 63 else value)
