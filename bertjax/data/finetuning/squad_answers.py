"""From logits of beginnings and ends to answers in the text's own words: the 2018 release's run_squad.py.

Shapes: W windows, S positions of a row.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics
from bertjax.data.finetuning.squad_windows import Windows
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.data.tokenizers.wordpiece import split_words

# Endings of the files that hold, by question id, each answer; its candidates; the odds of "no answer".
PREDICTIONS, NBEST, NULL_ODDS = "_predictions.json", "_nbest_predictions.json", "_null_odds.json"
_NO_WINDOW = 1_000_000.0  # the release's score of "no answer" where there is no window to take it from


class Candidate(NamedTuple):
    """An entry of nbest_predictions.json."""

    text: str  # "": no answer
    probability: float  # among the entries
    start_logit: float
    end_logit: float


NO_SPAN = Candidate("empty", 1.0, 0.0, 0.0)  # the release's entry where there is no candidate at all


@dataclass(frozen=True)
class Prediction:
    """What a model says to a question."""

    text: str  # the likeliest candidate's, which is not "" unless there is no other
    candidates: tuple[Candidate, ...]  # the likeliest first, but for a "" that was not among the best
    null_odds: float  # the score of "no answer" above that of `text`

    def choose(self, unanswerable: bool, null_threshold: float) -> str:
        """The answer, or "" where its odds are above the threshold."""
        return "" if unanswerable and self.null_odds > null_threshold else self.text


def find_answer(
    windows: Windows,
    question: int,
    start_WS: Sequence[np.ndarray] | np.ndarray,
    end_WS: Sequence[np.ndarray] | np.ndarray,
    tokenizer: Tokenizer,
    *,
    n_best_size: int,
    max_answer_length: int,
    unanswerable: bool,
) -> Prediction:
    """The answer to one question.

    Args:
      start_WS, end_WS: float32 logits of its windows, in order; with padding or without.
      n_best_size: beginnings and ends that are tried in a window, and candidates that are kept.
      max_answer_length: in tokens.
      unanswerable: whether "no answer" is a candidate.
    """
    first = int(windows.first_window[question])
    found: list[tuple[int, int, int, float, float]] = []  # window, beginning, end, their logits
    null = (_NO_WINDOW, 0.0, 0.0)
    for i, (start_S, end_S, fullest) in enumerate(
        zip(start_WS, end_WS, windows.fullest_context(question), strict=True)
    ):
        score = float(start_S[0]) + float(end_S[0])
        if score < null[0]:
            null = (score, float(start_S[0]), float(end_S[0]))
        begin = int(windows.offset[first + i])
        starts, ends = (np.argsort(-x, kind="stable")[:n_best_size] - begin for x in (start_S, end_S))
        starts = starts[(starts >= 0) & (starts < len(fullest))]
        starts = starts[fullest[starts]]
        ends = ends[(ends >= 0) & (ends < len(fullest))]
        length = ends[None] - starts[:, None] + 1
        for s, e in np.argwhere((length > 0) & (length <= max_answer_length)):
            start, end = int(starts[s]), int(ends[e])
            found.append((i, start, end, float(start_S[begin + start]), float(end_S[begin + end])))
    if unanswerable:
        found.append((-1, 0, 0, *null[1:]))
    found.sort(key=lambda span: span[3] + span[4], reverse=True)

    entries: dict[str, tuple[float, float]] = {}
    kept = 0
    for window, start, end, *logits in found:
        if kept == n_best_size:
            break
        text = "" if window < 0 else _span_text(windows, question, first + window, start, end, tokenizer)
        if text not in entries:
            entries[text] = (logits[0], logits[1])
            kept += 1
    if unanswerable:
        entries.setdefault("", null[1:])
    candidates = _with_probabilities(entries) if entries else (NO_SPAN,)
    best = next((c for c in candidates if c.text), Candidate("", 0.0, 0.0, 0.0))
    return Prediction(best.text, candidates, null[0] - best.start_logit - best.end_logit)


def _with_probabilities(entries: Mapping[str, tuple[float, float]]) -> tuple[Candidate, ...]:
    scores = [start + end for start, end in entries.values()]
    shares = [math.exp(score - max(scores)) for score in scores]
    return tuple(
        Candidate(text, share / sum(shares), *logits)
        for (text, logits), share in zip(entries.items(), shares, strict=True)
    )


def _span_text(
    windows: Windows, question: int, window: int, start: int, end: int, tokenizer: Tokenizer
) -> str:
    """The text of the tokens from `start` to `end` of a window's context."""
    context, shift = windows.encoded.context(question), int(windows.start[window])
    start, end = start + shift, end + shift
    words = context.words(int(context.word_of[start]), int(context.word_of[end]) + 1)
    tokens = [tokenizer.tokens[i] for i in context.ids[start : end + 1]]
    if tokenizer.kind == "wordpiece":
        text = " ".join(tokens).replace(" ##", "").replace("##", "")
    else:
        text = "".join(tokens).replace("▁", " ")
    return realign(" ".join(text.split()), words, tokenizer.lower_case)


def realign(tokenised: str, original: str, lower_case: bool) -> str:
    """The part of `original` that `tokenised` is made of, with its own case, accents and spacing.

    All of `original` if that cannot be told: where it is not found in what the basic tokenizer makes of
    `original`, or that has another number of characters that are not spaces.
    """
    text = " ".join(split_words(original, lower_case))
    start = text.find(tokenised)
    if start == -1:
        return original
    end = start + len(tokenised) - 1
    places, of_original = ([i for i, c in enumerate(x) if c != " "] for x in (text, original))
    if len(places) != len(of_original):
        return original
    to_original = dict(zip(places, of_original, strict=True))
    if start not in to_original or end not in to_original:
        return original
    return original[to_original[start] : to_original[end] + 1]


def write_answers(
    folder: str, stem: str, answers: Mapping[str, Prediction], unanswerable: bool, null_threshold: float
) -> None:
    """Writes the release's files, STEM_predictions.json and so on; the odds only where they count."""
    files: dict[str, dict[str, object]] = {
        PREDICTIONS: {name: answer.choose(unanswerable, null_threshold) for name, answer in answers.items()},
        NBEST: {name: [c._asdict() for c in answer.candidates] for name, answer in answers.items()},
    }
    if unanswerable:
        files[NULL_ODDS] = {name: answer.null_odds for name, answer in answers.items()}
    for ending, content in files.items():
        with open(os.path.join(folder, stem + ending), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=4)
            file.write("\n")


def score_answers(
    golds: Mapping[str, Sequence[str]],
    answers: Mapping[str, Prediction],
    unanswerable: bool,
    null_threshold: float,
) -> metrics.Figures:
    """What SQuAD's evaluation of the version says of the files of `write_answers`.

    For v2.0 the best over thresholds too. None above `null_threshold` does better: what is "" in the files
    stays so.

    Args:
      golds: the texts of each question's answers.
    """
    chosen = {name: answer.choose(unanswerable, null_threshold) for name, answer in answers.items()}
    figures = metrics.squad(golds, chosen, unanswerable)
    if unanswerable:
        best, threshold = metrics.best_threshold(
            golds, chosen, {name: answer.null_odds for name, answer in answers.items()}
        )
        figures |= {**best, "best_f1_threshold": threshold}
    return figures


def answer_all(
    windows: Windows,
    outputs: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    tokenizer: Tokenizer,
    examples: ConfigDict,
) -> dict[str, Prediction]:
    """The answer to each question, by its id.

    Args:
      outputs: logits of the windows, in order: "start" and "end" [W, S].
      examples: config.examples.
    """
    found = {}
    for i, question in enumerate(windows.encoded.questions):
        some = slice(*windows.first_window[i : i + 2])
        found[question.id] = find_answer(
            windows, i, outputs["start"][some], outputs["end"][some], tokenizer,
            n_best_size=examples.n_best_size, max_answer_length=examples.max_answer_length,
            unanswerable=examples.unanswerable,
        )  # fmt: skip
    return found
