"""A class or a number for each text or pair of texts: a dense layer on the state that stands for the text
(Devlin et al. 2018, section 4.1; run_classifier.py of the 2018 release). GPT's similarity adds the states of
a pair's two orders (Radford et al. 2018, section 3.3). ELMo's classifier is GLUE's baseline (Wang et al.
2018).

Shapes: N examples that a row has room for, C labels; C is 1 for a number.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import metrics as official
from bertjax.data.finetuning.records import (
    Record,
    find_labels,
    read_label,
    read_number,
    write_predictions,
)
from bertjax.data.finetuning.sequences import Text
from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.models.interface import NUMBER, Batch, ModelKind, Sums
from bertjax.models.layers import cross_entropy
from bertjax.tasks.finetuning import TEST, Examples
from bertjax.tasks.interface import Require
from bertjax.tasks.text_examples import TextTask, table_section, write_per_class


class Classify(TextTask):
    name, head = "classify", "sequence_classification"

    def examples(self, kind: ModelKind) -> ConfigDict:
        c = table_section()
        c.labels = ()  # in the order of the classifier; (): those in train, sorted
        c.number = False  # the label is a number to be predicted, not a class
        c.metric = "accuracy"  # of bertjax.metrics.BY_NAME; that of numbers is "correlations"
        if kind.reads_both_orders:
            c.both_orders = False  # a pair is read in both orders, and the states of both are added
        return c

    def check(self, config: ConfigDict, require: Require) -> None:
        super().check(config, require)
        c = config.examples
        self.figures(config)
        rule = "numbers (examples.number=True) are measured by correlations, classes by another metric"
        require((c.metric == "correlations") == c.number, "examples.metric", rule)
        require(self.sequences(config) == 1 or bool(c.text_b), "examples.both_orders",
                "is of pairs; name examples.text_b")  # fmt: skip

    def sequences(self, config: ConfigDict) -> int:
        return 2 if kind_of(config.model.kind).reads_both_orders and config.examples.both_orders else 1

    added = sequences

    def find_labels(self, config: ConfigDict, records: list[Record]) -> tuple[str, ...]:
        c = config.examples
        if c.number:
            return NUMBER
        labels = tuple(map(str, c.labels)) or find_labels(records, c.label)
        if c.metric == "f1" and len(labels) != 2:
            raise InputError(f"--config.examples.metric=f1: is of two classes, there are {len(labels)}")
        return labels

    def texts(self, config: ConfigDict, record: Record) -> list[Text]:
        [text] = super().texts(config, record)
        return [text] if self.sequences(config) == 1 else [text, text[::-1]]

    def label(self, config: ConfigDict, record: Record) -> int | float:
        c = config.examples
        return read_number(record, c.label) if c.number else read_label(record, c.label, c.labels)

    def label_type(self, config: ConfigDict) -> type:
        return np.float32 if config.examples.number else np.int32

    def sums_of(self, config: ConfigDict, logits_BNC: jax.Array, batch: Batch) -> Sums:
        weights_BN = batch["label_weights"]
        if config.examples.number:
            return {"loss": (jnp.square(logits_BNC[..., 0] - batch["labels"]) * weights_BN).sum()}
        loss_BN, correct_BN = cross_entropy(logits_BNC, batch["labels"])
        return {"loss": (loss_BN * weights_BN).sum(), "correct": (correct_BN * weights_BN).sum()}

    def figures(self, config: ConfigDict) -> list[str]:
        metric = config.examples.metric
        if metric not in official.BY_NAME:
            known = ", ".join(official.BY_NAME)
            raise InputError(f"--config.examples.metric={metric}: must be one of {known}")
        return list(official.BY_NAME[metric](np.arange(2), np.arange(2)))

    def score(
        self, config: ConfigDict, examples: Examples[list[Record]], found: np.ndarray
    ) -> dict[str, float]:
        answers = found[:, 0] if config.examples.number else found.argmax(-1)
        return official.BY_NAME[config.examples.metric](self.gold(examples), answers)

    def write(
        self, config: ConfigDict, examples: Examples[list[Record]], found: np.ndarray, folder: str
    ) -> str | None:
        c, path = config.examples, os.path.join(folder, examples.stem)
        answers = found.argmax(-1)
        shown = [f"{x:.4f}" for x in found[:, 0]] if c.number else [c.labels[i] for i in answers]
        write_predictions(f"{path}_predictions.tsv", examples.records, c.id, shown)
        if c.number or examples.use == TEST:
            return None
        table = official.per_class(self.gold(examples), answers, c.labels)
        return write_per_class(f"{path}_per_class.tsv", table)


TASK = Classify()
