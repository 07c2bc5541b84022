"""Lists of whole words: how text is cut, the file, and the words of a task."""

import json
from collections import Counter

import numpy as np
import pytest

from bertjax.data.tokenizers.characters import (
    AnyWords,
    sentence_characters,
    token_characters,
    word_characters,
)
from bertjax.data.tokenizers.tokenizer import load_tokenizer, word_tokenizer
from bertjax.data.tokenizers.wordpiece import split_words
from bertjax.data.tokenizers.words import MARKS, in_order
from bertjax.errors import InputError

TEXT = "The naïve cat,the  dog\x0bgy; <S> don't\u200b go."
CUT = ["The", "naïve", "cat", ",", "the", "doggy", ";", "<", "S", ">", "don", "'", "t", "go", "."]


def test_words_are_those_of_the_2018_release():
    tokenizer = word_tokenizer([*MARKS, *dict.fromkeys(CUT)], lower_case=False)
    [ids] = tokenizer.encode_batch([TEXT])
    assert [tokenizer.tokens[i] for i in ids] == CUT == split_words(TEXT, False)
    lower = word_tokenizer([*MARKS, "the", "naive"], lower_case=True)
    assert lower.encode_batch(["THE Naïve cat", "\u200b"]) == [[3, 4, 2], []]
    assert tokenizer.decode(ids) == " ".join(CUT)
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == ("words", 0, 1, 2)
    assert (tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id) == (-1, -1, -1)


def test_order_and_file(tmp_path):
    tokens = in_order(Counter({"b": 2, "a": 2, "rare": 1, "most": 9}))
    assert tokens == [*MARKS, "most", "a", "b", "rare"]
    tokenizer = word_tokenizer(tokens, lower_case=True)
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]
    for path in (tmp_path, tmp_path / "words.json"):
        read = load_tokenizer(path)
        assert (read.tokens, read.lower_case, read.sha256) == (tokenizer.tokens, True, tokenizer.sha256)
    assert word_tokenizer(tokens, lower_case=False).sha256 != tokenizer.sha256
    with pytest.raises(InputError, match="the vocabulary is lower-case, but case is asked for"):
        load_tokenizer(tmp_path / "words.json", lower_case=False)
    with pytest.raises(InputError, match="the text has no word"):
        in_order(Counter())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a JSON object"),
        (json.dumps({"lower_case": True, "words": ["<S>", "a"]}), "not a list of words that begins with <S>"),
        (json.dumps({"words": [*MARKS, "a"]}), "not a list of words"),
        (json.dumps({"lower_case": True, "words": [*MARKS, ""]}), "not a list of words"),
        (json.dumps({"lower_case": True, "words": [*MARKS, "a", "a"]}), "'a' is there twice; keep one"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"words\.json: .*{message}") as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


def test_characters_of_tokens():
    found = token_characters([*MARKS, "cat"], 8)
    np.testing.assert_array_equal(found[:2], sentence_characters((), 8))
    np.testing.assert_array_equal(found[2:], word_characters(["<UNK>", "cat"], 8))


def test_a_tasks_words_are_numbered_as_they_come():
    tokenizer = word_tokenizer([*MARKS, "cat", "the"], lower_case=False)
    words = AnyWords(tokenizer, 9)
    assert words.tokenizer.encode_batch(["Zoë the Zoë", "\u200b"]) == [[3, 4, 3], [2]]
    before = words.characters(np.array([[0, 3], [4, 1]]))
    assert words.tokenizer.encode_batch(["cat the"]) == [[5, 4]]
    np.testing.assert_array_equal(words.characters(np.array([[0, 3], [4, 1]])), before)
    np.testing.assert_array_equal(before[0, 1], word_characters(["Zoë"], 9)[0])
    np.testing.assert_array_equal(words.characters(np.array([5])), word_characters(["cat"], 9))
    assert tokenizer.encode_batch(["cat"]) == [[3]]  # the vocabulary's own numbers stay
    with pytest.raises(InputError, match="is not UTF-8"):
        words.tokenizer.encode_batch(["a\udcff"])
