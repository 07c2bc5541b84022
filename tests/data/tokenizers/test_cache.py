import dataclasses

import pytest

from bertjax.data.tokenizers import cache as token_cache
from bertjax.data.tokenizers.tokenizer import load_tokenizer

TEXTS = ["the cab", "", "a Café!", "abc abc", "x\ud800y"]


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    """(a toy tokenizer, a list of the texts that it was given)"""
    monkeypatch.setattr(token_cache, "_LEAST", 1)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "cafe", "!", "c", "##ab", "ab", "##c"]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    plain, seen = load_tokenizer(tmp_path), []

    def encode_batch(texts):
        seen.extend(texts)
        return plain.encode_batch(texts)

    return dataclasses.replace(plain, _encode_batch=encode_batch), seen


def test_texts_are_tokenised_once(tokenizer, tmp_path):
    plain, seen = tokenizer
    ids = plain.encode_batch(TEXTS)
    for again in range(2):
        assert token_cache.cached(plain, str(tmp_path / "cache")).encode_batch(TEXTS) == ids
        assert len(seen) == 2 * len(TEXTS), again
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npz"]


@pytest.mark.parametrize(
    "texts", [[*TEXTS, ""], TEXTS[::-1], ["the ca", "b", *TEXTS[1:]], ["the ca", "b", *TEXTS[2:]]]
)
def test_other_texts_are_not_what_is_there(texts, tokenizer, tmp_path):
    plain, seen = tokenizer
    cached = token_cache.cached(plain, str(tmp_path / "cache"))
    cached.encode_batch(TEXTS)
    seen.clear()
    assert cached.encode_batch(texts) == plain.encode_batch(texts)
    assert seen == [*texts, *texts]


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", "0"), ("kind", "bpe"), ("lower_case", False)],
    ids=lambda value: str(value),
)
def test_another_tokenizer_has_files_of_its_own(field, value, tokenizer, tmp_path):
    plain, seen = tokenizer
    token_cache.cached(plain, str(tmp_path / "cache")).encode_batch(TEXTS)
    seen.clear()
    token_cache.cached(dataclasses.replace(plain, **{field: value}), str(tmp_path / "cache")).encode_batch(
        TEXTS
    )
    assert seen == TEXTS


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-30],
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    ],
    ids=["empty", "cut", "a bit"],
)
def test_a_damaged_file_is_made_anew(damage, tokenizer, tmp_path):
    plain, seen = tokenizer
    cached = token_cache.cached(plain, str(tmp_path / "cache"))
    ids = cached.encode_batch(TEXTS)
    [path] = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert cached.encode_batch(TEXTS) == ids
    assert len(seen) == 2 * len(TEXTS)
    assert cached.encode_batch(TEXTS) == ids
    assert len(seen) == 2 * len(TEXTS)


def test_few_texts_are_no_file(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "_LEAST", 10**6)
    plain, _ = tokenizer
    token_cache.cached(plain, str(tmp_path / "cache")).encode_batch(TEXTS)
    assert not (tmp_path / "cache").exists()
