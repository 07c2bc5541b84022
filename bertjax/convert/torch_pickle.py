"""Reads pytorch_model.bin, in the zip layout of torch 1.6 and in the one before, and runs nothing of it."""

import functools
import io
import mmap
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from bertjax.convert.pickled_tensors import Storage, View, run_pickle
from bertjax.convert.weights import TYPES, Tensor, map_file, to_array
from bertjax.errors import InputError, quoted

_AGAIN = "the file is damaged, download it again"
_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, the first pickle of the layout before zip
_PROTOCOL = 1001  # torch.serialization.PROTOCOL_VERSION, the second
_MAX_DIRECTORY = 4_000_000  # bytes of a zip file's list of parts: 150 to a tensor


class _Part(NamedTuple):
    """A file within a zip file."""

    offset: int
    size: int
    crc: int


def read_torch_pickle(path: str) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote of a dictionary from names to tensors.

    Raises:
      InputError: no such file, or not one; it holds or asks for anything but tensors; a tensor lies outside
        its storage, or a storage outside the file.
    """
    data = map_file(path)
    if data[:4] == b"PK\3\4":
        value = _read_zip(path, data)
    elif data[:1] == b"\x80":
        value = _read_old(path, data)
    else:
        raise _not_torch(path)
    if type(value) is not dict:
        raise InputError(f"{path}: not a dictionary of tensors; save the model's state_dict() alone")
    tensors = {}
    for name, view in value.items():
        where = f"{path}: {quoted(name)}"
        if type(view) is not View:
            raise InputError(f"{where} is no tensor ({type(view).__name__}); save the state_dict() alone")
        read = functools.partial(_read, where, data, view)
        tensors[name] = Tensor(view.shape, view.storage.dtype, read)
    return tensors


def _read(where: str, data: mmap.mmap, view: View) -> np.ndarray:
    storage = view.storage
    _check(where, memoryview(data)[storage.offset : storage.offset + storage.size], storage.crc)
    offset = storage.offset + view.offset * TYPES[storage.dtype].itemsize
    return to_array(data, offset, storage.dtype, view.shape, view.strides)


def _check(where: str, found: bytes | memoryview, crc: int) -> None:
    if crc and zlib.crc32(found) != crc:  # 0: torch.serialization.set_crc32_options(False), or no zip file
        raise InputError(f"{where}: its bytes do not have their checksum; {_AGAIN}")


def _not_torch(path: str) -> InputError:
    return InputError(f"{path}: not a file of torch.save; download it again, or use a model.safetensors")


def _big_endian(path: str) -> InputError:
    return InputError(f"{path}: was not written by a little-endian machine; save it again on one")


def _read_old(path: str, data: mmap.mmap) -> Any:
    """Five pickles (magic, protocol, machine, object, keys of the storages), then count and bytes of each."""
    storages: dict[str, Storage] = {}
    for constant in (_MAGIC, _PROTOCOL):
        found = run_pickle(path, data, storages)
        if type(found) is not int or found != constant:
            raise _not_torch(path)
    machine, value, keys = (run_pickle(path, data, storages) for _ in range(3))
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise _big_endian(path)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise _not_torch(path)
    if sorted(keys) != sorted(storages):
        raise InputError(f"{path}: its list of storages is not that of its tensors; {_AGAIN}")
    at = data.tell()
    for key in keys:
        storage = storages[key]
        if int.from_bytes(data[at : at + 8], "little") != storage.count:
            raise InputError(f"{path}: a storage has another size than its tensors say; {_AGAIN}")
        storage.offset = at + 8
        at = storage.offset + storage.size
        if at > len(data):
            raise InputError(f"{path}: ends within a tensor; download it again")
    return value


def _read_zip(path: str, data: mmap.mmap) -> Any:
    """A folder with data.pkl, the storages as data/KEY, and since torch 2.1 byteorder."""
    parts = _parts(path, data)
    roots = [name.removesuffix("data.pkl") for name in parts if name.endswith("/data.pkl")]
    if len(roots) != 1 or f"{roots[0]}constants.pkl" in parts:
        raise InputError(f"{path}: not a dictionary of tensors; save the model's state_dict() alone")
    [root] = roots

    def content(name: str) -> bytes:
        part = parts[root + name]
        found = data[part.offset : part.offset + part.size]
        _check(f"{path}: {name}", found, part.crc)
        return found

    if f"{root}byteorder" in parts and content("byteorder") != b"little":
        raise _big_endian(path)
    storages: dict[str, Storage] = {}
    value = run_pickle(path, io.BytesIO(content("data.pkl")), storages)
    for key, storage in storages.items():
        part = parts.get(f"{root}data/{key}")
        if part is None or part.size != storage.size:
            raise InputError(f"{path}: storage {quoted(key)} is missing or of another size; {_AGAIN}")
        storage.offset, storage.crc = part.offset, part.crc
    return value


class _Directory(io.FileIO):
    """A file for zipfile, which makes far more of the list of parts than its bytes: the list is limited."""

    def read(self, size: int | None = -1, /) -> bytes:
        most = _MAX_DIRECTORY + 1
        found = super().read(most if size is None or size < 0 else min(size, most))
        if len(found) == most:
            raise zipfile.BadZipFile("too many parts")
        return found


def _parts(path: str, data: mmap.mmap) -> dict[str, _Part]:
    """By name: all parts are stored as they are, and lie apart."""
    try:
        with _Directory(path) as file, zipfile.ZipFile(file) as archive:
            listed = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error) as error:
        raise InputError(f"{path}: not a complete zip file ({quoted(error)}); download it again") from error
    parts: dict[str, _Part] = {}
    free = 0
    for entry in listed:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise InputError(f"{path}: is compressed within, which torch.save does not do; do not trust it")
        header = data[entry.header_offset : entry.header_offset + 30]
        names = sum(struct.unpack("<HH", header[26:])) if len(header) == 30 else 0  # name and extra field
        part = _Part(entry.header_offset + 30 + names, entry.file_size, entry.CRC)
        overlaps = entry.header_offset < free
        free = part.offset + part.size
        if overlaps or free > len(data) or header[:4] != b"PK\3\4" or entry.filename in parts:
            raise InputError(f"{path}: its parts overlap, or are not where it says; do not trust it")
        parts[entry.filename] = part
    return parts
