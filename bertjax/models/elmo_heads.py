"""ELMo with what stands on it: its language models, a tagger, a classifier of texts and pairs.

The parameters of the language models' layers are "encoder"; what stands on them is beside it.

Shapes: B batch, S words of a row, D both directions' states, C labels; others as in bertjax.models.elmo.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from bertjax.models import crf, elmo
from bertjax.models.layers import HEAD_DROPOUT, Make, bind_module, dropout, fold_in, init_module
from bertjax.models.recurrent import Lstm
from bertjax.models.text_classifier import PairClassifier, TextClassifier

# The first words of the names of what stands on the encoder.
PARTS = (*elmo.PARTS, "tagger", "crf", "classifier")

HEADS: dict[str, tuple[str, ...]] = {
    "language_models": ("softmax",),
    "token_classification": ("mix", "tagger", "crf"),
    "sequence_classification": ("mix", "classifier"),  # of texts or of pairs
}

Params = elmo.Params
Batch = elmo.Batch


class _Tagger(nnx.Module):
    def __init__(self, config: ConfigDict, rngs: nnx.Rngs, labels: int):
        c = config.elmo
        self.rate = c.head_dropout_prob
        self.lstm = Lstm(
            rngs, 2 * c.projection, cells=c.head_cells, layers=c.head_layers, rate=c.head_dropout_prob
        )
        glorot = jax.nn.initializers.glorot_uniform()
        kernel = glorot(rngs.params(), (2 * c.head_cells, labels), jnp.float32)
        self.classifier_kernel = nnx.Param(kernel)
        self.classifier_bias = nnx.Param(jnp.zeros(labels, jnp.float32))

    def __call__(self, x_BSD: jax.Array, segment_ids: jax.Array, keys: jax.Array | None) -> jax.Array:
        x_BSH = self.lstm(x_BSD, segment_ids, keys)[-1]
        x_BSH = dropout(x_BSH, self.rate, None if keys is None else fold_in(keys, self.lstm.layers))
        return x_BSH.astype(jnp.float32) @ self.classifier_kernel[...] + self.classifier_bias[...]


def _tagger(config: ConfigDict, labels: int) -> Make:
    return lambda rngs: _Tagger(config, rngs, labels)


def _classifier(config: ConfigDict, labels: int, pairs: bool) -> Make:
    c, make = config.elmo, PairClassifier if pairs else TextClassifier
    return lambda rngs: make(
        rngs, 2 * c.projection, cells=c.head_cells, layers=c.head_layers, hidden=c.head_hidden,
        labels=labels, rate=c.head_dropout_prob,
    )  # fmt: skip


def init_params(
    config: ConfigDict, key: jax.Array, parts: Sequence[str], num_labels: int = 0, pairs: bool = False
) -> Params:
    """Parameters of the encoder and of some parts as a nested dict of float32 arrays.

    Args:
      config: of which config.elmo and config.model.dtype count.
      parts: of PARTS.
      num_labels: C.
      pairs: whether the classifier is one of pairs of texts.
    """
    flat = elmo.init_params(config, key, [part for part in parts if part in elmo.PARTS])
    params = {name: x for name, x in flat.items() if name.startswith(elmo.PARTS)}
    params["encoder"] = {name: x for name, x in flat.items() if name not in params}
    tagger_key, classifier_key = (jax.random.fold_in(key, i) for i in range(2))
    if "tagger" in parts:
        params["tagger"] = init_module(_tagger(config, num_labels), tagger_key)
    if "crf" in parts:
        params["crf"] = crf.init_params(num_labels)
    if "classifier" in parts:
        params["classifier"] = init_module(_classifier(config, num_labels, pairs), classifier_key)
    return params


def bind(config: ConfigDict, params: Params) -> elmo.Elmo:
    """The language models with their softmax or mix, for use inside a traced function.

    Args:
      config: as for init_params; or config.model with config.elmo as its `elmo`.
    """
    if "model" not in config:
        config = ConfigDict({"model": {"dtype": config.dtype}, "elmo": config.elmo})
    of_elmo = {name: x for name, x in params.items() if name.startswith(elmo.PARTS)}
    return elmo.bind(config, params["encoder"] | of_elmo)


def parts_of(params: Params) -> tuple[str, ...]:
    """Which of PARTS have parameters here."""
    return tuple(part for part in PARTS if any(name.startswith(part) for name in params))


def mixed(
    config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, frozen: bool
) -> jax.Array:
    """The learned mix of all layers, [B, S, D].

    Args:
      batch: character_ids, segment_ids.
      keys: uint32 [B, 2] of `layers.dropout_keys`; None: no dropout.
      frozen: whether the layers are fixed features, without dropout.
    """
    model = bind(config, params)
    return model.mix(model.states(batch, None if frozen else keys))


def tag_scores(
    config: ConfigDict, params: Params, x_BSD: jax.Array, segment_ids: jax.Array, keys: jax.Array | None
) -> jax.Array:
    """float32 scores [B, S, C] of each tag at each word, for bertjax.models.crf."""
    labels = params["tagger"]["classifier_bias"].size
    tagger = bind_module(_tagger(config, labels), params["tagger"])
    scores: jax.Array = tagger(x_BSD, segment_ids, _head_keys(keys))
    return scores


def text_logits(
    config: ConfigDict, params: Params, x_BSD: jax.Array, words_BS: jax.Array, keys: jax.Array | None
) -> jax.Array:
    """float32 logits [B, C] of a text or a pair.

    Args:
      words_BS: int32, 1 at the words of the first text, 2 at those of the second, elsewhere 0.
    """
    of_head = params["classifier"]
    pairs = "comparison" in of_head
    model = bind_module(_classifier(config, of_head["classifier_bias"].size, pairs), of_head)
    logits: jax.Array = model(x_BSD, words_BS, _head_keys(keys))
    return logits


def _head_keys(keys: jax.Array | None) -> jax.Array | None:
    return None if keys is None else fold_in(keys, HEAD_DROPOUT)
