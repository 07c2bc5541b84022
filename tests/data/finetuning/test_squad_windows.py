"""Windows of a context: what each holds, and which has a token's fullest context."""

import numpy as np
import pytest

from bertjax.data.finetuning.squad import Answer, Question
from bertjax.data.finetuning.squad_answers import Candidate, find_answer
from bertjax.data.finetuning.squad_windows import NO_ANSWER, Windows, encode_questions, find_answers
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.models import bert

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENIZER = wordpiece_tokenizer([*SPECIAL_TOKENS, "?", *LETTERS], True, "made")
FORM = bert.KIND.row_form(TOKENIZER)


def windows_of(tokens, room, doc_stride, answers=()):
    """The windows, of `room` tokens at most, of a context of one letter a token."""
    question = Question("q", "?", " ".join(LETTERS[:tokens]), tuple(answers), "made")
    return Windows(encode_questions([question], TOKENIZER, 4), FORM, room + 4, doc_stride)


def texts_of(windows):
    rows = [windows[i].ids for i in range(len(windows))]
    return ["".join(TOKENIZER.tokens[i] for i in ids[3:-1]) for ids in rows]


@pytest.mark.parametrize(
    ("room", "doc_stride", "texts"),
    [
        (10, 4, ["abcdefgh"]),
        (8, 8, ["abcdefgh"]),
        (5, 2, ["abcde", "cdefg", "efgh"]),
        (5, 3, ["abcde", "defgh"]),
        (3, 3, ["abc", "def", "gh"]),
        (3, 100, ["abc", "def", "gh"]),  # a stride above the room leaves no token out
    ],
)
def test_windows_hold_all_of_the_text(room, doc_stride, texts):
    assert texts_of(windows_of(8, room, doc_stride)) == texts


@pytest.mark.parametrize(
    ("stride", "first", "second"),
    [
        # Token 5 has two tokens on its poorer side in both windows, abcdefgh and defghijk: the first counts.
        (3, "abcdef", "ghijk"),
        # None has as many in both of abcdefgh and efghijkl.
        (4, "abcdef", "ghijkl"),
    ],
)
def test_of_windows_with_as_much_context_the_first_is_the_fullest(stride, first, second):
    windows = windows_of(8 + stride, 8, stride)
    fullest = windows.fullest_context(0)
    found = [
        "".join(letter for letter, full in zip(text, of_window, strict=True) if full)
        for text, of_window in zip(texts_of(windows), fullest, strict=True)
    ]
    assert found == [first, second]


def test_an_answer_belongs_to_the_windows_that_hold_all_of_it():
    windows = windows_of(8, 5, 2, [Answer("d e", 6)])
    spans, exact = find_answers(windows.encoded, TOKENIZER)
    assert (spans.tolist(), exact.tolist()) == ([[3, 4]], [True])
    start, end = windows.positions(spans)
    # Behind [CLS], the question and [SEP]; "efgh" holds the end only.
    assert (start.tolist(), end.tolist()) == ([6, 4, 0], [7, 5, 0])
    start, end = windows.positions(spans + 1)  # "e f", of which "abcde" holds the beginning only
    assert (start.tolist(), end.tolist()) == ([0, 5, 3], [0, 6, 4])
    start, end = windows.positions(np.full((1, 2), NO_ANSWER, np.int32))
    assert not start.any()
    assert not end.any()


def answer_of(null, spans, **options):
    """The candidates of a context "a b c d" whose spans of one token have these scores."""
    windows = windows_of(4, 4, 4)
    logits = np.full((2, 1, 8), -9.0, np.float32)
    logits[:, 0, 0] = null / 2
    for token, score in spans.items():
        logits[:, 0, windows.offset[0] + LETTERS.index(token)] = score / 2
    options = {"n_best_size": 20, "max_answer_length": 1, "unanswerable": True} | options
    return find_answer(windows, 0, *logits, TOKENIZER, **options)


def test_no_answer_is_a_candidate_among_the_spans_by_its_score():
    found = answer_of(4.0, {"b": 6.0, "c": 2.0})
    assert [candidate.text for candidate in found.candidates][:3] == ["b", "", "c"]
    assert found.candidates[1][2:] == (2.0, 2.0)
    assert (found.text, found.null_odds) == ("b", -2.0)
    likelier = answer_of(8.0, {"b": 6.0, "c": 2.0})
    assert [candidate.text for candidate in likelier.candidates][:2] == ["", "b"]
    assert (likelier.text, likelier.null_odds) == ("b", 2.0)


def test_no_answer_is_a_candidate_even_where_it_is_not_among_the_best():
    found = answer_of(1.0, {"b": 6.0, "c": 2.0}, n_best_size=2)
    assert [candidate.text for candidate in found.candidates] == ["b", "c", ""]
    assert found.candidates[2][2:] == (0.5, 0.5)
    assert sum(candidate.probability for candidate in found.candidates) == pytest.approx(1)
    without = answer_of(1.0, {"b": 6.0, "c": 2.0}, n_best_size=2, unanswerable=False)
    assert [candidate.text for candidate in without.candidates] == ["b", "c"]
    assert isinstance(without.candidates[0], Candidate)


def test_an_answer_has_as_many_tokens_as_it_may_and_no_more():
    windows = windows_of(4, 4, 4)
    logits = np.full((2, 1, 8), -9.0, np.float32)
    begin = windows.offset[0]
    logits[0, 0, begin] = logits[1, 0, begin + 2] = 9.0  # from "a" to "c"
    logits[0, 0, begin + 1] = 8.0  # from "b" is the next best
    options = {"n_best_size": 20, "unanswerable": False}
    for most, text in ((4, "a b c"), (3, "a b c"), (2, "b c")):
        assert find_answer(windows, 0, *logits, TOKENIZER, max_answer_length=most, **options).text == text
