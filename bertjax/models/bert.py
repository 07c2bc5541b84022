"""BERT's encoder and the heads that stand on it (Devlin et al. 2018; the 2018 release's modeling.py).

Modules declare parameters and the forward pass. `init_params` gives the parameters as a plain nested dict of
arrays, `bind` a module that computes with such a dict. The parameters of the L layers are stacked on a
leading axis, whether the layers are scanned or unrolled.

Shapes: B batch, S sequence, T attended sequence (= S), D hidden, N heads, H head size, F feed-forward,
M masked positions, V vocabulary (see padded_vocab_size), L layers, W what a head reads, C labels.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from ml_collections import ConfigDict

from bertjax.config import default, padded_vocab_size
from bertjax.models.head_features import Features
from bertjax.models.layers import (
    ACTIVATIONS,
    HEAD_DROPOUT,
    add_bias,
    bind_module,
    dropout,
    fold_in,
    init_module,
    layer_norm,
    product,
    take_positions,
)
from bertjax.sharding import split_rows

MASKED = -10000.0  # what the 2018 release adds to the scores of positions that may not be attended to

# What stands on the encoder: the first words of the parameters' names, in the order in which they are drawn.
PARTS = ("features", "pooler", "mlm", "nsp", "classifier", "span")

# The models that are made of them, and of the features that config.head may ask for; "multiple_choice" has
# one label, the score of a choice.
HEADS: dict[str, tuple[str, ...]] = {
    "encoder": ("pooler",),
    "pretraining": ("pooler", "mlm", "nsp"),
    "masked_lm": ("mlm",),
    "next_sentence": ("pooler", "nsp"),
    "sequence_classification": ("pooler", "classifier"),
    "token_classification": ("classifier",),
    "question_answering": ("span",),
    "multiple_choice": ("pooler", "classifier"),
}

LABELLED = ("sequence_classification", "token_classification")  # heads whose labels have names
NUMBER = ("number",)  # the labels of a model that predicts a number

# For config.remat: what is kept of a layer's forward pass for the backward pass. Whatever is computed element
# by element costs less to compute again, within the operation that reads it, than to write and to read.
_policies = jax.checkpoint_policies
_KEPT = {
    "none": _policies.dots_saveable,  # all products
    "attention": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("context")
    ),
    "dots": _policies.dots_with_no_batch_dims_saveable,  # products with parameters
    "full": _policies.nothing_saveable,  # the layer's input
}

Params = dict[str, Any]
Batch = dict[str, jax.Array]


class Init:
    """Makes parameters; matrices are truncated normal at two standard deviations, as in the 2018 release."""

    def __init__(self, config: ConfigDict, rngs: nnx.Rngs):
        self.config, self.rngs = config, rngs

    def normal(self, *shape: int) -> nnx.Param:
        draw = jax.random.truncated_normal(self.rngs.params(), -2.0, 2.0, shape, jnp.float32)
        return nnx.Param(draw * self.config.initializer_range)

    def zeros(self, *shape: int) -> nnx.Param:
        return nnx.Param(jnp.zeros(shape, jnp.float32))

    def ones(self, *shape: int) -> nnx.Param:
        return nnx.Param(jnp.ones(shape, jnp.float32))


class LayerNorm(nnx.Module):
    def __init__(self, init: Init):
        self.eps = init.config.layer_norm_eps
        self.scale = init.ones(init.config.hidden_size)
        self.bias = init.zeros(init.config.hidden_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class Embeddings(nnx.Module):
    def __init__(self, init: Init):
        c = init.config
        self.rate = c.hidden_dropout_prob
        table = init.normal(padded_vocab_size(c.vocab_size), c.hidden_size)
        # Rows past the vocabulary are padding: zero, never looked up and never predicted.
        self.word = nnx.Param(table[...].at[c.vocab_size :].set(0.0))
        self.position = init.normal(c.max_position_embeddings, c.hidden_size)
        self.token_type = init.normal(c.type_vocab_size, c.hidden_size)
        self.norm = LayerNorm(init)

    def __call__(self, batch: Batch, dtype: jnp.dtype, keys: jax.Array | None) -> jax.Array:
        x_BSD = self.word[...][batch["input_ids"]]
        x_BSD += self.position[...][batch["position_ids"]]
        x_BSD += self.token_type[...][batch["token_type_ids"]]
        return split_rows(dropout(self.norm(x_BSD).astype(dtype), self.rate, keys))


class SelfAttention(nnx.Module):
    def __init__(self, init: Init):
        c = init.config
        self.rate = c.attention_probs_dropout_prob
        d, n = c.hidden_size, c.num_attention_heads
        h = d // n
        # One product gives queries, keys and values: K = 3 of them.
        self.qkv_kernel, self.qkv_bias = init.normal(d, 3, n, h), init.zeros(3, n, h)
        self.output_kernel, self.output_bias = init.normal(n, h, d), init.zeros(d)

    def __call__(
        self, x_BSD: jax.Array, bias_BNST: jax.Array, keys: jax.Array | None, positions_BM: jax.Array | None
    ) -> jax.Array:
        kernel_DKNH, bias_KNH = (x[...].astype(x_BSD.dtype) for x in (self.qkv_kernel, self.qkv_bias))

        def project(x_BSD: jax.Array, first: int, last: int) -> list[jax.Array]:
            y_BSKNH = product("BSD,DKNH->BSKNH", x_BSD, kernel_DKNH[:, first:last]) + bias_KNH[first:last]
            return [y_BSKNH[:, :, i] for i in range(last - first)]

        if positions_BM is None:
            q_BSNH, k_BTNH, v_BTNH = project(x_BSD, 0, 3)
        else:
            [q_BSNH], (k_BTNH, v_BTNH) = (
                project(take_positions(x_BSD, positions_BM), 0, 1),
                project(x_BSD, 1, 3),
            )
            if bias_BNST.shape[2] > 1:
                bias_BNST = take_positions(bias_BNST[:, 0], positions_BM)[:, None]
        dtype = x_BSD.dtype
        context_BSNH = checkpoint_name(self.attend(q_BSNH, k_BTNH, v_BTNH, bias_BNST, keys), "context")
        out_BSD = product("BSNH,NHD->BSD", context_BSNH, self.output_kernel[...].astype(dtype))
        return out_BSD + self.output_bias[...].astype(dtype)

    def attend(
        self,
        q_BSNH: jax.Array,
        k_BTNH: jax.Array,
        v_BTNH: jax.Array,
        bias_BNST: jax.Array,
        keys: jax.Array | None,
    ) -> jax.Array:
        """Attention's context [B, S, N, H]; scores and softmax are float32."""
        scores_BNST = jnp.einsum("BSNH,BTNH->BNST", q_BSNH, k_BTNH, preferred_element_type=jnp.float32)
        scores_BNST = scores_BNST * (1.0 / math.sqrt(q_BSNH.shape[-1])) + bias_BNST
        probs_BNST = jax.nn.softmax(scores_BNST, axis=-1).astype(v_BTNH.dtype)
        return jnp.einsum("BNST,BTNH->BSNH", dropout(probs_BNST, self.rate, keys), v_BTNH)


class Layer(nnx.Module):
    """Post-LayerNorm Transformer layer."""

    def __init__(self, init: Init):
        c = init.config
        self.rate, self.act = c.hidden_dropout_prob, ACTIVATIONS[c.hidden_act]
        self.attention = SelfAttention(init)
        self.attention_norm = LayerNorm(init)
        self.intermediate_kernel = init.normal(c.hidden_size, c.intermediate_size)
        self.intermediate_bias = init.zeros(c.intermediate_size)
        self.output_kernel = init.normal(c.intermediate_size, c.hidden_size)
        self.output_bias = init.zeros(c.hidden_size)
        self.output_norm = LayerNorm(init)

    def __call__(
        self,
        x_BSD: jax.Array,
        bias_BNST: jax.Array,
        keys: jax.Array | None,
        positions_BM: jax.Array | None,
    ) -> jax.Array:
        """States [B, S, D]; given positions, those there only, [B, M, D]."""
        dtype = x_BSD.dtype
        k0, k1, k2 = (None if keys is None else fold_in(keys, site) for site in range(3))
        a_BSD = dropout(self.attention(x_BSD, bias_BNST, k0, positions_BM), self.rate, k1)
        if positions_BM is not None:
            x_BSD = take_positions(x_BSD, positions_BM)
        x_BSD = self.attention_norm(x_BSD + a_BSD)
        h_BSF = product("BSD,DF->BSF", x_BSD, self.intermediate_kernel[...].astype(dtype))
        h_BSF = self.act(h_BSF + self.intermediate_bias[...].astype(dtype))
        o_BSD = product("BSF,FD->BSD", h_BSF, self.output_kernel[...].astype(dtype))
        o_BSD = dropout(o_BSD + self.output_bias[...].astype(dtype), self.rate, k2)
        return self.output_norm(x_BSD + o_BSD)


class Encoder(nnx.Module):
    """Embeddings and L layers: batch -> hidden states."""

    def __init__(self, init: Init, embeddings: Any, causal: bool = False):
        """Args:
        embeddings: a module, called as Embeddings is, which reads the batch and has the table `word`.
        causal: no position sees a later one of its row.
        """
        c = init.config
        self.dtype, self.scan, self.remat = jnp.dtype(c.dtype), c.scan_layers, c.remat
        self.num_layers, self.causal = c.num_hidden_layers, causal
        self.embeddings = embeddings

        @nnx.split_rngs(splits=c.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(type(init)(c, rngs))

        self.layers = stack(init.rngs)

    def embed(self, batch: Batch, keys: jax.Array | None = None) -> jax.Array:
        """The embeddings [B, S, D], which the first layer reads."""
        embedded: jax.Array = self.embeddings(batch, self.dtype, None if keys is None else fold_in(keys, 0))
        return embedded

    def __call__(
        self,
        batch: Batch,
        *,
        packed: bool = False,
        keys: jax.Array | None = None,
        positions_BM: jax.Array | None = None,
        every_layer: bool = False,
    ) -> jax.Array:
        """Hidden states [B, S, D] after the last layer.

        Args:
          batch: input_ids, token_type_ids, position_ids, segment_ids, each int32 [B, S].
          packed: whether a row may hold several segments; if not, attention only leaves out the padding.
          keys: uint32 [B, 2] of `dropout_keys`; None: no dropout.
          positions_BM: int32; gives the states there only, [B, M, D], and the last layer computes no others.
          every_layer: True gives those after the embeddings and after each layer, [1 + L, B, S, D].
        """
        x_BSD = self.embed(batch, keys)
        bias_BNST = attention_bias(batch["segment_ids"], packed)
        if self.causal:
            bias_BNST += causal_bias(x_BSD.shape[1])
        graph, stacked = nnx.split(self.layers)

        def body(
            x_BSD: jax.Array, inputs: tuple[Any, jax.Array], positions_BM: jax.Array | None = None
        ) -> tuple[jax.Array, jax.Array | None]:
            params, number = inputs
            layer_keys = None if keys is None else fold_in(keys, number)
            x_BSD = nnx.merge(graph, params)(x_BSD, bias_BNST, layer_keys, positions_BM)
            return x_BSD, x_BSD if every_layer else None

        # A loop needs no barrier that keeps XLA from merging the two computations. Outside of a loop it sees
        # both, and chooses itself what to compute again.
        looped = jax.checkpoint(body, policy=_KEPT[self.remat], prevent_cse=False)
        if self.remat != "none":
            body = jax.checkpoint(body, policy=_KEPT[self.remat])
        numbers = jnp.arange(1, self.num_layers + 1)
        scanned = self.num_layers - (positions_BM is not None) if self.scan else 0
        sizes = ([scanned] if scanned else []) + [1] * (self.num_layers - scanned)
        leaves, tree = jax.tree_util.tree_flatten(stacked)
        # lax.split, unlike indexing, has a cheap transpose: the layers' gradients are concatenated once.
        parts = zip(*(lax.split(leaf, sizes) for leaf in leaves), strict=True)
        layers = [jax.tree_util.tree_unflatten(tree, part) for part in parts]
        states: list[Any] = [x_BSD[None]]
        if scanned:
            x_BSD, state = lax.scan(looped, x_BSD, (layers.pop(0), numbers[:scanned]))
            states.append(state)
        for i, layer in enumerate(layers, scanned):
            params = jax.tree.map(lambda leaf: leaf[0], layer)
            last = i + 1 == self.num_layers
            x_BSD, state = body(x_BSD, (params, numbers[i]), positions_BM if last else None)
            if state is not None:
                states.append(state[None])
        return jnp.concatenate(states) if every_layer else x_BSD


def attention_bias(segment_ids: jax.Array, packed: bool) -> jax.Array:
    """What is added to attention scores: [B, 1, 1, T], or [B, 1, S, T] for packed rows."""
    if packed:
        allowed = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        allowed &= segment_ids[:, None, None, :] > 0
    else:
        allowed = segment_ids[:, None, None, :] > 0
    return jnp.where(allowed, 0.0, MASKED).astype(jnp.float32)


def causal_bias(length: int) -> jax.Array:
    """What is added to attention scores so that no position sees a later one: [1, 1, S, T]."""
    position = jnp.arange(length)
    return jnp.where(position[:, None] >= position, 0.0, MASKED).astype(jnp.float32)[None, None]


class Bert(nnx.Module):
    """The encoder and some of the parts that stand on it."""

    def __init__(
        self,
        config: ConfigDict,
        rngs: nnx.Rngs,
        parts: Sequence[str],
        num_labels: int = 0,
        head: ConfigDict | None = None,
    ):
        """Args:
        config: config.model.
        parts: of PARTS; the features follow from `head` alone.
        num_labels: C, of the classifier.
        head: config.head; None: as by default, on the last layer.
        """
        init = Init(config, rngs)
        d = config.hidden_size
        self.vocab_size = config.vocab_size
        self.act = ACTIVATIONS[config.hidden_act]
        self.causal, self.rate = config.causal, config.hidden_dropout_prob
        self.encoder = Encoder(init, Embeddings(init), config.causal)
        self.features = Features(config, default().head if head is None else head, rngs)
        w = self.features.size
        if "pooler" in parts:
            self.pooler_kernel, self.pooler_bias = init.normal(w, d), init.zeros(d)
        if "mlm" in parts:
            self.mlm_kernel, self.mlm_bias = init.normal(d, d), init.zeros(d)
            self.mlm_norm = LayerNorm(init)
            self.mlm_output_bias = init.zeros(padded_vocab_size(config.vocab_size))
        if "nsp" in parts:
            self.nsp_kernel, self.nsp_bias = init.normal(d, 2), init.zeros(2)
        if "classifier" in parts:
            self.classifier_kernel = init.normal(d if "pooler" in parts else w, num_labels)
            self.classifier_bias = init.zeros(num_labels)
        if "span" in parts:
            self.span_kernel, self.span_bias = init.normal(w, 2), init.zeros(2)

    def pretraining(
        self, batch: Batch, *, packed: bool = False, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of the masked positions and of the next-sentence label.

        Args:
          batch: the encoder's arrays, masked_lm_positions [B, M] and next_sentence_positions [B, N].
          packed, keys: see Encoder.

        Returns:
          float32 masked-LM logits [B, M, V], -1e9 for the vocabulary's padding; float32 next-sentence
          logits [B, N, 2], class 1 for a random second sentence.
        """
        positions = batch["masked_lm_positions"], batch["next_sentence_positions"]
        x_BMD = self.encoder(batch, packed=packed, keys=keys, positions_BM=jnp.concatenate(positions, axis=1))
        masked_BMD, first_BND = jnp.split(x_BMD, [positions[0].shape[1]], axis=1)
        return self.masked_lm(masked_BMD), self.next_sentence(self.pool(first_BND))

    def masked_lm(self, x_BMD: jax.Array) -> jax.Array:
        """float32 logits [B, M, V] of hidden states [B, M, D]."""
        dtype = x_BMD.dtype
        h_BMD = self.act(x_BMD @ self.mlm_kernel[...].astype(dtype) + self.mlm_bias[...].astype(dtype))
        h_BMD = self.mlm_norm(h_BMD)
        word_VD = self.encoder.embeddings.word[...].astype(dtype)
        logits_BMV = product("BMD,VD->BMV", h_BMD, word_VD, jnp.float32)
        padding_V = jnp.where(jnp.arange(word_VD.shape[0]) < self.vocab_size, 0.0, -1e9)
        return add_bias(logits_BMV, self.mlm_output_bias[...] + padding_V)

    def head_states(
        self,
        batch: Batch,
        positions_BM: jax.Array | None = None,
        *,
        packed: bool = False,
        keys: jax.Array | None = None,
        frozen: bool = False,
    ) -> jax.Array:
        """What a fine-tuned head stands on: of each token, [B, S, W], or of the sequences at `positions_BM`,
        [B, M, W]. See bertjax.models.head_features.

        Args:
          positions_BM: int32, a token of each sequence that is told as a whole: see `class_positions`.
          packed, keys: see Encoder.
          frozen: the encoder is not trained: its states are fixed features, without dropout.
        """
        return self.features(self.encoder, batch, positions_BM, packed=packed, keys=keys, frozen=frozen)

    def class_positions(self, segment_ids: jax.Array) -> jax.Array:
        """What the one sequence of each row is told by: its [CLS], or, if causal, its last token. [B, 1]."""
        last_B = (segment_ids > 0).sum(-1) - 1
        return (jnp.maximum(last_B, 0) * self.causal)[:, None].astype(jnp.int32)

    def pool(self, first_BNW: jax.Array) -> jax.Array:
        """tanh-pooled output [B, N, D] of what tells each sequence: by default the state at its [CLS]."""
        dtype = first_BNW.dtype
        return jnp.tanh(
            first_BNW @ self.pooler_kernel[...].astype(dtype) + self.pooler_bias[...].astype(dtype)
        )

    def next_sentence(self, pooled_BND: jax.Array) -> jax.Array:
        """float32 logits [B, N, 2]."""
        return pooled_BND.astype(jnp.float32) @ self.nsp_kernel[...] + self.nsp_bias[...]

    def classify(self, x: jax.Array) -> jax.Array:
        """float32 logits [..., C] of pooled output or of what `head_states` gives for a token."""
        return x.astype(jnp.float32) @ self.classifier_kernel[...] + self.classifier_bias[...]

    def class_logits(self, first_BNW: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """float32 logits [B, N, C] of what tells of whole sequences; `keys` are of dropout."""
        keys = None if keys is None else fold_in(keys, HEAD_DROPOUT)
        return self.classify(dropout(self.pool(first_BNW), self.rate, keys))

    def spans(self, x_BSW: jax.Array) -> jax.Array:
        """float32 logits [B, S, 2] of an answer's beginning and ending at each position."""
        return x_BSW.astype(jnp.float32) @ self.span_kernel[...] + self.span_bias[...]


def init_params(
    config: ConfigDict,
    key: jax.Array,
    parts: Sequence[str] = HEADS["pretraining"],
    num_labels: int = 0,
    head: ConfigDict | None = None,
) -> Params:
    """Parameters of Bert as a nested dict of float32 arrays. For the arguments see Bert."""
    return init_module(lambda rngs: Bert(config, rngs, parts, num_labels, head), key)


def bind(config: ConfigDict, params: Params, head: ConfigDict | None = None) -> Bert:
    """The module with these parameters (arrays of JAX or NumPy), for use inside a traced function.

    It has the parts whose parameters there are.
    """
    parts = parts_of(params)
    labels = params["classifier_bias"].shape[0] if "classifier" in parts else 0
    bert: Bert = bind_module(lambda rngs: Bert(config, rngs, parts, labels, head), params)
    return bert


def parts_of(params: Params) -> tuple[str, ...]:
    """Which of PARTS have parameters here."""
    return tuple(part for part in PARTS if any(name.startswith(part) for name in params))
