"""The model against a transcription of its equations in NumPy, and the invariants of its options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from store_fixture import make_batch, random_params, toy_config

from bertjax.data.finetuning.sequences import Row
from bertjax.data.pretraining.bert_examples import Batch as ExampleBatch
from bertjax.models import bert
from bertjax.models.layers import VOCAB_MULTIPLE, dropout_keys, padded_vocab_size, take_positions
from bertjax.models.transformer import REMAT, causal_bias
from bertjax.tasks.example_rows import PackedRows
from bertjax.tasks.pretrain import TASK as pretrain

KEYS_SEED = jnp.array([7, 11], jnp.uint32)


def normalise(x, norm):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return centred / deviation * norm["scale"] + norm["bias"]


def activation(name, x):
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def reference_hidden(config, params, batch):
    """modeling.py's encoder on one row after the other, float64 [B,S,D]."""
    rows = []
    for ids, types, positions, segments in zip(
        *(batch[name] for name in ("input_ids", "token_type_ids", "position_ids", "segment_ids")), strict=True
    ):
        e = params["encoder"]["embeddings"]
        x = normalise(e["word"][ids] + e["position"][positions] + e["token_type"][types], e["norm"])
        adder = np.where(segments > 0, 0.0, -10000.0)
        for i in range(config.num_hidden_layers):
            p = jax.tree.map(lambda stacked, i=i: stacked[i], params["encoder"]["layers"])
            attention, heads = p["attention"], []
            for n in range(config.num_attention_heads):
                q, k, v = (
                    x @ attention["qkv_kernel"][:, j, n] + attention["qkv_bias"][j, n] for j in range(3)
                )
                scores = q @ k.T / math.sqrt(config.hidden_size // config.num_attention_heads) + adder
                scores = np.exp(scores - scores.max(-1, keepdims=True))
                heads.append(scores / scores.sum(-1, keepdims=True) @ v)
            kernel = attention["output_kernel"].reshape(config.hidden_size, config.hidden_size)
            out = np.concatenate(heads, axis=-1) @ kernel + attention["output_bias"]
            x = normalise(x + out, p["attention_norm"])
            h = activation(config.hidden_act, x @ p["intermediate_kernel"] + p["intermediate_bias"])
            x = normalise(x + h @ p["output_kernel"] + p["output_bias"], p["output_norm"])
        rows.append(x)
    return np.stack(rows)


def reference_logits(config, params, batch, hidden):
    """The masked-LM logits [B,M,V] without the vocabulary's padding, and the next-sentence logits [B,N,2]."""
    rows = np.arange(len(hidden))[:, None]
    h = hidden[rows, batch["masked_lm_positions"]] @ params["mlm_kernel"] + params["mlm_bias"]
    h = normalise(activation(config.hidden_act, h), params["mlm_norm"])
    v = config.vocab_size
    mlm = h @ params["encoder"]["embeddings"]["word"][:v].T + params["mlm_output_bias"][:v]
    first = hidden[rows, batch["next_sentence_positions"]]
    pooled = np.tanh(first @ params["pooler_kernel"] + params["pooler_bias"])
    return mlm, pooled @ params["nsp_kernel"] + params["nsp_bias"]


SHAPES = [
    {},
    {"model.hidden_act": "gelu", "model.hidden_size": 36, "model.num_attention_heads": 3},
    {"model.hidden_act": "relu", "model.num_hidden_layers": 1, "model.type_vocab_size": 1},
    {"model.hidden_size": 20, "model.num_attention_heads": 5, "model.intermediate_size": 28,
     "model.vocab_size": 129, "model.num_hidden_layers": 3, "train.seq_length": 11,
     "model.scan_layers": False},
    {"model.vocab_size": 128, "model.num_attention_heads": 1, "train.seq_length": 64},
]  # fmt: skip


@pytest.mark.parametrize("fields", SHAPES, ids=str)
def test_forward_equals_the_equations_of_the_release(fields):
    config = toy_config(**fields)
    batch = make_batch(config, rows=3)
    params = random_params(config)

    @jax.jit
    def forward(params, batch):
        model = bert.KIND.bind(config.model, params)
        return model.encoder(batch, packed=False, keys=None), *model.pretraining(batch)

    hidden, mlm, nsp = forward(params, batch)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    expected_hidden = reference_hidden(config.model, exact, batch)
    expected_mlm, expected_nsp = reference_logits(config.model, exact, batch, expected_hidden)
    np.testing.assert_allclose(hidden, expected_hidden, atol=2e-5)
    np.testing.assert_allclose(mlm[..., : config.model.vocab_size], expected_mlm, atol=2e-5)
    np.testing.assert_allclose(nsp, expected_nsp, atol=2e-5)
    assert np.all(np.asarray(mlm[..., config.model.vocab_size :]) == -1e9)
    assert mlm.shape[-1] % VOCAB_MULTIPLE == 0
    assert mlm.dtype == nsp.dtype == jnp.float32


def test_bfloat16_keeps_logits_in_float32_and_near():
    fields = {"model.num_hidden_layers": 4}
    exact, rounded = toy_config(**fields), toy_config(**fields, **{"model.dtype": "bfloat16"})
    batch, params = make_batch(exact), random_params(exact)
    mlm, nsp = jax.jit(lambda params: bert.KIND.bind(exact.model, params).pretraining(batch))(params)

    @jax.jit
    def forward(params):
        model = bert.KIND.bind(rounded.model, params)
        return model.encoder(batch, packed=False, keys=None), *model.pretraining(batch)

    hidden, mlm16, nsp16 = forward(params)
    assert hidden.dtype == jnp.bfloat16
    assert mlm16.dtype == nsp16.dtype == jnp.float32
    real = slice(0, exact.model.vocab_size)
    for found, expected in ((mlm16[..., real], mlm[..., real]), (nsp16, nsp)):
        error = np.abs(np.asarray(found - expected))
        assert 0 < error.max() < 0.1 * np.abs(expected).max()


def test_attention_has_float32_scores_under_bfloat16():
    """Scores are some tens: in bfloat16 they are off by a tenth, and so are the probabilities."""
    config = toy_config(
        **{"model.dtype": "bfloat16", "model.num_attention_heads": 1, "model.hidden_size": 64}
    )
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(0, scale, (1, 16, 1, 64)), jnp.bfloat16) for scale in (2, 2, 1))
    layers = bert.KIND.bind(config.model, random_params(config)).encoder.layers
    found = layers.attention.attend(q, k, v, jnp.zeros((1, 1, 1, 16)), None)
    assert found.dtype == jnp.bfloat16
    q, k, v = (np.asarray(x, np.float64)[0, :, 0] for x in (q, k, v))
    scores = q @ k.T / 8
    assert np.abs(scores).max() > 8
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    # The probabilities are rounded to bfloat16, to within 2**-9 of each, and so is the result.
    most = 2**-8 * (probs @ np.abs(v)).max()
    assert np.abs(np.asarray(found[0, :, 0], np.float64) - probs @ v).max() < most


def loss_of(config, batch):
    """The loss as a function of the parameters, with dropout, as jitted training sees it."""
    rows = jnp.arange(len(batch["input_ids"]))

    def loss(params):
        keys = dropout_keys(KEYS_SEED, rows)
        sums = pretrain.batch_sums(config, params, batch, keys, config.train.remat)
        return pretrain.batch_loss(sums, pretrain.batch_weights(batch))

    return loss


def loss_and_gradient(config, params, batch):
    return jax.jit(jax.value_and_grad(loss_of(config, batch)))(params)


@pytest.fixture(scope="module")
def scanned():
    config = toy_config(**{"model.num_hidden_layers": 3})
    params = random_params(config)
    batch = make_batch(config)
    return params, batch, loss_and_gradient(config, params, batch)


@pytest.mark.parametrize(
    "fields",
    [{"train.remat": remat} for remat in REMAT if remat != "none"]
    + [{"model.scan_layers": False, "train.remat": remat} for remat in ("none", "full")],
    ids=str,
)  # fmt: skip
def test_unrolling_and_recomputing_change_no_loss_and_no_gradient(scanned, fields):
    params, batch, (loss, gradient) = scanned
    config = toy_config(**{"model.num_hidden_layers": 3}, **fields)
    other_loss, other_gradient = loss_and_gradient(config, params, batch)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), other_gradient, gradient
    )


def products_in(jaxpr):
    """How many products a program has, those of its parts included."""
    found = 0
    for equation in jaxpr.eqns:
        found += equation.primitive.name == "dot_general"
        for leaf in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            part = getattr(leaf, "jaxpr", leaf)
            found += products_in(part) if hasattr(part, "eqns") else 0
    return found


def test_what_each_remat_computes_again():
    """Of a layer's six products: the scores; scores and context; all. The last of the two layers has seven:
    its queries are of fewer positions than its keys and values."""
    found = {}
    for remat in REMAT:
        config = toy_config(**{"train.remat": remat, "model.scan_layers": False})
        loss = loss_of(config, make_batch(config))
        found[remat] = products_in(jax.make_jaxpr(jax.grad(loss))(random_params(config)).jaxpr)
    again = {remat: (n - found["none"]) / config.model.num_hidden_layers for remat, n in found.items()}
    assert again == {"none": 0, "attention": 1, "dots": 2, "full": 6.5}


def test_a_loop_keeps_products_and_nothing_else():
    """What each layer keeps of a token: queries, keys and values, context, two outputs of D and one of F, the
    state that it began with, and the scores."""
    found = {}
    for remat in REMAT:
        config = toy_config(**{"train.remat": remat, "model.num_hidden_layers": 3})
        batch = make_batch(config)
        jaxpr = jax.make_jaxpr(jax.grad(loss_of(config, batch)))(random_params(config)).jaxpr
        forward = next(equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
        layers, tokens = config.model.num_hidden_layers - 1, batch["input_ids"].size
        kept = [x.aval for x in forward.outvars[forward.params["num_carry"] :]]
        found[remat] = sum(x.size for x in kept if x.shape[0] == layers and x.size > layers * tokens) / (
            layers * tokens
        )
    c, length = config.model, batch["input_ids"].shape[1]
    d, f, scores = c.hidden_size, c.intermediate_size, c.num_attention_heads * length
    assert found == {"none": 7 * d + f + scores, "attention": 7 * d + f, "dots": 6 * d + f, "full": d}


def test_each_of_the_two_rates_has_a_part_in_the_loss(scanned):
    params, batch, (loss, _) = scanned
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        without = toy_config(**{"model.num_hidden_layers": 3, f"model.{field}": 0.0})
        assert abs(jax.jit(loss_of(without, batch))(params) - loss) > 2e-6  # 4 steps of a float32


def packed_and_apart():
    """A config of packed rows, a batch of one row of three sequences, and one with a sequence a row."""
    config = toy_config(**{"train.seq_length": 20, "data.pack": 3, "data.short_seq_prob": 0.0})
    rng = np.random.default_rng(3)
    names = ExampleBatch._fields
    apart = {name: np.zeros((3, 20), np.int32) for name in names[:4]}
    apart |= {name: np.zeros((3, 2), np.int32) for name in names[4:6]}
    apart |= {"masked_lm_weights": np.zeros((3, 2), np.float32)}
    apart |= {name: np.zeros((3, 1), np.int32) for name in names[7:9]}
    apart |= {"next_sentence_weights": np.ones((3, 1), np.float32)}
    packed = {
        name: np.zeros((1, 20 if i < 4 else 6 if i < 7 else 3), apart[name].dtype)
        for i, name in enumerate(names)
    }
    begin = 0
    for r, length in enumerate((7, 5, 6)):
        here, there = np.s_[r, :length], np.s_[0, begin : begin + length]
        apart["input_ids"][here] = rng.integers(5, config.model.vocab_size, length)
        apart["token_type_ids"][here] = np.arange(length) > 3
        apart["position_ids"][here] = np.arange(length)
        apart["segment_ids"][here] = 1
        apart["masked_lm_positions"][r] = rng.permutation(length)[:2]
        apart["masked_lm_ids"][r] = rng.integers(5, config.model.vocab_size, 2)
        apart["masked_lm_weights"][r, : 1 + r % 2] = 1
        apart["next_sentence_labels"][r] = r % 2
        for name in names[:3]:
            packed[name][there] = apart[name][here]
        packed["segment_ids"][there] = r + 1
        for name in names[4:7]:
            packed[name][0, 2 * r : 2 * r + 2] = apart[name][r]
        packed["masked_lm_positions"][0, 2 * r : 2 * r + 2] += begin
        for name in names[7:]:
            packed[name][0, r] = apart[name][r, 0]
        packed["next_sentence_positions"][0, r] = begin
        begin += length
    return config, packed, apart


def test_packed_rows_equal_the_same_sequences_apart():
    config, packed, apart = packed_and_apart()
    params = random_params(config)
    forward = jax.jit(
        lambda params, batch, packed: bert.KIND.bind(config.model, params).pretraining(batch, packed=packed),
        static_argnums=2,
    )
    mlm, nsp = forward(params, packed, True)
    mlm_apart, nsp_apart = forward(params, apart, False)
    np.testing.assert_allclose(mlm.reshape(mlm_apart.shape), mlm_apart, atol=1e-5)
    np.testing.assert_allclose(nsp.reshape(nsp_apart.shape), nsp_apart, atol=1e-5)

    def gradient(config, batch):
        def loss(params):
            sums = pretrain.batch_sums(config, params, batch, None)
            return pretrain.batch_loss(sums, pretrain.batch_weights(batch))

        return jax.jit(jax.value_and_grad(loss))(params)

    one = toy_config(**{"train.seq_length": 20})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        gradient(config, packed),
        gradient(one, apart),
    )


@pytest.mark.parametrize(
    ("fields", "remat"),
    [({"scan_layers": True}, "none"), ({}, "full"), ({"num_hidden_layers": 1}, "none")],
    ids=str,
)
@pytest.mark.parametrize("packed", [False, True])
def test_states_of_some_positions_are_those_of_all(packed, fields, remat):
    """Forward and gradient, through the one layer that computes nothing else."""
    config = toy_config(**{"model.scan_layers": False} | {f"model.{name}": x for name, x in fields.items()})
    params, batch = random_params(config), make_batch(config)
    if packed:
        batch |= {"segment_ids": batch["segment_ids"] * (1 + (np.arange(batch["segment_ids"].shape[1]) > 9))}
    rows, length = batch["input_ids"].shape
    positions = np.random.default_rng(0).integers(0, length, (rows, 3), dtype=np.int32)
    weights = np.random.default_rng(1).normal(size=(*positions.shape, config.model.hidden_size))

    def states(params, everything):
        encoder = bert.KIND.bind(config.model, params, remat=remat).encoder
        if everything:
            return take_positions(encoder(batch, packed=packed), positions)
        return encoder(batch, packed=packed, positions_BM=positions)

    def both(everything):
        gradient = jax.grad(lambda params: (states(params, everything) * weights).mean())
        return jax.jit(lambda params: (states(params, everything), gradient(params)))(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), both(True), both(False))


@pytest.mark.parametrize("packed", [False, True])
def test_no_position_of_a_causal_model_sees_a_later_one(packed):
    """In every layer, forward and gradient."""
    config = toy_config(**{"model.causal": True})
    params, batch, at = random_params(config), make_batch(config), 7
    length = batch["segment_ids"].shape[1]
    batch["segment_ids"] = np.ones_like(batch["segment_ids"]) + packed * (np.arange(length) > 9)
    other = batch | {"input_ids": batch["input_ids"].copy()}
    other["input_ids"][:, at] = 5 + (batch["input_ids"][:, at] - 4) % 80

    def states(params, batch):
        return bert.KIND.bind(config.model, params).encoder(batch, packed=packed, every_layer=True)

    one, two = (np.asarray(jax.jit(states)(params, each)) for each in (batch, other))
    np.testing.assert_array_equal(one[:, :, :at], two[:, :, :at])
    last = 10 if packed else length
    assert (one[1:, :, at:last] != two[1:, :, at:last]).any(-1).all()

    def earlier(positions):  # a later token's place, as a continuous stand-in for the token
        moved = params["encoder"]["embeddings"] | {"position": positions}
        return states(params | {"encoder": params["encoder"] | {"embeddings": moved}}, batch)[:, :, :at].sum()

    gradient = np.asarray(jax.jit(jax.grad(earlier))(params["encoder"]["embeddings"]["position"]))
    seen = set(batch["position_ids"][:, at:].ravel()) - set(batch["position_ids"][:, :at].ravel())
    assert len(seen) > 3
    assert not gradient[sorted(seen)].any()
    assert gradient[batch["position_ids"][0, 1]].any()


def test_a_text_of_a_causal_model_is_read_at_its_last_token():
    texts = [Row([5] * length, [0] * length) for length in (3, 6)]
    for causal, positions in ((False, [0, 0]), (True, [2, 5])):
        at_end = bert.KIND.class_at_end(toy_config(**{"model.causal": causal}).model)
        rows, count, places = PackedRows(texts, 0, {}, {}, at_end, alone=True).once(toy_config())
        found = rows(0, count)["class_positions"]
        np.testing.assert_array_equal(found[places.rows, places.slots], positions)


def test_a_causal_models_position_sees_itself_and_all_before():
    allowed = np.asarray(causal_bias(5)[0, 0]) == 0
    np.testing.assert_array_equal(allowed, np.tril(np.ones((5, 5), bool)))


@pytest.mark.parametrize("packed", [False, True])
def test_padding_has_no_influence(packed):
    config = toy_config(**{"model.max_position_embeddings": 16})
    batch = make_batch(config)
    params = random_params(config)

    @jax.jit
    def forward(params, batch):
        return bert.KIND.bind(config.model, params).encoder(batch, packed=packed, keys=None)

    rng, real = np.random.default_rng(0), batch["segment_ids"] > 0
    assert (~real).sum() > 10
    other = dict(batch)
    for name, most in (("input_ids", config.model.vocab_size), ("token_type_ids", 2), ("position_ids", 16)):
        other[name] = np.where(real, batch[name], rng.integers(0, most, real.shape)).astype(np.int32)
    hidden, other_hidden = (np.asarray(forward(params, each)) for each in (batch, other))
    np.testing.assert_array_equal(hidden[real], other_hidden[real])
    assert (hidden[~real] != other_hidden[~real]).any()


def test_the_vocabularys_padding_has_no_gradient_and_no_share():
    config = toy_config()
    params, v = random_params(config), config.model.vocab_size
    _, gradient = loss_and_gradient(config, params, make_batch(config))
    word, bias = gradient["encoder"]["embeddings"]["word"], gradient["mlm_output_bias"]
    assert len(word) == len(bias) == padded_vocab_size(v) == 128
    assert not np.asarray(word[v:]).any()
    assert not np.asarray(bias[v:]).any()
    assert np.asarray(bias[:v]).all()
