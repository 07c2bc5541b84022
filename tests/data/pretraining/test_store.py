import json
import math
import os

import numpy as np
import pytest

from bertjax.data.pretraining import store as store_module
from bertjax.data.pretraining.store import StoreWriter, open_store, split_documents, write_json
from bertjax.errors import InputError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(store_module, "BLOCK_BYTES", 256)
    monkeypatch.setattr(store_module, "_COUNTED_TOKENS", 100)


def make_documents(count=40, seed=0, vocab_size=1000):
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(0, vocab_size, rng.integers(1, 9)) for _ in range(rng.integers(1, 5))]
        for _ in range(count)
    ]


def append(writer, documents):
    sentences = [sentence for document in documents for sentence in document]
    writer.append(
        np.concatenate(sentences).astype(np.uint32),
        np.array([len(sentence) for sentence in sentences]),
        np.array([len(document) for document in documents]),
    )


def finish(writer, path, documents, vocab_size=1000):
    (path / "vocab.txt").write_text("".join(f"token{i}\n" for i in range(100)))
    manifest = {
        "tokenizer": {"kind": "wordpiece", "lower_case": True, "vocab_size": vocab_size, "sha256": "0" * 64},
        "inputs": [
            {"path": "a", "format": "text", "weight": 1.0, "first_document": 0, "end_document": documents}
        ],
        "heldout": 0.1,
        "summary": {},
    }
    writer.finish(path, manifest, ["vocab.txt"])


def make_store(path, documents, vocab_size=1000):
    path.mkdir(exist_ok=True)
    writer = StoreWriter(path, vocab_size)
    append(writer, documents)
    finish(writer, path, len(documents), vocab_size)


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65536, "<u2"), (65537, "<u4")])
def test_round_trip(tmp_path, vocab_size, dtype):
    documents = make_documents(vocab_size=vocab_size)
    make_store(tmp_path, documents, vocab_size)
    store = open_store(tmp_path)
    assert store.tokens.dtype == np.dtype(dtype)
    assert store.sentences.dtype == store.documents.dtype == np.int64
    assert len(store.documents) == len(documents) + 1
    for d, document in enumerate(documents):
        first, end = store.documents[d : d + 2]
        assert end - first == len(document)
        for i, sentence in enumerate(document, first):
            np.testing.assert_array_equal(store.tokens[store.sentences[i] : store.sentences[i + 1]], sentence)
    assert store.inputs[0]["end_document"] == len(documents)
    assert len(store.heldout_documents) == 4
    both = np.concatenate([store.train_documents, store.heldout_documents])
    np.testing.assert_array_equal(np.sort(both), np.arange(len(documents)))


@pytest.mark.parametrize("vocab_size", [1000, 70_000])
def test_unigram_entropy_is_of_all_tokens_also_after_a_resume(tmp_path, vocab_size):
    documents = make_documents(vocab_size=vocab_size)
    first = StoreWriter(tmp_path, vocab_size)
    append(first, documents[:20])
    state = json.loads(json.dumps(first.state()))
    append(first, documents[30:])  # lost: it is not in the state
    first.close()
    writer = StoreWriter(tmp_path, vocab_size, state)
    append(writer, documents[20:])
    tokens = [int(token) for document in documents for sentence in document for token in sentence]
    shares = [tokens.count(token) / len(tokens) for token in set(tokens)]
    assert writer.unigram_entropy() == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-12)
    writer.close()


def test_blocks_are_recorded(tmp_path):
    make_store(tmp_path, make_documents())
    entry = open_store(tmp_path).manifest["files"]["tokens.bin"]
    assert entry["block_bytes"] == 256
    assert len(entry["sha256"]) == -(-entry["bytes"] // 256) > 2


def test_heldout_documents_have_the_smallest_splitmix64():
    def splitmix64(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published generator's first output for seed 0
    for count, share, expected in ((1000, 0.01, 10), (30, 0.01, 2), (1000, 0.0, 0), (0, 0.5, 0), (5, 0.5, 2)):
        train, heldout = split_documents(count, share)
        assert sorted(sorted(range(count), key=splitmix64)[:expected]) == heldout.tolist()
        assert sorted(set(range(count)) - set(heldout.tolist())) == train.tolist()


@pytest.mark.parametrize("extra", [b"", b"half an append"])
def test_resumed_equals_uninterrupted(tmp_path, extra):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    documents = make_documents(60)
    make_store(whole, documents)
    parts.mkdir()
    state = None
    for start in range(0, 60, 7):
        writer = StoreWriter(parts, 1000, state)
        assert writer.documents == start
        append(writer, documents[start : start + 7])
        state = json.loads(json.dumps(writer.state()))
        if start < 56:
            append(writer, documents[:3])  # lost: no state covers it
        writer.close()
        with open(parts / "tokens.bin", "ab") as file:
            file.write(extra)
    finish(StoreWriter(parts, 1000, state), parts, 60)
    assert content(parts) == content(whole)


def test_resume_refuses_a_file_that_lost_bytes(tmp_path):
    writer = StoreWriter(tmp_path, 1000)
    append(writer, make_documents())
    state = writer.state()
    writer.close()
    os.truncate(tmp_path / "sentences.bin", 8)
    with pytest.raises(InputError, match=r"sentences.bin: 8 bytes where \d+ were written; remove the folder"):
        StoreWriter(tmp_path, 1000, state)


@pytest.mark.parametrize("name", store_module.DATA_FILES)
def test_resume_refuses_a_file_that_changed(tmp_path, name):
    writer = StoreWriter(tmp_path, 1000)
    append(writer, make_documents())
    state = json.loads(json.dumps(writer.state()))
    append(writer, make_documents(3))  # lost: no state covers it
    writer.close()
    size = state["files"][name][0]
    assert size > 256
    assert size % 256
    good = (tmp_path / name).read_bytes()
    for position in (0, size - 1):  # in a whole block, and in the partial one
        bad = bytearray(good)
        bad[position] ^= 1
        (tmp_path / name).write_bytes(bad)
        start = position // 256 * 256
        where = rf"{name}: bytes {start} to {min(size, start + 256)} are not what was written; remove"
        with pytest.raises(InputError, match=where):
            StoreWriter(tmp_path, 1000, state)
    (tmp_path / name).write_bytes(good)
    StoreWriter(tmp_path, 1000, state).close()


@pytest.mark.parametrize("name", ["tokens.bin", "sentences.bin", "documents.bin", "vocab.txt"])
def test_damage_is_named(tmp_path, name):
    make_store(tmp_path, make_documents())
    file = tmp_path / name
    good = file.read_bytes()
    assert len(good) > 256
    flipped = bytearray(good)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    start = (len(good) - 1) // 256 * 256
    with pytest.raises(InputError, match=rf"{name}: bytes {start} to {len(good)} are not what was written"):
        open_store(tmp_path)
    file.write_bytes(good[:-1])
    with pytest.raises(InputError, match=rf"{name}: cut short, {len(good) - 1} bytes where {len(good)}"):
        open_store(tmp_path)
    file.write_bytes(good + b"\0")
    with pytest.raises(InputError, match=rf"{name}: too long"):
        open_store(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=rf"{name}: is missing; remove the folder"):
        open_store(tmp_path)
    file.write_bytes(good)
    open_store(tmp_path)


def test_damage_of_the_manifest_is_named(tmp_path):
    make_store(tmp_path, make_documents())
    good = (tmp_path / "store.json").read_bytes()
    for i in range(0, len(good), 7):
        bad = bytearray(good)
        bad[i] ^= 1
        (tmp_path / "store.json").write_bytes(bad)
        with pytest.raises(InputError, match="store"):
            open_store(tmp_path)
    (tmp_path / "store.json").write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"store\.json: not JSON"):
        open_store(tmp_path)
    write_json(tmp_path / "store.json", {**json.loads(good), "version": 0})
    with pytest.raises(InputError, match="version 0, not 1"):
        open_store(tmp_path)
    (tmp_path / "store.json").write_text("[]")
    with pytest.raises(InputError, match="not a JSON object"):
        open_store(tmp_path)


def test_no_store_and_unfinished_store(tmp_path):
    with pytest.raises(InputError, match="no token store"):
        open_store(tmp_path)
    with pytest.raises(InputError, match="no token store"):
        open_store(tmp_path / "none")
    (tmp_path / "progress.json").write_text("{}")
    with pytest.raises(InputError, match=r"not finished; run the same bertjax\.prepare command again"):
        open_store(tmp_path)


def test_write_json_replaces_at_once(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}

    def cut(*_):  # the power, before the new file has its name
        raise OSError

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(OSError):  # noqa: PT011
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
