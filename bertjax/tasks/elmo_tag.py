"""A tag for each word by ELMo (Peters et al. 2018, section 4): the learned mix of its layers, a biLSTM and a
conditional random field, whose best sequence is what is predicted. Files, windows and scores are those of
bertjax.tasks.tag.

Shapes: B rows, S words of a row, C tags.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bertjax.errors import InputError
from bertjax.models import crf, elmo_heads
from bertjax.tasks import classify, tag
from bertjax.tasks.elmo_words import any_words, elmo_shapes, with_characters
from bertjax.tasks.finetuning import need_model
from bertjax.tasks.interface import Data, Sums
from bertjax.trained_model import Trained

HEAD = "token_classification"  # of bertjax.models.elmo_heads.HEADS
FINE_TUNES = True

batch_loss, metrics, batch_weights = classify.batch_loss, classify.metrics, classify.batch_weights
figures, flops_per_step = tag.figures, tag.flops_per_step


def init_params(config: ConfigDict, key: jax.Array) -> elmo_heads.Params:
    """Parameters of the encoder with its tagger as a nested dict of float32 arrays."""
    return elmo_heads.init_params(config, key, elmo_heads.HEADS[HEAD], len(config.examples.labels))


def batch_sums(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch, keys: jax.Array | None
) -> Sums:
    """-log probability of the rows' tag sequences, summed over a batch or a part of it."""
    scores_BSC, words_BS = _scores(config, params, batch, keys), batch["label_weights"] > 0
    return {"loss": crf.losses(params["crf"], scores_BSC, words_BS, batch["labels"]).sum()}


def batch_outputs(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch
) -> dict[str, jax.Array]:
    """The best sequence of tags, int32 [B, S], of those where an I-X follows a B-X or an I-X."""
    return {"tags": crf.viterbi(*_chains(config, params, batch))}


def batch_tags(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch
) -> tuple[jax.Array, jax.Array]:
    """The tags of `batch_outputs`, and the probability of each, float32 [B, S], over all such sequences."""
    chains = _chains(config, params, batch)
    tags_BS = crf.viterbi(*chains)
    return tags_BS, jnp.take_along_axis(crf.marginals(*chains), tags_BS[..., None], axis=-1)[..., 0]


def _chains(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch
) -> tuple[crf.Params, jax.Array, jax.Array]:
    only = crf.iob2_only(params["crf"], config.examples.labels)
    return only, _scores(config, params, batch, None), batch["label_weights"] > 0


def _scores(
    config: ConfigDict, params: elmo_heads.Params, batch: elmo_heads.Batch, keys: jax.Array | None
) -> jax.Array:
    x_BSD = elmo_heads.mixed(config, params, batch, keys, config.train.freeze_encoder)
    return elmo_heads.tag_scores(config, params, x_BSD, batch["segment_ids"], keys)


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of windows that each fill a row."""
    return tag.batch_shapes(config, section) | elmo_shapes(config, section)


def open_data(config: ConfigDict, source: Trained | None) -> Data:
    """Reads the files of config.examples. Raises InputError for whatever does not fit."""
    if config.examples.document_context:
        raise InputError("--config.examples.document_context=True: ELMo reads sentence by sentence; leave it "
                         "out")  # fmt: skip
    source = need_model(config, source, pairs=False)
    words, with_words = any_words(source)
    return with_characters(tag.open_data(config, with_words), words, source)
