import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models.layers import ACTIVATIONS, cross_entropy, dropout, dropout_keys, fold_in, layer_norm

SEED = jnp.array([0x12345678, 0x9ABCDEF0], jnp.uint32)


def masks(keys, shape, rate=0.5):
    """bool [B, elements]: what dropout keeps."""
    ones = jnp.ones((len(keys), *shape), jnp.float32)
    return np.asarray(dropout(ones, rate, keys) > 0).reshape(len(keys), -1)


def largest_correlation(kept, rate=0.5):
    """In standard errors, the largest correlation of two different rows of bool [B, elements]."""
    x = (kept - (1 - rate)) / math.sqrt(rate * (1 - rate))
    correlation = x @ x.T / math.sqrt(x.shape[1])
    return np.abs(correlation[~np.eye(len(x), dtype=bool)]).max()


def test_layer_norm_against_float64():
    rng = np.random.default_rng(0)
    x, scale, bias = rng.normal(3, 2, (4, 5, 64)), rng.normal(1, 0.1, 64), rng.normal(0, 0.1, 64)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * scale + bias
    found = layer_norm(*(jnp.asarray(a, jnp.float32) for a in (x, scale, bias)), 1e-12)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_layer_norm_eps_is_inside_the_root_and_a_constant_row_gives_the_bias():
    x = jnp.array([[1.0, -1.0], [7.0, 7.0]])
    found = layer_norm(x, jnp.full(2, 2.0), jnp.full(2, 0.5), 3.0)
    np.testing.assert_allclose(found, [[0.5 + 2 / 2, 0.5 - 2 / 2], [0.5, 0.5]], rtol=1e-6)
    assert np.isfinite(layer_norm(x, jnp.ones(2), jnp.zeros(2), 1e-12)).all()


def test_layer_norm_has_float32_statistics_under_bfloat16():
    # Around 100 a bfloat16 is a multiple of 0.5, so a bfloat16 mean would be off by half a deviation.
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(100, 0.6, (32, 256)), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    found = layer_norm(x, jnp.ones(256), jnp.zeros(256), 1e-12)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-6)


def test_activations_are_the_ones_that_hugging_face_names():
    x = np.linspace(-5, 5, 101)
    erf = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    expected = {"gelu": erf, "gelu_new": tanh, "gelu_pytorch_tanh": tanh, "relu": np.maximum(x, 0)}
    assert np.abs(erf - tanh).max() > 3e-4
    assert ACTIVATIONS.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), values, atol=2e-6)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_dropout_drops_its_rate_and_scales_the_rest_exactly(rate):
    x = jnp.linspace(1, 2, 64 * 40 * 50).reshape(64, 40, 50)
    found = np.asarray(dropout(x, rate, dropout_keys(SEED, jnp.arange(64))))
    kept = found != 0
    assert abs(kept.mean() - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / kept.size)
    np.testing.assert_array_equal(found[kept], (np.asarray(x) * np.float32(1 / (1 - rate)))[kept])


def test_dropout_in_bfloat16_stays_bfloat16():
    found = dropout(jnp.ones((2, 300), jnp.bfloat16), 0.1, dropout_keys(SEED, jnp.arange(2)))
    assert found.dtype == jnp.bfloat16
    assert set(np.unique(np.asarray(found, np.float32))) == {0.0, float(jnp.bfloat16(1 / 0.9))}


def test_no_dropout_at_rate_0_and_without_keys():
    x = jnp.ones((2, 3))
    assert dropout(x, 0.0, dropout_keys(SEED, jnp.arange(2))) is x
    assert dropout(x, 0.5, None) is x


# Of 128 masks of 4096 elements, the largest correlation of the 8128 pairs is below 5.5 standard errors but
# for one seed in a thousand, and the seeds are fixed.
def test_rows_have_uncorrelated_masks():
    assert largest_correlation(masks(dropout_keys(SEED, jnp.arange(128)), (64, 64))) < 5.5


def test_neighbouring_seeds_have_uncorrelated_masks():
    pairs = jnp.array([[a, b] for a in range(12) for b in range(10)], jnp.uint32)
    keys = jnp.concatenate([dropout_keys(pair, jnp.arange(1)) for pair in pairs])
    assert largest_correlation(masks(keys, (64, 64))) < 5.5


def test_steps_have_uncorrelated_masks():
    root = jax.random.key(1)
    seeds = [jax.random.bits(jax.random.fold_in(root, step), (2,), jnp.uint32) for step in range(96)]
    keys = jnp.concatenate([dropout_keys(seed, jnp.arange(1)) for seed in seeds])
    assert largest_correlation(masks(keys, (64, 64))) < 5.5


def test_sites_have_uncorrelated_masks():
    # Every place of a model of 24 layers, as the encoder numbers them.
    row = dropout_keys(SEED, jnp.arange(1))
    keys = [fold_in(row, 0)]
    keys += [fold_in(fold_in(row, layer), site) for layer in range(1, 25) for site in range(3)]
    assert largest_correlation(masks(jnp.concatenate(keys), (64, 64))) < 5.5


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_neighbouring_elements_are_uncorrelated(rate):
    shape = (4, 64, 64)
    kept = masks(dropout_keys(SEED, jnp.arange(32)), shape, rate).reshape(32, *shape)
    x = (kept - (1 - rate)) / math.sqrt(rate * (1 - rate))
    worst = 0.0
    for head, row, column in itertools.product(range(3), range(4), range(4)):
        if head or row or column:
            a = x[:, head:, row:, column:]
            b = x[:, : 4 - head, : 64 - row, : 64 - column]
            worst = max(worst, abs((a * b).sum()) / math.sqrt(a.size))
    assert worst < 4.5  # of 47 normal variables


def test_patterns_of_eight_elements_are_equally_frequent():
    kept = masks(dropout_keys(SEED, jnp.arange(64)), (64, 64))
    patterns = np.packbits(kept.reshape(-1, 8), axis=-1).ravel()
    expected = len(patterns) / 256
    chi_square = ((np.bincount(patterns, minlength=256) - expected) ** 2 / expected).sum()
    assert abs(chi_square - 255) < 4 * math.sqrt(2 * 255)


def test_every_element_is_dropped_equally_often_over_rows():
    kept = masks(dropout_keys(SEED, jnp.arange(4096)), (256,), rate=0.1)
    variance = 4096 * 0.1 * 0.9
    chi_square = ((kept.sum(0) - 4096 * 0.9) ** 2 / variance).sum()
    assert abs(chi_square - 256) < 4 * math.sqrt(2 * 256)
    drops = kept.shape[1] - kept.sum(1)  # and as often in one row as in another
    chi_square = ((drops - 25.6) ** 2 / (25.6 * 0.9)).sum()
    assert abs(chi_square - 4096) < 4 * math.sqrt(2 * 4096)


def test_a_large_mask_has_no_stripes():
    shape = (16, 512, 512)  # attention of 16 heads
    dropped = ~masks(dropout_keys(SEED, jnp.arange(1)), shape, rate=0.1).reshape(shape)
    for axes in ((0, 1), (0, 2), (1, 2), (0,), (1,), (2,)):
        counts = dropped.sum(axes)
        mean = dropped.size / counts.size * 0.1
        chi_square = ((counts - mean) ** 2 / (mean * 0.9)).sum()
        assert abs(chi_square - counts.size) < 5 * math.sqrt(2 * counts.size)
    for period in (2, 3, 7, 1 << 10, 1000, 1 << 16):  # along the flattened index
        whole = dropped.ravel()[: dropped.size // period * period].reshape(-1, period).sum(0)
        mean = dropped.size // period * 0.1
        assert abs(((whole - mean) ** 2 / (mean * 0.9)).sum() - period) < 5 * math.sqrt(2 * period)


def test_a_rows_mask_does_not_depend_on_the_rest_of_the_batch():
    x = jnp.ones((8, 5, 7))
    whole = dropout(x, 0.3, fold_in(dropout_keys(SEED, jnp.arange(8)), 3))
    for rows in (jnp.arange(4, 8), jnp.arange(1, 8, 2), jnp.array([6])):
        part = dropout(x[rows], 0.3, fold_in(dropout_keys(SEED, rows), 3))
        np.testing.assert_array_equal(part, whole[rows])
    other = dropout(x, 0.3, fold_in(dropout_keys(SEED, jnp.arange(8, 16)), 3))
    assert all((np.asarray(other[i]) != np.asarray(whole[i])).any() for i in range(8))


def test_the_gradient_has_the_mask_of_the_forward_pass():
    keys = dropout_keys(SEED, jnp.arange(4))
    x, weights = (jax.random.normal(jax.random.key(i), (4, 6, 8)) for i in range(2))
    found, gradient = jax.jit(
        lambda x: (dropout(x, 0.4, keys), jax.grad(lambda x: (dropout(x, 0.4, keys) * weights).sum())(x))
    )(x)
    np.testing.assert_allclose(gradient, np.where(found == 0, 0, weights / np.float32(0.6)), rtol=1e-6)


def test_cross_entropy_and_its_gradient_against_float64():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (4, 5, 12)), rng.integers(0, 10, (4, 5))
    logits[0] += 1000  # must not overflow
    logits[..., 10:] = -1e9  # as for the vocabulary's padding
    weights = rng.normal(size=(4, 5))
    log_probs = logits - logits.max(-1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probs, labels[..., None], -1)[..., 0]
    gradient = (np.exp(log_probs) - np.eye(12)[labels]) * weights[..., None]

    def weighted(x):
        loss, correct = cross_entropy(x, jnp.asarray(labels))
        return (loss * weights).sum(), (loss, correct)

    found, (loss, correct) = jax.jit(jax.grad(weighted, has_aux=True))(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(loss, expected, atol=2e-4)  # around 1000 a float32 has steps of 6e-5
    np.testing.assert_allclose(loss[1:], expected[1:], atol=2e-6)
    np.testing.assert_array_equal(correct, logits.argmax(-1) == labels)
    np.testing.assert_allclose(found, gradient, atol=1e-4)
    np.testing.assert_allclose(found[1:], gradient[1:], atol=2e-6)
    assert not np.asarray(found[..., 10:]).any()
