"""A class or a number for each text or pair of texts by ELMo: the learned mix of its layers, and the biLSTM
with attention between the texts of GLUE's baseline (Wang et al. 2018, section 5.1). Files, scores and files
of predictions are those of bertjax.tasks.classify.

Shapes: B rows, S words of a row, C labels; C is 1 for a number.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bertjax.models import elmo_heads
from bertjax.tasks import classify
from bertjax.tasks.elmo_words import any_words, elmo_shapes, with_characters, words_of_texts
from bertjax.tasks.finetuning import need_model
from bertjax.tasks.interface import Data, Sums
from bertjax.trained_model import Trained

HEAD = "sequence_classification"  # of bertjax.models.elmo_heads.HEADS
FINE_TUNES = True

batch_loss, metrics, batch_weights = classify.batch_loss, classify.metrics, classify.batch_weights
figures, flops_per_step = classify.figures, classify.flops_per_step


def init_params(config: ConfigDict, key: jax.Array) -> elmo_heads.Params:
    """Parameters of the encoder with its classifier as a nested dict of float32 arrays."""
    labels, pairs = len(config.examples.labels), bool(config.examples.text_b)
    return elmo_heads.init_params(config, key, elmo_heads.HEADS[HEAD], labels, pairs)


def batch_sums(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch, keys: jax.Array | None
) -> Sums:
    """Losses, and correct predictions of classes, summed over a batch or a part of it."""
    return classify.sums_of(config, _logits(config, params, batch, keys), batch)


def batch_outputs(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch
) -> dict[str, jax.Array]:
    """float32 logits [B, 1, C], which the evaluation sets are scored by."""
    return {"logits": _logits(config, params, batch, None)}


def _logits(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch, keys: jax.Array | None
) -> jax.Array:
    sentences_BS = jnp.where(batch["segment_ids"] > 0, batch["token_type_ids"] + 1, 0)
    by_sentence = {"character_ids": batch["character_ids"], "segment_ids": sentences_BS}
    x_BSD = elmo_heads.mixed(config, params, by_sentence, keys, config.train.freeze_encoder)
    return elmo_heads.text_logits(config, params, x_BSD, words_of_texts(batch), keys)[:, None]


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of examples that each fill a row."""
    return classify.batch_shapes(config, section) | elmo_shapes(config, section)


def open_data(config: ConfigDict, source: Trained | None) -> Data:
    """Reads the files of config.examples. Raises InputError for whatever does not fit."""
    source = need_model(config, source, pairs=False)
    words, with_words = any_words(source)
    return with_characters(classify.open_data(config, with_words), words, source)
