"""The parameters of BERT: how many, of which shapes, and how they are drawn."""

import math

import jax
import numpy as np
import pytest
from store_fixture import toy_config

from bertjax.config import default, set_size
from bertjax.models import bert
from bertjax.models.layers import padded_vocab_size


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def initial_params(config):
    """Shapes of a pre-training model's."""
    parts = bert.KIND.heads["pretraining"]
    return jax.eval_shape(lambda: bert.KIND.init_params(config, jax.random.key(0), parts))


# Parameters of Google's two releases with both heads (vocabulary of 30522, without padding).
@pytest.mark.parametrize(("size", "released"), [("base", 110_106_428), ("large", 336_226_108)])
def test_parameter_counts(size, released):
    config = set_size(default(), size).model
    params = initial_params(config)
    padding = padded_vocab_size(config.vocab_size) - config.vocab_size
    assert padding == 70
    assert count(params) == released + padding * (config.hidden_size + 1)


@pytest.mark.parametrize("size", bert.KIND.sizes)
def test_every_size_has_its_layers(size):
    config = set_size(default(), size).model
    layers, hidden, heads, _ = bert.KIND.sizes[size].values()
    params = initial_params(config)["encoder"]["layers"]
    assert params["attention"]["output_kernel"].shape == (layers, heads, hidden // heads, hidden)
    assert params["intermediate_kernel"].shape == (layers, hidden, 4 * hidden)


def test_initial_parameters():
    config = toy_config(**{"model.hidden_size": 64, "model.vocab_size": 500}).model
    parts = bert.KIND.heads["pretraining"]
    params = jax.jit(lambda: bert.KIND.init_params(config, jax.random.key(0), parts))()
    flat = {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x)
            for p, x in jax.tree_util.tree_leaves_with_path(params)}  # fmt: skip
    # Cutting a normal distribution at two deviations leaves 0.8796 of its deviation.
    for name, x in flat.items():
        assert x.dtype == np.float32
        if name.endswith("scale"):
            assert (x == 1).all(), name
        elif name.endswith("bias"):
            assert (x == 0).all(), name
        else:
            if name.endswith("word"):
                assert not x[500:].any()
                x = x[:500]
            assert np.abs(x).max() <= 0.04, name
            assert np.abs(x).max() > 0.035 or x.size < 500, name
            assert abs(x.std() / (0.02 * 0.8796) - 1) < 4 / math.sqrt(x.size), name
            assert abs(x.mean()) < 4 * 0.02 / math.sqrt(x.size), name
    # No two rows of the matrices, of one layer or of two, are the same draw.
    firsts = [x.reshape(-1, x.shape[-1])[:, 0] for name, x in flat.items() if name.endswith("kernel")]
    firsts = np.concatenate(firsts)
    assert len(np.unique(firsts)) > 0.999 * len(firsts)


def test_initial_parameters_follow_from_the_key_alone():
    config = toy_config().model
    init = jax.jit(lambda seed: bert.KIND.init_params(config, jax.random.key(seed), ("mlm",)))
    one, same, other = init(0), init(0), init(1)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert (one["mlm_kernel"] != other["mlm_kernel"]).any()
