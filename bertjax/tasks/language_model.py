"""Language-model pre-training of a GPT (Radford et al. 2018, section 3.1) on a store's documents: every token
is predicted from those before it.

Rows are contiguous pieces of one document each (see bertjax.data.pretraining.gpt_examples): no token is
predicted from another document, so what is behind the end of a short one stays empty unless data.pack puts
several into a row. With data.special_tokens they are BERT's pairs of contiguous texts, as start A delimiter B
extract.

Shapes: B rows, S sequence, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import sections
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.data.pretraining.gpt_examples import Pieces, TextBatch
from bertjax.data.pretraining.stream import Stream
from bertjax.data.tokenizers.tokenizer import Tokenizer, add_task_tokens
from bertjax.models import gpt
from bertjax.models.interface import Batch, ModelKind, Params, Sums
from bertjax.models.layers import cross_entropy
from bertjax.models.transformer import encoder_products
from bertjax.tasks.bert_data import bert_examples
from bertjax.tasks.interface import Require, Shapes, bind, perplexity
from bertjax.tasks.pretraining import Pretraining, Wanted

# How BERT's pairs are made where nothing is masked.
_PAIRS = {"masking": "next_token", "next_sentence": False, "dupe_factor": 1, "masked_lm_prob": 0.15,
          "mask_split": (0.8, 0.1, 0.1), "whole_word_mask": False}  # fmt: skip


class LanguageModel(Pretraining):
    name, head, any_tokens = "language_model", "causal_lm", True  # plain text has no marks

    def config(self, kind: ModelKind) -> ConfigDict:
        d = sections.store_data()
        # True: rows are not plain text but BERT's pairs, with the start, delimiter and extract tokens and the
        # token types that a GPT meets in fine-tuning first otherwise.
        d.special_tokens = False
        d.short_seq_prob = 0.1  # of those pairs
        return sections.pretraining_config(self.name, kind, d)

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        types = 2 if config.data.special_tokens else 0
        require(config.model.type_vocab_size == types, "model.type_vocab_size",
                f"must be {types} with data.special_tokens={config.data.special_tokens}")  # fmt: skip

    def void(self, config: ConfigDict) -> dict[str, str]:
        void = super().void(config)
        if not config.data.special_tokens:
            void["data.short_seq_prob"] = "is of the pairs of data.special_tokens=True; leave it out"
        return void

    def batch_weights(self, batch: Batch) -> Sums:
        return {"predicted": gpt.next_tokens(batch["input_ids"], batch["segment_ids"])[1].sum()}

    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        """Losses and correct predictions; for `batch` see bertjax.data.pretraining.gpt_examples.TextBatch."""
        model = bind(config, params, remat)
        x_BSD = model.encoder(batch, packed=config.data.pack > 1, keys=keys)
        labels_BS, weights_BS = gpt.next_tokens(batch["input_ids"], batch["segment_ids"])
        loss_BS, correct_BS = cross_entropy(model.language_model(x_BSD), labels_BS)
        return {"loss": (loss_BS * weights_BS).sum(), "correct": (correct_BS * weights_BS).sum()}

    def batch_loss(self, sums: Sums, weights: Sums) -> jax.Array:
        """Mean loss of the predicted tokens."""
        return sums["loss"] / jnp.maximum(weights["predicted"], 1.0)

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        predicted = max(totals["predicted"], 1.0)
        loss = totals["loss"] / predicted
        return {"loss": loss, "accuracy": totals["correct"] / predicted, "perplexity": perplexity(loss)}

    def flops_per_step(self, config: ConfigDict, phase: ConfigDict) -> float:
        m, s = config.model, phase.seq_length
        return float(6.0 * phase.batch_rows * (encoder_products(m, s) + s * m.hidden_size * m.vocab_size))

    def batch_shapes(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        shape = phase.batch_rows, phase.seq_length
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in TextBatch._fields}

    def complete(self, config: ConfigDict, tokenizer: Tokenizer) -> Tokenizer:
        if not config.data.special_tokens:
            return tokenizer
        return add_task_tokens(tokenizer, f"--config.data.special_tokens=True: {config.data.store}")

    def stream(self, wanted: Wanted, notes: list[str]) -> Stream:
        data = wanted.data
        if data.special_tokens:
            data.update(_PAIRS)
            return bert_examples(wanted, data, _Pairs, predictions=1)  # none is masked
        return Pieces(
            wanted.store,
            data,
            wanted.tokenizer.pad_id,
            seed=wanted.seed,
            phase=wanted.number,
            seq_length=wanted.phase.seq_length,
            documents=wanted.documents,
            shifted=not wanted.held_out,
        )


class _Pairs(Examples):
    """BERT's pairs as rows for a language model, whose labels follow from the rows."""

    def rows(self, position: int, count: int) -> dict[str, np.ndarray]:
        batch = super().rows(position, count)
        return {name: batch[name] for name in TextBatch._fields}


TASK = LanguageModel()
