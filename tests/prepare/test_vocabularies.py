import re

import numpy as np
import pytest
from prepare_fixture import make_documents, run, write

from bertjax.data.pretraining.store import open_store
from bertjax.data.tokenizers.tokenizer import load_tokenizer
from bertjax.errors import InputError
from bertjax.models import bert
from bertjax.prepare import __main__ as prepare
from bertjax.prepare import build


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
        InputError, match=r"\(gpt_bpe\) has no \[CLS\] and \[SEP\], which a BERT reads; take one of another"
    ):
        bert.KIND.row_form(tokenizer)


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
