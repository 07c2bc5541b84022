"""A linear-chain conditional random field over tags (Lafferty et al. 2001; Lample et al. 2016).

A row is one chain. Its words stand where the mask is True; what lies between them is passed over, so they may
be the first WordPieces of words.

Shapes: B batch, S sequence, C tags.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = dict[str, Any]

FORBIDDEN = -10000.0  # added to the score of a transition that no tag sequence has


def init_params(labels: int) -> Params:
    """Scores of zero: start_bias [C] and end_bias [C] of the first and the last tag, transitions [C, C] from
    a tag to the next."""
    return {
        "start_bias": jnp.zeros(labels, jnp.float32),
        "end_bias": jnp.zeros(labels, jnp.float32),
        "transitions": jnp.zeros((labels, labels), jnp.float32),
    }


def iob2_only(params: Params, labels: Sequence[str]) -> Params:
    """The same scores with FORBIDDEN added wherever I-X follows neither B-X nor I-X."""
    inside = np.array([label[2:] if label.startswith("I-") else "" for label in labels])
    kinds = np.array(["" if label == "O" else label[2:] for label in labels])
    forbidden_CC = (inside[None] != "") & (kinds[:, None] != inside[None])
    return {
        **params,
        "start_bias": params["start_bias"] + np.where(inside != "", FORBIDDEN, 0.0),
        "transitions": params["transitions"] + np.where(forbidden_CC, FORBIDDEN, 0.0),
    }


def log_partition(params: Params, logits_BSC: jax.Array, mask_BS: jax.Array) -> jax.Array:
    """log of the sum over all tag sequences of exp(score): float32 [B], 0 for a row without words."""

    def step(state: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]) -> Any:
        alpha_BC, begun_B = state
        logits_BC, mask_B = inputs
        after_BC = jax.nn.logsumexp(alpha_BC[:, :, None] + params["transitions"], axis=1)
        new_BC = jnp.where(begun_B[:, None], after_BC, params["start_bias"]) + logits_BC
        return (jnp.where(mask_B[:, None], new_BC, alpha_BC), begun_B | mask_B), None

    (alpha_BC, begun_B), _ = lax.scan(step, _start(logits_BSC), _by_position(logits_BSC, mask_BS))
    return jnp.where(begun_B, jax.nn.logsumexp(alpha_BC + params["end_bias"], axis=-1), 0.0)


def score(params: Params, logits_BSC: jax.Array, mask_BS: jax.Array, tags_BS: jax.Array) -> jax.Array:
    """Scores float32 [B] of some tag sequences; tags where the mask is False do not count."""

    def step(state: tuple[jax.Array, jax.Array, jax.Array], inputs: Any) -> Any:
        total_B, last_B, begun_B = state
        logits_BC, mask_B, tags_B = inputs
        moved_B = jnp.where(begun_B, params["transitions"][last_B, tags_B], params["start_bias"][tags_B])
        moved_B += jnp.take_along_axis(logits_BC, tags_B[:, None], axis=1)[:, 0]
        total_B += jnp.where(mask_B, moved_B, 0.0)
        return (total_B, jnp.where(mask_B, tags_B, last_B), begun_B | mask_B), None

    alpha_BC, begun_B = _start(logits_BSC)
    start = alpha_BC[:, 0], jnp.zeros_like(tags_BS[:, 0]), begun_B
    inputs = (*_by_position(logits_BSC, mask_BS), tags_BS.T)
    (total_B, last_B, begun_B), _ = lax.scan(step, start, inputs)
    return total_B + jnp.where(begun_B, params["end_bias"][last_B], 0.0)


def losses(params: Params, logits_BSC: jax.Array, mask_BS: jax.Array, tags_BS: jax.Array) -> jax.Array:
    """-log probability of the tags, float32 [B] in nats.

    Args:
      params: of `init_params` or `iob2_only`.
      logits_BSC: float32, the score of each tag at each position.
      mask_BS: bool, where the words are.
      tags_BS: int32.
    """
    return log_partition(params, logits_BSC, mask_BS) - score(params, logits_BSC, mask_BS, tags_BS)


def marginals(params: Params, logits_BSC: jax.Array, mask_BS: jax.Array) -> jax.Array:
    """The probability of each tag at each word over all sequences: float32 [B, S, C], 0 where there is no
    word. It is the gradient of the log partition function by the scores."""
    shares: jax.Array = jax.grad(lambda logits: log_partition(params, logits, mask_BS).sum())(
        logits_BSC.astype(jnp.float32)
    )
    return shares


def viterbi(params: Params, logits_BSC: jax.Array, mask_BS: jax.Array) -> jax.Array:
    """The tag sequences of the highest score: int32 [B, S], 0 where the mask is False."""

    def forward(state: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, jax.Array]) -> Any:
        best_BC, begun_B = state
        logits_BC, mask_B = inputs
        moved_BCC = best_BC[:, :, None] + params["transitions"]
        new_BC = jnp.where(begun_B[:, None], moved_BCC.max(1), params["start_bias"]) + logits_BC
        state = jnp.where(mask_B[:, None], new_BC, best_BC), begun_B | mask_B
        return state, moved_BCC.argmax(1).astype(jnp.int32)

    def backward(tag_B: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        before_BC, mask_B = inputs
        before_B = jnp.take_along_axis(before_BC, tag_B[:, None], axis=1)[:, 0]
        return jnp.where(mask_B, before_B, tag_B), jnp.where(mask_B, tag_B, 0)

    inputs = _by_position(logits_BSC, mask_BS)
    (best_BC, _), before_SBC = lax.scan(forward, _start(logits_BSC), inputs)
    last_B = (best_BC + params["end_bias"]).argmax(-1).astype(jnp.int32)
    _, tags_SB = lax.scan(backward, last_B, (before_SBC, inputs[1]), reverse=True)
    return tags_SB.T


def _start(logits_BSC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scores so far, and whether a row has had a word."""
    b, _, c = logits_BSC.shape
    return jnp.zeros((b, c), jnp.float32), jnp.zeros(b, bool)


def _by_position(logits_BSC: jax.Array, mask_BS: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.moveaxis(logits_BSC.astype(jnp.float32), 1, 0), mask_BS.T
