"""What a fine-tuned head reads: the states of chosen layers, and an LSTM over them.

By default that is the encoder's last layer, and all of the encoder is trained. The rest is of the paper's
feature-based approach (Devlin et al. 2018, section 5.3: two layers of a BiLSTM on states of a frozen encoder)
and of its "+ BiLSTM" (section 5.1).

A weighted sum is ELMo's (Peters et al. 2018, equation 1), which the paper does not define anew: the weights
are the softmax of a learned number for each layer, equal at first, and the sum is multiplied by a learned
scale, 1 at first. "All 12 layers" are the layers without the embeddings. The paper's "two-layer
768-dimensional BiLSTM" is taken to have 768 units in each direction; its second layer reads both.

Without an LSTM, the state at one position stands for the whole of a sequence; with one, the forward state at
its last token and the backward state at its first, each of which has read all of it.

Shapes: B batch, S sequence, M positions, K chosen layers, D hidden, H units of each direction, W what a head
reads: D, 4 D of the last four side by side, 2 H of an LSTM.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from bertjax.models.layers import fold_in, take_positions
from bertjax.models.recurrent import Lstm

# What config.head.layers may be, and the layers that the model needs for it.
HEAD_LAYERS = {
    "last": 1,
    "embeddings": 1,
    "second_to_last": 2,
    "sum_last_four": 4,
    "concat_last_four": 4,
    "sum_all": 1,
}
_SUMS = ("sum_last_four", "sum_all")
_LSTM_DROPOUT = 5_000  # the number of the LSTM's place of dropout, past the encoder's


def reads_last_layer(head: ConfigDict) -> bool:
    """Whether a head reads the last layer and nothing else."""
    return bool(head.layers == "last" and not head.lstm_layers)


def same_features(one: ConfigDict, other: ConfigDict) -> bool:
    """Whether heads read the same by these two of config.head, so that one's parameters fit the other."""
    sizes = not one.lstm_layers or one.lstm_size == other.lstm_size
    return bool(one.layers == other.layers and one.lstm_layers == other.lstm_layers and sizes)


def describe(head: ConfigDict) -> str:
    """ "concat_last_four and a BiLSTM of 2 layers"."""
    lstm = f" and a BiLSTM of {head.lstm_layers} layers" if head.lstm_layers else ""
    return f"{head.layers}{lstm}"


def lstm_products(config: ConfigDict, head: ConfigDict) -> int:
    """Multiplications for a token in the matrix products of the LSTM's forward pass.

    Args:
      config: config.model.
      head: config.head.
    """
    total, inputs = 0, _layers_size(config, head)
    for _ in range(head.lstm_layers):
        total += 2 * (inputs + head.lstm_size) * 4 * head.lstm_size
        inputs = 2 * head.lstm_size
    return total


def _layers_size(config: ConfigDict, head: ConfigDict) -> int:
    return int(config.hidden_size * (4 if head.layers == "concat_last_four" else 1))


def read_layers(
    encoder: Any,
    layers: str,
    batch: dict[str, jax.Array],
    mix: tuple[jax.Array, jax.Array] | None = None,
    *,
    packed: bool = False,
    keys: jax.Array | None = None,
) -> jax.Array:
    """The states of chosen layers, [B, S, D], or [B, S, 4 D] of "concat_last_four".

    Args:
      encoder: bertjax.models.bert.Encoder.
      layers: of HEAD_LAYERS.
      mix: of a weighted sum, the numbers [K] whose softmax its weights are, and the scale [1]; None: equal
        weights and 1, with which training begins.
      packed, keys: see the encoder.
    """
    if layers == "last":
        last: jax.Array = encoder(batch, packed=packed, keys=keys)
        return last
    if layers == "embeddings":
        embedded: jax.Array = encoder.embed(batch, keys)
        return embedded
    every_KBSD: jax.Array = encoder(batch, packed=packed, keys=keys, every_layer=True)
    if layers == "second_to_last":
        return every_KBSD[-2]
    x_KBSD = every_KBSD[1:] if layers == "sum_all" else every_KBSD[-4:]
    if layers == "concat_last_four":
        return jnp.concatenate(list(x_KBSD), axis=-1)
    count = x_KBSD.shape[0]
    numbers_K, scale = (jnp.zeros(count), jnp.ones(1)) if mix is None else mix
    weights_K = jax.nn.softmax(numbers_K) * scale
    return jnp.einsum("K,KBSD->BSD", weights_K, x_KBSD.astype(jnp.float32)).astype(x_KBSD.dtype)


class Features(nnx.Module):
    """batch -> what a head reads. By default it has no parameters."""

    def __init__(self, config: ConfigDict, head: ConfigDict, rngs: nnx.Rngs):
        """Args:
        config: config.model.
        head: config.head.
        """
        self.layers, self.plain = head.layers, reads_last_layer(head)
        self.size = _layers_size(config, head)  # W
        if head.layers in _SUMS:
            count = config.num_hidden_layers if head.layers == "sum_all" else 4
            self.mix_bias, self.mix_scale = nnx.Param(jnp.zeros(count)), nnx.Param(jnp.ones(1))
        self.has_lstm = head.lstm_layers > 0
        if self.has_lstm:
            self.lstm = Lstm(
                rngs, self.size, cells=head.lstm_size, layers=head.lstm_layers, rate=head.dropout_prob
            )
            self.size = 2 * head.lstm_size

    @property
    def mix(self) -> tuple[jax.Array, jax.Array] | None:
        """Of a learned sum, see `read_layers`; None: there is none."""
        return (self.mix_bias[...], self.mix_scale[...]) if self.layers in _SUMS else None

    def __call__(
        self,
        encoder: Any,
        batch: dict[str, jax.Array],
        positions_BM: jax.Array | None,
        *,
        packed: bool,
        keys: jax.Array | None,
        frozen: bool,
    ) -> jax.Array:
        """[B, S, W] or [B, M, W]; see bertjax.models.bert.Bert.head_states."""
        encoder_keys = None if frozen else keys
        if self.plain:  # the last layer is computed at these positions only
            last: jax.Array = encoder(batch, packed=packed, keys=encoder_keys, positions_BM=positions_BM)
            return last
        x_BSW = read_layers(encoder, self.layers, batch, self.mix, packed=packed, keys=encoder_keys)
        segment_ids = batch["segment_ids"]
        if self.has_lstm:
            x_BSW = self.lstm(x_BSW, segment_ids, None if keys is None else fold_in(keys, _LSTM_DROPOUT))[-1]
        if positions_BM is None:
            return x_BSW
        if not self.has_lstm:
            return take_positions(x_BSW, positions_BM)
        first_BM, last_BM = _ends(segment_ids, positions_BM)
        forward_BSH, backward_BSH = jnp.split(x_BSW, 2, axis=-1)
        states = take_positions(forward_BSH, last_BM), take_positions(backward_BSH, first_BM)
        return jnp.concatenate(states, axis=-1)


def _ends(segment_ids: jax.Array, positions_BM: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first and the last position, each [B, M], of the segments that lie at these positions."""
    of_BM = jnp.take_along_axis(segment_ids, positions_BM, axis=1)
    inside_BMS = of_BM[:, :, None] == segment_ids[:, None]
    last_BM = segment_ids.shape[1] - 1 - inside_BMS[:, :, ::-1].argmax(-1)
    return inside_BMS.argmax(-1), last_BM
