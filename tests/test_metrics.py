"""Each metric against its definition, written out plainly, on a thousand random and edge-case sets."""

import math
import random
import re
import string

import numpy as np
import pytest

from bertjax import metrics

SETS = 1000


def class_sets(classes):
    """(labels, predictions), some of one class only, some all right or all wrong."""
    rng = np.random.default_rng(classes)
    for i in range(SETS):
        size = int(rng.integers(1, 40))
        labels, predictions = rng.integers(0, classes, (2, size))
        if i % 7 == 1:
            predictions[:] = rng.integers(classes)
        if i % 7 == 2:
            labels[:] = rng.integers(classes)
        if i % 7 == 3:
            predictions = labels.copy()
        if i % 7 == 4:
            predictions = (labels + 1) % classes
        yield labels, predictions


def test_accuracy():
    for labels, predictions in class_sets(3):
        right = sum(int(a == b) for a, b in zip(labels, predictions, strict=True))
        assert metrics.accuracy(labels, predictions) == {"accuracy": pytest.approx(right / len(labels))}


def test_matthews():
    for labels, predictions in class_sets(2):
        cell = {(a, b): int(((labels == a) & (predictions == b)).sum()) for a in (0, 1) for b in (0, 1)}
        tp, tn, fp, fn = cell[1, 1], cell[0, 0], cell[0, 1], cell[1, 0]
        under = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        wanted = (tp * tn - fp * fn) / math.sqrt(under) if under else 0.0
        found = metrics.matthews(labels, predictions)
        assert list(found) == ["matthews_correlation", "accuracy"]
        assert found["matthews_correlation"] == pytest.approx(wanted, abs=1e-12)


def test_f1():
    for labels, predictions in class_sets(2):
        tp = int(((labels == 1) & (predictions == 1)).sum())
        either = int((labels == 1).sum() + (predictions == 1).sum())
        assert metrics.f1(labels, predictions)["f1"] == pytest.approx(2 * tp / either if either else 0.0)


def ranks(x):
    """Mean ranks, ties sharing theirs."""
    return np.array([(x < value).sum() + ((x == value).sum() + 1) / 2 for value in x])


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    under = math.sqrt((x * x).sum() * (y * y).sum())
    return (x * y).sum() / under if under else math.nan


def test_correlations():
    rng = np.random.default_rng(0)
    for i in range(SETS):
        labels, predictions = rng.integers(0, 6, (2, int(rng.integers(3, 40)))).astype(float)
        if i % 3:
            predictions += rng.normal(size=predictions.shape)
        if i % 10 == 0:
            predictions[:] = 2.5
        found = metrics.correlations(labels, predictions)
        wanted = {
            "pearson": pearson(labels, predictions),
            "spearman": pearson(ranks(labels), ranks(predictions)),
        }
        assert found == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_per_class_names_every_class():
    rows = metrics.per_class(np.array([0, 1, 1]), np.array([0, 1, 0]), ["no", "yes", "maybe"])
    assert rows == [("no", 0.5, 1.0, 2 / 3, 1), ("yes", 1.0, 0.5, 2 / 3, 2), ("maybe", 0.0, 0.0, 0.0, 0)]
    lines = metrics.class_table(rows, aligned=False).splitlines()
    assert lines[:2] == ["class\tprecision\trecall\tf1\tsupport", "no\t0.5000\t1.0000\t0.6667\t1"]
    aligned = metrics.class_table(rows, aligned=True).splitlines()
    assert [line.split() for line in aligned] == [line.split("\t") for line in lines]
    assert {line.index(line.split()[-1], 40) for line in aligned} == {44}


def test_matthews_of_three_classes_is_r3():
    """Gorodkin 2004: covariance of the one-hot labels and predictions over the root of their variances."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    predictions[:120] = labels[:120]
    x, y = (np.eye(3)[each] - np.eye(3)[each].mean(0) for each in (labels, predictions))
    wanted = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert 0.3 < wanted < 0.9
    assert metrics.matthews(labels, predictions)["matthews_correlation"] == pytest.approx(wanted, abs=1e-12)


def test_per_type_is_conllevals_table():
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O"], ["B-PER", "O"]]
    found = [["B-PER", "I-PER", "O"], ["B-PER", "O"], ["B-PER", "B-ORG"]]
    assert metrics.per_type(gold, found) == [
        ("LOC", 0.0, 0.0, 0.0, 1), ("ORG", 0.0, 0.0, 0.0, 0), ("PER", 2 / 3, 1.0, 0.8, 2),
        ("all", 0.5, 2 / 3, 4 / 7, 3),
    ]  # fmt: skip


def chunks(tags):
    """(type, start, end) by conlleval's two tables of where a chunk begins and where it ends."""
    ends = {"BB", "BO", "IB", "IO", "EE", "EI", "EO", "EB", "SB", "SI", "SE", "SS", "SO", "BS", "IS", "ES"}
    begins = {"BB", "IB", "OB", "OI", "EE", "EI", "OE", "EB", "SB", "SI", "SE", "SS", "OS", "BS", "IS", "ES"}
    found, last, last_kind, start = set(), "O", "", None
    for i, tag in enumerate([*tags, "O"]):
        place, _, kind = tag.partition("-")
        other = kind != last_kind
        if start is not None and (last + place in ends or (last != "O" and other)):
            found.add((last_kind, start, i))
            start = None
        if last + place in begins or (place != "O" and other):
            start = i
        last, last_kind = place, kind
    return found


@pytest.mark.parametrize("places", ["OBI", "OI", "OBIES", "IES"])
def test_entities(places):
    rng = random.Random(places)

    def tag():
        place = rng.choice(places)
        return place if place == "O" else f"{place}-{rng.choice(['PER', 'LOC'])}"

    for i in range(SETS):
        gold = [[tag() for _ in range(rng.randrange(1, 9))] for _ in range(3)]
        predicted = [[t if rng.random() < 0.7 else tag() for t in tags] for tags in gold]
        if i % 9 == 0:
            predicted = [["O"] * len(tags) for tags in gold]
        right = found = there = 0
        for tags, guesses in zip(gold, predicted, strict=True):
            assert {tuple(span) for span in metrics.read_entities(tags)} == chunks(tags), tags
            right += len(chunks(tags) & chunks(guesses))
            found += len(chunks(guesses))
            there += len(chunks(tags))
        precision, recall = right / found if found else 0.0, right / there if there else 0.0
        wanted = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        figures = metrics.entities(gold, predicted)
        assert (figures["precision"], figures["recall"]) == (precision, recall)
        assert figures["f1"] == pytest.approx(wanted)


def test_entities_by_hand():
    figures = metrics.entities(
        [["B-PER", "I-PER", "O", "B-LOC"], ["I-LOC", "O"]], [["B-PER", "I-PER", "O", "B-PER"], ["I-LOC", "O"]]
    )
    assert figures == {
        "f1": pytest.approx(2 / 3), "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3),
        "accuracy": pytest.approx(5 / 6), "f1_LOC": pytest.approx(2 / 3), "f1_PER": pytest.approx(2 / 3),
    }  # fmt: skip


WORDS = ["The", "a", "an", "cat", "Cat!", "U.S.", "--", "'", "it's", "1,000", "café", "  ", "\u00a0", "THE"]


def normal(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def plain_f1(gold, predicted, version_2):
    gold, predicted = normal(gold).split(), normal(predicted).split()
    if version_2 and not (gold and predicted):
        return float(gold == predicted)
    same, left = 0, list(gold)
    for word in predicted:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def answers(rng, count):
    return [" ".join(rng.choices(WORDS, k=rng.randrange(0, 4))) for _ in range(count)]


@pytest.mark.parametrize("version_2", [False, True])
def test_squad(version_2):
    rng = random.Random(version_2)
    for i in range(SETS):
        names = [str(n) for n in range(rng.randrange(1, 8))]
        golds = {name: answers(rng, rng.randrange(0 if version_2 else 1, 4)) for name in names}
        predictions = {
            name: rng.choice([*answers(rng, 2), *golds[name], ""]) if i % 8 else "" for name in names
        }
        best_f1, best_match = {}, {}
        for name in names:
            wanted = golds[name]
            if version_2:
                wanted = [text for text in wanted if normal(text)] or [""]
            best_f1[name] = max(plain_f1(text, predictions[name], version_2) for text in wanted)
            best_match[name] = max(float(normal(text) == normal(predictions[name])) for text in wanted)
        found = metrics.squad(golds, predictions, version_2)
        assert found["f1"] == pytest.approx(sum(best_f1.values()) / len(names))
        assert found["exact_match"] == pytest.approx(sum(best_match.values()) / len(names))
        assert ("f1_no_answer" in found) == version_2
        has = [name for name in names if golds[name]]
        if version_2 and has:
            assert found["f1_has_answer"] == pytest.approx(sum(best_f1[name] for name in has) / len(has))


def test_best_threshold_is_the_best_of_all():
    rng = random.Random(0)
    for _ in range(SETS):
        names = [str(n) for n in range(rng.randrange(1, 8))]
        golds = {name: [text for text in answers(rng, rng.randrange(0, 3)) if normal(text)] for name in names}
        # The official search takes an answer of punctuation alone for one, where scoring does not.
        predictions = {name: f"{answers(rng, 1)[0]} cat" for name in names}
        odds = {name: rng.uniform(-5, 5) for name in names}
        found, threshold = metrics.best_threshold(golds, predictions, odds)
        for i, figure in enumerate(("f1", "exact_match")):
            best = max(
                metrics.squad(golds, {n: predictions[n] if odds[n] <= t else "" for n in names}, True)[figure]
                for t in (-math.inf, *odds.values())
            )
            assert list(found.values())[i] == pytest.approx(best), (golds, predictions, odds)
        if found["best_f1"] > sum(not golds[n] for n in names) / len(names):
            chosen = {n: predictions[n] if odds[n] <= threshold else "" for n in names}
            assert metrics.squad(golds, chosen, True)["f1"] == pytest.approx(found["best_f1"])
