import errno

import pytest
from prepare_fixture import make_documents, run, write

from bertjax.errors import InputError
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import build


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
        (
            "A b.\nC d.\n\nE f.\nG h.\n",
            ["--format=prose"],
            "--format='prose': no such format; the near",
        ),
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
