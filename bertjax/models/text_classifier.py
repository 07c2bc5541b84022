"""A text, or two texts compared by LSTMs with attention between them: the ELMo baseline of GLUE (Wang et al.
2018, section 5.1), over whatever vectors the words have.

Shapes: B pairs, S words of the first text, T of the second, D input, H cells, C classes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax.models.cpu_gradients import product
from bertjax.models.layers import dropout, fold_in
from bertjax.models.recurrent import Lstm


class _Classifier(nnx.Module):
    """A biLSTM, and an MLP."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: int,
        vectors: int,
        *,
        cells: int,
        layers: int,
        hidden: int,
        labels: int,
        rate: float,
    ):
        """Args:
        inputs: D.
        vectors: of 2 * cells units each, that the MLP is given.
        cells, layers: H in each direction, and the layers of the biLSTM.
        hidden: units of the MLP.
        rate: of dropout on the input of every layer.
        """
        self.rate = rate
        self.encoder = Lstm(rngs, inputs, cells=cells, layers=layers, rate=rate)
        glorot = jax.nn.initializers.glorot_uniform()
        self.hidden_kernel = nnx.Param(glorot(rngs.params(), (2 * vectors * cells, hidden), jnp.float32))
        self.hidden_bias = nnx.Param(jnp.zeros(hidden, jnp.float32))
        self.classifier_kernel = nnx.Param(glorot(rngs.params(), (hidden, labels), jnp.float32))
        self.classifier_bias = nnx.Param(jnp.zeros(labels, jnp.float32))

    def _mlp(self, x_BD: jax.Array, k: Sequence[jax.Array | None]) -> jax.Array:
        """float32 logits [B, C]; `k` are two sites' keys for dropout."""
        x_BD = dropout(x_BD, self.rate, k[0])
        h_BF = product("BD,DF->BF", x_BD, self.hidden_kernel[...].astype(x_BD.dtype))
        h_BF = dropout(jnp.tanh(h_BF + self.hidden_bias[...].astype(x_BD.dtype)), self.rate, k[1])
        return h_BF.astype(jnp.float32) @ self.classifier_kernel[...] + self.classifier_bias[...]


class TextClassifier(_Classifier):
    """A biLSTM reads a text, and an MLP classifies its highest states."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, **sizes: Any):
        """For the arguments see _Classifier."""
        super().__init__(rngs, inputs, 1, **sizes)

    def __call__(self, x_BSD: jax.Array, words_BS: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """float32 logits [B, C].

        Args:
          x_BSD: the words' vectors.
          words_BS: int32, 1 where there is a word, 0 for padding. No text is empty.
          keys: uint32 [B, 2] of `layers.dropout_keys`; None: no dropout.
        """
        k = [None if keys is None else fold_in(keys, site) for site in range(3)]
        return self._mlp(_highest(self.encoder(x_BSD, words_BS, k[0])[-1], words_BS > 0), k[1:])


class PairClassifier(_Classifier):
    """A biLSTM reads either text, attention adds what the other one says to each word, a second biLSTM reads
    both, and an MLP classifies [u; v; |u - v|; u * v] of their highest states u and v.

    Both texts are in one row, where they are segments of their own to the biLSTMs, so one pass reads them.
    """

    def __init__(self, rngs: nnx.Rngs, inputs: int, *, cells: int, rate: float, **sizes: int):
        """For the arguments see _Classifier. The second biLSTM has one layer."""
        super().__init__(rngs, inputs, 4, cells=cells, rate=rate, **sizes)
        self.comparison = Lstm(rngs, 4 * cells, cells=cells, layers=1, rate=rate)

    def __call__(self, x_BSD: jax.Array, words_BS: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """float32 logits [B, C].

        Args:
          x_BSD: the words' vectors.
          words_BS: int32, 1 at the words of the first text, 2 at those of the second, elsewhere 0. No text is
            empty, and neither has other words between its own.
          keys: uint32 [B, 2] of `layers.dropout_keys`; None: no dropout.
        """
        k = [None if keys is None else fold_in(keys, site) for site in range(4)]
        x_BSH = self.encoder(x_BSD, words_BS, k[0])[-1]
        scores_BST = jnp.einsum("BSH,BTH->BST", x_BSH, x_BSH, preferred_element_type=jnp.float32)
        others_BST = (words_BS[:, :, None] != words_BS[:, None]) & (words_BS[:, None] > 0)
        probs_BST = jax.nn.softmax(jnp.where(others_BST, scores_BST, -1e9), axis=-1)
        other_BSH = jnp.einsum("BST,BTH->BSH", probs_BST.astype(x_BSH.dtype), x_BSH)
        x_BSH = self.comparison(jnp.concatenate([x_BSH, other_BSH], axis=-1), words_BS, k[1])[-1]
        u_BH, v_BH = (_highest(x_BSH, words_BS == text) for text in (1, 2))
        x_BD = jnp.concatenate([u_BH, v_BH, jnp.abs(u_BH - v_BH), u_BH * v_BH], axis=-1)
        return self._mlp(x_BD, k[2:])


def _highest(x_BSH: jax.Array, counts_BS: jax.Array) -> jax.Array:
    return jnp.where(counts_BS[..., None], x_BSH, -1e9).max(1)
