import numpy as np
import pytest

from bertjax.data.pretraining import masking
from bertjax.data.rng import root_key

KEY = root_key(9)
VOCAB, CLS, SEP, MASK = 50, 1, 2, 3
CONTINUATION = np.arange(VOCAB) >= 40


def make_rules(seq_length=64, prob=0.15, most=20, split=(0.8, 0.1, 0.1), whole_word=False):
    counts = masking.mask_counts(prob, most, seq_length)
    return masking.MaskRules(
        counts, *masking.split_thresholds(split), whole_word, CONTINUATION, CLS, SEP, SEP, MASK, False
    )  # fmt: skip


def apply(row, rules, key, begin=0, stop=None, filled=0):
    out = row.copy()
    positions, ids, weights = np.zeros(40, np.int32), np.zeros(40, np.int32), np.zeros(40, np.float32)
    stop = len(row) if stop is None else stop
    n = masking.mask_sequence(out, begin, stop, rules, key, positions, ids, weights, filled)
    assert weights[filled:n].all()
    assert not weights[n:].any()
    assert not weights[:filled].any()
    return out, positions[filled:n], ids[filled:n]


def random_row(n, seed=0):
    row = np.random.default_rng(seed).integers(5, VOCAB, n).astype(np.int32)
    row[[0, n // 2, n - 1]] = CLS, SEP, SEP
    return row


def test_mask_counts():
    counts = masking.mask_counts(0.15, 20, 512)
    assert counts[5] == 1
    assert counts[3] == 1  # 0.45 rounds to 0; at least one
    assert counts[10] == round(1.5) == 2
    assert counts[30] == round(4.5) == 4  # Python rounds halves to even
    assert counts[128] == 19
    assert counts[512] == 20
    assert masking.mask_counts(0.15, 77, 512)[512] == 77


def test_masks_are_never_special_tokens_and_remember_the_original():
    rules = make_rules()
    for i in range(300):
        row = random_row(40, seed=i)
        out, positions, ids = apply(row, rules, root_key(9, i))
        assert len(positions) == 6
        assert np.array_equal(positions, np.unique(positions))
        assert np.array_equal(row[positions], ids)
        assert not np.isin(ids, [CLS, SEP]).any()
        untouched = np.setdiff1d(np.arange(40), positions)
        assert np.array_equal(out[untouched], row[untouched])


def test_only_the_given_part_of_the_row_is_masked():
    row = random_row(40)
    row[10], row[29] = CLS, SEP
    out, positions, _ = apply(row, make_rules(), KEY, begin=10, stop=30, filled=3)
    assert len(positions) == 3
    assert positions.min() > 10
    assert positions.max() < 29
    assert np.array_equal(np.delete(out, range(10, 30)), np.delete(row, range(10, 30)))


def test_every_candidate_is_chosen_equally_often_and_shares_are_as_asked():
    rules = make_rules(split=(0.6, 0.3, 0.1))
    row = random_row(40)
    counts, masked, replaced, values = np.zeros(40), 0, 0, []
    n = 6000
    for i in range(n):
        out, positions, ids = apply(row, rules, root_key(9, i))
        counts[positions] += 1
        masked += (out[positions] == MASK).sum()
        changed = (out[positions] != MASK) & (out[positions] != ids)
        replaced += changed.sum()
        values.extend(out[positions[changed]])
    expected = n * 6 / 37
    assert (abs(counts[row > 4] - expected) < 5 * np.sqrt(expected)).all()
    # A random token may be [MASK] or the original itself: 1 in VOCAB each.
    assert abs(masked / (6 * n) - (0.6 + 0.3 / VOCAB)) < 5 * np.sqrt(0.24 / (6 * n))
    assert abs(replaced / (6 * n) - 0.3 * (1 - 2 / VOCAB)) < 5 * np.sqrt(0.21 / (6 * n))
    shares = np.bincount(values, minlength=VOCAB) / len(values)
    assert abs(np.delete(shares, MASK) - 1 / 49).max() < 0.006
    assert shares[0] > 0  # uniform over the whole vocabulary, specials too


@pytest.mark.parametrize("split", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_extreme_splits(split):
    row = random_row(60)
    for i in range(100):
        out, positions, ids = apply(row, make_rules(split=split), root_key(9, i))
        if split[0]:
            assert (out[positions] == MASK).all()
        if split[2]:
            assert np.array_equal(out, row)
        if split[1]:
            assert (out[positions] == ids).mean() < 0.6


def test_whole_words_are_masked_whole_and_never_too_many():
    rules = make_rules(whole_word=True)
    fewer = 0
    for i in range(500):
        row = random_row(40, seed=i)
        _, positions, _ = apply(row, rules, root_key(9, i))
        assert 0 < len(positions) <= 6
        fewer += len(positions) < 6
        candidates = np.flatnonzero((row != CLS) & (row != SEP))
        words = np.cumsum(~CONTINUATION[row[candidates]] | (np.arange(len(candidates)) == 0))
        chosen = np.isin(candidates, positions)
        for word in np.unique(words):
            assert len(np.unique(chosen[words == word])) == 1
    assert fewer < 100


def test_a_word_that_would_overflow_is_skipped():
    row = np.array([CLS, 10, 41, 42, 43, 44, 11, SEP, 12, SEP], np.int32)
    rules = make_rules(prob=0.2, whole_word=True)  # two masks; the word 10 41 42 43 44 has five pieces
    chosen = {tuple(apply(row, rules, root_key(9, i))[1]) for i in range(100)}
    assert chosen == {(6, 8)}


def test_a_row_without_candidates_gets_no_mask():
    row = np.array([CLS, SEP, SEP], np.int32)
    out, positions, _ = apply(row, make_rules(), KEY)
    assert len(positions) == 0
    assert np.array_equal(out, row)
