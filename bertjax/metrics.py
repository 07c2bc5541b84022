"""The official metrics of GLUE, SQuAD v1.1 and v2.0, and CoNLL-2003, each by its name.

Sums are exact, so a metric does not depend on the order of the examples.
"""

import collections
import re
import string
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from sklearn import metrics as sklearn_metrics

Figures = dict[str, float]


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> Figures:
    """{"accuracy"}. Both int [examples]."""
    return {"accuracy": float(sklearn_metrics.accuracy_score(labels, predictions))}


def matthews(labels: np.ndarray, predictions: np.ndarray) -> Figures:
    """{"matthews_correlation", "accuracy"}, CoLA's; 0 where all predictions, or all labels, are one class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is one class only
        figure = float(sklearn_metrics.matthews_corrcoef(labels, predictions))
    return {"matthews_correlation": figure, **accuracy(labels, predictions)}


def f1(labels: np.ndarray, predictions: np.ndarray) -> Figures:
    """{"f1", "accuracy"} of MRPC and QQP: F1 of class 1; 0 where it is neither predicted nor there."""
    figure = float(sklearn_metrics.f1_score(labels, predictions, zero_division=0.0))
    return {"f1": figure, **accuracy(labels, predictions)}


def correlations(labels: np.ndarray, predictions: np.ndarray) -> Figures:
    """{"pearson", "spearman"}, STS-B's; NaN where all predictions are one number. Both float [examples]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        return {
            "pearson": float(scipy.stats.pearsonr(labels, predictions)[0]),
            "spearman": float(scipy.stats.spearmanr(labels, predictions)[0]),
        }


def multi_label(labels: np.ndarray, scores: np.ndarray) -> Figures:
    """{"f1_micro", "f1_macro", "lrap"} of any number of labels for each example.

    LRAP is the label ranking average precision: of the labels ranked at or above each of an example's own,
    the share that are its own; 1 where it has none.

    Args:
      labels: [examples, C], 1 for those that are there, else 0.
      scores: [examples, C]; labels of a positive score are predicted.
    """
    there, predicted = labels > 0, scores > 0
    of_each = per_label(labels, predicted, [""] * labels.shape[1])
    named = int(there.sum() + predicted.sum())
    micro = 2 * int((there & predicted).sum()) / named if named else 0.0
    lrap = float(sklearn_metrics.label_ranking_average_precision_score(there, scores))
    return {"f1_micro": micro, "f1_macro": sum(each.f1 for each in of_each) / len(of_each), "lrap": lrap}


# By the name that a config gives; the first figure of each is the one that checkpoints are chosen by.
BY_NAME: dict[str, Callable[[np.ndarray, np.ndarray], Figures]] = {
    "accuracy": accuracy,
    "matthews": matthews,
    "f1": f1,
    "correlations": correlations,
}


class ClassFigures(NamedTuple):
    """What is measured of one class, or of one type of entities."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int  # how many there are


def per_class(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[ClassFigures]:
    """The figures of each class; a share of nothing is 0."""
    columns = sklearn_metrics.precision_recall_fscore_support(
        labels, predictions, labels=list(range(len(names))), zero_division=0.0
    )
    columns = [column.tolist() for column in columns]
    return [ClassFigures(*row) for row in zip(names, *columns, strict=True)]


def per_label(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[ClassFigures]:
    """Those of each label of examples that have any number of them. Both [examples, C], 0 or 1."""
    rows = []
    for name, there, predicted in zip(names, labels.T > 0, predictions.T > 0, strict=True):
        figures = sklearn_metrics.precision_recall_fscore_support(
            there, predicted, labels=[True], zero_division=0.0
        )
        rows.append(ClassFigures(name, *(column.item() for column in figures)))
    return rows


def class_table(rows: Sequence[ClassFigures], aligned: bool) -> str:
    """A line for each class below one of names, with tabs between the columns; or aligned, for the eye."""
    lines = ["class\tprecision\trecall\tf1\tsupport\n"]
    for name, *shares, support in rows:
        lines.append("\t".join([name, *(f"{share:.4f}" for share in shares), f"{support}\n"]))
    width = 2 + max(len("precision"), *(len(row.name) for row in rows))
    return "".join(line.expandtabs(width) if aligned else line for line in lines)


class Span(NamedTuple):
    """An entity: its type, its first token, and the token after its last."""

    kind: str
    start: int
    end: int


def read_entities(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence's tags (O, B-X, I-X, E-X, S-X) by the rules of CoNLL's conlleval.

    An entity begins at B or S, and at I or E after O, after another type, or after E or S. So IOB1, IOB2,
    IOBES and broken sequences are all read.
    """
    spans = []
    start, last, last_kind = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        place, _, kind = tag.partition("-")
        inside = place in ("I", "E") and last in ("B", "I") and kind == last_kind
        if last != "O" and not inside:
            spans.append(Span(last_kind, start, i))
        if place != "O" and not inside:
            start = i
        last, last_kind = place, kind
    return spans


def entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Figures:
    """{"f1", "precision", "recall", "accuracy", "f1_X" of each type}, shares, as conlleval computes them.

    Precision is 0 where nothing is predicted, and F1 is 0 where precision and recall are.

    Args:
      gold, predicted: tags of each sentence.
    """
    kinds = per_type(gold, predicted)
    same = sum(
        tag == guess for pair in zip(gold, predicted, strict=True) for tag, guess in zip(*pair, strict=True)
    )
    whole = kinds.pop()
    return {
        "f1": whole.f1,
        "precision": whole.precision,
        "recall": whole.recall,
        "accuracy": _share(same, sum(map(len, gold))),
        **{f"f1_{kind.name}": kind.f1 for kind in kinds},
    }


def per_type(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[ClassFigures]:
    """The figures of each type of entities, in the order of their names, and at the end those of "all".

    Args:
      gold, predicted: tags of each sentence.
    """
    right: collections.Counter[str] = collections.Counter()
    found: collections.Counter[str] = collections.Counter()
    there: collections.Counter[str] = collections.Counter()
    for tags, guesses in zip(gold, predicted, strict=True):
        if len(tags) != len(guesses):
            raise ValueError(f"{len(tags)} tags, but {len(guesses)} predictions")
        wanted, given = set(read_entities(tags)), set(read_entities(guesses))
        there.update(span.kind for span in wanted)
        found.update(span.kind for span in given)
        right.update(span.kind for span in wanted & given)

    def figures(name: str, right: int, found: int, there: int) -> ClassFigures:
        f1 = _share(2 * right, found + there)
        return ClassFigures(name, _share(right, found), _share(right, there), f1, there)

    return [
        *(figures(kind, right[kind], found[kind], there[kind]) for kind in sorted(there | found)),
        figures("all", right.total(), found.total(), there.total()),
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation, articles and extra space: how SQuAD's evaluation compares."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(gold: str, predicted: str) -> float:
    """1.0 if the normalised answers are one."""
    return float(normalize_answer(gold) == normalize_answer(predicted))


def answer_f1(gold: str, predicted: str, version_2: bool) -> float:
    """F1 over the words of two answers. If one has none: in v2.0 1 if neither has, in v1.1 always 0."""
    wanted, given = normalize_answer(gold).split(), normalize_answer(predicted).split()
    if not wanted or not given:
        return float(version_2 and wanted == given)
    same = (collections.Counter(wanted) & collections.Counter(given)).total()
    return 2 * same / (len(wanted) + len(given))


def squad(golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str], version_2: bool) -> Figures:
    """{"f1", "exact_match"}, shares, of SQuAD: for each question the best over its answers.

    For v2.0 also "f1_has_answer", "f1_no_answer" and the same of exact_match.

    Args:
      golds: the answers of each question; none if it has no answer.
      predictions: "" for no answer. A question without a prediction counts as wrong.
      version_2: scores as evaluate-v2.0.py does: of a question's answers those that are nothing but articles
        and punctuation do not count. False: as evaluate-v1.1.py does.
    """
    scores = {name: _scores(answers, predictions.get(name), version_2) for name, answers in golds.items()}
    groups = {"": list(scores)}
    if version_2:
        groups["_has_answer"] = [name for name in scores if golds[name]]
        groups["_no_answer"] = [name for name in scores if not golds[name]]
    figures = {}
    for suffix, names in groups.items():
        for i, figure in enumerate(("f1", "exact_match")):
            total = sum(scores[name][i] for name in names)
            figures[figure + suffix] = total / len(names) if names else 0.0
    return figures


def _scores(answers: Sequence[str], prediction: str | None, version_2: bool) -> tuple[float, float]:
    """(F1, exact match) of a question."""
    if prediction is None:
        return 0.0, 0.0
    if version_2:
        answers = [answer for answer in answers if normalize_answer(answer)] or [""]
    return (
        max(answer_f1(answer, prediction, version_2) for answer in answers),
        max(exact_match(answer, prediction) for answer in answers),
    )


def best_threshold(
    golds: Mapping[str, Sequence[str]], predictions: Mapping[str, str], null_odds: Mapping[str, float]
) -> tuple[Figures, float]:
    """The best F1 and exact match over all thresholds on the odds of "no answer", and F1's threshold.

    SQuAD v2.0's official search: questions in the order of their odds are answered one after the other.

    Args:
      golds, predictions: see `squad`; a prediction that is "" is so at every threshold.
      null_odds: of each question; it is answered if they are not above the threshold.

    Returns:
      {"best_f1", "best_exact_match"}, shares, and the threshold of the first.
    """
    found = {}
    order = sorted(golds, key=lambda name: null_odds[name])
    unanswerable = sum(not answers for answers in golds.values())
    for i, figure in enumerate(("best_f1", "best_exact_match")):
        best = score = float(unanswerable)
        threshold = 0.0
        for name in order:
            if golds[name]:
                change = _scores(golds[name], predictions[name], version_2=True)[i]
            else:
                change = -1.0 if predictions[name] else 0.0
            score += change
            if score > best:
                best, threshold = score, null_odds[name]
        found[figure] = (best / max(len(golds), 1), threshold)
    return {figure: share for figure, (share, _) in found.items()}, found["best_f1"][1]
