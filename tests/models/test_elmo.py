"""ELMo against a transcription of its equations in NumPy, its softmax, and what its states may depend on."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_lstm import lstm, sigmoid

from bertjax import sharding
from bertjax.config import default
from bertjax.data.tokenizers.characters import sentence_characters
from bertjax.models import elmo, elmo_layers
from bertjax.models.layers import bind_module, cross_entropy, dropout_keys, init_module

SENTENCES = (("The", "cat", "sat"), ("né",), ("a", "b", "internationalisation"))
WORDS = 40
KEYS = dropout_keys(jnp.array([7, 11], jnp.uint32), jnp.arange(len(SENTENCES)))


def toy_config(**fields):
    config = default("bidirectional_lm").model
    config.update(
        vocab_size=WORDS, characters=9, character_size=4, filters=((1, 3), (2, 2), (5, 4)), cells=6,
        projection=5, clip=0.2, dtype="float32",
    )  # fmt: skip
    config.update(fields)
    return config


def init_params(config, key, parts=elmo_layers.PARTS):
    return init_module(lambda rngs: elmo_layers.LanguageModels(config, rngs, parts), key)


def bind(config, params, norm=False):
    return bind_module(lambda rngs: elmo_layers.LanguageModels(config, rngs, elmo_layers.PARTS, norm), params)


@functools.cache
def parameters():
    """Larger than they begin, so that clipping and every gate count, and the mix is not the mean."""
    params = jax.jit(lambda key: init_params(toy_config(), key))(jax.random.key(0))
    params["mix_bias"] += jnp.array([0.5, -1.0, 2.0])
    params["mix_scale"] *= 1.7
    params["characters"] = {
        name: x if name == "embedding" else 3 * x + 0.05 for name, x in params["characters"].items()
    }
    params["lstm"] = jax.tree.map(lambda x: 2 * x, params["lstm"])
    return params


@functools.cache
def batch(packed=False, more=0):
    """The sentences, one a row, or all in one row with padding between them."""
    most = toy_config().characters
    characters = [sentence_characters(words, most) for words in SENTENCES]
    rng = np.random.default_rng(1)
    words = [rng.integers(0, WORDS, len(each)) for each in characters]
    gap = 1 if packed else 0
    sizes = [len(each) + gap for each in characters]
    shape = (1, sum(sizes)) if packed else (len(sizes), max(sizes) + more)
    ids, segments = np.zeros((*shape, most), np.int32), np.zeros(shape, np.int32)
    word_ids = np.zeros(shape, np.int32)
    for i, place in enumerate(places(packed)):
        ids[place], segments[place], word_ids[place] = characters[i], i + 1, words[i]
    return {"character_ids": ids, "segment_ids": segments, "word_ids": word_ids}


def places(packed):
    """Where each sentence lies: (row, positions)."""
    start = 0
    for i, words in enumerate(SENTENCES):
        size = len(words) + 2
        yield (0, slice(start, start + size)) if packed else (i, slice(size))
        start += size + 1


@jax.jit
def states_and_mixes(params, batch):
    """All layers, their mix, and the mix of normalised layers."""
    states = bind(toy_config(), params).states(batch)
    return states, [bind(toy_config(), params, norm).mix(states) for norm in (False, True)]


def expected_states(config, params, ids):
    """The layers of one sentence, each [S, 2, P], float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    read = p["characters"]
    x = []
    for word in ids:
        letters, found = read["embedding"][word], []
        for width, count in config.filters:
            kernel, bias = read[f"width_{width}_kernel"], read[f"width_{width}_bias"]
            for n in range(count):
                at = [(letters[i : i + width] * kernel[:, :, n]).sum() for i in range(len(word) - width + 1)]
                found.append(max(max(at) + bias[n], 0.0))
        y = np.array(found)
        for i in range(config.highway_layers):
            kernel, bias = read["highway_kernel"][i], read["highway_bias"][i]
            carry = sigmoid(y @ kernel[:, 0] + bias[0])
            y = carry * np.maximum(y @ kernel[:, 1] + bias[1], 0) + (1 - carry) * y
        x.append(y @ read["projection_kernel"] + read["projection_bias"])
    x = np.array(x)
    layers = [np.stack([x, x], 1)]
    for i in range(config.layers):
        below = layers[-1]
        h = np.stack([lstm(p["lstm"][f"layer_{i}"], r, below[:, r], config.clip) for r in (0, 1)], 1)
        layers.append(h + below if i else h)
    return layers


def expected_mix(params, layers, norm):
    weights = np.exp(np.asarray(params["mix_bias"], np.float64))
    flat = [each.reshape(len(each), -1) for each in layers]
    if norm:
        flat = [(x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for x in flat]
    return float(params["mix_scale"][0]) * sum(
        w * x for w, x in zip(weights / weights.sum(), flat, strict=True)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_states_and_mix_equal_the_equations(packed):
    config, params = toy_config(), parameters()
    found, mixes = states_and_mixes(params, batch(packed))
    assert np.abs(found[1]).max() == np.float32(config.clip)
    for place in places(packed):
        expected = expected_states(config, params, batch(packed)["character_ids"][place])
        for layer, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(layer[place], right, atol=1e-5)
        for norm, mixed in enumerate(mixes):
            np.testing.assert_allclose(mixed[place], expected_mix(params, expected, norm), atol=1e-5)
    assert not any(np.any(np.asarray(layer)[batch(packed)["segment_ids"] == 0]) for layer in found)


@pytest.mark.parametrize("packed", [False, True])
def test_a_direction_depends_on_no_word_behind_its_state(packed):
    """Forward: words after; backward: words before; both: other sentences. By value and by gradient."""
    config, params = toy_config(clip=0.0), parameters()
    whole = batch(packed)
    row, place = list(places(packed))[2]
    at = place.start + 2 if place.start else 2

    def top(params, ids):
        return bind(config, params).states({**whole, "character_ids": ids})[-1]

    model_ids = jnp.asarray(whole["character_ids"])
    run = jax.jit(top)
    base = run(params, model_ids)
    inside = np.zeros(whole["segment_ids"].shape, bool)
    inside[row, place] = True
    position = np.arange(inside.shape[1])
    outside = ~inside[row]
    sides = (0, outside | (position > at)), (1, outside | (position < at))
    for direction, unseen in sides:
        changed = model_ids.at[:, unseen].set(7)
        np.testing.assert_array_equal(run(params, changed)[row, at, direction], base[row, at, direction])
        seen = np.asarray(inside[row] & ~unseen)
        other = model_ids.at[row, seen].set(7)
        assert not np.allclose(run(params, other)[row, at, direction], base[row, at, direction])

    def of_vectors(x_BSP, direction):
        x = jnp.stack([x_BSP, x_BSP], axis=2)
        states = bind(config, params).lstm(x, jnp.asarray(whole["segment_ids"]))
        return jnp.sin(states[-1][row, at, direction]).sum()

    x_BSP = np.random.default_rng(0).normal(size=(*inside.shape, config.projection)).astype(np.float32)
    graded = jax.jit(jax.grad(of_vectors))
    for direction, unseen in sides:
        gradient = np.asarray(graded(x_BSP, direction))
        allowed = inside & ~unseen
        assert np.array_equal(gradient.any(-1), allowed)


def losses(config, params, batch, negatives=None, keys=None):
    """(sum, weight) of a batch, exact or among negatives."""
    model = bind(config, params)
    top = model.states(batch, keys)[-1]
    targets, weights = elmo_layers.next_words(batch["word_ids"], batch["segment_ids"])
    if negatives is None:
        loss, _ = model.losses(top, targets)
    else:
        loss = model.sampled_losses(top, targets, negatives, keys)
    return (loss * weights).sum(), weights.sum()


def test_the_loss_is_of_the_next_and_the_previous_word_and_packing_does_not_change_it():
    config, params = toy_config(), parameters()
    exact = jax.jit(jax.value_and_grad(functools.partial(losses, config), has_aux=True))
    (loss, weight), gradient = exact(params, batch())
    total, count = 0.0, 0
    kernel, bias = (np.asarray(params[f"softmax_{name}"], np.float64)[:WORDS] for name in ("kernel", "bias"))
    for place in places(False):
        top = expected_states(config, params, batch()["character_ids"][place])[-1]
        words = batch()["word_ids"][place]
        for direction, states, following in ((0, top[:-1], words[1:]), (1, top[1:], words[:-1])):
            logits = states[:, direction] @ kernel.T + bias
            total += (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(following)), following]).sum()
            count += len(following)
    assert weight == count
    np.testing.assert_allclose(loss, total, rtol=1e-6)
    (packed_loss, packed_weight), packed_gradient = exact(params, batch(packed=True))
    assert packed_weight == weight
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, packed_gradient)


def test_negatives_are_drawn_one_by_one_without_repeats():
    """The first ones' shares against draws with repeats left out, by chi-square (mean 39, deviation 8.8)."""
    samples, draws = 7, 4000
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = jax.vmap(lambda key: elmo_layers.draw_negatives(key, WORDS, samples))(keys)
    ids = np.asarray(drawn.ids_K)
    assert ids.shape == (draws, samples + 1)
    assert all(len(set(row)) == samples + 1 for row in ids)
    p = np.log((np.arange(WORDS) + 2) / (np.arange(WORDS) + 1)) / math.log(WORDS + 1)
    np.testing.assert_allclose(p.sum(), 1.0)
    first = np.bincount(ids[:, 0], minlength=WORDS)
    assert ((first - draws * p) ** 2 / (draws * p)).sum() < 39 + 4 * 8.8
    # The second, given the first.
    second = np.bincount(ids[:, 1], minlength=WORDS)
    expected = draws * np.array([p[v] * (p / (1 - p)).sum() - p[v] ** 2 / (1 - p[v]) for v in range(WORDS)])
    assert ((second - expected) ** 2 / expected).sum() < 39 + 4 * 8.8
    # The mean of 1 / P(v is among the first samples by the time that ended it) over those that are is 1.
    among = np.asarray(ids[:, :-1, None] == np.arange(WORDS)).any(1)
    counts = among / -np.expm1(-p * np.asarray(drawn.times[0])[:, None])
    errors = counts.std(0) / math.sqrt(draws)
    assert np.abs((counts.mean(0) - 1) / errors).max() < 4.5


def softmax_problem():
    """x [P], kernel [V, P] and bias [V] by which no word is so rare that its mean says nothing."""
    rng = np.random.default_rng(3)
    return tuple(jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for shape in (4, (WORDS, 4), WORDS))


def test_the_sampled_gradient_is_unbiased_where_the_full_one_is():
    """For labels of the model's own distribution the full softmax's mean gradient is 0, and so is the sampled
    one's: within 4.5 standard errors of the mean of 20,000 draws in each of 204 numbers, which a right
    program passes in 998 of 1,000 seeds. With other labels neither is 0."""
    x, kernel, bias = softmax_problem()
    logits = kernel @ x + bias
    draws = 20_000

    def loss(x, kernel, bias, label, key):
        negatives = elmo_layers.draw_negatives(key, WORDS, 7)
        return elmo_layers.sampled_cross_entropy(x, kernel, bias, label, negatives, WORDS)

    @jax.jit
    def moments(labels, keys):
        each = jax.vmap(jax.grad(loss, (0, 1, 2)), (None, None, None, 0, 0))(x, kernel, bias, labels, keys)
        return jax.tree.map(lambda g: (g.mean(0), g.std(0) / math.sqrt(draws)), each)

    def largest(labels, seed):
        found = moments(labels, jax.random.split(jax.random.key(seed), draws))
        return max(float(jnp.abs(mean / error).max()) for mean, error in found)

    own = jax.random.categorical(jax.random.key(1), logits, shape=(draws,))
    assert largest(own, 2) < 4.5
    assert largest(jnp.roll(own, 1) // 2, 2) > 20


def test_with_nearly_all_words_the_sampled_gradient_is_nearly_the_full_one():
    """With V - 2 samples it is over all words but one, each of known expected count."""
    x, kernel, bias = softmax_problem()
    draws, label = 2000, jnp.int32(3)

    def sampled(x, key):
        negatives = elmo_layers.draw_negatives(key, WORDS, WORDS - 2)
        return elmo_layers.sampled_cross_entropy(x, kernel, bias, label, negatives, WORDS)

    each = jax.vmap(jax.grad(sampled), (None, 0))(x, jax.random.split(jax.random.key(0), draws))
    full = jax.grad(lambda x: cross_entropy(kernel @ x + bias, label)[0])(x)
    np.testing.assert_allclose(each.mean(0), full, atol=0.1 * np.abs(full).max())


def test_a_label_among_the_negatives_is_not_its_own_rival():
    x, kernel, bias = softmax_problem()
    negatives = elmo_layers.draw_negatives(jax.random.key(0), WORDS, 7)
    p = np.log1p(1 / (np.arange(WORDS) + 1)) / math.log(WORDS + 1)
    first, spare = np.asarray(negatives.ids_K[:-1]), int(negatives.ids_K[-1])
    [absent] = [v for v in range(WORDS) if v not in first and v != spare][:1]
    for label in (int(first[0]), spare, absent):
        rivals = [v for v in (*first, *([spare] if label in first else [])) if v != label]
        assert len(rivals) == 7
        time = float(negatives.times[label in (*first, spare)])
        logits = np.asarray(kernel @ x + bias) - np.log(-np.expm1(-p * time))
        expected = np.log(np.exp(logits[[label, *rivals]]).sum()) - logits[label]
        found = elmo_layers.sampled_cross_entropy(x, kernel, bias, jnp.int32(label), negatives, WORDS)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dropout_follows_from_the_rows_keys_and_not_from_padding():
    config, params = toy_config(dropout_prob=0.4), parameters()
    negatives = elmo_layers.draw_negatives(jax.random.key(0), WORDS, 7)

    @jax.jit
    def loss(batch, keys):
        return losses(config, params, batch, negatives, keys)[0]

    found = loss(batch(), KEYS)
    assert found == loss(batch(), KEYS)
    assert not np.allclose(found, loss(batch(), KEYS[::-1]), rtol=1e-3)
    np.testing.assert_allclose(loss(batch(more=2), KEYS), found, rtol=1e-5)
    swapped = jax.tree.map(lambda x: x[::-1], (batch(), KEYS))
    np.testing.assert_allclose(loss(*swapped), found, rtol=1e-5)


def test_parameters_have_the_published_number_and_rows_in_the_table():
    config = default("bidirectional_lm").model
    shapes = jax.eval_shape(lambda: elmo.KIND.init_params(config, jax.random.key(0), ()))
    assert shapes.keys() == {"encoder"}
    sizes = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes["encoder"].items()}
    # The paper's authors publish 93.6 million, without the softmax.
    assert sizes["lstm"] == 4 * (1024 * 16384 + 16384 + 4096 * 512)
    assert sum(sizes.values()) == 93_600_864
    parts = elmo.KIND.parts
    every = jax.eval_shape(lambda: elmo.KIND.init_params(config, jax.random.key(0), parts, 3))
    assert every["softmax_kernel"].shape == (793_472, 512)
    assert elmo.KIND.parts_of(every) == parts
    sharding.state_shardings(elmo.KIND.sharding, every, jax.make_mesh((1, 1, 1), sharding.AXES))


def test_highways_begin_by_carrying_most_of_their_input():
    """The paper's code: a bias of -2 of the gate, so that a sigmoid of it, 0.12, is taken of what is new."""
    params = jax.jit(lambda key: init_params(toy_config(), key, ()))(jax.random.key(0))
    bias_NGM = params["characters"]["highway_bias"]
    assert (bias_NGM[:, 0] == -2).all()
    assert not bias_NGM[:, 1].any()
