"""The conditional random field against a sum over all tag sequences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.models import crf, elmo

LABELS = ("O", "B-X", "I-X", "I-Y")
# A whole row, padding, words with gaps between them, no word.
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], bool)


def made():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), crf.init_params(len(LABELS)))
    # So large that the best sequences are others without them.
    params |= {name: 3 * params[name] for name in ("start_bias", "end_bias")}
    logits = jnp.asarray(rng.normal(size=(*MASK.shape, len(LABELS))))
    return params, logits, rng.integers(0, len(LABELS), MASK.shape)


def plain_score(params, logits, tags):
    """Of one sequence without gaps."""
    if not tags:
        return 0.0
    pairs = itertools.pairwise(tags)
    moved = sum(params["transitions"][a, b] for a, b in pairs)
    ends = params["start_bias"][tags[0]] + params["end_bias"][tags[-1]]
    return ends + moved + sum(logits[i, tag] for i, tag in enumerate(tags))


def sequences(params, logits, mask):
    """(score, tags) of every tag sequence of a row."""
    logits = logits[mask]
    every = itertools.product(range(len(LABELS)), repeat=len(logits))
    return [(plain_score(params, logits, tags), tags) for tags in every]


def plain_log_partition(params, logits, mask):
    return jnp.log(sum(jnp.exp(score) for score, _ in sequences(params, logits, mask)))


@pytest.mark.parametrize("only", [False, True], ids=["all", "IOB2 only"])
def test_partition_score_and_best_sequence_equal_brute_force(only):
    params, logits, tags = made()
    if only:
        params = crf.iob2_only(params, LABELS)
    partition = crf.log_partition(params, logits, MASK)
    score = crf.score(params, logits, MASK, tags)
    np.testing.assert_allclose(crf.losses(params, logits, MASK, tags), partition - score, rtol=1e-6)
    best = crf.viterbi(params, logits, MASK)
    for row, mask in enumerate(MASK):
        every = sequences(params, logits[row], mask)
        scores = np.array([each for each, _ in every])
        total = np.log(np.exp(scores - scores.max()).sum()) + scores.max()
        np.testing.assert_allclose(partition[row], total, atol=1e-5)
        right = plain_score(params, logits[row][mask], list(tags[row][mask]))
        np.testing.assert_allclose(score[row], right, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(best[row][mask], every[scores.argmax()][1])
        assert not np.any(best[row][~mask])


@pytest.mark.parametrize("only", [False, True], ids=["all", "IOB2 only"])
def test_marginals_equal_brute_force(only):
    params, logits, _ = made()
    if only:
        params = crf.iob2_only(params, LABELS)
    found = crf.marginals(params, logits, MASK)
    for row, mask in enumerate(MASK):
        every = sequences(params, logits[row], mask)
        scores = np.array([each for each, _ in every])
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        expected = np.zeros((mask.sum(), len(LABELS)))
        for share, (_, tags) in zip(shares, every, strict=True):
            expected[np.arange(len(tags)), list(tags)] += share
        np.testing.assert_allclose(found[row][mask], expected, atol=1e-5)
        assert not np.any(found[row][~mask])


def test_the_gradient_equals_brute_force_and_leaves_out_what_is_masked():
    params, logits, tags = jax.tree.map(jnp.asarray, made())

    def plain(params, logits):
        return sum(
            plain_log_partition(params, logits[row], mask)
            - plain_score(params, logits[row][mask], tags[row][mask].tolist())
            for row, mask in enumerate(MASK[1:3], 1)
        )

    found = jax.grad(lambda *of: crf.losses(*of, MASK, tags).sum(), (0, 1))(params, logits.at[0].set(0.0))
    whole = jax.grad(lambda *of: crf.losses(*of, MASK[:1], tags[:1]).sum(), (0, 1))(params, logits[:1] * 0.0)
    expected = jax.grad(plain, (0, 1))(params, logits)
    jax.tree.map(
        lambda all_rows, first, others: np.testing.assert_allclose(all_rows - first, others, atol=1e-5),
        found[0], whole[0], expected[0],
    )  # fmt: skip
    np.testing.assert_allclose(found[1][1:], expected[1][1:], atol=1e-5)
    assert not np.any(np.asarray(found[1])[~MASK])


def test_iob2_only_forbids_what_no_file_has():
    params = crf.iob2_only(crf.init_params(len(LABELS)), LABELS)
    assert [bool(x < 0) for x in params["start_bias"]] == [False, False, True, True]
    forbidden = {(LABELS[a], LABELS[b]) for a, b in np.argwhere(np.asarray(params["transitions"]) < 0)}
    assert forbidden == {
        ("O", "I-X"), ("O", "I-Y"), ("B-X", "I-Y"), ("I-X", "I-Y"), ("I-Y", "I-X")
    }  # fmt: skip
    logits = np.tile([0.0, 0.0, 5.0, 9.0], (1, 3, 1)).astype(np.float32)
    best = crf.viterbi(params, logits, np.ones((1, 3), bool))
    assert [LABELS[i] for i in best[0]] == ["B-X", "I-X", "I-X"]


def test_parameters_have_rows_in_the_table():
    params = crf.init_params(3)
    found = sharding.state_shardings(elmo.KIND.sharding, params, jax.make_mesh((1, 1, 1), sharding.AXES))
    assert jax.tree.structure(found) == jax.tree.structure(params)
