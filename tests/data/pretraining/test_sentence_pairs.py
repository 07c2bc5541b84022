import numpy as np
import pytest

from bertjax.data.pretraining import sentence_pairs
from bertjax.data.rng import draw, root_key

KEY = root_key(5)


def random_corpus(documents=40, most_sentences=30, split=None, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, most_sentences + 1, documents))])
    sentences = np.concatenate([[0], np.cumsum(rng.integers(1, 25, offsets[-1]))])
    split = np.arange(documents) if split is None else np.array(split)
    copies, shares = np.zeros_like(split), np.ones(len(split))
    return frozen(sentence_pairs.Corpus(sentences, offsets, split, split, copies, shares))


def frozen(corpus):
    """Read-only arrays, as training uses, so that the same compiled kernels run."""
    for array in corpus:
        array.flags.writeable = False
    return corpus


def make_index(corpus, rules, passes=1, first_pass=0, with_lengths=True):
    visits = passes * len(corpus.entry_document)
    first = np.zeros(visits + 1, np.int64)
    sentence_pairs.count_sequences(corpus, rules, first_pass, 0, visits, first)
    first = np.cumsum(first)
    marks = np.zeros(first[-1] // sentence_pairs.MARK_EVERY + 1, np.uint32)
    index = sentence_pairs.Index(first_pass, first, marks)
    lengths = np.zeros(first[-1] if with_lengths else 0, np.uint16)
    sentence_pairs.index_sequences(corpus, rules, index, 0, visits, lengths)
    return index, lengths


def sweep(corpus, rules, document, pass_number=0):
    """[(A first token, A stop, B first, B stop, is_random, following sentence)] of a whole document."""
    entry = int(np.flatnonzero(corpus.entry_document == document)[0])
    key, target = sentence_pairs.visit(corpus, rules, pass_number, entry)
    start, end = (int(offset) for offset in corpus.documents[document : document + 2])
    found: list[tuple] = []
    while start < end:
        sequence_key = np.uint64(draw(np.uint64(key), len(found)))
        found.append(sentence_pairs.describe(corpus, rules, sequence_key, document, target, start, end))
        start = found[-1][-1]
    return found


def test_truncated_equals_one_token_at_a_time():
    for room in range(5, 20):
        for a in range(1, 30):
            for b in range(30):
                left_a, left_b = a, b
                while left_a + left_b > room:
                    if left_a > left_b:
                        left_a -= 1
                    else:
                        left_b -= 1
                assert sentence_pairs.truncated(a, b, room) == (left_a, left_b)


def test_target_lengths_are_short_at_times():
    rules = sentence_pairs.PairRules(KEY, 12, 0.3, True)
    corpus = random_corpus()
    n = 10_000
    targets = np.array([sentence_pairs.visit(corpus, rules, i, i % 40)[1] for i in range(n)])
    counts = np.bincount(targets)
    assert len(counts) == 13
    assert not counts[:2].any()
    expected = 0.3 * n / 11  # 2, ..., 12
    assert (abs(counts[2:12] - expected) < 5 * np.sqrt(expected)).all()
    assert abs(counts[12] - 0.7 * n - expected) < 5 * np.sqrt(0.21 * n)


def test_heads_is_binomial():
    for n in (1, 10, 130):
        values = np.array([sentence_pairs.heads(root_key(i), n) for i in range(4000)])
        assert values.min() >= 0
        assert values.max() <= n
        assert abs(values.mean() - n / 2) < 5 * np.sqrt(n / 4 / 4000)
        assert abs(values.var() / (n / 4) - 1) < 0.15
    assert sentence_pairs.heads(KEY, 0) == 0


@pytest.mark.parametrize("first_pass", [0, 7])
def test_a_sequence_found_by_index_equals_the_sweep(first_pass):
    corpus = random_corpus(most_sentences=400)
    rules = sentence_pairs.PairRules(KEY, 29, 0.1, True)
    index, lengths = make_index(corpus, rules, passes=2, first_pass=first_pass)
    i = 0
    for pass_number in (first_pass, first_pass + 1):
        for document in corpus.entry_document:
            for expected in sweep(corpus, rules, document, pass_number):
                _, *found = sentence_pairs.find_sequence(corpus, rules, index, i)
                assert tuple(found) == expected[:5]
                a, b = expected[1] - expected[0], expected[3] - expected[2]
                assert lengths[i] == min(a + b, 29) + 3
                i += 1
    assert i == index.first[-1]
    # So that marks inside documents are used.
    assert (np.diff(index.first) > 2 * sentence_pairs.MARK_EVERY).any()


def test_pairs_follow_the_algorithm():
    corpus = random_corpus(split=range(0, 40, 2))
    rules = sentence_pairs.PairRules(KEY, 40, 0.2, True)
    sentence_at = {int(token): i for i, token in enumerate(corpus.sentences)}
    document_of = np.searchsorted(corpus.documents, np.arange(corpus.documents[-1]), side="right") - 1
    labels = []
    for document in corpus.split:
        start, end = corpus.documents[document], corpus.documents[document + 1]
        entry = int(np.flatnonzero(corpus.entry_document == document)[0])
        _, target = sentence_pairs.visit(corpus, rules, 0, entry)
        for a0, a1, b0, b1, is_random, following in sweep(corpus, rules, document):
            assert a0 == corpus.sentences[start]
            middle, b_first, b_stop = sentence_at[a1], sentence_at[b0], sentence_at[b1]
            if is_random:
                assert document_of[b_first] in corpus.split
                assert document_of[b_first] != document
                assert document_of[b_stop - 1] == document_of[b_first]
                assert following == middle
                wanted = target - (a1 - a0)
                assert b1 - b0 >= wanted or b_stop == corpus.documents[document_of[b_first] + 1]
                assert b_stop - b_first == 1 or corpus.sentences[b_stop - 1] - b0 < wanted
            else:
                assert b0 == a1
                assert following == b_stop <= end
                assert b1 - a0 >= target or b_stop == end
                assert corpus.sentences[b_stop - 1] - a0 < target
            if end - start == 1:
                assert is_random
            labels.append(is_random)
            start = following
        assert start == end
    assert 0.3 < np.mean(labels) < 0.8


def test_without_next_sentence_a_document_is_cut_without_gaps():
    corpus = random_corpus()
    rules = sentence_pairs.PairRules(KEY, 40, 0.1, False)
    singles = 0
    for document in corpus.split:
        at = corpus.sentences[corpus.documents[document]]
        for a0, a1, b0, b1, is_random, _ in sweep(corpus, rules, document):
            assert not is_random
            assert a0 == at
            assert b0 == a1
            singles += b0 == b1
            at = b1
        assert at == corpus.sentences[corpus.documents[document + 1]]
    assert singles > 0
    assert sentence_pairs.sequence_length(100, 0, 40) == 43
    assert sentence_pairs.sequence_length(7, 0, 40) == 9


def test_the_only_document_is_its_own_random_next():
    corpus = random_corpus(split=[3])
    found = sweep(corpus, sentence_pairs.PairRules(KEY, 20, 0.0, True), 3)
    first, stop = corpus.sentences[corpus.documents[[3, 4]]]
    randoms = [f for f in found if f[4]]
    assert randoms
    assert all(first <= b0 < b1 <= stop for _, _, b0, b1, _, _ in randoms)


def test_partial_entries_are_visited_by_their_share():
    corpus = frozen(random_corpus()._replace(entry_share=np.full(40, 0.25)))
    rules, passes = sentence_pairs.PairRules(KEY, 40, 0.1, True), 4000
    index, _ = make_index(corpus, rules, passes=passes, with_lengths=False)
    visited = (np.diff(index.first) > 0).reshape(passes, 40)
    # A share off by 0.01 is 9 standard errors away.
    assert abs(visited.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / visited.size)
    assert visited.any(axis=0).all()


def test_finding_a_sequence_does_not_read_the_document_before_its_mark():
    """So it costs no more in a long document. The sentences before the mark are made nonsense here: read,
    they would give another sequence."""
    two = np.arange(2)
    sentences, documents = np.arange(0, 20_001 * 12, 12), np.array([0, 10_000, 20_000])
    corpus = frozen(sentence_pairs.Corpus(sentences, documents, two, two, np.zeros(2, np.int64), np.ones(2)))
    rules = sentence_pairs.PairRules(KEY, 125, 0.1, False)
    index, _ = make_index(corpus, rules, with_lengths=False)
    last = int(index.first[1]) - 1
    mark = last // sentence_pairs.MARK_EVERY
    assert mark > 10
    assert last - mark * sentence_pairs.MARK_EVERY < sentence_pairs.MARK_EVERY
    expected = sentence_pairs.find_sequence(corpus, rules, index, last)
    assert expected[2] - expected[1] > 0
    nonsense = sentences.copy()
    nonsense[: index.marks[mark]] = -(10**6)
    damaged = frozen(corpus._replace(sentences=nonsense))
    assert sentence_pairs.find_sequence(damaged, rules, index, last) == expected
