import json
import os
import struct

import numpy as np
import pytest
from damage import bit_flips, little_memory, read_all, same, truncations
from safetensors.numpy import save

from bertjax.convert.safetensors_file import read_safetensors
from bertjax.errors import InputError

X = np.arange(6, dtype=np.float32).reshape(2, 3)
ARRAYS = {
    "x": X,
    "half": X.astype(np.float16),
    "double": X.T.astype(np.float64, order="C"),
    "ids": np.arange(5),
    "scalar": np.array(7, np.int32),
    "empty": np.zeros((0, 3), np.float32),
    "mask": np.array([True, False]),
}


def raw(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_types_and_shapes(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(ARRAYS, metadata={"format": "pt"}))
    assert same(read_all(read_safetensors, path), ARRAYS)
    found = read_safetensors(str(path))
    assert {name: (t.shape, t.dtype) for name, t in found.items()} == {
        name: (x.shape, x.dtype.name) for name, x in ARRAYS.items()
    }
    assert found["x"].read().flags.owndata


def test_bfloat16_is_widened_and_other_types_are_refused_when_read(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"b": entry("BF16", [2, 1], 0, 4), "f8": entry("F8_E4M3", [4], 4, 8)}
    path.write_bytes(raw(header, struct.pack("<HH", 0x3F80, 0xC040) + bytes(4)))
    found = read_safetensors(str(path))
    assert [(t.shape, t.dtype) for t in found.values()] == [((2, 1), "bfloat16"), ((4,), "F8_E4M3")]
    np.testing.assert_array_equal(found["b"].read(), np.array([[1], [-3]], np.float32), strict=True)
    with pytest.raises(InputError, match=r"'f8': tensors of type F8_E4M3 are not supported"):
        found["f8"].read()


def test_truncations(tmp_path):
    path = tmp_path / "model.safetensors"
    content = save(ARRAYS)
    for part in truncations(content):
        path.write_bytes(part)
        assert read_all(read_safetensors, path) is None


def test_bit_flips(tmp_path):
    """The format has no checksums, so other numbers can come of it, and no other errors."""
    path = tmp_path / "model.safetensors"
    for flipped in bit_flips(save(ARRAYS)):
        path.write_bytes(flipped)
        read_all(read_safetensors, path)


@pytest.mark.parametrize(
    "content",
    [
        raw({"x": entry("F32", [2], 0, 8)}, bytes(8), length=2**63),
        raw({"x": entry("F32", [2], 0, 8)}, bytes(8), length=2**30),
        raw({"x": entry("F32", [2], 0, 8)}, bytes(7)),
        raw({"x": entry("F32", [2], 0, 8)}, bytes(9)),
        raw({"x": entry("F32", [2], 0, 8), "y": entry("F32", [2], 4, 12)}, bytes(12)),
        raw({"x": entry("F32", [2], 0, 8), "y": entry("F32", [2], 0, 8)}, bytes(8)),
        raw({"x": entry("F32", [2], 8, 0)}, bytes(8)),
        raw({"x": entry("F32", [3], 0, 8)}, bytes(8)),
        raw({"x": entry("F32", [-2], 0, 8)}, bytes(8)),
        raw({"x": entry("F32", [2**32, 2**32], 0, 0)}),
        raw({"x": entry("F32", [0, 2**62, 2**62], 0, 0)}),
        raw({"x": entry("F32", [0, 2**62], 0, 0)}),
        raw({"x": entry("F32", [1] * 40, 0, 4)}, bytes(4)),
        raw({"x": entry("Q9", [1], 0, 4)}, bytes(4)),
        raw({"x": {}}),
        raw({"x\ny": entry("F32", [9], 0, 4)}, bytes(4)),
        raw(b"[" * 100_000),
        raw([]),
        raw(b"\xff\xfe"),
    ],
)
def test_lies_are_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with little_memory():
        assert read_all(read_safetensors, path) is None


@pytest.fixture
def index(tmp_path):
    """Writes two shards and an index of this weight_map, or of this text, and gives the index's path."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.safetensors").write_bytes(save({"x": X}))
    (tmp_path / "folder/b.safetensors").write_bytes(save({"y": X + 1, "z": X + 2}))
    (tmp_path / "outside.safetensors").write_bytes(save({"x": X}))

    def write(weight_map):
        path = tmp_path / "folder/model.safetensors.index.json"
        path.write_text(weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map}))
        return path

    return write


def test_an_index_of_shards(index, monkeypatch):
    path = index({"y": "b.safetensors", "x": "a.safetensors", "z": "b.safetensors"})
    want = {"y": X + 1, "x": X, "z": X + 2}
    assert same(read_all(read_safetensors, path), want)
    monkeypatch.chdir(path.parent)
    assert list(read_safetensors(path.name)) == ["y", "x", "z"]
    index({"y": "b.safetensors", "x": "a.safetensors"})
    with pytest.raises(InputError, match=r"does not list 'z' of 'b\.safetensors'"):
        read_safetensors(path.name)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"x": "../outside.safetensors"}, "no file of its folder"),
        ({"x": "{tmp}/outside.safetensors"}, "no file of its folder"),
        ({"x": ".."}, "no file of its folder"),
        ({"x": ""}, "no file of its folder"),
        ({"x": "a.safetensors\0"}, "no file of its folder"),
        ({"x": "c.safetensors"}, "c.safetensors: no such file"),
        ({"x": "b.safetensors"}, "'x' is not in 'b.safetensors'"),
        ({"x": 1}, "weight_map"),
        ([], "weight_map"),
        ("{}", "weight_map"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("", "is empty"),
        ('{"weight_map": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_broken_index(index, tmp_path, weight_map, message):
    if isinstance(weight_map, dict):
        weight_map = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in weight_map.items()}
    path = index(weight_map)
    with pytest.raises(InputError) as error:
        read_safetensors(str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "none.safetensors", tmp_path, tmp_path / "pipe.safetensors"):
        with pytest.raises(InputError, match="no such file"):
            read_safetensors(str(path))
