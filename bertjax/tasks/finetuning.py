"""What every fine-tuning task does: the model that it begins from, the files of config.examples, batches,
evaluation sets. A task says what is its own: how a file is read, encoded, predicted, scored and written.

Shapes: B rows, S sequence, N examples that a row has room for, C labels.
"""

import abc
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bertjax import sections
from bertjax.data.finetuning import tfds_sets
from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.models.interface import LABELLED, Batch, ModelKind, Params, Reader, Sums
from bertjax.sections import batch_size
from bertjax.tasks.example_rows import EncodedRows, PackedRows, Places, is_packed
from bertjax.tasks.interface import (
    Data,
    EvalSet,
    Outputs,
    Require,
    Rows,
    RowSource,
    Shapes,
    Task,
    bind,
    with_epochs,
)
from bertjax.trained_model import Trained

TRAIN, DEV, TEST = USES = ("train", "dev", "test")
R = TypeVar("R")  # what a file of examples is read as


@dataclass(frozen=True)
class Examples(Generic[R]):
    """The examples of one file."""

    path: str
    use: str  # of USES; those of TEST have no labels
    records: R
    rows: PackedRows | EncodedRows
    more: Any = None  # what the task found while encoding

    @property
    def stem(self) -> str:
        """What files of predictions are named for."""
        return Path(self.path).stem


class FineTuning(Task, Generic[R]):
    """The skeleton of a fine-tuning task.

    As it is, it gives each example of one or more sequences its logits, as a text classifier does.
    """

    fine_tunes = True
    evaluates = "outputs"
    unit = "examples"  # what batches are made of; "windows" where a text may be cut into several
    reads_every_state = False  # whether the head reads each token's state, not one that stands for the text

    # What a task says.

    @abc.abstractmethod
    def examples(self, kind: ModelKind) -> ConfigDict:
        """config.examples, the task's own fields beside those of `files`."""

    @abc.abstractmethod
    def read(self, config: ConfigDict, path: str, use: str) -> R:
        """The examples of a file, or of a split of a set of tfds. Raises InputError."""

    @abc.abstractmethod
    def encode(
        self, config: ConfigDict, reader: Reader, records: R, path: str, use: str, notes: list[str]
    ) -> tuple[PackedRows | EncodedRows, Any]:
        """The examples as rows, whose labels are in config.examples.labels, and what `predictions` needs
        beside them. Adds lines for the terminal to `notes`. Raises InputError."""

    @abc.abstractmethod
    def predictions(self, config: ConfigDict, examples: Examples[R], outputs: Outputs, places: Places) -> Any:
        """What the model says of each example, by batch_outputs of all rows and the examples' places."""

    @abc.abstractmethod
    def score(self, config: ConfigDict, examples: Examples[R], found: Any) -> dict[str, float]:
        """Figures of a dev set, by its `predictions`."""

    @abc.abstractmethod
    def write(self, config: ConfigDict, examples: Examples[R], found: Any, folder: str) -> str | None:
        """Writes files of predictions into a folder; may return lines for the terminal."""

    def find_labels(self, config: ConfigDict, records: R) -> tuple[str, ...]:
        """The labels, by the training file and config.examples. Raises InputError."""
        return ()

    def num_outputs(self, config: ConfigDict) -> int:
        """C, the classifier's units."""
        return len(config.examples.labels) if "labels" in config.examples else 0

    def pairs(self, config: ConfigDict) -> bool:
        """Whether an example is a pair of texts."""
        return False

    def sequences(self, config: ConfigDict) -> int:
        """Of an example."""
        return 1

    def added(self, config: ConfigDict) -> int:
        """How many sequences, one behind the other, have their states added."""
        return 1

    def sums_of(self, config: ConfigDict, logits_BNC: jax.Array, batch: Batch) -> Sums:
        """The sums of a batch by its float32 logits."""
        raise NotImplementedError

    def batch_labels(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        """Shapes and types of a batch's labels and their weights."""
        b = batch_size(phase)
        return {
            "labels": jax.ShapeDtypeStruct((b, 1), jnp.int32),
            "label_weights": jax.ShapeDtypeStruct((b, 1), jnp.float32),
        }

    # What follows from it.

    def config(self, kind: ModelKind) -> ConfigDict:
        return sections.finetuning_config(self.name, kind, self.examples(kind), self.unit)

    def check(self, config: ConfigDict, require: Require) -> None:
        c, t, kind = config.examples, config.train, kind_of(config.model.kind)
        require(not tfds_sets.is_tfds(c.folder), "examples.folder", "name a set in examples.tfds instead")
        require(not (c.folder and c.tfds), "examples.tfds", "is read instead of files; leave out "
                f"examples.folder={c.folder}")  # fmt: skip
        require(t.epochs > 0 or t.steps > 0, "train.steps", "must be positive where train.epochs is 0")
        require(t.seq_length >= 8, "train.seq_length", "must be 8 or more")
        kind.check_head(config.head)
        if t.freeze_encoder and kind.stacked_layers:
            rule = "nothing of the encoder changes; set neither optim.layer_decay nor train.reinit_layers"
            require(config.optim.layer_decay == 1 and not t.reinit_layers, "train.freeze_encoder", rule)
        for loss in kind.further_losses(config.head):
            require(not t.freeze_encoder, "train.freeze_encoder",
                    f"leaves nothing to change for {loss}; set head.lm_weight to 0.0")  # fmt: skip

    def init_params(self, config: ConfigDict, key: jax.Array) -> Params:
        kind = kind_of(config.model.kind)
        parts, labels = kind.heads[self.head], self.num_outputs(config)
        return kind.init_params(config.model, key, parts, labels, config.head, self.pairs(config))

    def batch_weights(self, batch: Batch) -> Sums:
        return {"examples": batch["label_weights"].sum()}

    def batch_loss(self, sums: Sums, weights: Sums) -> jax.Array:
        return sums["loss"] / jnp.maximum(weights["examples"], 1.0)

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        values = {"loss": totals["loss"] / totals["examples"]}
        for name, total in totals.items():
            if name == "correct" or name.endswith("_loss"):
                values["accuracy" if name == "correct" else name] = total / totals["examples"]
        return values

    def batch_sums(
        self, config: ConfigDict, params: Params, batch: Batch, keys: jax.Array | None, remat: str = "none"
    ) -> Sums:
        logits_BNC, further = self._logits(config, params, batch, keys, remat, further=True)
        sums = self.sums_of(config, logits_BNC, batch)
        for name, weight in kind_of(config.model.kind).further_losses(config.head).items():
            loss = further[name] / self.sequences(config)  # the mean of an example's sequences
            sums |= {"loss": sums["loss"] + weight * loss, name: loss}
        return sums

    def batch_outputs(self, config: ConfigDict, params: Params, batch: Batch) -> Batch:
        """float32 logits [B, N, C]."""
        return {"logits": self._logits(config, params, batch, None, "none", further=False)[0]}

    def _logits(
        self,
        config: ConfigDict,
        params: Params,
        batch: Batch,
        keys: jax.Array | None,
        remat: str,
        further: bool,
    ) -> tuple[jax.Array, Sums]:
        logits: tuple[jax.Array, Sums] = bind(config, params, remat).text_logits(
            batch, keys=keys, frozen=config.train.freeze_encoder, packed=is_packed(batch),
            each=self.added(config), further=further,
        )  # fmt: skip
        return logits

    def step_flops(self, config: ConfigDict, lengths: np.ndarray) -> float:
        """Of a training step whose sequences have these lengths on average."""
        kind, frozen = kind_of(config.model.kind), config.train.freeze_encoder
        flops = kind.encoder_flops if self.reads_every_state else kind.text_flops
        of_text = flops(config.model, config.head, lengths, frozen=frozen)
        return batch_size(config.train) * self.sequences(config) * of_text

    def flops_per_step(self, config: ConfigDict, phase: ConfigDict) -> float:
        return self.step_flops(config, np.array([phase.seq_length]))

    def batch_shapes(self, config: ConfigDict, phase: ConfigDict) -> Shapes:
        reader_names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
        b, each = batch_size(phase), self.sequences(config)
        kind = kind_of(config.model.kind)
        return {
            **{name: jax.ShapeDtypeStruct((b, each * phase.seq_length), jnp.int32) for name in reader_names},
            "class_positions": jax.ShapeDtypeStruct((b, each), jnp.int32),
            **kind.further_inputs(config.model, b, each * phase.seq_length),
            **self.batch_labels(config, phase),
        }

    def resolve(self, config: ConfigDict, source: Trained | None) -> ConfigDict:
        """With the architecture of the model that the run begins from."""
        if source is None:
            raise InputError("--config.init_from is empty; name a pre-trained model (see docs/models.md)")
        kind, config = kind_of(config.model.kind), config.copy_and_resolve_references()
        for name in kind.architecture():
            config.model[name] = source.config[name]
        where = f"--config.init_from={config.init_from}"
        try:
            kind.check(config.model)
            if self.pairs(config):
                kind.check_pairs(config.model)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        kind.check_head_fits(config.model, config.head)
        most = kind.longest(config.model)
        if config.train.seq_length > most:
            raise InputError(f"--config.train.seq_length={config.train.seq_length}: the model takes {most}")
        return config

    def open_data(self, config: ConfigDict, source: Trained | None = None) -> Data:
        assert source is not None, "resolve"
        config = config.copy_and_resolve_references()
        reader = kind_of(config.model.kind).reader(source.tokenizer, config.model)
        paths = file_paths(config.examples)
        read = {path: self.read(config, path, use) for use, files in paths.items() for path in files}
        (train,) = paths[TRAIN]
        if "labels" in config.examples:
            config.examples.labels = self.find_labels(config, read[train])
        notes: list[str] = []
        rows, _ = self.encode(config, reader, read[train], train, TRAIN, notes)
        config = with_epochs(config, rows.count, "examples")
        train_rows, batch_rows = rows.shuffled(config)
        evals = [
            self._eval_set(config, reader, Examples(path, use, read[path], *encoded))
            for use in (DEV, TEST)
            for path in paths[use]
            for encoded in [self.encode(config, reader, read[path], path, use, notes)]
        ]
        return Data(
            config,
            {TRAIN: Rows(completed(reader, train_rows), tuple(evals), batch_rows,
                         self.step_flops(config, rows.sequence_lengths))},
            source.tokenizer,
            fingerprints(config.examples),
            labels=config.examples.labels if self.head in LABELLED else (),
            notes=tuple(notes),
        )  # fmt: skip

    def _eval_set(self, config: ConfigDict, reader: Reader, examples: Examples[R]) -> EvalSet:
        rows, num_rows, places = examples.rows.once(config)
        last: list[tuple[Outputs, Any]] = []

        def found(outputs: Outputs) -> Any:
            if not last or last[0][0] is not outputs:  # once, where they are both scored and written
                last[:] = [(outputs, self.predictions(config, examples, outputs, places))]
            return last[0][1]

        return EvalSet(
            name=eval_name(config.examples, examples.path),
            rows=completed(reader, rows),
            num_rows=num_rows,
            score=None
            if examples.use == TEST
            else lambda outputs: self.score(config, examples, found(outputs)),
            write=lambda outputs, folder: self.write(config, examples, found(outputs), folder),
        )


def files_section() -> ConfigDict:
    """The fields of config.examples that name the files."""
    c = ConfigDict()
    c.folder = ""  # that the files below lie in
    c.tfds = ""  # instead of files, a set of TensorFlow Datasets, such as "glue/mrpc"
    c.train = "train.tsv"
    c.dev = ("dev.tsv",)
    c.test = ()  # without labels
    c.cache = ""  # a folder in which the texts' token ids are kept for the next run; "": none
    return c


def completed(reader: Reader, rows: RowSource) -> RowSource:
    """The rows with what else the model reads."""
    return lambda first, count: reader.complete(rows(first, count))


def file_paths(examples: ConfigDict) -> dict[str, list[str]]:
    """The paths of config.examples' files: of TRAIN, one, of DEV and of TEST.

    Raises:
      InputError: two files of dev and test have one stem, which names their predictions and figures.
    """
    stems = [Path(name).stem for name in (*examples.dev, *examples.test)]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(
                f"--config.examples.dev, test: two files are named {stem}, which names their predictions; "
                "rename one"
            )
    folder = f"{tfds_sets.PREFIX}{examples.tfds}" if examples.tfds else examples.folder
    files = {TRAIN: (examples.train,), DEV: examples.dev, TEST: examples.test}
    return {use: [os.path.join(folder, name) for name in names] for use, names in files.items()}


def eval_name(examples: ConfigDict, path: str) -> str:
    """What the figures of a dev or test file begin with: "eval" for the first, "eval_STEM" for others."""
    first, stem = (*examples.dev, *examples.test)[0], Path(path).stem
    return "eval" if stem == Path(first).stem else f"eval_{stem}"


def fingerprints(examples: ConfigDict) -> dict[str, str]:
    """The sha256 of each file of config.examples, or of the files of each split, for Data."""
    found, paths = {}, file_paths(examples)
    names = (examples.train, *examples.dev, *examples.test)
    for name, path in zip(names, (path for use in USES for path in paths[use]), strict=True):
        if tfds_sets.is_tfds(path):
            found[f"{name} sha256"] = tfds_sets.digest(path)
        else:
            with open(path, "rb") as file:
                found[f"{name} sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
