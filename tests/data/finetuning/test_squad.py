"""Reading of SQuAD's files, and rows and answers as the 2018 release makes them."""

import collections
import json
import os
import random
import re
from pathlib import Path

import numpy as np
import plain_squad
import plain_tokenizer
import pytest
import sweep_squad

from bertjax import metrics
from bertjax.data.finetuning.squad import DEV, TEST, TRAIN, read_questions
from bertjax.data.finetuning.squad_answers import (
    NO_SPAN,
    Candidate,
    Prediction,
    find_answer,
    realign,
    score_answers,
    write_answers,
)
from bertjax.data.finetuning.squad_windows import LOST, Windows, encode_questions, find_answers
from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer
from bertjax.errors import InputError

# Folder of real data sets, where there is one.
REAL = Path(os.environ.get("BERTJAX_DATA", Path(__file__).parents[4] / "shared/data")) / "squad"


def tokenizer_of(contexts, lower_case=True, most=4000):
    """Characters, and the commonest words whole, or their first half and their second."""
    words = collections.Counter(
        word for text in contexts for word in plain_tokenizer.basic_tokens(text, lower_case)
    )
    pieces = dict.fromkeys(SPECIAL_TOKENS)
    for c in sorted({c for word in words for c in word}):
        pieces |= {c: None, f"##{c}": None}
    for i, (word, _) in enumerate(words.most_common(most)):
        half = len(word) // 2
        pieces |= dict.fromkeys([word] if i % 3 else [word[:half], f"##{word[half:]}"])
    pieces.pop("", None)
    return wordpiece_tokenizer([p for p in pieces if p != "##"], lower_case, "made")


POOL = (
    "the The naïve Zürich (1895–1943) $5.00 U.S. 中国人 don't x\u00a0y e\u0301t\u00e9 ﬁne ##a «Σας» 3,000km "
    "a\u200bb İz"
)


def made_data(rng, count, unanswerable):
    """Paragraphs of odd words and white space, with answers that may begin and end inside words."""
    words = POOL.split(" ")
    paragraphs = []
    for number in range(count):
        context = ""
        for _ in range(rng.randrange(1, 25)):
            context += rng.choice(words) + rng.choice(
                (" ", " ", " ", "  ", "\n", "\t", "\u202f", "\u00a0", "-")
            )
        questions = []
        for i in range(4):
            start = rng.randrange(len(context))
            text = context[start : start + rng.randrange(1, 30)]
            impossible = unanswerable and i == 3
            if not text.strip():
                continue
            questions.append(
                {
                    "id": f"{number}-{i}",
                    "question": " ".join(rng.choices(words, k=rng.randrange(1, 9))),
                    "answers": [] if impossible else [{"text": text, "answer_start": start}],
                    **({"is_impossible": impossible} if unanswerable else {}),
                }
            )
        paragraphs.append({"context": context, "qas": questions})
    return {"version": "made", "data": [{"title": "made", "paragraphs": paragraphs}]}


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("name", ["train", "train-v2", "dev-v2"])
def test_rows_and_answers_are_the_releases(tmp_path, name, lower_case):
    rng = random.Random(f"{name}{lower_case}")
    data = made_data(rng, 32, "v2" in name)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(data))
    contexts = [p["context"] for p in data["data"][0]["paragraphs"]]
    tokenizer = tokenizer_of(contexts, lower_case, 40)
    for sizes in ((24, 5, 6), (48, 16, 8), (384, 128, 64)):
        settings = dict(zip(("seq_length", "doc_stride", "max_query_length"), sizes, strict=True))
        counts = sweep_squad.compare(path, tokenizer, **settings)
        assert counts["differ"] == 0
        assert counts["questions"] > 70
        assert counts["windows"] >= counts["questions"] * (2 if sizes[0] == 24 else 1)
        assert counts["not_exact"] > 20 or name == "dev-v2"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data; set BERTJAX_DATA to a folder that has squad/")
@pytest.mark.parametrize(("name", "every"), [("dev-v1.1", 97), ("dev-v2.0", 97), ("train-v2.0", 41)])
def test_rows_and_answers_of_real_questions_are_the_releases(name, every):
    path = REAL / f"{name}.json"
    questions = read_questions(str(path), DEV, "v2" in name)
    contexts = list(dict.fromkeys(question.context for question in questions))[::50]
    counts = sweep_squad.compare(path, tokenizer_of(contexts), every)
    assert counts["questions"] > 100
    assert counts["differ"] == 0


def one(context, answer, start=None, **more):
    start = context.index(answer) if start is None else start
    question = {"id": "q1", "question": "what?", "answers": [{"text": answer, "answer_start": start}], **more}
    return {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [question]}]}]}


def read(tmp_path, content, use=TRAIN, unanswerable=False, name="x.json"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_questions(str(path), use, unanswerable)


def no_answer(**more):
    data = one("a b c", "b", **more)
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    return data


def without(*path):
    data = one("a b c", "b")
    value = data
    for key in path[:-1]:
        value = value[key]
    del value[path[-1]]
    return data


QAS = ("data", 0, "paragraphs", 0, "qas")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{\n\n{", "x.json:3: not JSON"),
        (b'{"data":\n["\xe9"]}', "x.json:2: byte 0xe9 is not UTF-8"),
        (b'{"data": ' + b"1" * 5000 + b"}", "x.json:1: not JSON that a data set has .a number too long"),
        (b"[]", "x.json: has no list 'data'"),
        ({"data": []}, "x.json: has no question"),
        (without(*QAS), "x.json: article 0, paragraph 0: has no list 'qas'"),
        (without("data", 0, "paragraphs"), "x.json: article 0: has no list 'paragraphs'"),
        (without(*QAS[:4], "context"), "x.json: question 'q1': 'context' is missing"),
        (without(*QAS, 0, "question"), "x.json: question 'q1': 'question' is missing"),
        (without(*QAS, 0, "id"), "x.json: article 0, paragraph 0, question 0: 'id' is missing"),
        (without(*QAS, 0, "answers"), "question 'q1': has no 'answers'; .* test set"),
        (without(*QAS, 0, "answers", 0, "text"), "question 'q1': an answer has no 'text'"),
        (without(*QAS, 0, "answers", 0, "answer_start"), "the answer 'b' has no number 'answer_start'"),
        (one("a b c d", "d", 0), "question 'q1': the context has 'a' at answer_start=0, not 'd'"),
        (one("a b c d", "d", 70), "the context has '' at answer_start=70"),
        (one("a b c d", "a", -1), "answer_start=-1"),
        (no_answer(is_impossible=True), "'q1': has no answer; .* set --config.examples.unanswerable=True"),
        (no_answer(), "'q1': has no answer"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, content)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one("a b c", "b"), "does not say whether it 'is_impossible'.*unanswerable=False"),
        (one("a b c", "b", is_impossible=True), "'is_impossible' is true, with 1 answers"),
        (no_answer(is_impossible=False), "'is_impossible' is false, with 0 answers"),
    ],
)
def test_bad_files_of_version_2(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content, unanswerable=True)


def test_several_answers_and_none(tmp_path):
    data = one("a b c", "b")
    question = data["data"][0]["paragraphs"][0]["qas"][0]
    question["answers"].append({"text": "c", "answer_start": 4})
    with pytest.raises(InputError, match="'q1': has 2 answers; a training set has one"):
        read(tmp_path, data)
    question["answers"][1]["text"] = "not in it"
    [found] = read(tmp_path, data, DEV)
    assert [answer.text for answer in found.answers] == ["b", "not in it"]
    [found] = read(tmp_path, without(*QAS, 0, "answers"), TEST)
    assert found.answers == ()
    data["data"][0]["paragraphs"] *= 2
    with pytest.raises(InputError, match="question 'q1': the id comes twice"):
        read(tmp_path, data, DEV)
    with pytest.raises(InputError, match=r"x\.txt: the name must end with \.json or \.jsonl"):
        read(tmp_path, data, name="x.txt")
    with pytest.raises(InputError, match="no such file"):
        read_questions(str(tmp_path / "y.json"), DEV, False)


def test_json_lines(tmp_path):
    fields = {"id": "q1", "context": "a b c", "question": "what?"}
    both = (
        {**fields, "answers": [{"text": "b", "answer_start": 2}]},
        {**fields, "id": "q2", "answers": {"text": ["c"], "answer_start": [4]}},
        {**fields, "id": "q3", "answers": {"text": [], "answer_start": []}},
    )
    lines = "\n\n".join(map(json.dumps, both)).encode()
    found = read(tmp_path, lines, unanswerable=True, name="x.jsonl")
    assert [[tuple(a) for a in q.answers] for q in found] == [[("b", 2)], [("c", 4)], []]
    with pytest.raises(InputError, match=r"x\.jsonl:5: question 'q3': has no answer"):
        read(tmp_path, lines, name="x.jsonl")
    for line, message in (
        (b"{", "not JSON"),
        (b"[1]", "expected an object, found list"),
        (json.dumps({**fields, "answers": {"text": ["c"]}}).encode(), "'q1': 'answers' has no lists"),
        (json.dumps({**fields, "answers": "c"}).encode(), "'q1': 'answers' is no list"),
        (
            json.dumps({**fields, "question": 3}).encode(),
            "x.jsonl:2: question 'q1': 'question' is not a text",
        ),
    ):
        with pytest.raises(InputError, match=re.escape("x.jsonl:2: ")) as error:
            read(tmp_path, b"\n" + line, name="x.jsonl")
        assert message in str(error.value)


def test_an_answer_beside_its_place_is_taken_and_one_across_odd_space_is_left_out(tmp_path):
    beside = read(tmp_path, one("aa bb cc", "bb", 4))
    across = read(tmp_path, one("aa\u00a0bb cc", "aa\u00a0bb"))
    tokenizer = tokenizer_of(["aa bb cc"])
    for [question], span in ((beside, "bb"), (across, None)):
        encoded = encode_questions([question], tokenizer, 8)
        [[start, end]], _ = find_answers(encoded, tokenizer)
        if span is None:
            assert start == end == LOST
        else:
            tokens = [tokenizer.tokens[i] for i in encoded.contexts[0].ids[start : end + 1]]
            assert "".join(tokens).replace("##", "") == span


@pytest.mark.parametrize(
    ("tokenised", "original", "found"),
    [
        ("steve smith", "Steve Smith's", "Steve Smith"),  # the release's own example, in other words
        ("5", "($5.00)", "5"),
        ("zurich", "in Zürich,", "Zürich"),
        ("nothing", "in Zürich,", "in Zürich,"),
        ("x", "x\ufb01\u200b!", "x\ufb01\u200b!"),  # a character was dropped: lengths differ
        ("中", "中国", "中"),
    ],
)
def test_realign(tokenised, original, found):
    assert realign(tokenised, original, True) == found == plain_squad.final_text(tokenised, original, True)


def small(tmp_path, context="aa bb cc dd"):
    tokenizer = tokenizer_of([context])
    questions = read(tmp_path, one(context, context[:2]), DEV)
    form = RowForm(tokenizer.cls_id, (tokenizer.sep_id,), tokenizer.sep_id)
    return Windows(encode_questions(questions, tokenizer, 4), form, 24, 8), tokenizer


def test_where_there_is_no_answer_to_give(tmp_path):
    """No crash where every n-best entry is null, and the release's word where there is none at all."""
    windows, tokenizer = small(tmp_path)
    logits = np.zeros((2, 1, 24), np.float32)
    logits[:, 0, :3] = 5  # [CLS] and the question
    options = {"n_best_size": 2, "max_answer_length": 30}
    none = find_answer(windows, 0, *logits, tokenizer, unanswerable=False, **options)
    assert (none.text, [c.text for c in none.candidates]) == ("empty", ["empty"])
    null = find_answer(windows, 0, *logits, tokenizer, unanswerable=True, **options)
    assert null.candidates == (Candidate("", 1.0, 5.0, 5.0),)
    assert (null.text, null.null_odds, null.choose(True, 20.0)) == ("", 10.0, "")


@pytest.mark.parametrize("unanswerable", [False, True])
def test_a_text_without_a_token_has_no_window(tmp_path, unanswerable):
    windows, tokenizer = small(tmp_path, "\u200b")
    assert len(windows) == 0
    found = find_answer(windows, 0, [], [], tokenizer, n_best_size=2, max_answer_length=30,
                        unanswerable=unanswerable)  # fmt: skip
    assert found.candidates == ((Candidate("", 1.0, 0.0, 0.0),) if unanswerable else (NO_SPAN,))


def plain_search(golds, predictions, odds):
    """The best F1 that evaluate-v2.0.py finds, and its threshold: it answers one question more at a time."""
    score = best = sum(not texts for texts in golds.values())
    threshold = 0.0
    for name in sorted(odds, key=odds.get):
        if golds[name]:
            score += max(metrics.answer_f1(text, predictions[name], True) for text in golds[name])
        elif predictions[name]:
            score -= 1
        if score > best:
            best, threshold = score, odds[name]
    return best / len(golds), threshold


def test_figures_are_those_of_the_files(tmp_path):
    rng = random.Random(0)
    above = 0
    for _ in range(50):
        names = [str(n) for n in range(rng.randrange(1, 9))]
        golds = {name: rng.choices(["red cat", "cat", "dog"], k=rng.randrange(3)) for name in names}
        answers = {name: Prediction(rng.choice(["cat", "red dog"]), (), rng.uniform(-3, 3)) for name in names}
        null_threshold = rng.choice([-1.0, 0.0, 5.0])
        write_answers(str(tmp_path), "dev", answers, True, null_threshold)
        predictions, odds = (
            json.loads((tmp_path / f"dev_{what}.json").read_text()) for what in ("predictions", "null_odds")
        )
        figures = score_answers(golds, answers, True, null_threshold)
        best, threshold = plain_search(golds, predictions, odds)
        assert (figures["best_f1"], figures["best_f1_threshold"]) == (pytest.approx(best), threshold)
        texts = {name: answer.text for name, answer in answers.items()}
        above += plain_search(golds, texts, odds)[0] > best  # a threshold that the files cannot tell of
    assert above


def test_the_threshold_and_the_length(tmp_path):
    windows, tokenizer = small(tmp_path)
    begin = int(windows.offset[0])
    logits = np.zeros((2, 1, 24), np.float32)
    logits[0, 0, begin] = logits[1, 0, begin + windows.length[0] - 1] = 4
    logits[:, 0, 0] = 3
    options = {"n_best_size": 20, "unanswerable": True}
    found = find_answer(windows, 0, *logits, tokenizer, max_answer_length=30, **options)
    assert (found.text, found.null_odds) == ("aa bb cc dd", -2.0)
    assert [found.choose(True, x) for x in (-2.0, -2.5)] == ["aa bb cc dd", ""]
    assert found.choose(False, -2.5) == "aa bb cc dd"
    short = find_answer(windows, 0, *logits, tokenizer, max_answer_length=2, **options)
    assert short.text != "aa bb cc dd"
    assert short.null_odds == 2.0
