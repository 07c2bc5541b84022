"""What every model shares: LayerNorm, dropout, activations, cross-entropy; modules as dicts of parameters.

Shapes: B batch, S sequence, M positions, D hidden, V classes; `...` any leading axes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

# Hugging Face's names. The 2018 release's "gelu" is the tanh approximation, which is called gelu_new there.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


VOCAB_MULTIPLE = 128  # the embedding table divides over any mesh up to this, and fills the TPU's lanes


def padded_vocab_size(vocab_size: int) -> int:
    """Rows of the embedding table: `vocab_size` rounded up to a multiple of VOCAB_MULTIPLE."""
    return -(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """LayerNorm over the last axis. Statistics are float32 (an eps of 1e-12 vanishes in half precision)."""
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    centred = x32 - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * lax.rsqrt(variance + eps) * scale + bias).astype(x.dtype)


def _mix(h: jax.Array) -> jax.Array:
    """A bijection of uint32 whose output bits each depend on all input bits (MurmurHash3's finaliser)."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def dropout_keys(seed: jax.Array, rows: jax.Array) -> jax.Array:
    """A key for each row of a batch.

    Args:
      seed: uint32 [2], new in every step.
      rows: int32 [B], each row's number in the step's whole batch. Keys depend on nothing else, so a mask is
        the same on one device and on many, in a whole batch and in its accumulated parts.

    Returns:
      uint32 [B, 2].
    """
    rows = rows.astype(jnp.uint32)
    first = _mix(seed[0] ^ _mix(rows))
    return jnp.stack([first, _mix(seed[1] ^ _mix(rows ^ first))], axis=-1)


def fold_in(keys: jax.Array, site: jax.Array | int) -> jax.Array:
    """New keys [B, 2] for a numbered place in the model (a layer, a dropout within it)."""
    site = _mix(jnp.asarray(site).astype(jnp.uint32) + jnp.uint32(0x9E3779B9))
    return _mix(keys ^ jnp.stack([site, _mix(site)]))


def dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Sets elements to 0 with probability `rate`, to within 2**-32, and scales the rest by 1 / (1 - rate).

    The mask is a hash of (row key, position in the row): a few integer operations that fuse into whatever
    reads them, so no random bits are written to memory and the backward pass makes the mask again.

    Args:
      x: [B, ...], fewer than 2**32 elements a row.
      rate: probability of being dropped, in [0, 1).
      keys: uint32 [B, 2] of `fold_in`; None: no dropout.
    """
    if keys is None or rate == 0.0:
        return x
    shape = x.shape[1:]
    index = jnp.zeros((1, *(1,) * len(shape)), jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        iota = lax.broadcasted_iota(jnp.uint32, (1, *shape), axis + 1)
        index = index + iota * jnp.uint32(stride)
        stride *= shape[axis]
    k0, k1 = (keys[:, i].reshape(-1, *(1,) * len(shape)) for i in (0, 1))
    h = index * jnp.uint32(0x9E3779B1) ^ k0
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = h ^ k1
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    keep = h >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


@jax.custom_vjp
def cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Softmax cross-entropy in nats, and whether the label's logit is the highest.

    The gradient is one pass over the logits; nothing of their size is kept beside them.

    Args:
      logits: float32 [..., V].
      labels: int32 [...].

    Returns:
      float32 [...] and bool [...].
    """
    found: tuple[jax.Array, jax.Array] = _cross_entropy(logits, labels)[0]
    return found


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> tuple[Any, Any]:
    highest = logits.max(-1)
    normalizer = jnp.log(jnp.exp(logits - highest[..., None]).sum(-1)) + highest
    right = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return (normalizer - right, right >= highest), (logits, labels, normalizer)


def _cross_entropy_gradient(saved: Any, gradient: Any) -> tuple[jax.Array, None]:
    logits, labels, normalizer = saved
    is_label = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]
    probs = jnp.exp(logits - normalizer[..., None])
    return jnp.where(is_label, probs - 1.0, probs) * gradient[0][..., None], None


cross_entropy.defvjp(_cross_entropy, _cross_entropy_gradient)


def take_positions(x_BSD: jax.Array, positions_BM: jax.Array) -> jax.Array:
    """Hidden states at the given positions: [B, M, D]."""
    return jnp.take_along_axis(x_BSD, positions_BM[:, :, None], axis=1)


HEAD_DROPOUT = 10_000  # the number of the place of the dropout before a head, past the encoder's

Make = Callable[[nnx.Rngs], Any]  # builds a module


def init_module(make: Make, key: jax.Array) -> dict[str, Any]:
    """The module's parameters as a nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(params=key)), nnx.Param))


def bind_module(make: Make, params: dict[str, Any]) -> Any:
    """The module with these parameters (arrays of JAX or NumPy), for use inside a traced function."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return nnx.merge(graph, jax.tree.map(jnp.asarray, params))
