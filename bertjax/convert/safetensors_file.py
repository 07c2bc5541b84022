"""Reads model.safetensors, and models of several such files, which model.safetensors.index.json lists.

The library judges the file. It is not asked for the tensors: its NumPy side has no bfloat16.
"""

import functools
import json
import mmap
import os
from typing import Any

import numpy as np
import safetensors

from bertjax.convert.weights import TYPES, Tensor, count_bytes, map_file, to_array
from bertjax.errors import InputError, quoted

_TYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
_AGAIN = "the file is damaged, download it again"


def read_safetensors(path: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of all files of a .safetensors.index.json.

    Raises:
      InputError: no such file, or not one; an index that names a file outside its folder, or one that is
        missing or lacks a tensor.
    """
    return _read_index(path) if path.endswith(".json") else _read_file(path)


def _read_file(path: str) -> dict[str, Tensor]:
    data = map_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        reason = quoted(str(error).removeprefix("Error while deserializing header: "))
        raise InputError(f"{path}: not a safetensors file ({reason}); download it again") from error
    start = 8 + int.from_bytes(data[:8], "little")
    header = _json(path, data[8:start])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            where, offset = f"{path}: {quoted(name)}", start + entry["data_offsets"][0]
            dtype, shape = _TYPES.get(entry["dtype"], entry["dtype"]), tuple(entry["shape"])
            if dtype in TYPES:
                count_bytes(where, dtype, shape)  # NumPy holds fewer dimensions than the library lets pass
            read = functools.partial(_read, where, data, offset, dtype, shape)
            tensors[name] = Tensor(shape, dtype, read)
    return tensors


def _read(where: str, data: mmap.mmap, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype not in TYPES:
        raise InputError(f"{where}: tensors of type {dtype} are not supported; convert it to float32")
    return to_array(data, offset, dtype, shape)


def _read_index(path: str) -> dict[str, Tensor]:
    data = map_file(path)
    files = _json(path, data[:]).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise InputError(f'{path}: has no "weight_map" from tensors to files; download it again')
    shards = {}
    for name in sorted(set(files.values())):
        if name in ("", ".", "..") or name != os.path.basename(name) or "\0" in name:
            raise InputError(f"{path}: names {quoted(name)}, which is no file of its folder; do not trust it")
        shards[name] = _read_file(os.path.join(os.path.dirname(path), name))
    for tensor, name in files.items():
        if tensor not in shards[name]:
            raise InputError(f"{path}: {quoted(tensor)} is not in {quoted(name)}; download both again")
    for name, tensors in shards.items():
        for tensor in tensors:
            if files.get(tensor) != name:
                raise InputError(
                    f"{path}: does not list {quoted(tensor)} of {quoted(name)}; download both again"
                )
    return {tensor: shards[name][tensor] for tensor, name in files.items()}


def _json(path: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({quoted(error)}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object; {_AGAIN}")
    return value
