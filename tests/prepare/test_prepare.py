import errno
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bertjax.config import default
from bertjax.data.pretraining import store
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.prepare import __main__ as prepare
from bertjax.prepare.__main__ import build

ROOT = Path(__file__).parents[2]
WORDS = "the old man and a young woman read books by night near rivers where green trees grow slowly".split()  # noqa: SIM905
# Small blocks and a save after each, so that there is a middle to be stopped in.
RUN = """
import sys
from bertjax import prepare
from bertjax.data import build
build.BLOCK_BYTES, build.SAVE_SECONDS = int(sys.argv[1]), 0
from bertjax.errors import run_command
sys.argv[1:] = sys.argv[2:]
run_command(prepare.main)
"""


def make_documents(count, seed=0):
    rng = random.Random(seed)
    return [
        [
            " ".join(rng.choices(WORDS, k=rng.randint(3, 12))).capitalize() + "."
            for _ in range(rng.randint(2, 6))
        ]
        for _ in range(count)
    ]


def write(path, documents):
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return path


def arguments(path, out, *more):
    return [f"--input={path}", "--format=sentences", f"--out={out}", "--vocab_size=150", *more]


def run(path, out, *more, processes=1):
    prepare.main(arguments(path, out, f"--processes={processes}", *more))
    return open_store(out)


def start(block_bytes, args):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(block_bytes), *args],
        env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_blocks(process, out, blocks):
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if (out / "progress.json").exists():
            done = json.loads((out / "progress.json").read_text())["counts"]["blocks"]
            if done >= blocks:
                return done
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("no progress")


def content(out):
    """All bytes of a store but for the seconds in its manifest."""
    found = {file.name: file.read_bytes() for file in out.iterdir()}
    manifest = json.loads(found.pop("store.json"))
    for name in ("seconds", "mb_per_second"):
        del manifest["summary"][name]
    return {**found, "store.json": {**manifest, "sha256": None}}


def test_same_bytes_for_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BLOCK_BYTES", 4000)
    path = write(tmp_path / "a.txt", make_documents(300))
    run(path, tmp_path / "one", processes=1)
    run(path, tmp_path / "two", processes=2)
    assert json.loads((tmp_path / "one/store.json").read_text())["summary"]["text_bytes"] > 5 * 4000
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {file.name for file in (tmp_path / "one").iterdir()} == {
        *store.DATA_FILES, "vocab.txt", "tokenizer.json", "store.json"}  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_continued_equals_uninterrupted(tmp_path, processes):
    path = write(tmp_path / "a.txt", make_documents(600))
    args = arguments(path, tmp_path / "killed", f"--processes={processes}")
    for blocks in (3, 12):
        process = start(2000, args)
        wait_for_blocks(process, tmp_path / "killed", blocks)
        process.kill()
        process.communicate()
        with pytest.raises(InputError, match="not finished"):
            open_store(tmp_path / "killed")
    process = start(2000, args)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert int(re.search(r"continuing behind block (\d+)", errors)[1]) >= 12
    process = start(2000, arguments(path, tmp_path / "whole", "--processes=1"))
    assert process.wait() == 0, process.communicate()
    process.communicate()
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(tmp_path, number):
    path = write(tmp_path / "a.txt", make_documents(4000))
    args = arguments(path, tmp_path / "out", "--processes=2")
    process = start(2000, args)
    done = wait_for_blocks(process, tmp_path / "out", 3)
    os.killpg(process.pid, number)  # as Ctrl-C and batch systems do: workers too
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    last = errors.strip().splitlines()[-1]
    assert re.search(r"interrupted: \d+ blocks are saved in .*; run the same command again", last), errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "out/progress.json").read_text())["counts"]["blocks"] >= done


def test_killed_worker_is_one_line(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(4000))
    process = start(2000, arguments(path, tmp_path / "out", "--processes=2"))
    wait_for_blocks(process, tmp_path / "out", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "error: a worker process was killed" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_no_worker_outlives_a_killed_parent(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(4000))
    process = start(2000, arguments(path, tmp_path / "out", "--processes=2"))
    wait_for_blocks(process, tmp_path / "out", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate()
    end = time.monotonic() + 200
    while left := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.01)


def test_full_disk_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(build, "SAVE_SECONDS", 0)
    path = write(tmp_path / "a.txt", make_documents(300))
    run(path, tmp_path / "whole")
    plain, calls = store._AppendedFile.append, []

    def full(self, array):
        calls.append(array)
        if len(calls) == 20:
            self.handle.write(b"a part only")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, array)

    monkeypatch.setattr(store._AppendedFile, "append", full)
    with pytest.raises(InputError, match="no space left on device; nothing that was saved is lost"):
        run(path, tmp_path / "full")
    monkeypatch.setattr(store._AppendedFile, "append", plain)
    assert json.loads((tmp_path / "full/progress.json").read_text())["counts"]["blocks"] > 3
    run(path, tmp_path / "full")
    assert content(tmp_path / "full") == content(tmp_path / "whole")


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


def test_unknown_tokens_are_counted_and_warned_of(tmp_path, capsys):
    first = write(tmp_path / "a.txt", make_documents(50))
    run(first, tmp_path / "first")
    second = write(tmp_path / "b.txt", [[*document, "Ж Ж Ж"] for document in make_documents(50)])
    prepare.main([f"--input={second}", "--format=sentences", f"--vocab={tmp_path / 'first/vocab.txt'}",
                  f"--out={tmp_path / 'second'}", "--processes=1"])  # fmt: skip
    opened = open_store(tmp_path / "second")
    unknown = int(np.count_nonzero(opened.tokens == 1))
    assert unknown == opened.manifest["summary"]["unknown_tokens"] == 150
    assert "many [UNK]" in capsys.readouterr().out
    assert (tmp_path / "second/vocab.txt").read_bytes() == (tmp_path / "first/vocab.txt").read_bytes()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_store(tmp_path, kind):
    path = write(tmp_path / "a.txt", make_documents(100))
    opened = run(path, tmp_path / "out", f"--tokenizer={kind}", "--vocab_size=40")
    assert opened.manifest["tokenizer"]["kind"] == kind
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.sha256 == opened.manifest["tokenizer"]["sha256"]
    first = opened.tokens[opened.sentences[0] : opened.sentences[1]]
    assert tokenizer.decode(first.tolist()) == make_documents(1)[0][0].lower()
    assert not (tmp_path / "out/vocab.txt").exists()


def test_gpt_store(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(100))
    opened = run(path, tmp_path / "out", "--tokenizer=gpt_bpe", "--vocab_size=80", processes=2)
    tokenizer = load_tokenizer(tmp_path / "out")
    assert opened.manifest["tokenizer"] == {
        "kind": "gpt_bpe", "lower_case": True, "vocab_size": 80, "sha256": tokenizer.sha256}  # fmt: skip
    first = opened.tokens[opened.sentences[0] : opened.sentences[1]]
    assert tokenizer.decode(first.tolist()) == make_documents(1)[0][0].lower().replace(".", " .")
    assert not (tmp_path / "out/vocab.txt").exists()
    again = [f"--input={path}", "--format=sentences", f"--vocab={tmp_path / 'out/vocab.json'}"]
    prepare.main([*again, f"--out={tmp_path / 'again'}"])
    np.testing.assert_array_equal(open_store(tmp_path / "again").tokens, opened.tokens)
    words = [f"--input={path}", "--format=sentences", f"--out={tmp_path / 'whole'}"]
    prepare.main([*words, "--tokenizer=gpt_bpe"])  # 40,000 merges, or all that the text has
    assert open_store(tmp_path / "whole").manifest["tokenizer"]["vocab_size"] > 80
    with pytest.raises(InputError, match="one of the arguments --vocab --vocab_size is required"):
        prepare.main(words)
    with pytest.raises(
        InputError, match=r"\(gpt_bpe\) has no \[CLS\], \[SEP\] and \[MASK\]; prepare one with another"
    ):
        Examples(opened, tokenizer, default().data, seed=0, phase=0, seq_length=16,
                 max_predictions_per_seq=3, documents=np.arange(90))  # fmt: skip


def test_a_finished_store_stays(tmp_path, capsys):
    path = write(tmp_path / "a.txt", make_documents(50))
    out = tmp_path / "out"
    run(path, out)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()}
    run(path, out, processes=2)
    assert "is complete" in capsys.readouterr().out
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in out.iterdir()}
    with pytest.raises(InputError, match=r"--heldout was 0\.01, is 0\.5; use the former ones"):
        run(path, out, "--heldout=0.5")
    manifest = (out / "store.json").read_text()
    (out / "store.json").write_text(manifest.replace('"heldout": 0.01', '"heldout": 0.05'))
    with pytest.raises(InputError, match=r"store\.json: is not what was written; remove the folder"):
        run(path, out)  # not: made with another --heldout
    (out / "store.json").write_text(manifest)
    with open(out / "tokens.bin", "r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(InputError, match=r"tokens\.bin: bytes 0 to \d+ are not what was written"):
        run(path, out)


def test_a_half_made_store_goes_on_only_with_the_same_input(tmp_path):
    path = write(tmp_path / "a.txt", [["One sentence."]] * 30)
    out = tmp_path / "out"
    with pytest.raises(InputError, match="30 of 30 documents have a single sentence"):
        run(path, out)
    with pytest.raises(InputError, match="--vocab_size was 150, is 160"):
        run(path, out, "--vocab_size=160")
    path.write_text(path.read_text() + "\nMore.\n")
    with pytest.raises(InputError, match=r"a\.txt: bytes was \d+, is \d+.*remove the folder"):
        run(path, out)


def test_a_half_made_store_that_was_changed_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", [["One sentence."]] * 30)
    out, flag = tmp_path / "out", "--allow_single_sentence_documents"
    with pytest.raises(InputError, match="30 of 30"):
        run(path, out)
    tokens = (out / "tokens.bin").read_bytes()
    (out / "tokens.bin").write_bytes(bytes([tokens[0] ^ 1]) + tokens[1:])
    with pytest.raises(InputError, match=rf"tokens\.bin: bytes 0 to {len(tokens)} are not what was written"):
        run(path, out, flag)
    (out / "tokens.bin").write_bytes(tokens)
    vocabulary = (out / "vocab.txt").read_text()
    (out / "vocab.txt").write_text(vocabulary.replace("sentence", "sentance"))
    with pytest.raises(InputError, match="its vocabulary has changed since the store was begun; remove the"):
        run(path, out, flag)
    (out / "vocab.txt").write_text(vocabulary)
    run(path, out, flag)


def test_a_start_that_kept_no_text_binds_nobody(tmp_path):
    good = write(tmp_path / "good.txt", make_documents(50))
    run(good, tmp_path / "first")
    path, out = tmp_path / "a.txt", tmp_path / "out"
    path.write_bytes(b"caf\xe9\n" + good.read_bytes())
    with pytest.raises(InputError, match=r"a\.txt:1: byte 0xe9 is not UTF-8"):
        prepare.main([f"--input={path}", "--format=sentences", f"--vocab={tmp_path / 'first/vocab.txt'}",
                      f"--out={out}", "--processes=1"])  # fmt: skip
    assert (out / "vocab.txt").exists()
    path.write_bytes(good.read_bytes())
    with pytest.raises(InputError, match="--vocab_size=8: too small"):
        run(path, out, "--vocab_size=8")
    for folder in (out, tmp_path / "new"):
        run(path, folder, "--tokenizer=unigram", "--vocab_size=40")
    assert content(out) == content(tmp_path / "new")


def test_single_sentence_documents_can_be_allowed(tmp_path):
    path = write(tmp_path / "a.txt", [["One sentence."]] * 30)
    with pytest.raises(InputError, match="every next-sentence label would be random; put blank lines"):
        run(path, tmp_path / "out")
    opened = run(path, tmp_path / "out", "--allow_single_sentence_documents")
    assert opened.manifest["summary"]["single_sentence_documents"] == 30
    mixed = write(tmp_path / "b.txt", [["One sentence."]] * 27 + make_documents(3))
    assert len(run(mixed, tmp_path / "mixed").train_documents) == 28  # 90%, not more


def test_single_sentence_documents_are_seen_early(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(build, "EARLY_DOCUMENTS", 100)
    path = write(tmp_path / "a.txt", [["One sentence."]] * 2000)
    with pytest.raises(InputError, match=r"1\d\d of 1\d\d documents"):
        run(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("", [], r"a\.txt: holds no text"),
        ("\u200b\n\n\u200b\n", ["--vocab_size=50"], "sample has no text"),
        ("One.\nTwo.\n", [], r"a\.txt: one document only"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--heldout=0.5"], "2 of 2 documents are held out, but at least 2"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--heldout=1"], "--heldout=1.0: must be at least 0 and below 1"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--processes=0"], "--processes=0: must be positive"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--vocab_size=5"], "--vocab_size=5: must be above 5"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--vocab_size=8"], "--vocab_size=8: too small for"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--vocab_sample_mb=0"], "--vocab_sample_mb=0: must be positive"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--weight=-1"], "weight -1.0 must be a positive number"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--weight", "1", "2"], "--weight: 2 values for 1 inputs"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--format=prose"], "invalid choice: 'prose'.*; see --help"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--vocab=v.txt"], "not allowed with"),
        ("A b.\nC d.\n", ["--tokenizer=gpt_bpe", "--cased"], "--cased: --tokenizer=gpt_bpe is lower-case"),
        ("A b.\nC d.\n\nE f.\nG h.\n", ["--unknown"], "unrecognized arguments: --unknown; see --help"),
    ],
)
def test_refusals(tmp_path, text, flags, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path / "a.txt", tmp_path / "out", *flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_store_of_words_has_every_word_of_the_text(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(build, "BLOCK_BYTES", 2000)
    documents = make_documents(60)
    path = write(tmp_path / "a.txt", documents)
    out = tmp_path / "out"
    args = [f"--input={path}", "--format=sentences", f"--out={out}", "--tokenizer=words", "--cased"]
    prepare.main([*args, f"--processes={processes}"])
    opened, tokenizer = open_store(out), load_tokenizer(out)
    words = [re.findall(r"\w+|\.", sentence) for document in documents for sentence in document]
    assert tokenizer.tokens[:3] == ("<S>", "</S>", "<UNK>")
    assert set(tokenizer.tokens[3:]) == {word for sentence in words for word in sentence}
    counts = np.bincount(opened.tokens, minlength=tokenizer.vocab_size)
    assert list(counts[3:]) == sorted(counts[3:], reverse=True)
    assert not counts[:3].any()
    for i, sentence in enumerate(words):
        ids = opened.tokens[opened.sentences[i] : opened.sentences[i + 1]]
        assert [tokenizer.tokens[t] for t in ids] == sentence
    assert opened.manifest["tokenizer"]["kind"] == "words"
    prepare.main([*args, f"--processes={processes}"])  # is complete, and whole
    # Another text's store with this one's words: those that it lacks are unknown.
    other = write(tmp_path / "b.txt", [[f"The new old{i}.", "The end."] for i in range(6)])
    prepare.main([f"--input={other}", "--format=sentences", f"--out={tmp_path / 'two'}", "--cased",
                  f"--vocab={out / 'words.json'}", "--processes=1"])  # fmt: skip
    two = open_store(tmp_path / "two")
    assert two.manifest["tokenizer"]["sha256"] == tokenizer.sha256
    assert (two.tokens == tokenizer.unk_id).sum() == 3 * 6


def test_which_vocabulary_must_be_said(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(20))
    common = [f"--input={path}", "--format=sentences", f"--out={tmp_path / 'out'}"]
    with pytest.raises(InputError, match="one of the arguments --vocab --vocab_size is required"):
        prepare.main(common)
    with pytest.raises(InputError, match="--vocab_size=9: --tokenizer=words keeps every word"):
        prepare.main([*common, "--tokenizer=words", "--vocab_size=9"])


def test_an_input_without_documents_is_named(tmp_path):
    good = write(tmp_path / "a.txt", make_documents(20))
    (tmp_path / "b.txt").write_text("\u200b\n")
    with pytest.raises(InputError, match=r"b\.txt: no documents in it"):
        run(good, tmp_path / "out", "--input", str(tmp_path / "b.txt"))


def test_vocabulary_and_out_are_checked_first(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(20))
    common = [f"--input={path}", "--format=sentences"]
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    with pytest.raises(InputError, match=r"vocab\.txt: has no \[CLS\] \[SEP\] \[MASK\]"):
        prepare.main([*common, f"--vocab={tmp_path / 'vocab.txt'}", f"--out={tmp_path / 'out'}"])
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nThe\n")
    with pytest.raises(InputError, match=r"vocab\.txt: the vocabulary is cased.*add --cased"):
        prepare.main([*common, f"--vocab={tmp_path / 'vocab.txt'}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(InputError, match="no such file or folder"):
        run(tmp_path / "none.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="has files but is no token store"):
        run(path, tmp_path)
    with pytest.raises(InputError, match="is a file; --out names a folder"):
        run(path, path)
    (tmp_path / "texts").mkdir()
    text = write(tmp_path / "texts/a.txt", make_documents(20))
    for out in (tmp_path / "texts", tmp_path / "texts/out"):
        with pytest.raises(InputError, match=r"lies in --input=.*texts; give --out a folder else"):
            run(tmp_path / "texts", out)
    assert list((tmp_path / "texts").iterdir()) == [text]
    for out in (path / "x", "/dev/null/x", "/proc/x"):
        with pytest.raises(InputError, match=rf"{out}: cannot be read or written \(no.*\); check the path"):
            run(path, out)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", make_documents(20))

    def refuse(file, value):  # permissions would not stop root
        raise OSError(errno.EROFS, "Read-only file system", f"{file}.tmp")

    monkeypatch.setattr(build, "write_json", refuse)
    with pytest.raises(InputError, match=r"progress\.json\.tmp: cannot be read or written \(read-only file"):
        run(path, tmp_path / "out")


def test_two_runs_on_one_folder(tmp_path):
    path = write(tmp_path / "a.txt", make_documents(20))
    with (
        prepare._locked(tmp_path / "out"),
        pytest.raises(InputError, match=r"another bertjax\.prepare is at work"),
    ):
        run(path, tmp_path / "out")
    run(path, tmp_path / "out")


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
    helped = go("--help")
    assert helped.returncode == 0
    assert "docs/prepare.md" in helped.stdout


# ru_maxrss of the process itself would begin with the memory of the one that started it.
PEAK = """
import re, resource, sys
from bertjax import prepare
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
