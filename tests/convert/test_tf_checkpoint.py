import base64
import struct
import time

import google_crc32c
import numpy as np
import pytest
from damage import bit_flips, little_memory, read_all, same, truncations

from bertjax.convert.tf_checkpoint import read_tf_checkpoint
from bertjax.errors import InputError

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
# DataType of each NumPy type; bfloat16 is given as uint16
TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10}
TYPES |= {"uint16": 14, "float16": 19}


def varint(value):
    value %= 1 << 64
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def masked(data):
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32))


def number(field, value):
    return varint(field << 3) + varint(value)


def message(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def shape_proto(shape):
    return b"".join(message(2, number(1, size) if size else b"") for size in shape)


def entry_proto(dtype, shape, shard=0, offset=0, size=0, crc=bytes(4)):
    fields = number(1, dtype) + message(2, shape_proto(shape)) + number(3, shard)
    return fields + number(4, offset) + number(5, size) + b"\x35" + crc


def entries_block(pairs, restart=4):
    """Keys share prefixes with the key before, but for every fourth."""
    out, last, restarts = b"", b"", []
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(blocks, kind=b"\0"):
    """A table of blocks in their final form; the index has their last keys' places filled with numbers."""
    out, handles = b"", []
    for block in blocks:
        handles.append((b"%06d" % len(handles), varint(len(out)) + varint(len(block))))
        out += block + kind + masked(block + kind)
    meta, index = entries_block([]), entries_block(handles)
    footer = varint(len(out)) + varint(len(meta))
    out += meta + b"\0" + masked(meta + b"\0")
    footer += varint(len(out)) + varint(len(index))
    return out + index + b"\0" + masked(index + b"\0") + footer.ljust(40, b"\0") + MAGIC


HEADER = number(1, 1) + message(3, number(1, 1))  # one shard, and a version


def index_of(entries, header=HEADER, size=3):
    """An index with `size` entries to a block. `entries`: {name: value}."""
    pairs = [(b"", header), *sorted((name.encode(), value) for name, value in entries.items())]
    return table([entries_block(pairs[i : i + size]) for i in range(0, len(pairs), size)])


def write(prefix, arrays, shards=1):
    """A checkpoint with the tensors in turn in each of its data files."""
    data, entries = [b"junk"] * shards, {}
    for i, (name, x) in enumerate(arrays.items()):
        content, shard = x.tobytes(), i % shards
        place = (shard, len(data[shard]), len(content), masked(content))
        entries[name] = entry_proto(TYPES[x.dtype.name], x.shape, *place)
        data[shard] += content
    prefix.with_name(f"{prefix.name}.index").write_bytes(index_of(entries, HEADER + number(1, shards)))
    for shard, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}").write_bytes(content)


X = np.arange(6, dtype=np.float32).reshape(2, 3)
ARRAYS = {
    "bert/embeddings/word_embeddings": X,
    "bert/encoder/layer_0/attention/self/query/kernel": X + 1,
    "bert/encoder/layer_0/attention/self/query/bias": X[0],
    "bert/encoder/layer_10/attention/self/query/bias": X[1] * 2,
    "bert/pooler/dense/bias": np.zeros((0, 3), np.float32),
    "global_step": np.array(7),
}


@pytest.fixture
def prefix(tmp_path):
    write(tmp_path / "bert_model.ckpt", ARRAYS)
    return tmp_path / "bert_model.ckpt"


@pytest.fixture
def refusal(prefix):
    """The message with which an index is refused, beside a data file of 64 bytes."""
    prefix.with_name("bert_model.ckpt.data-00000-of-00001").write_bytes(bytes(64))

    def message(content):
        prefix.with_name("bert_model.ckpt.index").write_bytes(content)
        with pytest.raises(InputError) as error:
            read_tf_checkpoint(str(prefix))
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(str(prefix))
        return str(error.value)

    return message


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_names_shapes_and_arrays(tmp_path, shards):
    write(tmp_path / "x.ckpt", ARRAYS, shards)
    assert same(read_all(read_tf_checkpoint, tmp_path / "x.ckpt"), ARRAYS)
    found = read_tf_checkpoint(str(tmp_path / "x.ckpt"))
    assert {k: (t.shape, t.dtype) for k, t in found.items()} == {
        k: (x.shape, x.dtype.name) for k, x in ARRAYS.items()
    }
    assert found["global_step"].read().flags.owndata


def test_types(tmp_path):
    arrays = {dtype: np.array([[0, 1, 3]]).astype(dtype) for dtype in TYPES}
    arrays["uint16"] = (np.array([0, 1, -3], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    write(tmp_path / "x", arrays)
    found = read_tf_checkpoint(str(tmp_path / "x"))
    assert found.pop("uint16").dtype == "bfloat16"
    assert {k: t.dtype for k, t in found.items()} == {k: k for k in found}
    arrays["uint16"] = np.array([0, 1, -3], np.float32)
    assert same(read_all(read_tf_checkpoint, tmp_path / "x"), arrays)


def test_a_checkpoint_of_tensorflow(tmp_path):
    """Written by TensorFlow 2.21:

    tf.raw_ops.SaveV2(prefix="gold", tensor_names=["a/bias", "a/kernel", "step"], shape_and_slices=[""] * 3,
        tensors=[tf.constant([1, -3], tf.bfloat16), tf.reshape(tf.range(6, dtype=tf.float32), (2, 3)),
                 tf.constant(7, tf.int64)])
    """
    index = base64.b64decode(
        "AAAGCAEaAggBAAYPYS9iaWFzCA4SBBICCAIoBDUN4ZgeAgYVa2VybmVsCAESCBICCAISAggDIAQoGDXA2z0XAAQNc3RlcAg"
        "JEgAgHCgINbvXnxEAAAAAAQAAAABes8G3AAAAAAEAAAAAwPKhsAABAnQAWwAAAAABAAAAAHngsQpgCG0OAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAV/uAiyR1R9s="
    )
    data = base64.b64decode("gD9AwAAAAAAAAIA/AAAAQAAAQEAAAIBAAACgQAcAAAAAAAAA")
    (tmp_path / "gold.index").write_bytes(index)
    (tmp_path / "gold.data-00000-of-00001").write_bytes(data)
    want = {"a/bias": np.array([1, -3], np.float32), "a/kernel": X, "step": np.array(7)}
    assert same(read_all(read_tf_checkpoint, tmp_path / "gold"), want)


def test_other_tensors_are_refused_when_they_are_read(prefix):
    slices = message(7, message(1, number(2, 5))) + message(7, b"")
    entries = {
        "strings": entry_proto(7, (2,), 0, 0, 9),
        "partitioned": number(1, 1) + message(2, shape_proto((10, 4))) + slices,
        "\0\x01partitioned": entry_proto(1, (5, 4), 0, 0, 80),
        "complex": entry_proto(8, (), 0, 0, 8),
        "whole": entry_proto(1, (), 0, 4, 4, masked(bytes(4))),
    }
    prefix.with_name("bert_model.ckpt.index").write_bytes(index_of(entries))
    found = read_tf_checkpoint(str(prefix))
    assert {k: (t.shape, t.dtype) for k, t in found.items()} == {
        "complex": ((), "type 8"),
        "partitioned": ((10, 4), "float32"),
        "strings": ((2,), "string"),
        "whole": ((), "float32"),
    }
    assert found["whole"].read() == 0
    for name, reason in (("strings", "string"), ("partitioned", "partitioned"), ("complex", "type 8")):
        with pytest.raises(InputError, match=f"'{name}' is (of )?{reason}"):
            found[name].read()


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_truncations(prefix, suffix):
    path = prefix.with_name(prefix.name + suffix)
    for part in truncations(path.read_bytes()):
        path.write_bytes(part)
        assert read_all(read_tf_checkpoint, prefix) is None


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_bit_flips(prefix, suffix):
    path = prefix.with_name(prefix.name + suffix)
    refused = 0
    for flipped in bit_flips(path.read_bytes()):
        path.write_bytes(flipped)
        found = read_all(read_tf_checkpoint, prefix)
        refused += found is None
        assert found is None or same(found, ARRAYS)
    assert refused > 300


def test_bit_flips_under_right_checksums(prefix):
    """What no checksum shows: entries that lie in every way."""
    entry = entry_proto(1, (2, 3), 0, 4, 24, masked(X.tobytes()))
    pairs = [(b"", HEADER), *((b"%d" % i, entry) for i in range(5))]
    path = prefix.with_name("bert_model.ckpt.index")
    for flipped in bit_flips(entries_block(pairs)):
        path.write_bytes(table([flipped]))
        read_all(read_tf_checkpoint, prefix)


@pytest.mark.parametrize(
    "entry",
    [
        entry_proto(1, (4, 4), 0, 4, 64),  # behind the end
        entry_proto(1, (4, 4), 0, 2**62, 64),
        entry_proto(1, (4, 4), 0, -4, 64),
        entry_proto(1, (4, 4), 0, 0, -64),
        entry_proto(1, (4, 4), 0, 0, 60),
        entry_proto(1, (4, -4), 0, 0, 64),
        entry_proto(1, (-4, -4), 0, 0, 64),
        entry_proto(1, (2**32, 2**32), 0, 0, 0),
        entry_proto(1, (0, 2**62, 2**62), 0, 0, 0),
        entry_proto(1, (1,) * 40, 0, 0, 4),
        entry_proto(7, (-1,), 0, 0, 4),
        entry_proto(1, (4, 4), 1, 0, 64),
        entry_proto(1, (4, 4), -1, 0, 64),
        entry_proto(1, (4, 4), 0, 0, 64)[:-1],
        b"\xff" * 20,
        b"\x0b",  # a group, which no message here has
        message(2, b"\x12\xff\xff\xff\xff\x7f"),
    ],
)
def test_entries_that_lie(refusal, entry):
    with little_memory():
        refusal(index_of({"x": entry}))


def test_lies_of_the_table(refusal):
    def shared(*entries):
        return b"".join(varint(s) + varint(len(k)) + varint(len(v)) + k + v for s, k, v in entries) + bytes(4)

    good = entries_block([(b"", HEADER), (b"x", entry_proto(7, ()))])
    assert "damaged" in refusal(table([shared((0, b"", HEADER), (1, b"x", b""))]))
    assert "damaged" in refusal(table([good, good]))  # keys twice
    assert "damaged" in refusal(table([entries_block([(b"x", HEADER)])]))  # no header
    assert "damaged" in refusal(table([]))
    assert "damaged" in refusal(table([entries_block([(b"", HEADER), (b"\xff", entry_proto(7, ()))])]))
    assert "damaged" in refusal(table([b""]))
    assert "damaged" in refusal(table([b"\xff" * 4]))
    assert "damaged" in refusal(table([good[:-8] + b"\0\0\xff\xff\xff\xff\x0f" + good[-8:]]))
    assert "compressed" in refusal(table([good], kind=b"\1"))
    assert "big-endian" in refusal(index_of({}, HEADER + number(2, 1)))
    assert "no such file" in refusal(index_of({"x": entry_proto(1, ())}, HEADER + number(1, 2**40)))
    assert "not the index" in refusal(bytes(100))
    assert "is empty" in refusal(b"")
    assert "cut off" in refusal(b"\xff" * 40 + MAGIC)


def test_bombs(refusal):
    begun = time.process_time()
    # Keys that share a prefix of 100 kB: 5 bytes of the file each.
    entries = varint(0) + varint(100_000) + varint(0) + bytes(100_000)
    for i in range(20_000):
        entries += varint(100_000 - 2) + varint(2) + varint(0) + struct.pack(">H", i + 1)
    block = varint(0) + varint(0) + varint(len(HEADER)) + HEADER + entries + bytes(4)
    with little_memory():
        assert "damaged" in refusal(table([block]))
    # One large block without entries, again and again.
    block = struct.pack("<250001I", *[0] * 250_000, 250_000)
    content = block + b"\0" + masked(block + b"\0")
    index = entries_block([(b"%06d" % i, varint(0) + varint(len(block))) for i in range(20_000)])
    footer = varint(0) * 2 + varint(len(content)) + varint(len(index))
    content += index + b"\0" + masked(index + b"\0") + footer.ljust(40, b"\0") + MAGIC
    with little_memory():
        assert "damaged" in refusal(content)
    assert time.process_time() - begun < 20


def test_damage_to_the_data_is_told_by_file_and_name(prefix):
    path = prefix.with_name("bert_model.ckpt.data-00000-of-00001")
    content = path.read_bytes()
    path.write_bytes(content.replace((X + 1).tobytes(), (X + 2).tobytes()))
    found = read_tf_checkpoint(str(prefix))
    assert found["global_step"].read() == 7
    with pytest.raises(
        InputError, match=r"-of-00001: 'bert/encoder/layer_0/.*/kernel': its bytes do not have"
    ):
        found["bert/encoder/layer_0/attention/self/query/kernel"].read()
    path.unlink()
    with pytest.raises(InputError, match=r"data-00000-of-00001: no such file"):
        read_tf_checkpoint(str(prefix))


def test_a_prefix_that_is_none(prefix):
    prefix.with_name("v1.ckpt").write_bytes(b"V1")
    for name in ("v1.ckpt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        with pytest.raises(InputError, match=r"V1, save it anew with tf\.compat\.v1\.train\.Saver"):
            read_tf_checkpoint(str(prefix.with_name(name)))
    for name in ("", "other.ckpt"):
        with pytest.raises(InputError, match=r"\.index: no such file"):
            read_tf_checkpoint(str(prefix.parent / name))
