"""The release's example files: their framing, their records, the rows made from them."""

import contextlib
import gzip
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from plain_examples import CLS
from store_fixture import VOCAB
from tfrecord_fixture import checksum, crc32c, field, framed, make_features, serialised, varint, write_file

from bertjax.checksums import masked_crc32c
from bertjax.data.pretraining.tf_examples import TfExamples, fingerprint, open_files, parse
from bertjax.data.pretraining.tfrecord import Records, index_file
from bertjax.errors import InputError

TOKENIZER = SimpleNamespace(vocab_size=VOCAB, cls_id=CLS)


def opened(*paths, seed=0, phase=0, seq_length=16, most=3, next_sentence=True):
    return TfExamples(
        Records([index_file(str(path)) for path in paths]), TOKENIZER, seed=seed, phase=phase,
        seq_length=seq_length, max_predictions_per_seq=most, next_sentence=next_sentence, section="train",
    )  # fmt: skip


def refused(message, call, *args, **kwargs):
    with pytest.raises(InputError, match=message) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def keys(batch):
    """What tells the rows of a batch apart."""
    return [ids.tobytes() + where.tobytes() for ids, where in
            zip(batch["input_ids"], batch["masked_lm_positions"], strict=True)]  # fmt: skip


@pytest.fixture(scope="module")
def features():
    return make_features(50)


def test_the_checksum_is_the_formats():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C's definition
    for data in (b"", b"\0" * 8, bytes(range(256))):
        assert struct.pack("<I", masked_crc32c([data])) == checksum(data)


def test_records_are_found_and_read_in_any_order(tmp_path):
    data = [[b"a" * 300, b"", b"bc"], [b"d"], [b"e" * 70_000, b"f"]]
    files = []
    for i, group in enumerate(data):
        path = tmp_path / f"{i}"
        path.write_bytes(b"".join(map(framed, group)))
        files.append(index_file(str(path)))
    records = Records(files)
    assert len(records) == 6
    whole = records.read(np.arange(6))
    assert sorted(whole) == sorted(each for group in data for each in group)
    order = np.array([5, 0, 3, 3, 1])
    assert records.read(order) == [whole[i] for i in order]
    names = [records.name(i) for i in range(6)]
    for name, found in zip(names, whole, strict=True):
        file, _, number = name.removeprefix(f"{tmp_path}/").partition(": record ")
        assert data[int(file)][int(number) - 1] == found
    # Other names, another order of the list: the same numbers, the same fingerprint.
    for i in range(3):
        (tmp_path / f"{i}").rename(tmp_path / f"moved{9 - i}")
    moved = [index_file(str(tmp_path / f"moved{9 - i}")) for i in (2, 0, 1)]
    assert Records(moved).read(np.arange(6)) == whole
    assert (
        fingerprint({8: moved}) == fingerprint({8: files[:1], 16: files[1:]}) != fingerprint({8: files[:2]})
    )


def test_every_flipped_bit_of_a_file_is_noticed(tmp_path):
    whole = b"".join(map(framed, (b"first", b"second", b"third")))
    path = tmp_path / "file"
    for at in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            number = 1 + (at >= 21) + (at >= 43)
            message = rf"file: (record {number}: its (data|length)|is no TFRecord file|is compressed)"
            refused(message, lambda: Records([index_file(str(path))]).read(np.arange(3)))


def test_a_file_cut_short_anywhere_is_noticed(tmp_path):
    whole = b"".join(map(framed, (b"first", b"second")))
    for size in set(range(1, len(whole))) - {21}:
        (tmp_path / "file").write_bytes(whole[:size])
        refused(r"file: record [12]: the file is cut short in it; copy", index_file, str(tmp_path / "file"))


def test_files_of_another_kind_are_refused(tmp_path, features):
    path = tmp_path / "file"
    whole = b"".join(framed(serialised(each)) for each in features)
    for content, message in (
        (b"", "is empty; make"),
        (gzip.compress(whole), "is compressed, .* decompress it"),
        (zlib.compress(whole), "is compressed, .* decompress it"),
        (b"A line of text.\nAnother.\n", "is no TFRecord file, .* leave it out"),
        (bytes(100), "is no TFRecord file"),
    ):
        path.write_bytes(content)
        refused(f"file: {message}", index_file, str(path))


def test_a_parsed_record_holds_what_was_written(features):
    for each in features:
        found = parse(serialised(each))
        assert {name: list(values) for name, values in found.items()} == each
    # Others may come in any order and beside features that training does not need.
    extra = dict(reversed(features[0].items())) | {"other": [1, 2]}
    assert list(parse(serialised(extra))["input_ids"]) == features[0]["input_ids"]
    # Unpacked lists are the same to protobuf.
    values = b"".join(varint(1 << 3) + varint(i) for i in features[0]["input_ids"])
    entry = field(1, field(1, b"input_ids") + field(2, field(3, values)))
    rest = {name: values for name, values in features[0].items() if name != "input_ids"}
    merged = parse(serialised(rest) + field(1, entry))
    assert list(merged["input_ids"]) == features[0]["input_ids"]


def test_hostile_records_are_one_line(features):
    for name in features[0]:
        refused(f"has no {name} ", parse, serialised({n: x for n, x in features[0].items() if n != name}))
        refused(f"has no {name} ", parse, serialised(features[0] | {name: []}))
        of_the_other_kind = [1] if name.endswith("weights") else [1.0]
        refused(f"has no {name} ", parse, serialised(features[0] | {name: of_the_other_kind}))
    rng = np.random.default_rng(0)
    whole = serialised(features[0])
    for i in range(2000):
        data = bytearray(whole[: rng.integers(len(whole))] if i % 2 else whole)
        for at in rng.integers(len(data), size=min(len(data), 3)) if len(data) else ():
            data[at] = rng.integers(256)
        with contextlib.suppress(InputError):  # anything else would be a traceback
            parse(bytes(data))
    refused("holds no tf.train.Example", parse, b"\xff" * 40)


def test_a_row_is_its_record(tmp_path, features):
    examples = opened(write_file(tmp_path / "file", features))
    batch = examples.rows(0, len(features))
    assert len(examples) == len(features)
    expected = {}
    for each in features:
        real = np.array(each["input_mask"])
        assert 0 < real.sum() <= 16
        row = {
            "input_ids": each["input_ids"],
            "token_type_ids": each["segment_ids"],
            "position_ids": np.arange(16) * real,
            "segment_ids": real,
            **{name: each[name] for name in each if name.startswith("masked_lm")},
            "next_sentence_positions": [0],
            "next_sentence_labels": each["next_sentence_labels"],
            "next_sentence_weights": [1.0],
        }
        expected[keys({n: np.array([x], np.int32) for n, x in row.items()})[0]] = row
    assert len(expected) == len(features)
    assert any(row["segment_ids"][-1] == 0 for row in expected.values())
    for i, key in enumerate(keys(batch)):
        row = expected.pop(key)
        assert list(row) == list(batch)
        for name, values in row.items():
            assert batch[name].dtype == (np.float32 if name.endswith("weights") else np.int32)
            np.testing.assert_array_equal(batch[name][i], values, err_msg=name)
    without = opened(tmp_path / "file", next_sentence=False).rows(0, 9)
    assert not without["next_sentence_weights"].any()


def test_order_is_a_pure_function_of_seed_phase_and_position(tmp_path, features):
    paths = [
        write_file(tmp_path / f"{i}", features[a:b]) for i, (a, b) in enumerate([(0, 7), (7, 30), (30, 50)])
    ]
    examples = opened(*paths)
    whole = keys(examples.rows(0, 175))  # three epochs and a half
    epochs = [whole[i : i + 50] for i in range(0, 150, 50)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 50 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for position, count in ((0, 1), (49, 2), (13, 150), (99, 0), (170, 5)):
        assert keys(opened(*reversed(paths)).rows(position, count)) == whole[position : position + count]
    renamed = [path.rename(tmp_path / f"renamed {9 - i}") for i, path in enumerate(map(Path, paths))]
    assert keys(opened(*renamed).rows(0, 50)) == epochs[0]
    paths = renamed
    assert keys(opened(*paths, seed=1).rows(0, 50)) != epochs[0]
    assert keys(opened(*paths, phase=1).rows(0, 50)) != epochs[0]
    # Neighbours of a file do not stay neighbours.
    place = {key: i for i, key in enumerate(keys(opened(paths[1]).rows(0, 23)))}
    at = [place[key] for key in epochs[0] if key in place]
    assert len(at) == 23
    assert (abs(np.diff(at)) == 1).sum() < 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": [CLS] * 17}, "17 values of input_ids where 16 are expected; make the file again"),
        ({"input_mask": [1] * 15}, "15 values of input_mask where 16"),
        ({"masked_lm_ids": [5] * 4}, "4 values of masked_lm_ids where 3 .*train.max_predictions_per_seq=4"),
        ({"next_sentence_labels": [0, 1]}, "2 values of next_sentence_labels where 1"),
        ({"input_ids": [CLS] * 15 + [VOCAB]}, "input_ids has the value 96, .* 95; give --config.data.vocab"),
        ({"input_ids": [CLS] * 15 + [-1]}, "input_ids has the value -1"),
        ({"masked_lm_ids": [5, 2**40, 5]}, f"masked_lm_ids has the value {2**40}"),
        ({"masked_lm_positions": [1, 2, 16]}, "masked_lm_positions has the value 16, .* 0 to 15; make"),
        ({"masked_lm_weights": [1.0, float("nan"), 0.0]}, "masked_lm_weights has the value nan"),
        ({"input_mask": [2] * 16}, "input_mask has the value 2"),
        ({"segment_ids": [0] * 15 + [2]}, "segment_ids has the value 2, .*; make"),
        ({"next_sentence_labels": [2]}, "next_sentence_labels has the value 2"),
        ({"input_ids": [CLS + 1] * 16}, r"begins with id 3, but \[CLS\] is 2; give --config.data.vocab"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_record_that_does_not_fit_is_named(tmp_path, features, change, message):
    path = write_file(tmp_path / "file", [*features[:6], features[6] | change, *features[7:]])
    examples = opened(path)
    refused(f"{path}: record 7: {message}", examples.rows, 0, 50)
    # What is wrong with the first record is found at the opening.
    refused(f"record 1: {message}", opened, write_file(tmp_path / "first", [features[0] | change]))


def test_files_are_grouped_by_the_length_of_their_examples(tmp_path):
    short, long = make_features(20), make_features(10, 32, 5)
    for name, each in (("a/1", short[:9]), ("a/2", long), ("b", short[9:])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_file(tmp_path / name, each)
    lengths = {"train": 16, "phase2": 32}
    files = open_files("data.tfrecord", f"{tmp_path}/a, {tmp_path}/[ab],{tmp_path}/b", lengths)
    names = {s: [file.path.removeprefix(f"{tmp_path}/") for file in group] for s, group in files.items()}
    assert names == {16: ["a/1", "b"], 32: ["a/2"]}
    assert sum(len(file.offsets) - 1 for file in files[16]) == 20
    for paths, lengths, message in (
        ("a", {"train": 16}, r"a/2: its examples have 32 tokens, but --config.train.seq_length=16; leave"),
        ("b", {"train": 16, "phase2": 32}, "no file with examples of 32 tokens, for --config.phase2.seq_le"),
        ("c", {"train": 16}, "c: no such file"),
        ("a/1,", {"train": 16}, "path is empty"),
    ):
        where = f"{tmp_path}/{paths}"
        refused(message, open_files, "data.tfrecord", where, lengths)
    path = tmp_path / "no example"
    path.write_bytes(framed(b"\xff\xff"))
    refused(
        "no example: record 1: holds no tf.train.Example",
        open_files,
        "data.tfrecord",
        str(path),
        {"train": 16},
    )
