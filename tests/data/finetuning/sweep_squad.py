"""Compares squad_windows and squad_answers with plain_squad on every question of SQuAD's files.

python tests/data/finetuning/sweep_squad.py VOCAB.TXT FILE.json ...

A file whose name begins with "train" is a training set, one with "v2" in it may have unanswerable questions.
Prints for each file how many questions and windows were compared and how many differ; which questions a model
with perfect logits gets wrong, and why; and its figures. Ends with code 1 if any differs.
"""

import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
import plain_squad

from bertjax import metrics
from bertjax.data.finetuning.squad import DEV, TRAIN, read_questions
from bertjax.data.finetuning.squad_answers import find_answer
from bertjax.data.finetuning.squad_windows import LOST, Windows, encode_questions, find_answers
from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import load_tokenizer

SETTINGS = {"seq_length": 384, "doc_stride": 128, "max_query_length": 64}
N_BEST, MOST = 20, 30
WHY = ("longer_than_most", "not_whole_tokens", "not_realigned")  # a perfect model is wrong


def logits_of(windows, question, rng, held):
    """Random logits with many that are equal; in half of the questions the answer, if held, stands out."""
    some = range(*windows.first_window[question : question + 2])
    shape = (len(some), SETTINGS["seq_length"])
    start_WS, end_WS = np.round(rng.normal(size=(2, *shape)) * 2, 1).astype(np.float32)
    if rng.random() < 0.5:
        for i, window in enumerate(some):
            start_WS[i, held[0][window]] += 8
            end_WS[i, held[1][window]] += 8
    return start_WS, end_WS


def perfect(windows, question, held):
    some = range(*windows.first_window[question : question + 2])
    start_WS, end_WS = np.zeros((2, len(some), SETTINGS["seq_length"]), np.float32)
    for i, window in enumerate(some):
        inside = held[0][window] > 0
        start_WS[i, held[0][window]] = end_WS[i, held[1][window]] = 10 if inside else 1
    return start_WS, end_WS


def compare(path, tokenizer, every=1, show=False, **settings):
    """Counts of what was compared and of what differs, over every `every`-th question of a file.

    Args:
      show: whether to print what a perfect model gets wrong.
    """
    train, unanswerable = Path(path).name.startswith("train"), "v2" in Path(path).name
    sizes = SETTINGS | settings
    counts = dict.fromkeys(("questions", "windows", "differ", "not_exact", "wrong", *WHY), 0)
    tokens = np.array(tokenizer.tokens)

    @functools.cache
    def tokenize(text):
        return [tokenizer.tokens[i] for i in tokenizer.encode_batch([text])[0]]

    examples = {}
    for example in plain_squad.read(json.loads(Path(path).read_text())["data"], train, unanswerable):
        examples[example.id] = example
    questions = read_questions(str(path), TRAIN if train else DEV, unanswerable)[::every]
    encoded = encode_questions(questions, tokenizer, sizes["max_query_length"])
    spans, exact = find_answers(encoded, tokenizer)
    form = RowForm(tokenizer.cls_id, (tokenizer.sep_id,), tokenizer.sep_id)
    windows = Windows(encoded, form, sizes["seq_length"], sizes["doc_stride"])
    held = windows.positions(spans)
    rng = np.random.default_rng(0)
    right = {}
    for i, question in enumerate(questions):
        left_out = question.id not in examples
        if train and (left_out or spans[i, 0] == LOST):
            counts["differ"] += not (left_out and spans[i, 0] == LOST)
            continue
        example = examples[question.id]
        rows = plain_squad.features(example, tokenize, train, **sizes)
        first, end = windows.first_window[i : i + 2]
        same = len(rows) == end - first
        context = encoded.context(i)
        for row, window, fullest in zip(rows, range(first, end), windows.fullest_context(i), strict=False):
            ids, types = windows[window]
            same &= tokens[ids].tolist() == row.tokens and types == row.types
            offset, start = windows.offset[window], windows.start[window]
            words = context.word_of[start : start + windows.length[window]]
            same &= dict(enumerate(words.tolist(), offset)) == row.word_of
            same &= dict(enumerate(fullest.tolist(), offset)) == row.fullest
            if train:
                same &= (held[0][window], held[1][window]) == (row.start, row.end)
        logits = logits_of(windows, i, rng, held)
        options = {"n_best_size": N_BEST, "max_answer_length": MOST, "unanswerable": unanswerable}
        found = find_answer(windows, i, *logits, tokenizer, **options)
        results = list(zip(logits[0].tolist(), logits[1].tolist(), strict=True))
        entries, null_score = plain_squad.answer(
            example, rows, results, *options.values(), tokenizer.lower_case
        )
        same &= [(c.text, c.start_logit, c.end_logit) for c in found.candidates] == [e[:3] for e in entries]
        same &= np.allclose([c.probability for c in found.candidates], [e[3] for e in entries], rtol=1e-12)
        best = next((e for e in entries if e[0]), ("", 0.0, 0.0))
        same &= found.text == best[0]
        if unanswerable:
            same &= np.isclose(found.null_odds, null_score - best[1] - best[2], rtol=1e-12, atol=1e-12)
        answer = find_answer(windows, i, *perfect(windows, i, held), tokenizer, **options)
        right[question.id] = answer.choose(unanswerable, 0.0)
        golds = [a.text for a in question.answers[:1]]
        wrong = metrics.squad({"": golds}, {"": right[question.id]}, unanswerable)["exact_match"] < 1
        counts["questions"] += 1
        counts["windows"] += len(rows)
        counts["differ"] += not same
        counts["not_exact"] += not exact[i]
        counts["wrong"] += wrong
        if wrong:
            long = spans[i, 1] - spans[i, 0] >= MOST
            why = WHY[0] if long else WHY[1] if not exact[i] else WHY[2]
            counts[why] += 1
            if show:
                print(f"  {question.id}: {why.replace('_', ' ')}: {golds} {right[question.id]!r}")
    golds = {q.id: [a.text for a in q.answers] for q in questions if q.id in right}
    return counts | metrics.squad(golds, right, unanswerable)


def main(vocabulary, *paths):
    tokenizer, differ = load_tokenizer(vocabulary), 0
    for path in paths:
        started = time.time()
        counts = compare(path, tokenizer, show=True)
        differ += counts["differ"]
        print(path, counts, f"{time.time() - started:.0f} s", flush=True)
    sys.exit(differ > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
