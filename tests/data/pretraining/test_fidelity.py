"""Examples have the distributions of the 2018 release's: compared with its rules told in plain Python.

Both make examples of the same documents. Every token of a corpus has an id of its own, so that an example
tells where its text came from. Whatever is compared is a sum over the examples of a document; documents are
independent of each other, examples of a document are not. The differences of both sums have mean zero over
the documents if the rules are the same, which Hotelling's T^2 tests. Seeds are fixed; with others, a correct
implementation would fail once in tens of thousands of runs.
"""

import itertools
import os
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import plain_examples
import pytest
import scipy.stats
from plain_examples import CLS, FIRST, MASK, PAD, SEP, Recipe, examples_of

from bertjax.config import default
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.data.row_form import RowForm

LIMIT = 1e-6  # of a p-value
DATA = Path(os.environ.get("BERTJAX_DATA", Path(__file__).parents[4] / "shared" / "data"))


class Corpus(NamedTuple):
    """Offsets of sentences in tokens and of documents in sentences, and V flags."""

    sentences: np.ndarray
    documents: np.ndarray
    continuation: np.ndarray

    def lists(self):
        ids = range(FIRST, FIRST + int(self.sentences[-1]))
        return [
            [list(ids[a:b]) for a, b in itertools.pairwise(self.sentences[first : stop + 1].tolist())]
            for first, stop in itertools.pairwise(self.documents)
        ]


class Sample(NamedTuple):
    """What is compared, of N examples with M masked tokens in all. Tokens are numbered through the corpus."""

    counts: np.ndarray  # [passes, documents] examples
    document: np.ndarray  # [N] that A comes from
    a: np.ndarray  # [N] first token
    a_length: np.ndarray  # [N]
    b: np.ndarray
    b_length: np.ndarray
    is_random: np.ndarray  # [N]
    row: np.ndarray  # [M] example
    position: np.ndarray  # [M] in it
    before: np.ndarray  # [M] id
    after: np.ndarray  # [M] id


def made_corpus(documents=3000, most_sentences=8, most_tokens=9, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most_sentences + 1, documents)
    lengths = rng.integers(1, most_tokens + 1, counts.sum())
    return corpus_of(lengths, counts, rng.random(lengths.sum()) < 0.4)


def corpus_of(lengths, counts, continuation):
    """Of tokens in each sentence, sentences in each document, and whether each token goes on with a word."""
    return Corpus(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate([np.zeros(FIRST, bool), continuation]),
    )


def rows_of_bertjax(corpus, recipe, passes, tokens, vocab_size, seed=0):
    """(the examples, all their rows)."""
    n = len(corpus.documents) - 1
    store = SimpleNamespace(
        path="store",
        tokens=tokens.astype(np.uint32),
        sentences=corpus.sentences,
        documents=corpus.documents,
        inputs=[{"path": "a", "weight": 1.0, "first_document": 0, "end_document": n}],
    )
    tokenizer = SimpleNamespace(
        kind="wordpiece",
        pad_id=PAD,
        mask_id=MASK,
        continuation=corpus.continuation[:vocab_size],
    )
    config = default().data
    config.update(dupe_factor=passes, whole_word_mask=recipe.whole_word)
    examples = Examples(
        store, tokenizer, RowForm(CLS, (SEP,), SEP), config, seed=seed, phase=0, seq_length=recipe.seq_length,
        max_predictions_per_seq=recipe.max_predictions, documents=np.arange(n),
    )  # fmt: skip
    return examples, examples.rows(0, examples.epoch_rows(0))


def sample_of_bertjax(corpus, recipe, passes, seed=0):
    size = len(corpus.continuation)
    examples, batch = rows_of_bertjax(corpus, recipe, passes, np.arange(FIRST, size), size, seed)
    row, p = np.nonzero(batch["masked_lm_weights"])
    position, before = batch["masked_lm_positions"][row, p], batch["masked_lm_ids"][row, p]
    ids = batch["input_ids"]
    after = ids[row, position]
    ids[row, position] = before
    b_length = batch["token_type_ids"].sum(1) - 1
    a_length = batch["segment_ids"].sum(1) - b_length - 3
    a, b = ids[:, 1] - FIRST, ids[np.arange(len(ids)), a_length + 2] - FIRST
    document = np.searchsorted(corpus.sentences[corpus.documents], a, side="right") - 1
    counts = np.diff(examples._index(0)[0].first).reshape(passes, -1)
    is_random = batch["next_sentence_labels"][:, 0]
    return Sample(counts, document, a, a_length, b, b_length, is_random, row, position, before, after)


def sample_of_the_release(corpus, recipe, passes, seed=0):
    pairs, masks = array("q"), array("q")
    for i, each in enumerate(examples_of(corpus.lists(), recipe, corpus.continuation.tolist(), seed, passes)):
        own, a, b, is_random = each.pair
        pairs.extend((own, a[0] - FIRST, len(a), b[0] - FIRST, len(b), is_random))
        for p in each.positions:
            masks.extend((i, p, each.original[p], each.tokens[p]))
    document, *rest = np.array(pairs).reshape(-1, 6).T
    n = len(corpus.documents) - 1
    visit = np.cumsum(np.diff(document, prepend=0) < 0) * n + document
    counts = np.bincount(visit, minlength=passes * n).reshape(passes, n)
    return Sample(counts, document, *rest, *np.array(masks).reshape(-1, 4).T)


def one_hot(values, edges):
    """bool [N, bins]: the bin that each value falls into; `edges` begin all bins but the first."""
    return np.searchsorted(edges, values, side="right")[:, None] == np.arange(len(edges) + 1)


def statistics(corpus, recipe, sample):
    """{what: [documents, numbers]}, sums over the examples of a document."""
    n = len(corpus.documents) - 1
    s = sample
    length = s.a_length + s.b_length + 3
    tenths = np.arange(1, 10) / 10
    lengths = np.unique(np.ceil(recipe.seq_length * tenths)).astype(int)
    few = np.array([1, 2, 4, 8])

    def sentence(token):
        return np.searchsorted(corpus.sentences, token, side="right") - 1

    def cut(token):
        """Whether some tokens of the sentence are missing in front of it, or (at the end) behind."""
        return one_hot(token - corpus.sentences[sentence(token)], few)

    def cut_behind(token):
        return one_hot(corpus.sentences[sentence(token) + 1] - 1 - token, few)

    def place(token):
        """Where its sentence stands in its document, in tenths."""
        which = sentence(token)
        document = np.searchsorted(corpus.documents, which, side="right") - 1
        first, stop = corpus.documents[document], corpus.documents[document + 1]
        return one_hot((which - first) / (stop - first), tenths)

    def each(of_masks):
        """[N, numbers]: sums over the masks of an example."""
        columns = np.reshape(of_masks, (len(s.row), -1)).T
        return np.stack([np.bincount(s.row, column, len(length)) for column in columns], 1)

    ends = corpus.sentences[corpus.documents]
    at_end = np.isin(s.b + s.b_length, ends)
    random_b, masks = s.is_random[:, None] == 1, np.bincount(s.row, minlength=len(length))
    b_document = np.searchsorted(ends, s.b, side="right") - 1
    replaced = (s.after != s.before) & (s.after != MASK)
    kinds = np.stack([s.after == MASK, s.after == s.before, replaced], 1)
    size = len(corpus.continuation)
    values = {
        "examples": np.ones((len(length), 1)),
        "random next": random_b,
        "length": one_hot(length, np.append(lengths, recipe.seq_length)),
        # Neither cut off at a document's end, which nothing but a short target explains.
        "short": (~random_b[:, 0] & (length < recipe.seq_length) & ~at_end)[:, None],
        "length of A": one_hot(s.a_length, lengths),
        "length of B": one_hot(s.b_length, lengths),
        "length of a random B": one_hot(s.b_length, lengths) & random_b,
        "start of A in its document": place(s.a),
        "start of a random B in its document": place(s.b) & random_b,
        "document of a random B": one_hot(b_document / n, tenths) & random_b,
        "A cut off in front": cut(s.a),
        "A cut off behind": cut_behind(s.a + s.a_length - 1),
        "B cut off in front": cut(s.b),
        "B cut off behind": cut_behind(s.b + s.b_length - 1),
        "masks by length": one_hot(length, lengths) * masks[:, None],
        "unused masks": one_hot(
            np.minimum(recipe.max_predictions, np.maximum(1, np.round(0.15 * length))) - masks, [1, 2]
        ),
        "[MASK], unchanged, replaced": each(kinds),
        "replaced by": each(one_hot(s.after / size, tenths) & replaced[:, None]),
        "place of masks": each(one_hot(s.position / length[s.row], tenths)),
        "masks that go on with a word": each(corpus.continuation[s.before]),
    }
    sums = {
        name: np.stack([np.bincount(s.document, column, n) for column in x.T], 1)
        for name, x in values.items()
    }
    sums["examples of a pass"] = sum(one_hot(counts, [2, 3, 4, 6, 8, 12]) for counts in s.counts)
    return {name: x / len(s.counts) for name, x in sums.items()}


def p_value(ours, theirs):
    """Of Hotelling's T^2: that the mean of ours [documents, numbers] - theirs is 0."""
    difference = ours - theirs
    difference = difference[:, difference.any(0)]
    if not difference.size:
        return 1.0
    n, difference = len(difference), difference / difference.std(0)
    covariance = np.atleast_2d(np.cov(difference, rowvar=False))
    scale, axes = np.linalg.eigh(covariance)
    use = scale > 1e-9 * scale[-1]
    t2 = n * ((difference.mean(0) @ axes[:, use]) ** 2 / scale[use]).sum()
    k = int(use.sum())
    return float(scipy.stats.f.sf(t2 * (n - k) / (k * (n - 1)), k, n - k))


def p_values(ours, theirs):
    return {name: p_value(ours[name], theirs[name]) for name in ours}


RECIPE = Recipe(seq_length=24, max_predictions=3)
PASSES = 16


@pytest.fixture(scope="module")
def made():
    """(corpus, statistics of bertjax, the same with whole-word masking)"""
    corpus = made_corpus()
    recipes = RECIPE, RECIPE._replace(whole_word=True)
    return corpus, *(statistics(corpus, r, sample_of_bertjax(corpus, r, PASSES)) for r in recipes)


def of_the_release(corpus, recipe, passes):
    return statistics(corpus, recipe, sample_of_the_release(corpus, recipe, passes))


@pytest.mark.parametrize("whole_word", [False, True])
def test_distributions_are_the_releases(made, whole_word):
    corpus, *ours = made
    recipe = RECIPE._replace(whole_word=whole_word)
    found = p_values(ours[whole_word], of_the_release(corpus, recipe, PASSES))
    assert min(found.values()) > LIMIT, found


@pytest.mark.parametrize(
    ("change", "passes", "told_by"),
    [
        ({"random_next": 0.52}, PASSES, "random next"),
        ({"short_seq_prob": 0.12}, PASSES, "short"),
        ({"front": 0.55}, PASSES, "B cut off behind"),
        ({"masked_lm_prob": 0.16}, PASSES, "masks by length"),
        ({"mask": 0.78}, 4, "[MASK], unchanged, replaced"),
        ({"unchanged": 0.12}, 4, "[MASK], unchanged, replaced"),
        ({"whole_word": True}, 4, "masks that go on with a word"),
    ],
    ids=str,
)
def test_an_error_of_some_percent_is_noticed(made, change, passes, told_by):
    corpus, ours, _ = made
    found = p_values(ours, of_the_release(corpus, RECIPE._replace(**change), passes))
    assert found[told_by] < LIMIT, found


def test_another_choice_of_random_text_is_noticed(made, monkeypatch):
    """B never begins at a document's last sentence, or one of ten is from the first half of the documents."""
    corpus, ours, _ = made
    right = plain_examples.random_text
    shorter = [document[:-1] or document for document in corpus.lists()]

    def not_the_last(documents, own, wanted, rng):
        return right(shorter, own, wanted, rng)

    def rather_early(documents, own, wanted, rng):
        early = rng.random() < 0.1
        return right(documents[: len(documents) // 2] if early else documents, own, wanted, rng)

    for wrong, told_by in (
        (not_the_last, "start of a random B in its document"),
        (rather_early, "document of a random B"),
    ):
        monkeypatch.setattr(plain_examples, "random_text", wrong)
        found = p_values(ours, of_the_release(corpus, RECIPE, 8))
        assert found[told_by] < LIMIT, found


def test_a_replacement_is_any_token_of_the_vocabulary():
    """With 20 tokens the one that was there, or [MASK], is often drawn again."""
    corpus, size = made_corpus(), 20
    tokens = np.random.default_rng(0).integers(FIRST, size, corpus.sentences[-1])
    _, batch = rows_of_bertjax(corpus, RECIPE, PASSES, tokens, size)
    row, p = np.nonzero(batch["masked_lm_weights"])
    before = batch["masked_lm_ids"][row, p]
    after = batch["input_ids"][row, batch["masked_lm_positions"][row, p]]
    same = after == before
    observed = np.append(np.bincount(after[~same], minlength=size), same.sum())
    # Of n masked tokens 0.8 n are [MASK] and 0.1 n are unchanged; each id replaces 0.1 n / V.
    n, was = len(after), np.bincount(before, minlength=size)
    expected = np.append(0.1 / size * (n - was), (0.1 + 0.1 / size) * n)
    expected[MASK] += 0.8 * n
    assert not was[:FIRST].any()
    assert scipy.stats.chisquare(observed, expected).pvalue > LIMIT


def real_corpus():
    """All text of the data's folder; a word is a token for every five characters."""
    lengths, counts, continuation = array("q"), array("q"), bytearray()
    for path in sorted((DATA / "text").glob("*.txt")):
        for document in path.read_text(encoding="utf-8").split("\n\n"):
            sentences = [sentence for line in document.splitlines() if (sentence := line.split())]
            for sentence in sentences:
                pieces = [-(-len(word) // 5) for word in sentence]
                lengths.append(sum(pieces))
                continuation += b"".join(b"\0" + b"\1" * (n - 1) for n in pieces)
            if sentences:
                counts.append(len(sentences))
    return corpus_of(np.array(lengths), np.array(counts), np.frombuffer(continuation, bool))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "text").is_dir(), reason=f"no {DATA / 'text'}")
def test_distributions_are_the_releases_on_real_text():
    corpus = real_corpus()
    for recipe in (Recipe(128, 20), Recipe(128, 20, whole_word=True), Recipe(512, 77)):
        ours = statistics(corpus, recipe, sample_of_bertjax(corpus, recipe, 1))
        found = p_values(ours, of_the_release(corpus, recipe, 1))
        assert min(found.values()) > LIMIT, (recipe, found)
