"""Runs the pickle program that torch.save writes for a dictionary of tensors, and no other.

This is an interpreter of the few instructions that such a program takes, rather than a pickle.Unpickler with
a list of allowed classes: it has no instruction that imports, calls or sets an attribute, so there is nothing
to escape through, and its steps, which the memory it takes is in proportion to, can be bounded.
"""

import dataclasses
import io
import math
import mmap
import pickletools
from typing import IO, Any, cast

from bertjax.convert.weights import MAX_DIMENSIONS, TYPES, count_bytes
from bertjax.errors import InputError, quoted

_MAX_STEPS = 300_000  # 40 to a tensor: BERT large takes 16,000
_STORAGES = {
    "torch BoolStorage": "bool",
    "torch ByteStorage": "uint8",
    "torch CharStorage": "int8",
    "torch ShortStorage": "int16",
    "torch IntStorage": "int32",
    "torch LongStorage": "int64",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
}
_LONGEST = 10_000  # letters of a name
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}  # their value is their argument
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_INSTRUCTIONS = {instruction.code: instruction for instruction in pickletools.opcodes}
_KNOWN = {
    *(*_LITERALS, *_CONSTANTS, "EMPTY_DICT", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
}


@dataclasses.dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names. It is only ever compared with the names above."""

    name: str


@dataclasses.dataclass
class Storage:
    """Numbers that tensors are views of; whoever reads the file fills in where they lie."""

    dtype: str
    count: int
    offset: int = -1  # in the file, in bytes
    crc: int = 0  # CRC-32 of the bytes, or 0 where the file has none

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * TYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: it lies within its storage, and is no larger. Offset and strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def run_pickle(path: str, data: mmap.mmap | io.BytesIO, storages: dict[str, Storage]) -> Any:
    """Runs one pickle, of protocol 2, and leaves `data` behind it.

    Args:
      path: the file's, for errors.
      data: at the first byte of the pickle. It must give no more than it holds, however much is asked of it.
      storages: by key; those that the pickle names are added.

    Returns:
      What the pickle makes: View, dict with keys of str, list, tuple, str, int, bool or None.

    Raises:
      InputError: the pickle is damaged, takes other instructions, or asks for anything but tensors.
    """
    try:
        return _run(path, data, storages)
    except (IndexError, KeyError) as error:  # of an empty stack, or an empty place of the memo
        raise _damaged(path) from error


def _run(path: str, data: mmap.mmap | io.BytesIO, storages: dict[str, Storage]) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[int, Any] = {}
    for _ in range(_MAX_STEPS):
        name, argument = _instruction(path, data)
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "TUPLE":
            items, stack = stack, below.pop()
            stack.append(tuple(items))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
        elif name in ("APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            _extend(path, stack[-1], items, pairs=name == "SETITEMS")
        elif name == "APPEND":
            item = stack.pop()
            _extend(path, stack[-1], [item], pairs=False)
        elif name == "SETITEM":
            item, key = stack.pop(), stack.pop()
            _extend(path, stack[-1], [key, item], pairs=True)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_make(path, function, arguments))
        elif name == "BUILD":  # a state_dict's _metadata, which no reader needs
            stack.pop()
            if type(stack[-1]) is not dict:
                raise _damaged(path)
        elif name == "BINPERSID":
            stack.append(_storage(path, stack.pop(), storages))
        elif name == "STOP":
            return stack.pop()
    raise InputError(f"{path}: its pickle is too long for a model's; use a model.safetensors instead")


def _damaged(path: str) -> InputError:
    return InputError(f"{path}: its pickle is not of a dictionary of tensors, or damaged; download it again")


def _instruction(path: str, data: mmap.mmap | io.BytesIO) -> tuple[str, Any]:
    code = data.read(1)
    known = _INSTRUCTIONS.get(code.decode("latin-1"))
    if known is None:
        raise _damaged(path)
    if known.name not in _KNOWN:
        raise InputError(
            f"{path}: its pickle has the instruction {known.name}, which no tensor needs; do not trust it, "
            "or write it again with the default pickle_protocol of torch.save"
        )
    argument: Any = None
    try:
        if known.name == "GLOBAL":  # the library's reader takes backslashes for escapes, and warns of some
            argument = " ".join(_line(data).decode() for _ in range(2))
        elif known.arg:
            if known.name == "BINUNICODE":
                at = data.tell()
                length = int.from_bytes(data.read(4), "little")
                data.seek(at)
                if length > _LONGEST:
                    raise _damaged(path)
            argument = known.arg.reader(cast(IO[bytes], data))
    except ValueError as error:
        raise _damaged(path) from error
    if known.name == "GLOBAL" and argument not in (_DICT, _TENSOR, _PARAMETER, *_STORAGES):
        raise InputError(
            f"{path}: its pickle asks for {quoted(argument)}, which is no tensor and could run anything; "
            "do not trust it, or use a model.safetensors instead"
        )
    if known.name == "PROTO" and argument != 2:
        raise InputError(
            f"{path}: its pickle has protocol {argument}, not the 2 of torch.save; save it again with torch"
        )
    return known.name, argument


def _line(data: mmap.mmap | io.BytesIO) -> bytes:
    """The next line, without its end. Raises ValueError if it has none, or a far one."""
    at = data.tell()
    start = data.read(_LONGEST)
    end = start.index(b"\n")
    data.seek(at + end + 1)
    return start[:end]


def _extend(path: str, target: Any, items: list[Any], *, pairs: bool) -> None:
    if pairs:
        # No keys but str: to hash a tuple of tuples of tuples can take forever.
        if type(target) is not dict or len(items) % 2 or not all(type(key) is str for key in items[::2]):
            raise _damaged(path)
        target.update(zip(items[::2], items[1::2], strict=True))
    else:
        if type(target) is not list:
            raise _damaged(path)
        target.extend(items)


def _make(path: str, function: Any, arguments: Any) -> Any:
    """What torch would make by calling `function`."""
    if type(function) is not _Global or type(arguments) is not tuple:
        raise _damaged(path)
    if function.name == _DICT and not arguments:
        return {}
    if function.name == _PARAMETER and arguments and type(arguments[0]) is View:
        return arguments[0]
    if function.name == _TENSOR and len(arguments) in (6, 7):  # hooks and the like are of no use here
        return _view(path, *arguments[:4])
    raise _damaged(path)


def _view(path: str, storage: Any, offset: Any, shape: Any, strides: Any) -> View:
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise _damaged(path)
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise _damaged(path)
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)):
        raise _damaged(path)
    count_bytes(path, storage.dtype, shape)
    count = math.prod(shape)
    # Where there is nothing to step over, any stride is right, and some would be too large for NumPy.
    strides = tuple(step if count and n > 1 else 0 for n, step in zip(shape, strides, strict=True))
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    repeats = count and any(n > 1 and not step for n, step in zip(shape, strides, strict=True))
    if repeats or count > storage.count - offset or (count and last >= storage.count):
        raise InputError(f"{path}: a tensor is larger than its storage; save contiguous tensors")
    return View(storage, offset, shape, strides)


def _storage(path: str, key: Any, storages: dict[str, Storage]) -> Storage:
    """("storage", class, key, device, count), and in the layout before zip None."""
    if type(key) is not tuple or len(key) not in (5, 6) or key[0] != "storage" or any(key[5:]):
        raise _damaged(path)
    _, kind, key, _, count = key[:5]
    if type(kind) is not _Global or kind.name not in _STORAGES or type(key) is not str:
        raise _damaged(path)
    if type(count) is not int or count < 0:
        raise _damaged(path)
    storage = storages.setdefault(key, Storage(_STORAGES[kind.name], count))
    if (storage.dtype, storage.count) != (_STORAGES[kind.name], count):
        raise InputError(f"{path}: a storage has two types or sizes; save each tensor on its own")
    return storage
