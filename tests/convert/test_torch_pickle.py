import io
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
from damage import bit_flips, little_memory, read_all, same, truncations

from bertjax.convert.torch_pickle import read_torch_pickle
from bertjax.errors import InputError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MACHINE = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2}}
CLASSES = {
    "bool": "Bool", "uint8": "Byte", "int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long",
    "float16": "Half", "bfloat16": "BFloat16", "float32": "Float", "float64": "Double",
}  # fmt: skip


def code(value):
    """Instructions that push a value; bytes are taken as instructions."""
    match value:
        case bytes():
            return value
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            small = 0 <= value < 256
            return bytes([75, value]) if small else b"\x8a\x20" + value.to_bytes(32, "little", signed=True)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(code(x) for pair in value.items() for x in pair) + b"u"


def program(value):
    return b"\x80\x02" + code(value) + b"."


def call(function, *arguments):
    return b"c%s\n" % function.replace(" ", "\n").encode() + code(arguments) + b"R"


def storage(key="0", kind="torch FloatStorage", count=6, *more):
    return code(("storage", b"c%s\n" % kind.replace(" ", "\n").encode(), key, "cpu", count, *more)) + b"Q"


def tensor(of, offset=0, shape=(2, 3), strides=(3, 1)):
    return call(
        "torch._utils _rebuild_tensor_v2", of, offset, shape, strides, False, call("collections OrderedDict")
    )


def old_layout(value, storages):
    """`storages`: {key: array}."""
    parts = [pickle.dumps(x, 2) for x in (MAGIC, PROTOCOL, MACHINE)] + [program(value)]
    parts += [pickle.dumps(list(storages), 2)]
    parts += [struct.pack("<q", x.size) + x.tobytes() for x in storages.values()]
    return b"".join(parts)


def zip_layout(value, storages, byteorder=b"little", **compression):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **compression) as archive:
        archive.writestr("model/data.pkl", program(value))
        archive.writestr("model/byteorder", byteorder)
        for key, x in storages.items():
            archive.writestr(f"model/data/{key}", x.tobytes())
        archive.writestr("model/version", "3\n")
    return out.getvalue()


LAYOUTS = pytest.mark.parametrize("layout", [old_layout, zip_layout])
X = np.arange(6, dtype=np.float32)
Y = np.array([5, -7], np.int64)
STATE = {
    "x.weight": tensor(storage()),
    "x.transposed": tensor(storage(), shape=(3, 2), strides=(1, 3)),
    "x.column": tensor(storage(), offset=1, shape=(2,), strides=(3,)),
    "y.scalar": tensor(storage("9", "torch LongStorage", 2), offset=1, shape=(), strides=()),
    "empty": tensor(storage(), offset=6, shape=(0, 4), strides=(2**62, 2**62)),
    "parameter": call("torch._utils _rebuild_parameter", tensor(storage()), True, ()),
}
STORAGES = {"0": X, "9": Y}
WANTED = {
    "x.weight": X.reshape(2, 3),
    "x.transposed": X.reshape(2, 3).T.copy(),
    "x.column": np.array([1, 4], np.float32),
    "y.scalar": np.array(-7),
    "empty": np.zeros((0, 4), np.float32),
    "parameter": X.reshape(2, 3),
}


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file: the arrays by name, or None where it is refused."""
    path = tmp_path / "pytorch_model.bin"

    def read_bytes(content):
        path.write_bytes(content)
        return read_all(read_torch_pickle, path)

    return read_bytes


@pytest.fixture
def refusal(tmp_path):
    """The message with which bytes are refused."""
    path = tmp_path / "pytorch_model.bin"

    def message(content):
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read_torch_pickle(str(path))
        return str(error.value)

    return message


@LAYOUTS
def test_views_of_storages(read, layout):
    # As torch does: an OrderedDict that is filled, with _metadata set on it.
    state = call("collections OrderedDict") + b"(" + code(STATE)[2:]
    state += code({"_metadata": {"": {"version": 1}}}) + b"b"
    assert same(read(layout(state, STORAGES)), WANTED)


@LAYOUTS
@pytest.mark.parametrize("dtype", CLASSES)
def test_types(tmp_path, layout, dtype):
    wide = np.array([0, 1, 3], np.float32)
    stored = (wide.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else wide.astype(dtype)
    value = {"x": tensor(storage("0", f"torch {CLASSES[dtype]}Storage", 3), shape=(3,), strides=(1,))}
    (tmp_path / "x.bin").write_bytes(layout(value, {"0": stored}))
    found = read_torch_pickle(str(tmp_path / "x.bin"))["x"]
    assert (found.shape, found.dtype) == ((3,), dtype)
    want = wide if dtype == "bfloat16" else stored
    assert (found.read().dtype, found.read().tolist()) == (want.dtype, want.tolist())


def test_what_is_read_is_a_new_array(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(old_layout(STATE, STORAGES))
    for found in read_torch_pickle(str(path)).values():
        array = found.read()
        assert array.flags.owndata
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_the_memo_and_old_layouts_view_field(read):
    keep = code("storage") + b"q\x05" + b"0"  # put, and popped: POP is no instruction of torch's
    assert read(old_layout({"x": keep}, {})) is None
    state = b"}" + code("x") + b"q\x01" + tensor(storage("0", "torch FloatStorage", 6, None)) + b"q\x02s"
    state += code("y") + b"r\x03\0\0\0" + b"h\x02s" + code("z") + b"j\x02\0\0\0s"
    assert same(read(old_layout(state, {"0": X})), dict.fromkeys("xyz", X.reshape(2, 3)))


@LAYOUTS
@pytest.mark.parametrize(
    "of",
    [
        tensor(storage(), offset=1),
        tensor(storage(), offset=-1),
        tensor(storage(), offset=2**200),
        tensor(storage(), shape=(3, 3)),
        tensor(storage(), strides=(4, 1)),
        tensor(storage(), strides=(-3, 1)),
        tensor(storage(), strides=(1,)),
        tensor(storage(), strides=(0, 1)),  # expanded: more bytes than the file has
        tensor(storage(), shape=(3, 3), strides=(1, 1)),  # overlapping: likewise
        tensor(storage(), shape=(2**40, 2**40), strides=(0, 0)),
        tensor(storage(), shape=(0, 2**63), strides=(1, 1)),
        tensor(storage(), shape=(2.0).hex()),
        tensor(storage(), shape=(True, 3)),
        tensor(storage(), shape=(1,) * 40, strides=(1,) * 40),
        tensor(storage(count=7)),
        tensor(storage(count=-6)),
        tensor(storage(count=2**63)),
        tensor(storage(count=2**250)),
        tensor(storage(), strides=(3, 1)) + code("y") + tensor(storage(count=5)),
        tensor(storage(key=0)),
        tensor(storage(kind="torch._utils _rebuild_tensor_v2")),
        tensor(code(("module", "x")) + b"Q"),
        tensor(code("storage") + b"Q"),
        tensor("no storage"),
        storage(),
        code(7),
        code({"x": None}),
        call("torch FloatStorage", 6),
        call("torch._utils _rebuild_tensor_v2"),
        call("torch._utils _rebuild_parameter", "x", True, ()),
        call("collections OrderedDict", [("x", 1)]),
        code("x") + code(()) + b"R",
    ],
)
def test_lies_are_refused(read, layout, of):
    with little_memory():
        assert read(layout({"x": of}, {"0": X})) is None


@LAYOUTS
def test_truncations(read, layout):
    content = layout(STATE, STORAGES)
    assert read(content) is not None
    assert all(read(part) is None for part in truncations(content))


@LAYOUTS
def test_bit_flips(read, layout):
    """The zip layout has checksums; the old one has none, so other numbers can come of it."""
    content = layout(STATE, STORAGES)
    found = [read(flipped) for flipped in bit_flips(content)]
    assert 0 < sum(arrays is None for arrays in found) < len(found)
    if layout is zip_layout:
        assert all(same(arrays, WANTED) for arrays in found if arrays is not None)


class Hostile:
    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


MARKER = "marker"
TOUCH = f"open({MARKER!r}, 'w')"
HOSTILE = {
    "eval": pickle.dumps(Hostile(eval, TOUCH), 2),
    "exec": pickle.dumps(Hostile(exec, TOUCH), 4),
    "open": pickle.dumps(Hostile(open, MARKER, "w"), 2),
    "text": pickle.dumps(Hostile(eval, TOUCH), 0),
    "nested": pickle.dumps({"x": [({"y": Hostile(eval, TOUCH)},)]}, 2),
    "system": program(call("posix system", f"touch {MARKER}")),
    "getattr": program(call("builtins getattr", "x", "__class__")),
    "load_from_bytes": program(call("torch.storage _load_from_bytes", "x")),
    "dotted": program(call("torch._utils _rebuild_tensor_v2.__globals__", "x")),
    "space": program(b"ctorch._utils _rebuild_tensor_v2\n\n" + code(()) + b"R"),
    "backslash": program(b"ctorch\\d\nFloatStorage\n"),
    "escapes": program(b"c\\x74orch\nFloatStorage\n"),
    "stack_global": program(code("posix") + code("system") + b"\x93" + code(f"touch {MARKER}") + b"\x85R"),
    "inst": program(b"(" + code(f"touch {MARKER}") + b"iposix\nsystem\n"),
    "obj": program(b"(cposix\nsystem\n" + code(f"touch {MARKER}") + b"o"),
    "newobj": program(b"ccollections\nOrderedDict\n)\x81"),
    "newobj_ex": program(b"ccollections\nOrderedDict\n)}\x92"),
    "ext": program(b"\x82\x01" + code(()) + b"R"),
    "ext4": program(b"\x84\x01\0\0\0" + code(()) + b"R"),
    "build a tensor": program({"x": tensor(storage()) + code({"read": 1}) + b"b"}),
    "build a class": program(b"ctorch._utils\n_rebuild_tensor_v2\n" + code({"__call__": 1}) + b"b"),
    "build with slots": program(
        call("collections OrderedDict") + code((None, {"__class__": "x"})) + b"b" + b"X"
    ),
    "items of a class": program(b"ccollections\nOrderedDict\n" + code("x") + code("y") + b"s"),
    "persistent text": program(b"Pposix.system\n"),
    "buffer": program(b"\x97"),
    "append to a dictionary": program(b"}" + code("x") + b"a"),
    "string escapes": program(b"S'\\d'\n"),
}


@pytest.mark.parametrize("wrap", ["old", "zip"])
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_runs(tmp_path, monkeypatch, refusal, name, wrap):
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name]
    if wrap == "old":
        content = b"".join(pickle.dumps(x, 2) for x in (MAGIC, PROTOCOL, MACHINE)) + content
    else:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("model/data.pkl", content)
        content = out.getvalue()
    message = refusal(content)
    assert "pickle" in message
    assert not (tmp_path / MARKER).exists()


def test_a_refused_global_is_named(refusal):
    message = refusal(zip_layout(call("posix system", "true"), {}))
    assert "asks for 'posix system', which is no tensor and could run anything" in message
    assert "\n" not in refusal(zip_layout(call("a" * 10**6 + "\r b"), {}))
    assert len(refusal(zip_layout(call("a" * 10**6 + " b"), {}))) < 500


BOMBS = {
    "a string longer than the file": b"X\xff\xff\xff\xff",
    "a number longer than the file": b"\x8a\xff\x01",
    "places of the memo": b"".join(b"Nr" + struct.pack("<I", n << 12) for n in range(1000)),
    "tuples of tuples": b"N" + b"q\0h\0\x86" * 20_000,
    "tuples of tuples as a key": b"}" + b"N" + b"q\0h\0\x86" * 1000 + b"Ns",
    "a thousand marks": b"(" * 1000,
    "deep tuples": b")" + b"\x85" * 30_000,
    "a list in itself": b"]q\0h\0a" * 1000,
    "endless": b"N" * 2_000_000,
    "a long shape, often": b"("
    + b"N" * 1000
    + b"tq\0"
    + tensor(storage(), shape=b"h\0", strides=b"h\0") * 1000,
}


@LAYOUTS
@pytest.mark.parametrize("name", BOMBS)
def test_bombs(read, layout, name):
    begun = time.process_time()
    with little_memory(60_000_000):
        assert read(layout({"x": BOMBS[name]}, {"0": X})) is None
    assert time.process_time() - begun < 20


def test_a_bomb_that_is_a_valid_pickle_is_no_dictionary(refusal):
    bomb = b"N" + b"q\0h\0\x86" * 1000
    assert "not a dictionary of tensors" in refusal(zip_layout(bomb, {}))
    assert "'x' is no tensor (tuple)" in refusal(zip_layout({"x": bomb}, {}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: old.replace(b"endian\x71\x02\x88", b"endian\x71\x02\x89"), "little-endian"),
        (lambda old: old.replace(struct.pack("<q", 6) + X.tobytes(), struct.pack("<q", 7)), "another size"),
        (lambda old: old.replace(struct.pack("<q", 6) + X.tobytes(), struct.pack("<q", -6)), "another size"),
        (lambda old: old[:-1], "ends within a tensor"),
        (lambda old: old.replace(b"\x01\x00\x00\x009q", b"\x01\x00\x00\x008q"), "list of storages"),
        (lambda old: old.replace(b"M\xe9\x03.", b"M\xea\x03."), "not a file of torch.save"),
        (lambda old: b"\x80\x02}." + old, "not a file of torch.save"),
        (lambda old: b"BZ" + old, "not a file of torch.save"),
    ],
)
def test_a_broken_old_layout_is_told_why(refusal, change, message):
    content = old_layout(STATE, STORAGES)
    assert change(content) != content
    assert message in refusal(change(content))


def test_a_storage_that_is_listed_twice(refusal):
    content = old_layout(STATE, {"0": X, "9": Y})
    twice = content.replace(pickle.dumps(["0", "9"], 2), pickle.dumps(["0", "9", "9"], 2))
    assert "list of storages" in refusal(twice)


def test_zip_files_of_another_kind(refusal, read):
    assert "compressed" in refusal(zip_layout(STATE, STORAGES, compression=zipfile.ZIP_DEFLATED))
    assert "little-endian" in refusal(zip_layout(STATE, STORAGES, byteorder=b"big"))
    assert "storage '9' is missing" in refusal(zip_layout(STATE, {"0": X}))
    assert "storage '0' is missing or of another size" in refusal(zip_layout(STATE, {"0": X[:5], "9": Y}))
    assert "not a complete zip file" in refusal(b"PK\3\4" + bytes(100))
    for names in (["a/data.pkl", "b/data.pkl"], ["data.pkl"], ["a/data.pkl", "a/constants.pkl"]):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in names:
                archive.writestr(name, program({}))
        assert "not a dictionary of tensors" in refusal(out.getvalue())


def directory(content):
    """Offset of each entry in the list of parts at the end of a zip file, by name."""
    found, at = {}, content.index(b"PK\1\2")
    while content[at : at + 4] == b"PK\1\2":
        name, extra, comment = struct.unpack("<HHH", content[at + 28 : at + 34])
        found[content[at + 46 : at + 46 + name].decode()] = at
        at += 46 + name + extra + comment
    return found


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (20, struct.pack("<II", 2**31, 2**31), "overlap"),  # compressed and real size
        (24, struct.pack("<I", 2**31), "compressed"),  # real size alone
        (42, struct.pack("<I", 0), "overlap"),  # offset, into another part
        (42, struct.pack("<I", 2**31), "overlap"),
    ],
)
def test_zip_parts_that_lie(refusal, field, value, message):
    content = bytearray(zip_layout(STATE, STORAGES))
    at = directory(content)["model/data/0"] + field
    content[at : at + len(value)] = value
    assert message in refusal(bytes(content))


def test_a_part_twice_is_refused(refusal):
    content = zip_layout(STATE, STORAGES).replace(b"model/data/9", b"model/data/0")
    assert "overlap" in refusal(content)


def test_a_zip_file_of_very_many_parts(refusal):
    content = zip_layout(STATE, STORAGES)
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[start:end] * 20_000
    tail = bytearray(content[end:])
    tail[12:16] = struct.pack("<I", len(entries))
    with little_memory(30_000_000):
        assert "too many parts" in refusal(content[:start] + entries + bytes(tail))


def test_checksums_of_the_zip_layout(tmp_path):
    path = tmp_path / "x.bin"
    content = zip_layout(STATE, STORAGES)
    path.write_bytes(content.replace(X.tobytes(), (X + 1).tobytes()))
    found = read_torch_pickle(str(path))
    assert found["y.scalar"].read() == -7
    with pytest.raises(InputError, match=r"'x\.weight': its bytes do not have their checksum"):
        found["x.weight"].read()
    unchecked = bytearray(content)
    for at in directory(content).values():  # as torch.serialization.set_crc32_options(False) leaves them
        unchecked[at + 16 : at + 20] = bytes(4)
    path.write_bytes(bytes(unchecked))
    assert same(read_all(read_torch_pickle, path), WANTED)


def test_no_file_and_no_regular_file(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_torch_pickle(str(path))
