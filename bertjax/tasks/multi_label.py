"""Any number of labels for each text or pair of texts: as in classification, but each label by a sigmoid and
a binary cross-entropy of its own, as of Hugging Face's problem_type "multi_label_classification".

Shapes: N examples that a row has room for, C labels.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning.records import Record, read_flags, split_labels, write_predictions
from bertjax.errors import InputError
from bertjax.models.interface import Batch, ModelKind, Sums
from bertjax.sections import batch_size
from bertjax.tasks.finetuning import TEST, Examples
from bertjax.tasks.interface import Require, Shapes
from bertjax.tasks.text_examples import TextTask, table_section, write_per_class


class MultiLabel(TextTask):
    name, head = "multi_label", "multi_label_classification"

    def examples(self, kind: ModelKind) -> ConfigDict:
        c = table_section()
        c.label = "labels"  # the column of the labels, with `separator` between them
        c.separator = "|"
        c.label_columns = ()  # instead: a column of 0 and 1 for each label, which it names
        c.labels = ()  # in the order of the classifier; (): those in train, sorted
        c.positive_weights = ()  # of each label's loss where it is there; (): 1
        return c

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        c = config.examples
        require(not (c.label_columns and c.labels), "examples.labels",
                "examples.label_columns names the labels; leave one of them out")  # fmt: skip
        require(bool(c.separator), "examples.separator", "must not be empty")
        labels = c.label_columns or c.labels
        field, weights = "examples.positive_weights", c.positive_weights
        rule = f"give one for each of the {len(labels)} labels of examples.labels or label_columns"
        require(not weights or len(weights) == len(labels), field, rule)
        require(min(weights, default=1) > 0, field, "must be positive")

    def void(self, config: ConfigDict) -> dict[str, str]:
        unread = ("examples.label", "examples.separator") if config.examples.label_columns else ()
        why = "examples.label_columns holds the labels here; leave it out"
        return super().void(config) | dict.fromkeys(unread, why)

    def find_labels(self, config: ConfigDict, records: list[Record]) -> tuple[str, ...]:
        c = config.examples
        if c.label_columns or c.labels:
            return tuple(map(str, c.label_columns or c.labels))
        found = {label for record in records for label in split_labels(record, c.label, c.separator)}
        if not found:
            raise InputError(f"{records[0].where}: neither this example nor any other has a label in column "
                             f"{c.label!r}; there is nothing to learn")  # fmt: skip
        return tuple(sorted(found))

    def label(self, config: ConfigDict, record: Record) -> np.ndarray:
        """float32 [C], 1 for the labels that are there."""
        c = config.examples
        if c.label_columns:
            return read_flags(record, c.label_columns)
        given = split_labels(record, c.label, c.separator)
        for label in given:
            if label not in c.labels:
                known = ", ".join(c.labels)
                raise InputError(f"{record.where}: unknown label {label!r}; known are {known}")
        return np.array([label in given for label in c.labels], np.float32)

    def label_type(self, config: ConfigDict) -> type:
        return np.float32

    def sums_of(self, config: ConfigDict, logits_BNC: jax.Array, batch: Batch) -> Sums:
        """The mean over the labels of each example's losses."""
        there_BNC, weights = batch["labels"], config.examples.positive_weights
        positive_C = jnp.array(weights or 1.0, jnp.float32)
        losses_BNC = -positive_C * there_BNC * jax.nn.log_sigmoid(logits_BNC)
        losses_BNC -= (1 - there_BNC) * jax.nn.log_sigmoid(-logits_BNC)
        right_BNC = (logits_BNC > 0) == (there_BNC > 0)
        weights_BN = batch["label_weights"]
        return {name: (x_BNC.mean(-1) * weights_BN).sum()
                for name, x_BNC in (("loss", losses_BNC), ("correct", right_BNC))}  # fmt: skip

    def batch_labels(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        shape = batch_size(phase), 1, len(config.examples.labels)
        return super().batch_labels(config, phase) | {"labels": jax.ShapeDtypeStruct(shape, jnp.float32)}

    def figures(self, config: ConfigDict) -> list[str]:
        return list(official.multi_label(np.eye(2), np.eye(2)))

    def score(
        self, config: ConfigDict, examples: Examples[list[Record]], found: np.ndarray
    ) -> dict[str, float]:
        return official.multi_label(self.gold(examples), found)

    def write(
        self, config: ConfigDict, examples: Examples[list[Record]], found: np.ndarray, folder: str
    ) -> str | None:
        c, path = config.examples, os.path.join(folder, examples.stem)
        shown = [c.separator.join(np.array(c.labels)[of_text > 0]) for of_text in found]
        write_predictions(f"{path}_predictions.tsv", examples.records, c.id, shown)
        if examples.use == TEST:
            return None
        table = official.per_label(self.gold(examples), found > 0, c.labels)
        return write_per_class(f"{path}_per_class.tsv", table)


TASK = MultiLabel()
