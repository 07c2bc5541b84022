"""Which of several texts goes on from a text (SWAG; Devlin et al. 2018, section 4.4): each choice is a
sequence of the context and the choice, one dense unit on the state that stands for it scores it, and softmax
goes over the choices.

Shapes: B rows, N examples that a row has room for, C choices.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning.records import Record, read_label, read_texts, write_predictions
from bertjax.data.finetuning.sequences import Text
from bertjax.errors import InputError
from bertjax.models.interface import Batch, ModelKind, Sums
from bertjax.models.layers import cross_entropy
from bertjax.tasks.finetuning import Examples
from bertjax.tasks.interface import Require
from bertjax.tasks.text_examples import TextTask, table_section


class Choose(TextTask):
    name, head = "choose", "multiple_choice"

    def examples(self, kind: ModelKind) -> ConfigDict:
        c = table_section()
        c.choices = ()  # columns of the texts of which one is right; each begins with the text of text_b
        c.labels = ()  # what the label of each choice is; (): its number, from 0
        return c

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        c = config.examples
        if c.choices:
            require(len(c.choices) > 1 and len(set(c.choices)) == len(c.choices), "examples.choices",
                    "name the columns of two choices or more")  # fmt: skip
            require(not c.labels or len(set(c.labels)) == len(c.choices), "examples.labels",
                    f"give each of {len(c.choices)} choices its own")  # fmt: skip

    def num_outputs(self, config: ConfigDict) -> int:
        return 1

    def pairs(self, config: ConfigDict) -> bool:
        return True

    def sequences(self, config: ConfigDict) -> int:
        return len(config.examples.choices)

    def find_labels(self, config: ConfigDict, records: list[Record]) -> tuple[str, ...]:
        c = config.examples
        if not c.choices:
            raise InputError("--config.examples.choices=(): name the columns of two choices or more")
        return tuple(map(str, c.labels or range(len(c.choices))))

    def texts(self, config: ConfigDict, record: Record) -> list[Text]:
        c = config.examples
        context, *choices = read_texts(record, (c.text_a, *c.choices))
        start = f"{record[c.text_b]} " if c.text_b else ""
        return [(context, start + choice) for choice in choices]

    def label(self, config: ConfigDict, record: Record) -> int:
        return read_label(record, config.examples.label, config.examples.labels)

    def sums_of(self, config: ConfigDict, logits_BNC: jax.Array, batch: Batch) -> Sums:
        """By the scores [B, N * C, 1] of all choices."""
        logits_BNC = logits_BNC.reshape(len(logits_BNC), -1, len(config.examples.choices))
        loss_BN, correct_BN = cross_entropy(logits_BNC, batch["labels"])
        weights_BN = batch["label_weights"]
        return {"loss": (loss_BN * weights_BN).sum(), "correct": (correct_BN * weights_BN).sum()}

    def batch_outputs(self, config: ConfigDict, params: Batch, batch: Batch) -> Batch:
        """float32 scores [B, N, C]."""
        scores = super().batch_outputs(config, params, batch)["logits"]
        return {"logits": jnp.reshape(scores, (len(scores), -1, len(config.examples.choices)))}

    def figures(self, config: ConfigDict) -> list[str]:
        return ["accuracy"]

    def score(
        self, config: ConfigDict, examples: Examples[list[Record]], found: np.ndarray
    ) -> dict[str, float]:
        return official.accuracy(self.gold(examples), found.argmax(-1))

    def write(
        self, config: ConfigDict, examples: Examples[list[Record]], found: np.ndarray, folder: str
    ) -> str | None:
        path = os.path.join(folder, f"{examples.stem}_predictions.tsv")
        shown = [config.examples.labels[i] for i in found.argmax(-1)]
        write_predictions(path, examples.records, config.examples.id, shown)
        return None


TASK = Choose()
