import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from prepare_fixture import ROOT, arguments, content, make_documents, run, write

from bertjax.data.pretraining import store
from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import build
from bertjax.prepare.formats import FORMATS


def test_same_bytes_for_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BLOCK_BYTES", 4000)
    path = write(tmp_path / "a.txt", make_documents(300))
    run(path, tmp_path / "one", processes=1)
    run(path, tmp_path / "two", processes=2)
    assert json.loads((tmp_path / "one/store.json").read_text())["summary"]["text_bytes"] > 5 * 4000
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {file.name for file in (tmp_path / "one").iterdir()} == {
        *store.DATA_FILES, "vocab.txt", "tokenizer.json", "store.json"}  # fmt: skip


def test_summary_equals_a_plain_count(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "BLOCK_BYTES", 3000)
    documents = make_documents(200)
    documents[17] = ["The old man."] * 200
    documents[40] = ["Night."]
    documents[90] = ["\u200b", "Old trees.", "\ufffd"]  # two sentences without a token
    documents[91] = ["\u200b", "\u200b"]  # a document without any
    path = write(tmp_path / "a.txt", documents)
    other = write(tmp_path / "b.txt", make_documents(20, seed=1))
    run(path, tmp_path / "out", "--input", str(other), "--weight", "1", "2.5", "--heldout=0.1")
    output = capsys.readouterr().out
    opened = open_store(tmp_path / "out")
    tokenizer = load_tokenizer(tmp_path / "out")
    documents += make_documents(20, seed=1)
    ids = [tokenizer.encode_batch(document) for document in documents]
    ids = [[sentence for sentence in document if sentence] for document in ids]
    ids = [document for document in ids if document]
    flat = [token for document in ids for sentence in document for token in sentence]
    assert opened.tokens.tolist() == flat
    line = 1 + sum(len(document) + 1 for document in documents[:17])
    short = 1 + sum(len(document) + 1 for document in documents[:40])
    summary = opened.manifest["summary"]
    assert summary.pop("seconds") > 0
    assert summary.pop("mb_per_second") > 0
    shares = [flat.count(token) / len(flat) for token in set(flat)]
    assert summary.pop("unigram_entropy") == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-12)
    text = [sentence for document in documents for sentence in document]
    assert summary == {
        "documents": 219,
        "heldout_documents": 22,
        "sentences": sum(map(len, ids)),
        "tokens": len(flat),
        "tokens_per_sentence": len(flat) / sum(map(len, ids)),
        "unknown_share": 0.0,
        "unknown_tokens": 0,
        "text_bytes": sum(len(sentence.encode()) for sentence in text),
        "single_sentence_documents": 2,
        "dropped_sentences": 4,
        "dropped_documents": 1,
        "longest": [sum(map(len, ids[17])), f"{path}:{line}"],
        "shortest": [sum(map(len, ids[40])), f"{path}:{short}"],
        "store_bytes": sum((tmp_path / "out" / name).stat().st_size for name in store.DATA_FILES),
    }
    assert opened.inputs == [
        {"path": str(path), "format": "sentences", "weight": 1.0, "first_document": 0, "end_document": 199},
        {
            "path": str(other),
            "format": "sentences",
            "weight": 2.5,
            "first_document": 199,
            "end_document": 219,
        },
    ]
    assert len(opened.heldout_documents) == 22
    for part in (
        "documents   219, of which 22 are held out",
        f"{path}:{line}",
        "4 sentences without a token",
    ):
        assert part in output


def test_inputs_of_several_formats(tmp_path):
    documents = make_documents(60)
    lines = [json.dumps({"body": " ".join(document)}) for document in documents[:30]]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "books").mkdir()
    for i in range(30, 60):
        (tmp_path / "books" / f"{i}.txt").write_text(" ".join(documents[i]))
    inputs = [str(tmp_path / "a.jsonl"), str(tmp_path / "books")]
    prepare.main(["--input", *inputs, "--format", "jsonl", "text", "--text_field", "body", "text",
                  "--vocab_size=150", f"--out={tmp_path / 'out'}"])  # fmt: skip
    opened = open_store(tmp_path / "out")
    assert [entry["end_document"] for entry in opened.inputs] == [30, 60]
    tokenizer = load_tokenizer(tmp_path / "out")
    ids = tokenizer.encode_batch([" ".join(document) for document in documents])
    ends = np.cumsum([len(document) for document in ids])
    assert opened.sentences[opened.documents[1:]].tolist() == ends.tolist()
    assert opened.tokens.tolist() == [token for document in ids for token in document]
    longest = int(np.argmax([len(document) for document in ids]))
    where = f"a.jsonl:{longest + 1}" if longest < 30 else f"books/{longest}.txt:1"
    assert opened.manifest["summary"]["longest"] == [len(ids[longest]), f"{tmp_path}/{where}"]


def test_the_whole_command(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(200))
    command = [sys.executable, "-m", "bertjax.prepare"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def go(*flags):
        return subprocess.run([*command, *flags], env=env, cwd=tmp_path, capture_output=True, text=True)

    done = go(*arguments("a.txt", "out", "--processes=2"))
    assert done.returncode == 0, done.stderr
    assert "documents   200, of which 2 are held out" in done.stdout
    assert open_store(tmp_path / "out").manifest["inputs"][0]["path"] == "a.txt"
    refused = go(*arguments(path.name, "out", "--cased"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("bertjax.prepare: error: out: was made with other arguments")
    assert len(refused.stderr.splitlines()) == 1
    wrong = go("--input=a.txt", "--format=sentence", "--vocab_size=150", "--out=other")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert "--format='sentence': no such format; the nearest is sentences of" in wrong.stderr
    helped = go("--help")
    assert helped.returncode == 0
    assert "docs/prepare.md" in helped.stdout
    assert all(name in helped.stdout for name in (*FORMATS, "module:NAME"))


# ru_maxrss of the process itself would begin with the memory of the one that started it.
PEAK = """
import re, resource, sys
from bertjax.prepare import __main__ as prepare
prepare.main(sys.argv[1:])
own = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_memory_does_not_grow_with_the_corpus(tmp_path, processes):
    path = write(tmp_path / "a.txt", make_documents(30_000))
    text = path.read_text() + "\n"
    run(write(tmp_path / "b.txt", make_documents(50)), tmp_path / "first")
    peaks = []
    for megabytes in (10, 60):
        path.write_text(text * (megabytes * 1_000_000 // len(text)))
        flags = [f"--input={path}", "--format=sentences", f"--vocab={tmp_path / 'first/vocab.txt'}",
                 f"--out={tmp_path / str(megabytes)}", f"--processes={processes}"]  # fmt: skip
        done = subprocess.run([sys.executable, "-c", PEAK, *flags], cwd=ROOT, capture_output=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 20_000, peaks  # KiB, for 50 MB more of text
