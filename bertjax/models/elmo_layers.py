"""ELMo (Peters et al. 2018): a forward and a backward language model over words read by a character CNN.

Both directions share the characters' encoder and the softmax. Only what lies before a word reaches its state
in the forward direction, and only what lies behind it in the backward one. Equations and initial values are
those of the paper's code (bilm-tf).

Shapes: B batch, S words of a row, R directions (forward, backward), C characters of a word, E size of a
character, N filters of all widths, P projection, V vocabulary (see padded_vocab_size), K negatives.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from ml_collections import ConfigDict

from bertjax.data.tokenizers.characters import CHARACTER_IDS
from bertjax.models.cpu_gradients import add_bias, product
from bertjax.models.interface import Batch
from bertjax.models.layers import cross_entropy, dropout, fold_in, layer_norm, padded_vocab_size
from bertjax.models.recurrent import Lstm
from bertjax.sharding import split_rows

PARTS = ("softmax", "mix")  # the first words of the names of parameters that are not the layers'


class _Init:
    def __init__(self, rngs: nnx.Rngs):
        self.rngs = rngs

    def normal(self, deviation: float, *shape: int) -> nnx.Param[jax.Array]:
        return nnx.Param(deviation * jax.random.normal(self.rngs.params(), shape, jnp.float32))

    def uniform(self, limit: float, *shape: int) -> nnx.Param[jax.Array]:
        return nnx.Param(jax.random.uniform(self.rngs.params(), shape, jnp.float32, -limit, limit))

    def constant(self, value: float, *shape: int) -> nnx.Param[jax.Array]:
        return nnx.Param(jnp.full(shape, value, jnp.float32))


class Characters(nnx.Module):
    """Character ids of words -> vectors: convolutions of several widths, the maximum of each filter over the
    word, highway layers (Srivastava et al. 2015), a projection."""

    def __init__(self, c: ConfigDict, init: _Init):
        self.dtype, self.filters, self.highway_layers = jnp.dtype(c.dtype), c.filters, c.highway_layers
        n = sum(count for _, count in c.filters)
        self.embedding = init.uniform(1.0, CHARACTER_IDS, c.character_size)
        for width, count in c.filters:
            setattr(self, f"width_{width}_kernel", init.uniform(0.05, width, c.character_size, count))
            setattr(self, f"width_{width}_bias", init.constant(0.0, count))
        # In one product: how much of the new value is taken, and the new value.
        self.highway_kernel = init.normal(math.sqrt(1 / n), c.highway_layers, n, 2, n)
        bias = init.constant(0.0, c.highway_layers, 2, n)
        self.highway_bias = nnx.Param(bias[...].at[:, 0].set(-2.0))
        self.projection_kernel = init.normal(math.sqrt(1 / n), n, c.projection)
        self.projection_bias = init.constant(0.0, c.projection)

    def __call__(self, ids_BSC: jax.Array) -> jax.Array:
        """Vectors [B, S, P]."""
        dtype = self.dtype
        b, s, c = ids_BSC.shape
        x_WCE = self.embedding[...].astype(dtype)[ids_BSC.reshape(b * s, c)]
        found = []
        for width, _ in self.filters:
            kernel_TEN = getattr(self, f"width_{width}_kernel")[...].astype(dtype)
            y_WCN = lax.conv_general_dilated(
                x_WCE, kernel_TEN, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
            )
            found.append(y_WCN.max(1) + getattr(self, f"width_{width}_bias")[...].astype(dtype))
        x_BSN = jax.nn.relu(jnp.concatenate(found, axis=-1)).reshape(b, s, -1)
        for i in range(self.highway_layers):
            kernel_NGM = self.highway_kernel[...][i].astype(dtype)
            y_BSGN = product("BSN,NGM->BSGM", x_BSN, kernel_NGM) + self.highway_bias[...][i].astype(dtype)
            share_BSN = jax.nn.sigmoid(y_BSGN[:, :, 0])
            x_BSN = share_BSN * jax.nn.relu(y_BSGN[:, :, 1]) + (1 - share_BSN) * x_BSN
        x_BSP = product("BSN,NP->BSP", x_BSN, self.projection_kernel[...].astype(dtype))
        return x_BSP + self.projection_bias[...].astype(dtype)


class LanguageModels(nnx.Module):
    """The two language models' layers, with their softmax, or with the mix of all layers."""

    def __init__(self, c: ConfigDict, rngs: nnx.Rngs, parts: Sequence[str], mix_norm: bool = False):
        """Args:
        c: config.model.
        parts: of PARTS. "softmax" predicts words, "mix" is one sum of all layers for another model.
        mix_norm: config.head.mix_norm.
        """
        init = _Init(rngs)
        self.rate, self.normalise = c.dropout_prob, mix_norm
        self.layers, self.vocab_size = c.layers, c.vocab_size
        self.characters = Characters(c, init)
        self.lstm = Lstm(
            rngs, c.projection, cells=c.cells, layers=c.layers, projection=c.projection, clip=c.clip,
            separate=True, residual=True, rate=c.dropout_prob,
        )  # fmt: skip
        if "softmax" in parts:
            rows = padded_vocab_size(c.vocab_size)
            table = init.normal(1 / math.sqrt(c.projection), rows, c.projection)
            self.softmax_kernel = nnx.Param(table[...].at[c.vocab_size :].set(0.0))
            self.softmax_bias = init.constant(0.0, rows)
        if "mix" in parts:
            self.mix_bias, self.mix_scale = init.constant(0.0, c.layers + 1), init.constant(1.0, 1)

    def states(self, batch: Batch, keys: jax.Array | None = None) -> list[jax.Array]:
        """The L + 1 layers, each [B, S, R, P]: the words' vectors, for either direction, and the LSTMs'.

        Args:
          batch: character_ids int32 [B, S, C] and segment_ids int32 [B, S]; the states of padding are 0.
          keys: uint32 [B, 2] of `layers.dropout_keys`; None: no dropout.
        """
        x_BSP = self.characters(batch["character_ids"])
        x_BSP = split_rows(jnp.where(batch["segment_ids"][..., None] > 0, x_BSP, 0))
        x_BSRP = jnp.stack([x_BSP, x_BSP], axis=2)
        return [x_BSRP, *self.lstm(x_BSRP, batch["segment_ids"], keys)]

    def mix(self, states: Sequence[jax.Array]) -> jax.Array:
        """gamma * sum_j softmax(s)_j h_j, [B, S, R * P].

        With config.head.mix_norm each layer is normalised first, at each word by itself (the paper's code
        takes mean and variance over a whole batch, so that a text would depend on those beside it).
        """
        shares = jax.nn.softmax(self.mix_bias[...])
        total: Any = 0.0
        for share, x_BSRP in zip(shares, states, strict=True):
            b, s, r, p = x_BSRP.shape
            x_BSD = x_BSRP.reshape(b, s, r * p)
            if self.normalise:
                x_BSD = layer_norm(x_BSD, jnp.ones(r * p), jnp.zeros(r * p), 1e-12)
            total += share.astype(x_BSD.dtype) * x_BSD
        mixed: jax.Array = total * self.mix_scale[...].astype(total.dtype)
        return mixed

    def losses(self, top_BSRP: jax.Array, targets_BSR: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cross-entropy over all words in nats, float32 [B, S, R], and whether the word is the likeliest.

        One position after the other, as logits of all of them would need S * R * V numbers a row.

        Args:
          top_BSRP: the last of `states`.
        """
        kernel_VP = self.softmax_kernel[...].astype(top_BSRP.dtype)
        padding_V = jnp.where(jnp.arange(kernel_VP.shape[0]) < self.vocab_size, 0.0, -1e9)

        def at(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            logits_BRV = product("BRP,VP->BRV", inputs[0], kernel_VP, jnp.float32)
            return cross_entropy(add_bias(logits_BRV, self.softmax_bias[...] + padding_V), inputs[1])

        loss_SBR, correct_SBR = lax.map(at, (jnp.moveaxis(top_BSRP, 1, 0), jnp.moveaxis(targets_BSR, 1, 0)))
        return jnp.moveaxis(loss_SBR, 0, 1), jnp.moveaxis(correct_SBR, 0, 1)

    def sampled_losses(
        self, top_BSRP: jax.Array, targets_BSR: jax.Array, negatives: "Negatives", keys: jax.Array | None
    ) -> jax.Array:
        """Losses for training, float32 [B, S, R]; see `sampled_cross_entropy`.

        Args:
          top_BSRP: the last of `states`, which dropout is done on here.
          negatives: of `draw_negatives`, in every step anew.
        """
        top_BSRP = dropout(top_BSRP, self.rate, None if keys is None else fold_in(keys, self.layers))
        kernel_VP, bias_V = self.softmax_kernel[...], self.softmax_bias[...]
        return sampled_cross_entropy(top_BSRP, kernel_VP, bias_V, targets_BSR, negatives, self.vocab_size)


class Negatives(NamedTuple):
    """Words that stand for all others in one step, drawn without replacement, for the whole batch."""

    ids_K: jax.Array  # int32 [samples + 1]; the last is for a label that is itself among the others
    # float32: how long the drawing went on until a word came that is not among the first samples, and until
    # one that is not among all of ids_K.
    times: tuple[jax.Array, jax.Array]


def draw_negatives(key: jax.Array, vocab_size: int, samples: int) -> Negatives:
    """Words drawn from the log-uniform distribution over ids sorted by frequency, each once.

    Every word arrives as a Poisson process of rate P(v) = log(1 + 1 / (v + 1)) / log(V + 1), and the first
    come are taken: the same as draws one by one in which a word that is already there does not count.
    """
    ids = jnp.arange(vocab_size)
    times = jax.random.exponential(key, (vocab_size,)) / jnp.exp(_log_rate(ids, vocab_size))
    first, ids = lax.top_k(-times, samples + 2)
    return Negatives(ids[:-1], (-first[-2], -first[-1]))


def _log_rate(ids: jax.Array, vocab_size: int) -> jax.Array:
    return jnp.log(jnp.log1p(1 / (ids + 1)) / math.log(vocab_size + 1))


def sampled_cross_entropy(
    x: jax.Array,
    kernel_VP: jax.Array,
    bias_V: jax.Array,
    labels: jax.Array,
    negatives: Negatives,
    vocab_size: int,
) -> jax.Array:
    """Sampled softmax (Jean et al. 2015): cross-entropy among the label and `samples` other words.

    The log of the expected count of each, the label too, is taken off its logit: what is left is the log odds
    of being the label given all candidates. So if labels have the distribution that the model gives, the mean
    gradient is 0, as the full softmax's. Where the label is itself among the first samples, the next word
    takes its place, and that time is the end of the drawing; this makes it hold for any number of samples.

    Args:
      x: [..., P].
      kernel_VP, bias_V: float32, of the full softmax.
      labels: int32 [...].

    Returns:
      float32 [...] in nats, comparable with each other but not with the full softmax's.
    """
    ids_K, times = negatives

    def log_count(ids: jax.Array, time: jax.Array) -> jax.Array:
        return jnp.log(-jnp.expm1(-time * jnp.exp(_log_rate(ids, vocab_size))))

    is_label = labels[..., None] == ids_K
    among = is_label.any(-1)
    spare = (jnp.arange(ids_K.shape[0]) == ids_K.shape[0] - 1) & ~is_label[..., :-1].any(-1, keepdims=True)
    # One product for both kinds of labels: the correction is a row of either kind.
    logits = (
        jnp.einsum("...P,KP->...K", x, kernel_VP[ids_K].astype(x.dtype), preferred_element_type=jnp.float32)
        + bias_V[ids_K]
    )
    logits -= jnp.where(among[..., None], log_count(ids_K, times[1]), log_count(ids_K, times[0]))
    logits = jnp.where(is_label | spare, -1e9, logits)
    right = (x.astype(jnp.float32) * kernel_VP[labels]).sum(-1) + bias_V[labels]
    right -= log_count(labels, jnp.where(among, times[1], times[0]))
    return jnp.logaddexp(right, jax.nn.logsumexp(logits, axis=-1)) - right


def next_words(word_ids: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What each state is to predict: int32 [B, S, R] words, and float32 [B, S, R] weights.

    The word behind it for the forward direction, the one before it for the backward one, in its segment; a
    segment is a sentence with its begin and its end. Weights are 0 where there is none.
    """

    def shifted(x_BS: jax.Array) -> jax.Array:
        behind = jnp.pad(x_BS[:, 1:], ((0, 0), (0, 1)))
        return jnp.stack([behind, jnp.pad(x_BS[:, :-1], ((0, 0), (1, 0)))], axis=-1)

    inside = (shifted(segment_ids) == segment_ids[..., None]) & (segment_ids[..., None] > 0)
    return shifted(word_ids), inside.astype(jnp.float32)


def encoder_products(c: ConfigDict) -> float:
    """Multiplications in the matrix products of the language models' layers for one word, forward.

    Args:
      c: config.model.
    """
    n = sum(count for _, count in c.filters)
    convolutions = sum((c.characters - width + 1) * width * c.character_size * m for width, m in c.filters)
    lstm = 4 * c.cells * 2 * c.projection + c.cells * c.projection
    return float(convolutions + c.highway_layers * 2 * n * n + n * c.projection + 2 * c.layers * lstm)
