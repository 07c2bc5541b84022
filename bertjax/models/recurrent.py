"""LSTMs (Hochreiter and Schmidhuber 1997) with projection and clipping (Sak et al. 2014), in both directions.

A row may hold several segments: the state begins at zero in each, from both ends, and padding (segment 0) has
zero states, so results depend neither on padding nor on packing.

Shapes: B batch, S sequence, R directions (forward, backward), D input, H cells, P output size (H without a
projection), G the four gates (input, forget, candidate, output).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bertjax.models.interface import SplitRow
from bertjax.models.layers import dropout, fold_in

# Every step of an LSTM reads the kernels of its loop whole.
LSTM_SHARDING = (
    SplitRow(r"layer_\d+/input_kernel$", ("fsdp", None, "tensor")),  # DGH
    SplitRow(r"layer_\d+/(recurrent|projection)_kernel$", (None, None)),
)
_FORGET = 1  # its place among the gates


class LstmLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, inputs: int, cells: int, projection: int, clip: float):
        self.clip, r = clip, 2
        size = projection or cells

        def uniform(limit: float, *shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -limit, limit))

        # As TensorFlow's LSTMCell: Glorot and Bengio 2010 for [inputs + size, 4 * cells]; forget gates at 1.
        limit = math.sqrt(6 / (inputs + size + 4 * cells))
        self.input_kernel = uniform(limit, r, inputs, 4, cells)
        self.recurrent_kernel = uniform(limit, r, size, 4, cells)
        self.bias = nnx.Param(jnp.zeros((r, 4, cells), jnp.float32).at[:, _FORGET].set(1.0))
        self.projection_kernel = (
            uniform(math.sqrt(6 / (cells + projection)), r, cells, projection) if projection else None
        )

    def __call__(self, x_BSRD: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """States [B, S, R, P], of the dtype of x. Cells and gates are float32."""
        dtype = x_BSRD.dtype
        x_BSRD = _reading_order(x_BSRD)
        gates_SRBGH = jnp.einsum("BSRD,RDGH->SRBGH", x_BSRD, self.input_kernel[...].astype(dtype))
        gates_SRBGH += self.bias[...].astype(dtype)[:, None]
        segments_BSR = jnp.broadcast_to(segment_ids[:, :, None], x_BSRD.shape[:3])
        segments_SRB = jnp.moveaxis(_reading_order(segments_BSR), 0, 2)
        before_SRB = jnp.pad(segments_SRB[:-1], ((1, 0), (0, 0), (0, 0)))  # 0, which is padding, at first
        keep_SRB = ((segments_SRB == before_SRB) & (segments_SRB > 0)).astype(dtype)
        projection = None if self.projection_kernel is None else self.projection_kernel[...].astype(dtype)
        h_SRBP = _recur(
            gates_SRBGH, keep_SRB, self.recurrent_kernel[...].astype(dtype), projection, self.clip
        )
        h_BSRP = _reading_order(jnp.moveaxis(h_SRBP, 2, 0))
        return jnp.where(segment_ids[:, :, None, None] > 0, h_BSRP, 0)


def _reading_order(x_BSR: jax.Array) -> jax.Array:
    """x [B, S, R, ...] with the backward direction from the last position to the first; also the way back."""
    return jnp.concatenate([x_BSR[:, :, :1], x_BSR[:, ::-1, 1:]], axis=2)


def _steps(
    gates_SRBGH: jax.Array,
    added_SRBP: jax.Array | None,
    keep_SRB: jax.Array,
    recurrent_RPGH: jax.Array,
    projection_RHP: jax.Array | None,
    clip: float,
) -> tuple[jax.Array, jax.Array]:
    """Outputs [S, R, B, P], before clipping plus `added`; and what is projected, [S, R, B, H]."""
    dtype = gates_SRBGH.dtype
    wide = jnp.promote_types(dtype, jnp.float32)

    def clipped(x: jax.Array) -> jax.Array:
        return jnp.clip(x, -clip, clip) if clip else x

    def step(state: tuple[jax.Array, jax.Array], inputs: Any) -> Any:
        h_RBP, c_RBH = state
        gates_RBGH, added_RBP, keep_RB = inputs
        h_RBP, c_RBH = h_RBP * keep_RB[..., None], c_RBH * keep_RB[..., None]
        gates_RBGH += jnp.einsum(
            "RBP,RPGH->RBGH", h_RBP, recurrent_RPGH, preferred_element_type=wide
        )  # one product for all gates
        take, forget, candidate, give = (gates_RBGH[:, :, i] for i in range(4))
        c_RBH = clipped(jax.nn.sigmoid(forget) * c_RBH + jax.nn.sigmoid(take) * jnp.tanh(candidate))
        h_RBH = (jax.nn.sigmoid(give) * jnp.tanh(c_RBH)).astype(dtype)
        if projection_RHP is None:
            return (h_RBH, c_RBH), (h_RBH, None)
        h_RBP = clipped(jnp.einsum("RBH,RHP->RBP", h_RBH, projection_RHP) + added_RBP)
        return (h_RBP, c_RBH), (h_RBP, h_RBH)

    _, r, b, _, h = gates_SRBGH.shape
    start = jnp.zeros((r, b, recurrent_RPGH.shape[1]), dtype), jnp.zeros((r, b, h), wide)
    found: tuple[jax.Array, jax.Array] = lax.scan(step, start, (gates_SRBGH, added_SRBP, keep_SRB))[1]
    return found


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _recur(
    gates_SRBGH: jax.Array,
    keep_SRB: jax.Array,
    recurrent_RPGH: jax.Array,
    projection_RHP: jax.Array | None,
    clip: float,
) -> jax.Array:
    """Outputs [S, R, B, P] in reading order.

    The gradient of a kernel within the scan would be read and written in every step. What reaches a product's
    result is the gradient of a term added to it, so here the scan gives that of the gates' inputs and of a
    zero added to the projection, and the kernels' gradients are one product each after it.

    Args:
      gates_SRBGH: the inputs' part of the gates.
      keep_SRB: 0 where the state begins anew, otherwise 1.
      clip: limit of the absolute values of cells and projected outputs; 0: none.
    """
    return _recur_forward(gates_SRBGH, keep_SRB, recurrent_RPGH, projection_RHP, clip)[0]


def _recur_forward(
    gates_SRBGH: jax.Array,
    keep_SRB: jax.Array,
    recurrent_RPGH: jax.Array,
    projection_RHP: jax.Array | None,
    clip: float,
) -> tuple[jax.Array, Any]:
    s, r, b = keep_SRB.shape
    added_SRBP = None
    if projection_RHP is not None:
        added_SRBP = jnp.zeros((s, r, b, projection_RHP.shape[-1]), gates_SRBGH.dtype)
    h_SRBP, back, h_SRBH = jax.vjp(
        lambda gates, added: _steps(gates, added, keep_SRB, recurrent_RPGH, projection_RHP, clip),
        gates_SRBGH, added_SRBP, has_aux=True,
    )  # fmt: skip
    return h_SRBP, (back, h_SRBP, h_SRBH, keep_SRB)


def _recur_backward(clip: float, saved: Any, gradient_SRBP: jax.Array) -> Any:
    back, h_SRBP, h_SRBH, keep_SRB = saved
    gates_SRBGH, added_SRBP = back(gradient_SRBP)
    before_SRBP = jnp.pad(h_SRBP[:-1], ((1, 0), (0, 0), (0, 0), (0, 0))) * keep_SRB[..., None]
    recurrent_RPGH = jnp.einsum("SRBP,SRBGH->RPGH", before_SRBP, gates_SRBGH)
    projection_RHP = None if added_SRBP is None else jnp.einsum("SRBH,SRBP->RHP", h_SRBH, added_SRBP)
    return gates_SRBGH, None, recurrent_RPGH, projection_RHP


_recur.defvjp(_recur_forward, _recur_backward)


class Lstm(nnx.Module):
    """L layers of an LSTM."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: int,
        *,
        cells: int,
        layers: int,
        projection: int = 0,
        clip: float = 0.0,
        separate: bool = False,
        residual: bool = False,
        rate: float = 0.0,
    ):
        """Args:
        inputs: D.
        projection: P; 0: none, and P = H.
        clip: limit of the absolute values of cells and projected outputs; 0: none.
        separate: whether each direction reads only its own states of the layer below; if not, both.
        residual: from the second layer on, a layer's input is added to its output.
        rate: of dropout on every layer's input.
        """
        self.layers, self.separate, self.residual, self.rate = layers, separate, residual, rate
        size = (projection or cells) * (1 if separate else 2)
        for i in range(layers):
            layer = LstmLayer(rngs, size if i else inputs, cells, projection, clip)
            setattr(self, f"layer_{i}", layer)

    def __call__(
        self, x: jax.Array, segment_ids: jax.Array, keys: jax.Array | None = None
    ) -> list[jax.Array]:
        """The states after each layer, [B, S, R * P], or [B, S, R, P] where directions are separate.

        Args:
          x: [B, S, D], or one for each direction, [B, S, R, D], where they are separate.
          segment_ids: int32 [B, S], 0 for padding, another number than its neighbours' for each segment.
          keys: uint32 [B, 2] of `layers.dropout_keys`; None: no dropout.
        """
        b, s = segment_ids.shape
        states = []
        for i in range(self.layers):
            below = dropout(x, self.rate, None if keys is None else fold_in(keys, i))
            streams = below
            if not self.separate:
                streams = jnp.broadcast_to(below[:, :, None], (b, s, 2, below.shape[-1]))
            x = getattr(self, f"layer_{i}")(streams, segment_ids)
            if not self.separate:
                x = x.reshape(b, s, -1)
            if self.residual and i:
                x += below
            states.append(x)
        return states
