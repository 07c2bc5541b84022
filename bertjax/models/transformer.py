"""The Transformer encoder of BERT and its kin: post-LayerNorm layers over embeddings (Vaswani et al. 2017;
the 2018 release's modeling.py).

The parameters of the L layers are stacked on a leading axis, whether the layers are scanned or unrolled.

Shapes: B batch, S sequence, T attended sequence (= S), D hidden, N heads, H head size, F feed-forward,
M positions, V vocabulary (see padded_vocab_size), L layers.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from ml_collections import ConfigDict

from bertjax.errors import InputError
from bertjax.models.cpu_gradients import product
from bertjax.models.interface import DTYPES, Batch, Divisible, ModelKind, SplitRow, check_choice
from bertjax.models.layers import (
    ACTIVATIONS,
    dropout,
    fold_in,
    layer_norm,
    padded_vocab_size,
    take_positions,
)

MASKED = -10000.0  # what the 2018 release adds to the scores of positions that may not be attended to

# What a phase's `remat` keeps of a layer's forward pass for the backward pass. Whatever is computed element
# by element costs less to compute again, within the operation that reads it, than to write and to read.
_policies = jax.checkpoint_policies
REMAT = {
    "none": _policies.dots_saveable,  # all products
    "attention": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("context")
    ),
    "dots": _policies.dots_with_no_batch_dims_saveable,  # products with parameters
    "full": _policies.nothing_saveable,  # the layer's input
}


class Init:
    """Makes parameters; matrices are truncated normal at two standard deviations, as in the 2018 release."""

    def __init__(self, config: ConfigDict, rngs: nnx.Rngs):
        self.config, self.rngs = config, rngs

    def normal(self, *shape: int) -> nnx.Param[jax.Array]:
        draw = jax.random.truncated_normal(self.rngs.params(), -2.0, 2.0, shape, jnp.float32)
        return nnx.Param(draw * self.config.initializer_range)

    def zeros(self, *shape: int) -> nnx.Param[jax.Array]:
        return nnx.Param(jnp.zeros(shape, jnp.float32))

    def ones(self, *shape: int) -> nnx.Param[jax.Array]:
        return nnx.Param(jnp.ones(shape, jnp.float32))


class LayerNorm(nnx.Module):
    def __init__(self, init: Init):
        self.eps = init.config.layer_norm_eps
        self.scale = init.ones(init.config.hidden_size)
        self.bias = init.zeros(init.config.hidden_size)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


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

    def __init__(self, init: Init, embeddings: Any, causal: bool = False, remat: str = "none"):
        """Args:
        embeddings: a module (batch, dtype, keys) -> [B, S, D], which has the table `word`.
        causal: no position sees a later one of its row.
        remat: of REMAT.
        """
        c = init.config
        self.dtype, self.scan, self.remat = jnp.dtype(c.dtype), c.scan_layers, remat
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
        looped = jax.checkpoint(body, policy=REMAT[self.remat], prevent_cse=False)
        if self.remat != "none":
            body = jax.checkpoint(body, policy=REMAT[self.remat])
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


def encoder_products(
    model: ConfigDict, lengths: np.ndarray | float, positions: float | None = None
) -> np.ndarray | float:
    """Multiplications in the encoder's matrix products, forward, for a sequence of each of these lengths.

    Attention's two products count, for later tokens of a causal model too, which are computed and left out.

    Args:
      positions: the last layer computes so many states beside its keys and values; None: all.
    """
    d, f = model.hidden_size, model.intermediate_size
    key_value, other = 2 * d * d * lengths, 2 * d * d + 2 * d * f + 2 * d * lengths
    last = lengths if positions is None else positions
    below = (model.num_hidden_layers - 1) * (key_value + other * lengths)
    products: np.ndarray | float = below + key_value + other * last
    return products


class TransformerKind(ModelKind):
    """What kinds with this encoder have in common."""

    # Shape letters of the axes: see the top of this file.
    sharding: tuple[SplitRow, ...] = (
        # A lookup whose rows were split over fsdp would have to be split again over the batch: V takes both.
        SplitRow(r"embeddings/word$", (("tensor", "fsdp"), None)),  # VD
        SplitRow(r"embeddings/(position|token_type)$", (None, None)),
        SplitRow(r"attention/qkv_kernel$", ("fsdp", None, "tensor", None)),  # DKNH
        SplitRow(r"attention/qkv_bias$", (None, "tensor", None)),  # KNH
        SplitRow(r"attention/output_kernel$", ("tensor", None, "fsdp")),  # NHD
        SplitRow(r"layers/intermediate_kernel$", ("fsdp", "tensor")),  # DF
        SplitRow(r"layers/intermediate_bias$", ("tensor",)),
        SplitRow(r"layers/output_kernel$", ("tensor", "fsdp")),  # FD
    )

    def architecture(self) -> ConfigDict:
        c = ConfigDict()
        c.vocab_size = 30522
        c.hidden_size = 768
        c.num_hidden_layers = 12
        c.num_attention_heads = 12
        c.intermediate_size = 3072
        c.hidden_act = "gelu_new"  # the 2018 release's tanh approximation; "gelu" is the exact erf form
        c.max_position_embeddings = 512
        c.layer_norm_eps = 1e-12
        return c

    def computation(self) -> ConfigDict:
        c = ConfigDict()
        c.hidden_dropout_prob = 0.1
        c.attention_probs_dropout_prob = 0.1
        c.initializer_range = 0.02
        c.dtype = "bfloat16"  # of activations and matrix products; parameters and statistics are float32
        c.scan_layers = True  # one compiled layer, looped over; False compiles every layer
        return c

    def check(self, model: ConfigDict) -> None:
        check_choice("model.dtype", model.dtype, DTYPES)
        check_choice("model.hidden_act", model.hidden_act, tuple(ACTIVATIONS))
        if model.hidden_size % model.num_attention_heads:
            raise InputError(
                f"--config.model.num_attention_heads={model.num_attention_heads}: must divide "
                f"model.hidden_size={model.hidden_size}"
            )

    def describe(self, fields: Mapping[str, Any]) -> str:
        layers, hidden, heads = (
            fields[f"model.{name}"] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        return f"{layers} layer{'s' * (layers > 1)}, hidden {hidden}, {heads} heads"

    def longest(self, model: ConfigDict) -> int:
        return int(model.max_position_embeddings)

    def divisible(self, model: ConfigDict, head: ConfigDict | None) -> list[Divisible]:
        rows = padded_vocab_size(model.vocab_size)
        return [
            Divisible("model.num_attention_heads", model.num_attention_heads, ("tensor",)),
            Divisible("model.intermediate_size", model.intermediate_size, ("tensor",)),
            Divisible("model.hidden_size", model.hidden_size, ("fsdp",)),
            Divisible("model.hidden_size", model.hidden_size, ("tensor",)),
            Divisible("model.vocab_size, padded", rows, ("fsdp", "tensor")),
        ]
