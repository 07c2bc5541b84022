"""Masked-LM and next-sentence pre-training (Devlin et al. 2018, section 3.1) from a token store, or from the
finished examples of the 2018 release.

Shapes: B rows, S sequence, M masked positions, N sequences in a row, V vocabulary.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bertjax import sections
from bertjax.data.pretraining.bert_examples import Batch as ExampleBatch
from bertjax.data.pretraining.bert_examples import Examples, predictions_per_row
from bertjax.data.pretraining.stream import Stream
from bertjax.models.interface import Batch, ModelKind, Params, Sums
from bertjax.models.layers import cross_entropy
from bertjax.models.transformer import encoder_products
from bertjax.tasks import bert_data, tfrecord_data
from bertjax.tasks.bert_data import bert_examples
from bertjax.tasks.interface import Data, Require, Shapes, bind, perplexity
from bertjax.tasks.pretraining import Pretraining, Wanted
from bertjax.trained_model import Trained


class Pretrain(Pretraining):
    name, head = "pretrain", "pretraining"

    def config(self, kind: ModelKind) -> ConfigDict:
        """The paper's recipe."""
        d = sections.store_data()
        d.update(tfrecord_data.section())
        d.update(bert_data.section())
        c = sections.pretraining_config(self.name, kind, d)
        c.train.max_predictions_per_seq, c.phase2.max_predictions_per_seq = 20, 77
        c.phase2.steps = 100_000
        return c

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        require(config.model.type_vocab_size >= 2, "model.type_vocab_size",
                "tokens are of type 0 and 1; it must be 2")  # fmt: skip
        bert_data.check(config, require)
        tfrecord_data.check(config, require)

    def void(self, config: ConfigDict) -> dict[str, str]:
        return super().void(config) | tfrecord_data.void(config)

    def batch_weights(self, batch: Batch) -> Sums:
        return {"mlm": batch["masked_lm_weights"].sum(), "nsp": batch["next_sentence_weights"].sum()}

    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        """Losses and correct predictions of both; for `batch` see bertjax.data.pretraining.bert_examples."""
        model = bind(config, params, remat)
        mlm_logits_BMV, nsp_logits_BN2 = model.pretraining(batch, packed=config.data.pack > 1, keys=keys)
        sums: Sums = {}
        for name, logits, labels, weights in (
            ("mlm", mlm_logits_BMV, batch["masked_lm_ids"], batch["masked_lm_weights"]),
            ("nsp", nsp_logits_BN2, batch["next_sentence_labels"], batch["next_sentence_weights"]),
        ):
            loss, correct = cross_entropy(logits, labels)
            sums[f"{name}_loss"] = (loss * weights).sum()
            sums[f"{name}_correct"] = (correct * weights).sum()
        return sums

    def batch_loss(self, sums: Sums, weights: Sums) -> jax.Array:
        """Mean masked-LM loss plus mean next-sentence loss. run_pretraining.py of the 2018 release adds 1e-5
        to the masked-LM weight."""
        mlm = sums["mlm_loss"] / (weights["mlm"] + 1e-5)
        return mlm + sums["nsp_loss"] / jnp.maximum(weights["nsp"], 1.0)

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        mlm = max(totals["mlm"], 1e-5)
        loss = totals["mlm_loss"] / mlm
        values = {"loss": loss, "mlm_loss": loss, "mlm_accuracy": totals["mlm_correct"] / mlm,
                  "perplexity": perplexity(loss)}  # fmt: skip
        if totals["nsp"]:
            values["nsp_loss"] = totals["nsp_loss"] / totals["nsp"]
            values["nsp_accuracy"] = totals["nsp_correct"] / totals["nsp"]
            values["loss"] += values["nsp_loss"]
        return values

    def flops_per_step(self, config: ConfigDict, phase: ConfigDict) -> float:
        """6 for each parameter of a matrix and token that meets it, and for attention's two products.
        Predicted positions alone meet the vocabulary, and the last layer but for its keys and values."""
        m, rows, pack = config.model, phase.batch_rows, config.data.pack
        masked, d = _predictions(config, phase), m.hidden_size
        encoder = encoder_products(m, phase.seq_length, masked + pack)
        return float(6.0 * rows * (encoder + masked * (d * d + d * m.vocab_size) + pack * d * d))

    def batch_shapes(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        widths = {"masked_lm": _predictions(config, phase), "next_sentence": config.data.pack}
        shapes: Shapes = {}
        for name in ExampleBatch._fields:
            width = next((n for start, n in widths.items() if name.startswith(start)), phase.seq_length)
            dtype = jnp.float32 if name.endswith("weights") else jnp.int32
            shapes[name] = jax.ShapeDtypeStruct((phase.batch_rows, width), dtype)
        return shapes

    def open_data(self, config: ConfigDict, source: Trained | None = None) -> Data:
        if config.data.tfrecord:
            return tfrecord_data.open_data(self, config)
        return super().open_data(config, source)

    def stream(self, wanted: Wanted, notes: list[str]) -> Stream:
        data = wanted.data
        if wanted.held_out:
            data.dupe_factor = 1
            if data.masking != "next_token":
                data.masking = "static"
        return bert_examples(wanted, data, Examples, wanted.phase.max_predictions_per_seq)


def _predictions(config: ConfigDict, phase: ConfigDict) -> int:
    return predictions_per_row(config.data, phase.seq_length, phase.max_predictions_per_seq)


TASK = Pretrain()
