import hashlib
import os
import random
import subprocess
import sys

import pytest

from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, sentencepiece_tokenizer, wordpiece_tokenizer
from bertjax.errors import InputError
from bertjax.prepare import train_vocab
from bertjax.prepare.train_vocab import Sample, train_sentencepiece, train_wordpiece

TRAIN = """
import sys
from tests.prepare.test_train_vocab import make_sample
from bertjax.prepare import train_vocab
kind = sys.argv[1]
if kind == "wordpiece":
    data = "\\n".join(train_vocab.train_wordpiece(make_sample(), 700, True)).encode()
elif kind == "gpt_bpe":
    data = str(train_vocab.train_gpt_bpe(make_sample(), 700)).encode()
else:
    data = train_vocab.train_sentencepiece(make_sample(), 150, kind, True)
sys.stdout.buffer.write(data)
"""


def make_sample(max_bytes=10**9):
    """Text in which many pairs of pieces are equally frequent: whatever order they are met in would show."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiouéü"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(1500)]
    sample = Sample(max_bytes)
    for index in range(8):
        sample.add(
            index, [" ".join(rng.choices(words, k=12)).capitalize() + ". Naïve 中文!" for _ in range(60)]
        )
    return sample


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "gpt_bpe"])
def test_same_bytes_in_every_process(kind):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    digests = set()
    for hash_seed, parallel in (("1", "true"), ("2", "false")):
        env = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "TOKENIZERS_PARALLELISM": parallel,
            "PYTHONPATH": root,
        }
        run = subprocess.run(
            [sys.executable, "-c", TRAIN, kind], env=env, cwd=root, capture_output=True, check=True
        )
        digests.add(hashlib.sha256(run.stdout).hexdigest())
        assert len(run.stdout) > 1000
    assert len(digests) == 1


def test_wordpiece_vocabulary():
    sample = make_sample()
    tokens = train_wordpiece(sample, 700, lower_case=True)
    assert tuple(tokens[:5]) == SPECIAL_TOKENS
    assert len(tokens) == len(set(tokens)) == 700
    tokenizer = wordpiece_tokenizer(tokens, True, "trained")
    for sentences in sample.sentences():
        assert all(tokenizer.unk_id not in ids for ids in tokenizer.encode_batch(sentences))
    # Every number that the trainer could choose freely was given: single pieces come before all merges.
    single = [len(token.removeprefix("##")) == 1 for token in tokens[5:]]
    assert single == sorted(single, reverse=True)
    assert "##中" not in tokens  # it has a space before it in every text
    assert "中" in tokens


def test_cased_vocabulary_keeps_case_and_accents():
    tokens = train_wordpiece(make_sample(), 800, lower_case=False)
    assert any("é" in token for token in tokens)
    assert any(token.isupper() for token in tokens if token not in SPECIAL_TOKENS)
    lower = train_wordpiece(make_sample(), 800, lower_case=True)
    assert not any("é" in token or "A" <= c <= "Z" for token in lower[5:] for c in token)


def test_alphabet_keeps_the_most_frequent_characters(monkeypatch):
    monkeypatch.setattr(train_vocab, "ALPHABET", 2)
    sample = Sample(1000)
    sample.add(0, ["abba abba cab cad"])
    tokens = train_wordpiece(sample, 100, lower_case=True)
    assert tokens[5:9] == ["a", "b", "##a", "##b"]
    assert not any(character in token for token in tokens[5:] for character in "cd")


def test_too_small_and_too_large():
    with pytest.raises(InputError, match=r"--vocab_size=20: too small for \d+ characters"):
        train_wordpiece(make_sample(), 20, True)
    for kind in ("unigram", "bpe"):
        with pytest.raises(InputError, match=r"^--vocab_size=20: too small for 32 .*; give 32 or more$"):
            train_sentencepiece(make_sample(), 20, kind, True)
    with pytest.raises(InputError, match="SentencePiece found no vocabulary: Vocabulary size too high"):
        train_sentencepiece(make_sample(), 100_000, "unigram", True)
    with pytest.raises(InputError, match="no text"):
        train_wordpiece(Sample(10), 20, True)
    sample = Sample(1000)
    sample.add(0, ["ab ab"])
    assert len(train_wordpiece(sample, 1000, True)) < 20  # fewer than asked for, not padded


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_has_the_special_tokens(kind):
    tokenizer = sentencepiece_tokenizer(train_sentencepiece(make_sample(), 150, kind, True), "trained", True)
    assert tokenizer.kind == kind
    assert tokenizer.tokens[:5] == SPECIAL_TOKENS
    assert tokenizer.vocab_size == 150


def test_gpt_has_so_many_merges_unless_a_size_is_given(monkeypatch):
    assert train_vocab.GPT_MERGES == 40_000
    monkeypatch.setattr(train_vocab, "GPT_MERGES", 7)
    tokens, merges = train_vocab.train_gpt_bpe(make_sample(), None)
    assert len(merges) == 7
    assert tokens == train_vocab.train_gpt_bpe(make_sample(), len(tokens))[0]


def test_sample_is_bounded_and_does_not_depend_on_what_is_in_flight():
    def fill(ahead):
        sample, queue = Sample(1000), []
        for index in range(100):
            if sample.wanted(index):
                queue.append(index)
            if len(queue) > ahead:
                index = queue.pop(0)
                sample.add(index, [f"{index:03d}" * 20])
        for index in queue:
            sample.add(index, [f"{index:03d}" * 20])
        return sample

    samples = [fill(ahead) for ahead in (0, 3, 20)]
    kept = [list(sample.sentences()) for sample in samples]
    assert kept[0] == kept[1] == kept[2] == [[f"{i:03d}" * 20] for i in range(0, 100, 8)]
    assert samples[0].every == 8
    assert samples[0].bytes == 13 * 60 <= 1000


def test_a_block_larger_than_the_sample_is_kept():
    sample = Sample(10)
    sample.add(0, ["more than ten bytes"])
    sample.add(1, ["more than ten bytes"])
    assert list(sample.sentences()) == [["more than ten bytes"]]
