"""Language-model pre-training of a GPT (Radford et al. 2018, section 3.1) on a store's documents: every token
is predicted from those before it.

Rows are contiguous pieces of one document each (see bertjax.data.pretraining.gpt_examples): no token is
predicted from another document, so what is behind the end of a short one stays empty unless data.pack
puts several into a row. With data.special_tokens they are BERT's pairs of contiguous texts, as start A
delimiter B extract.

Every loss and metric is a sum and a weight, added up over the whole batch (or evaluation) and divided once.

Shapes: B rows, S sequence, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.pretraining.bert_examples import Examples
from bertjax.data.pretraining.gpt_examples import Pieces, TextBatch
from bertjax.data.pretraining.stream import Stream
from bertjax.data.tokenizers.tokenizer import Tokenizer, add_task_tokens
from bertjax.errors import InputError
from bertjax.models import gpt
from bertjax.models.bert import Batch, Params
from bertjax.models.layers import cross_entropy
from bertjax.tasks.interface import Data, Sums, perplexity
from bertjax.tasks.pretraining import Wanted, examples_of, open_store_data
from bertjax.trained_model import Trained

HEAD = "causal_lm"  # of bertjax.models.gpt.HEADS
FINE_TUNES = False


def init_params(config: ConfigDict, key: jax.Array) -> Params:
    """Parameters of the encoder, whose word embeddings are the language model, as a nested dict of float32
    arrays."""
    return gpt.init_params(config.model, key)


def batch_weights(batch: Batch) -> Sums:
    """What the sums of `batch_sums` are divided by."""
    return {"predicted": gpt.next_tokens(batch["input_ids"], batch["segment_ids"])[1].sum()}


def batch_sums(config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None) -> Sums:
    """Losses and correct predictions, summed over a batch or a part of it.

    Args:
      batch: see bertjax.data.pretraining.gpt_examples.TextBatch.
      keys: uint32 [B, 2] for dropout (bertjax.models.layers.dropout_keys), None for none.
    """
    model = gpt.bind(config.model, params)
    x_BSD = model.encoder(batch, packed=config.data.pack > 1, keys=keys)
    labels_BS, weights_BS = gpt.next_tokens(batch["input_ids"], batch["segment_ids"])
    loss_BS, correct_BS = cross_entropy(model.language_model(x_BSD), labels_BS)
    return {"loss": (loss_BS * weights_BS).sum(), "correct": (correct_BS * weights_BS).sum()}


def batch_loss(sums: Sums, weights: Sums) -> jax.Array:
    """Mean loss of the predicted tokens."""
    return sums["loss"] / jnp.maximum(weights["predicted"], 1.0)


def metrics(totals: dict[str, float]) -> dict[str, float]:
    """Means over whatever was added up: `totals` holds the names of batch_sums and of batch_weights."""
    predicted = max(totals["predicted"], 1.0)
    loss = totals["loss"] / predicted
    return {
        "loss": loss,
        "accuracy": totals["correct"] / predicted,
        "perplexity": perplexity(loss),
    }


def flops_per_step(config: ConfigDict, section: ConfigDict) -> float:
    """Floating-point operations of the matrix products that a step of full rows needs, forward and backward.

    Counted as in bertjax.tasks.pretrain.flops_per_step: attention's scores of later tokens too, which are
    computed and left out.

    Args:
      section: config.train or config.phase2, whose batch shape it is.
    """
    m = config.model
    d, f = m.hidden_size, m.intermediate_size
    layer = 4 * d * d + 2 * d * f + 2 * section.seq_length * d
    return 6.0 * section.batch_size * section.seq_length * (m.num_hidden_layers * layer + d * m.vocab_size)


def batch_shapes(config: ConfigDict, section: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of config.train or config.phase2."""
    shape = section.batch_size, section.seq_length
    return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in TextBatch._fields}


def open_data(config: ConfigDict, source: Trained | None = None) -> Data:
    """Opens the store. Raises InputError for whatever does not fit."""
    for field in ("tfrecord", "tfrecord_heldout", "vocab"):
        if config.data[field]:
            raise InputError(f"--config.data.{field}={config.data[field]}: a language model is trained on "
                             "--config.data.store; leave it empty")  # fmt: skip
    return open_store_data(config, _stream, flops_per_step, lambda tokenizer: _tokenizer(config, tokenizer))


def _tokenizer(config: ConfigDict, tokenizer: Tokenizer) -> Tokenizer:
    if not config.data.special_tokens:
        return tokenizer
    return add_task_tokens(tokenizer, f"--config.data.special_tokens=True: {config.data.store}")


def _stream(wanted: Wanted) -> Stream:
    data = wanted.config.data.copy_and_resolve_references()
    if wanted.held_out:
        data.weights = (1.0,) * len(wanted.store.inputs)
    if data.special_tokens:
        data.masking, data.next_sentence = "next_token", False
        return examples_of(wanted, data, _Pairs)
    return Pieces(
        wanted.store,
        data,
        wanted.tokenizer.pad_id,
        seed=wanted.seed,
        phase=wanted.phase,
        seq_length=wanted.section.seq_length,
        documents=wanted.documents,
        shifted=not wanted.held_out,
    )


class _Pairs(Examples):
    """BERT's pairs as rows for a language model, whose labels follow from the rows."""

    def rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        batch = super().rows(position, count)
        return {name: batch[name] for name in TextBatch._fields}
