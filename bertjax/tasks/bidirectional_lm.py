"""ELMo's two language models (Peters et al. 2018, section 3.1) from a store of words.

In training each direction's loss is a sampled softmax; held-out perplexities are over all predicted words.

The negatives of a step, words that stand for all others, follow from config.seed and the step alone: each row
of a batch carries the step's key. So they are the same on every mesh, and in each part of a batch.

Shapes: B rows, S words of a row, R directions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import sections
from bertjax.data.pretraining.elmo_examples import Sentences, Words, with_step_keys
from bertjax.data.pretraining.store import Store
from bertjax.data.pretraining.stream import Stream
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.models import kind_of
from bertjax.models.elmo_layers import draw_negatives, next_words
from bertjax.models.interface import Batch, ModelKind, Params, Sums
from bertjax.tasks.interface import Require, RowSource, Shapes, bind, perplexity
from bertjax.tasks.pretraining import Pretraining, Wanted

DIRECTIONS = ("forward", "backward")


class BidirectionalLm(Pretraining):
    name, head = "bidirectional_lm", "language_models"

    def config(self, kind: ModelKind) -> ConfigDict:
        c = sections.pretraining_config(self.name, kind, sections.store_data())
        c.train.samples = 8192  # negatives of a step's sampled softmax, in either phase
        return c

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        require(config.train.samples <= config.model.vocab_size - 2, "train.samples",
                f"must be below model.vocab_size={config.model.vocab_size} by 2 or more")  # fmt: skip

    def batch_weights(self, batch: Batch) -> Sums:
        """The words that each direction predicts."""
        _, weights_BSR = next_words(batch["input_ids"], batch["segment_ids"])
        return dict(zip(DIRECTIONS, weights_BSR.sum((0, 1)), strict=True))

    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        """Losses of both directions: in training, with keys, of the sampled softmax; else of the full one."""
        model = bind(config, params, remat).language_models
        top_BSRP = model.states(batch, keys)[-1]
        targets_BSR, weights_BSR = next_words(batch["input_ids"], batch["segment_ids"])

        def sums(name: str, x_BSR: jax.Array) -> Sums:
            total_R = (x_BSR * weights_BSR).sum((0, 1))
            return {f"{direction}_{name}": total_R[i] for i, direction in enumerate(DIRECTIONS)}

        if keys is None:
            loss_BSR, correct_BSR = model.losses(top_BSRP, targets_BSR)
            return sums("loss", loss_BSR) | sums("correct", correct_BSR)
        key = jax.random.wrap_key_data(batch["step_key"][0], impl="threefry2x32")
        negatives = draw_negatives(key, config.model.vocab_size, config.train.samples)
        return sums("sampled_loss", model.sampled_losses(top_BSRP, targets_BSR, negatives, keys))

    def batch_loss(self, sums: Sums, weights: Sums) -> jax.Array:
        """The mean over both directions of the mean loss of a word."""
        of_words = [sums[f"{d}_sampled_loss"] / jnp.maximum(weights[d], 1.0) for d in DIRECTIONS]
        return (of_words[0] + of_words[1]) / 2

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """`perplexity` is the mean of both directions', as in the paper; sampled losses estimate no other."""

        def mean(name: str) -> list[float]:
            return [totals[f"{d}_{name}"] / max(totals[d], 1.0) for d in DIRECTIONS]

        if "forward_loss" in totals:
            shown, losses = "perplexity", mean("loss")
            figures = {"loss": losses, "accuracy": mean("correct"), shown: list(map(perplexity, losses))}
        else:
            shown, figures = "sampled_loss", {"sampled_loss": mean("sampled_loss")}
        of_each = {f"{d}_{shown}": x for d, x in zip(DIRECTIONS, figures[shown], strict=True)}
        return {name: sum(both) / 2 for name, both in figures.items()} | of_each

    def flops_per_step(self, config: ConfigDict, phase: ConfigDict) -> float:
        """Each direction's state meets the sampled words alone."""
        kind, words = kind_of(config.model.kind), phase.batch_rows * phase.seq_length
        encoder = kind.encoder_flops(config.model, kind.head_section(), np.ones(1))
        return float(words * (encoder + 6.0 * 2 * config.model.projection * config.train.samples))

    def batch_shapes(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        b, s = phase.batch_rows, phase.seq_length
        characters = kind_of(config.model.kind).further_inputs(config.model, b, s)["character_ids"]
        ids, key = jax.ShapeDtypeStruct((b, s), jnp.int32), jax.ShapeDtypeStruct((b, 2), jnp.uint32)
        return {"input_ids": ids, "segment_ids": ids, "character_ids": characters, "step_key": key}

    def check_vocabulary(self, config: ConfigDict, tokenizer: Tokenizer, path: str) -> None:
        """A model may predict fewer words than the store has: see `shared`."""

    def shared(self, config: ConfigDict, store: Store, tokenizer: Tokenizer) -> Words:
        return Words(store, tokenizer, config.model.vocab_size, config.model.characters)

    def unigram_entropy(self, store: Store, shared: Words) -> float:
        return shared.unigram_entropy()

    def training_rows(self, config: ConfigDict, rows: RowSource, number: int) -> RowSource:
        return with_step_keys(rows, config.seed, number, config[sections.phases(config)[number]].batch_rows)

    def stream(self, wanted: Wanted, notes: list[str]) -> Stream:
        length, name = wanted.phase.seq_length, sections.phases(wanted.config)[wanted.number]
        found = Sentences(wanted.shared, wanted.data, seed=wanted.seed, phase=wanted.number,
                          seq_length=length, documents=wanted.documents)  # fmt: skip
        if found.cut:
            cut = f"{found.cut} sentences have more than {length - 2} words and are cut ({name})"
            notes.append(f"{wanted.store.path}: {cut}")
        return found


TASK = BidirectionalLm()
