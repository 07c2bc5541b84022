import numpy as np
import pytest

from bertjax.data.tokenizers.characters import CHARACTER_IDS, sentence_characters, word_characters
from bertjax.errors import InputError

# bilm-tf: the code of byte n is n, and 1 is added to all; 258 and 259 begin and end a word, 256 and 257 a
# sentence, 260 fills up.
BEGIN, END, FILL = 259, 260, 261


def test_a_word_is_its_bytes_between_marks():
    found = word_characters(["cat", "né", ""], 7)
    assert found.dtype == np.int32
    assert found.tolist() == [
        [BEGIN, ord("c") + 1, ord("a") + 1, ord("t") + 1, END, FILL, FILL],
        [BEGIN, ord("n") + 1, 0xC3 + 1, 0xA9 + 1, END, FILL, FILL],
        [BEGIN, END, FILL, FILL, FILL, FILL, FILL],
    ]


def test_long_words_are_cut_and_every_byte_has_an_id():
    [found] = word_characters(["x" * 48 + "yz"], 50)
    assert found.tolist() == [BEGIN, *[ord("x") + 1] * 48, END]
    [found] = word_characters(["\xff\U0010ffff"], 50)
    assert found[1:7].tolist() == [byte + 1 for byte in "\xff\U0010ffff".encode()]
    assert found.max() == CHARACTER_IDS - 1


def test_a_sentence_has_its_marks():
    found = sentence_characters(["a"], 5)
    assert found.tolist() == [
        [BEGIN, 257, END, FILL, FILL],
        [BEGIN, ord("a") + 1, END, FILL, FILL],
        [BEGIN, 258, END, FILL, FILL],
    ]


def test_what_is_not_utf8_is_an_error():
    with pytest.raises(InputError, match="not UTF-8"):
        word_characters(["a\udcff"], 50)
