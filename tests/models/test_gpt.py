"""GPT: causality, packing, scanning and dropout; its numbers are compared with PyTorch's in tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from store_fixture import toy_config

from bertjax import sharding
from bertjax.models import bert, gpt
from bertjax.models.layers import dropout_keys
from bertjax.models.transformer import REMAT
from bertjax.sharding import path_name

LENGTH, CHANGED = 14, 9  # of a row, and the position of the token that is changed
KEYS = dropout_keys(jnp.array([7, 11], jnp.uint32), jnp.arange(3))


def gpt_config(**fields):
    return toy_config(task="language_model", **fields).model


def random_params(config, parts=(), labels=0):
    abstract = jax.eval_shape(lambda: gpt.KIND.init_params(config, jax.random.key(0), parts, labels))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), abstract)


def make_batch(config, packed=False):
    """Three rows, each with two tokens of padding; packed: of two segments, 5 tokens and 7."""
    rng = np.random.default_rng(1)
    position = np.arange(LENGTH)
    second = packed & (position >= 5)
    ids = rng.integers(1, config.vocab_size, (3, LENGTH))
    rows = {"position_ids": position - 5 * second, "segment_ids": (1 + second) * (position < LENGTH - 2)}
    batch = {"input_ids": ids, **{name: np.broadcast_to(x, ids.shape) for name, x in rows.items()}}
    return {name: x.astype(np.int32) for name, x in batch.items()}


def changed(batch):
    """The batch with another token at CHANGED."""
    ids = batch["input_ids"].copy()
    ids[:, CHANGED] = ids[:, CHANGED] % 90 + 1
    return batch | {"input_ids": ids}


@pytest.mark.parametrize("packed", [False, True])
def test_no_position_sees_a_later_one(packed):
    config = gpt_config()
    params = random_params(config)
    states = jax.jit(
        lambda batch: gpt.KIND.bind(config, params).encoder(batch, packed=packed, keys=KEYS, every_layer=True)
    )
    batch = make_batch(config, packed)
    one, other = states(batch), states(changed(batch))
    assert one.shape == (3, 3, LENGTH, 32)  # padding is no exception
    np.testing.assert_array_equal(one[:, :, :CHANGED], other[:, :, :CHANGED])
    assert (np.abs(one - other)[:, :, CHANGED : LENGTH - 2].max((0, 1, 3)) > 1e-3).all()


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_go_to_no_later_position(packed):
    """The gradient of each position's state with respect to what stands at every position."""
    config = gpt_config()
    params, batch = random_params(config), make_batch(config, packed)
    encoder = gpt.KIND.bind(config, params).encoder
    position = np.arange(LENGTH)
    inputs = params["encoder"]["embeddings"]["word"][batch["input_ids"][:1]]

    def state(x_BSD, read):
        encoder = gpt.KIND.bind(config, params).encoder
        encoder.embeddings = lambda batch, dtype, keys: x_BSD
        row = {name: x[:1] for name, x in batch.items()}
        return encoder(row, packed=packed)[0, read].sum()

    assert encoder.causal
    norms = jax.jit(jax.vmap(lambda read: jnp.abs(jax.grad(state)(inputs, read)[0]).max(-1)))(position)
    segments = batch["segment_ids"][0]
    sees = (position[:, None] >= position) & (segments > 0) & (segments[:, None] > 0)
    sees &= segments[:, None] == segments
    real = segments > 0
    np.testing.assert_array_equal(norms[real] > 1e-4, sees[real])
    assert (norms[real][~sees[real]] == 0).all()


def test_packed_rows_equal_unpacked_ones():
    config = gpt_config()
    params = random_params(config)
    batch = make_batch(config, packed=True)
    encoder = jax.jit(lambda batch: gpt.KIND.bind(config, params).encoder(batch, packed=True))
    both = encoder(batch)
    for segment, part in ((1, slice(0, 5)), (2, slice(5, LENGTH - 2))):
        alone = encoder({name: x[:, part] for name, x in batch.items()})
        np.testing.assert_allclose(both[:, part], alone, atol=1e-5, err_msg=str(segment))


@pytest.mark.parametrize(
    ("scan", "remat"), [(False, "none"), *((True, remat) for remat in REMAT if remat != "none")]
)
def test_options_change_no_loss_and_no_gradient(scan, remat):
    plain, other = gpt_config(), gpt_config(**{"model.scan_layers": scan})
    params, batch = random_params(plain), make_batch(plain)

    def loss(params, config, remat):
        module = gpt.KIND.bind(config, params, remat=remat)
        logits = module.language_model(module.encoder(batch, keys=KEYS))
        labels, weights = gpt.next_tokens(batch["input_ids"], batch["segment_ids"])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
        return -(chosen * weights).sum() / weights.sum()

    found = [
        jax.jit(jax.value_and_grad(functools.partial(loss, config=config, remat=of_layers)))(params)
        for config, of_layers in ((plain, "none"), (other, remat))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_dropout_follows_the_key():
    config = gpt_config()
    params, batch = random_params(config, ("score",), 3), make_batch(config)
    extract = np.array([[4], [7], [11]], np.int32)

    @jax.jit
    def gradient(keys):
        def loss(params):
            module = gpt.KIND.bind(config, params)
            x_BND = module.encoder(batch, keys=keys, positions_BM=extract)
            return (module.class_logits(x_BND, keys) ** 2).sum()

        return jax.grad(loss)(params)

    same = jax.tree.map(np.array_equal, gradient(KEYS), gradient(KEYS))
    assert jax.tree.all(same)
    other = jax.tree.map(np.array_equal, gradient(KEYS), gradient(dropout_keys(KEYS[0], jnp.arange(3))))
    assert not jax.tree.leaves(other["score_kernel"])[0]
    assert not other["encoder"]["layers"]["output_kernel"]

    module, states = gpt.KIND.bind(config, params), jnp.ones((3, 1, 32))
    dropped = module.class_logits(states, KEYS) != module.class_logits(states)
    assert dropped.any()  # there is a dropout before the head too
    np.testing.assert_allclose(module.class_logits(states)[0, 0], params["score_kernel"].sum(0), rtol=1e-5)


def test_the_heads_and_their_sharding():
    config = gpt_config()
    for head, labels, bias in (("multiple_choice", 1, True), ("sequence_classification", 4, False)):
        params = random_params(config, gpt.KIND.heads[head], labels)
        assert gpt.KIND.parts_of(params) == gpt.KIND.heads[head]
        module = gpt.KIND.bind(config, params)
        states = jnp.zeros((2, 3, 32))
        assert module.class_logits(states).shape == (2, 3, labels)
        np.testing.assert_allclose(
            module.class_logits(states)[0, 0], params["classifier_bias"] if bias else 0
        )
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        axes = sharding.spec(gpt.KIND.sharding, path_name(path), x.ndim)
        assert len(axes) == x.ndim
    assert sharding.spec(gpt.KIND.sharding, "score_kernel", 2)[0] == "fsdp"


def test_logits_are_the_tied_embeddings_without_the_padding():
    config = gpt_config()
    params = random_params(config)
    states = np.random.default_rng(2).normal(size=(1, 2, 32)).astype(np.float32)
    logits = gpt.KIND.bind(config, params).language_model(states)
    word = params["encoder"]["embeddings"]["word"]
    np.testing.assert_allclose(logits[..., :96], states @ word[:96].T, rtol=1e-4, atol=1e-5)
    assert logits.shape[-1] == 128
    assert (logits[..., 96:] < -1e8).all()


def test_next_tokens():
    ids = np.array([[5, 6, 7, 8, 9, 0]], np.int32)
    labels, weights = gpt.next_tokens(ids, np.array([[1, 1, 1, 2, 2, 0]], np.int32))
    np.testing.assert_array_equal(labels, [[6, 7, 8, 9, 0, 0]])
    np.testing.assert_array_equal(weights, [[1, 1, 0, 1, 0, 0]])


def test_initial_parameters_are_normal():
    config = gpt_config(**{"model.hidden_size": 64, "model.vocab_size": 1000})
    params = gpt.KIND.init_params(config, jax.random.key(0), ())
    word = params["encoder"]["embeddings"]["word"]
    assert 0.0195 < word[:1000].std() < 0.0205
    assert np.abs(word).max() > 0.06  # beyond what BERT's truncation leaves
    assert not word[1000:].any()
    kernel = params["encoder"]["layers"]["intermediate_kernel"]
    assert np.abs(kernel).max() > 0.05
    of_bert = toy_config(**{"model.hidden_size": 64, "model.vocab_size": 1000}).model
    truncated = bert.KIND.init_params(of_bert, jax.random.key(0), ())["encoder"]["layers"]
    assert np.abs(truncated["intermediate_kernel"]).max() <= 0.04


def test_new_tokens_get_embeddings():
    config = gpt_config(**{"model.vocab_size": 127})
    params = gpt.KIND.init_params(config, jax.random.key(0), ())
    more = gpt.with_new_embeddings(config, params, 130, jax.random.key(1))
    old, new = (p["encoder"]["embeddings"]["word"] for p in (params, more))
    np.testing.assert_array_equal(new[:127], old[:127])
    assert new.shape == (256, 32)
    assert 0 < np.abs(new[127:130]).min() < np.abs(new[127:130]).max() < 0.1
    assert not new[130:].any()
    np.testing.assert_array_equal(params["encoder"]["embeddings"]["position"],
                                  more["encoder"]["embeddings"]["position"])  # fmt: skip
    with pytest.raises(ValueError, match="120 tokens are fewer"):
        gpt.with_new_embeddings(config, params, 120, jax.random.key(1))
