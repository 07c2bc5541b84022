"""Texts as rows of tokens, and rows as batches."""

import numpy as np
import pytest

from bertjax.data.finetuning.sequences import Row, batch_length, encode, make_batch
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.errors import InputError
from bertjax.models import bert

LETTERS = "abcdefgh"
TOKENIZER = wordpiece_tokenizer([*SPECIAL_TOKENS, *LETTERS], True, "made")
FORM = bert.KIND.row_form(TOKENIZER)


def tokens_of(row):
    return "".join(TOKENIZER.tokens[i] for i in row.ids).replace("[CLS]", "^").replace("[SEP]", "|")


@pytest.mark.parametrize(
    ("text", "most", "row", "types"),
    [
        ("a b c", 9, "^abc|", "00000"),
        ("a b c d", 5, "^abc|", "00000"),
        (("a b", "c"), 9, "^ab|c|", "000011"),
        (("a b c d", "e f"), 7, "^ab|ef|", "0000111"),
        (("a b", "c d e f"), 7, "^ab|cd|", "0000111"),
        (("a b c", "d e f"), 8, "^abc|de|", "00000111"),  # of texts of one length the second is cut
        (("a b c", "d e f"), 7, "^ab|de|", "0000111"),
        (("a", ""), 9, "^a||", "0001"),
    ],
)
def test_the_longer_text_is_cut_and_of_equal_ones_the_second(text, most, row, types):
    [found] = encode(TOKENIZER, FORM, [text], most, truncate=True)
    assert (tokens_of(found), "".join(map(str, found.types))) == (row, types)


def test_a_text_that_is_too_long_is_refused_unless_it_may_be_cut():
    with pytest.raises(InputError, match=r"'a b c d': has 6 tokens, the model takes 5; shorten it"):
        encode(TOKENIZER, FORM, ["a b c d"], 5)
    assert tokens_of(encode(TOKENIZER, FORM, ["a b c"], 5)[0]) == "^abc|"


@pytest.mark.parametrize(
    ("longest", "most", "length"), [(1, 128, 32), (32, 128, 32), (33, 128, 64), (100, 110, 110), (7, 20, 20)]
)
def test_a_batch_is_as_long_as_its_longest_row_needs(longest, most, length):
    assert batch_length(longest, most) == length


def test_rows_of_a_batch_are_filled_up_with_padding():
    batch = make_batch([Row([5, 6, 7], [0, 1, 1]), Row([], [])], 9, 4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9], [9] * 4]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1, 0], [0] * 4]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 0], [0] * 4]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert all(x.dtype == np.int32 for x in batch.values())
