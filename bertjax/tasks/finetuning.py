"""What the fine-tuning tasks share: the run's config from the model and the examples, and rows in order.

Shapes: B rows, S sequence.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax.config import checks
from bertjax.data.finetuning import tfds_sets
from bertjax.data.finetuning.records import Record
from bertjax.data.finetuning.sequences import Row, Text, batch_length, encode, make_batch
from bertjax.data.rng import permute_range, root_key
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.metrics import ClassFigures, class_table
from bertjax.models import bert, elmo, gpt
from bertjax.models.head_features import lstm_products, stands_on_last
from bertjax.models.layers import take_positions
from bertjax.tasks.interface import Outputs, RowSource, Sums, with_epochs
from bertjax.trained_model import Trained

_SHOWN = 20  # classes of a table on the terminal


def need_model(config: ConfigDict, source: Trained | None, pairs: bool) -> Trained:
    """The model to begin from.

    Raises:
      InputError: there is none; or `pairs`, and it is a BERT without a second token type, which marks the
        second text of a pair.
    """
    if source is None:
        raise InputError("--config.init_from is empty; name a pre-trained model (see docs/models.md)")
    if pairs and source.config.kind == "bert" and source.config.type_vocab_size < 2:
        raise InputError(f"--config.init_from={config.init_from}: has one token type, so it takes no pairs; "
                         "name another model")  # fmt: skip
    return source


def file_paths(examples: ConfigDict) -> dict[str, list[str]]:
    """The paths of config.examples' files: of "train", one, of "dev" and of "test".

    Raises:
      InputError: two files of dev and test have one stem, which names their predictions and figures.
    """
    files = {"train": (examples.train,), "dev": examples.dev, "test": examples.test}
    stems = [Path(name).stem for name in (*examples.dev, *examples.test)]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(
                f"--config.examples.dev, test: two files are named {stem}, which names their predictions; "
                "rename one"
            )
    return {use: [os.path.join(examples.folder, name) for name in names] for use, names in files.items()}


def eval_name(examples: ConfigDict, path: str) -> str:
    """What the figures of a dev or test file begin with: "eval" for the first, "eval_STEM" for others."""
    first, stem = (*examples.dev, *examples.test)[0], Path(path).stem
    return "eval" if stem == Path(first).stem else f"eval_{stem}"


def encode_file(
    path: str, texts: Sequence[Text], tokenizer: Tokenizer, most: int, notes: list[str]
) -> list[Row]:
    """The rows of a file's texts, cut to `most` tokens; a line in `notes` says how many fill them."""
    rows = encode(tokenizer, texts, most, truncate=True)
    full = sum(len(row.ids) == most for row in rows)
    if full:
        notes.append(f"{path}: {full} of {len(rows)} texts fill {most} tokens or were cut to them")
    return rows


def fine_tuned_config(
    config: ConfigDict, source: Trained, labels: tuple[str, ...], num_examples: int
) -> ConfigDict:
    """The config with the model's sizes, the labels, and the steps that config.train.epochs asks for (see
    with_epochs). Raises InputError."""
    config = config.copy_and_resolve_references()
    for name in config_lib.ARCHITECTURE:
        config.model[name] = source.config[name]
    if source.config.kind == "elmo":
        for name in (*config_lib.ELMO_ARCHITECTURE, "samples"):
            config.elmo[name] = source.config.elmo[name]
    config.examples.labels = labels
    config = with_epochs(config, num_examples, "examples")
    checks.check(config)
    return config


def fingerprints(examples: ConfigDict) -> dict[str, str]:
    """The sha256 of each file of config.examples, or of the files of each split, for Data."""
    found = {}
    for name in (examples.train, *examples.dev, *examples.test):
        path = os.path.join(examples.folder, name)
        if tfds_sets.is_tfds(path):
            found[f"{name} sha256"] = tfds_sets.digest(path)
        else:
            with open(path, "rb") as file:
                found[f"{name} sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def shuffled(seed: int, count: int, first: int, number: int) -> np.ndarray:
    """`number` of `count` examples from the `first` on, int64, each epoch in another order."""
    found = []
    while number:
        epoch, at = divmod(first, count)
        taken = min(number, count - at)
        found.append(permute_range(at, taken, count, root_key(seed, 0, 2, epoch)))
        first, number = first + taken, number - taken
    return np.concatenate(found)


def told_at_end(config: ConfigDict) -> bool:
    """Whether a class is told at a sequence's last token: left to right, the first one sees nothing."""
    return bool(config.model.causal or config.model.kind == "gpt")


def told_states(
    config: ConfigDict,
    model: bert.Bert | gpt.Gpt,
    batch: bert.Batch,
    positions_BM: jax.Array,
    keys: jax.Array | None,
    packed: bool,
    lm: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """What a head stands on, [B, M, W]; and, if `lm` and config.train.lm_weight asks for it, the
    language model's loss of the batch (see bertjax.models.gpt.language_model_loss).
    """
    if not (lm and config.train.lm_weight):
        frozen = config.train.freeze_encoder
        return model.head_states(batch, positions_BM, packed=packed, keys=keys, frozen=frozen), None
    assert isinstance(model, gpt.Gpt)  # bertjax.config.checks.check
    x_BSD = model.encoder(batch, packed=packed, keys=keys)
    return take_positions(x_BSD, positions_BM), gpt.language_model_loss(model, x_BSD, batch)


def with_lm_loss(config: ConfigDict, sums: Sums, lm_loss: jax.Array | None, sequences: int) -> Sums:
    """The sums of a task's batch with the language model's loss in them, and beside them.

    Args:
      lm_loss: of told_states.
      sequences: of an example; their mean counts.
    """
    if lm_loss is None:
        return sums
    lm_loss = lm_loss / sequences
    return sums | {"loss": sums["loss"] + config.train.lm_weight * lm_loss, "lm_loss": lm_loss}


def text_flops(config: ConfigDict, lengths: np.ndarray) -> float:
    """Floating-point operations of a training step in which one state tells of each sequence, on average.

    Args:
      lengths: tokens of each sequence that the batches are drawn from.
    """
    if not config.train.lm_weight:
        return encoder_flops(config, lengths, positions=1)
    vocabulary = config.model.hidden_size * config.model.vocab_size
    tokens = config.train.batch_size * float(np.mean(lengths))
    return encoder_flops(config, lengths) + 6.0 * tokens * vocabulary


def encoder_flops(config: ConfigDict, lengths: np.ndarray, positions: float | None = None) -> float:
    """Floating-point operations of the matrix products of encoder and LSTM in a training step, on average.

    A frozen encoder has no backward pass.

    Args:
      lengths: tokens of each sequence that the batches are drawn from.
      positions: of each sequence that its head stands on, which alone the last layer computes if the head
        stands on nothing else; None: all.
    """
    m, n = config.model, np.asarray(lengths, np.float64)
    if m.kind == "elmo":  # as fixed features, its states are computed once
        factor = 2.0 if config.train.freeze_encoder else 6.0
        return factor * config.train.batch_size * float(n.mean()) * elmo.encoder_products(config)
    if not stands_on_last(config.head):
        positions = None
    d, f = m.hidden_size, m.intermediate_size
    key_value, other = 2 * d * d * n, 2 * d * d + 2 * d * f + 2 * d * n
    each = (
        (m.num_hidden_layers - 1) * (key_value + other * n)
        + key_value
        + other * (n if positions is None else positions)
    )
    if config.head.layers == "embeddings":
        each = 0 * n
    each = each * (2.0 if config.train.freeze_encoder else 6.0) + 6.0 * lstm_products(m, config.head) * n
    return float(config.train.batch_size * each.mean())


def write_predictions(
    path: str, records: Sequence[Record], id_column: str, predictions: Sequence[str]
) -> None:
    """Writes a line for each record: its `id_column`, or its number where that is "", and the prediction."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("index\tprediction\n")
        for i, (record, prediction) in enumerate(zip(records, predictions, strict=True)):
            file.write(f"{record[id_column] if id_column else i}\t{prediction}\n")


def write_per_class(path: str, rows: Sequence[ClassFigures]) -> str:
    """Writes a table of precision, recall, F1 and number of each class; returns it for the terminal."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(class_table(rows, aligned=False))
    if len(rows) > _SHOWN:
        return f"{path}: the figures of {len(rows)} classes"
    return f"{path}:\n{class_table(rows, aligned=True).rstrip()}"


class EncodedRows:
    """Encoded examples with their labels and what else belongs to each.

    Args:
      rows: the token ids of each example.
      arrays: [examples, ...] of each further array of a batch; what lies past the last example is 0.
      pad_id: of the tokenizer.
      most: S at most.
      full: whether S is always `most`.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        arrays: Mapping[str, np.ndarray],
        pad_id: int,
        most: int,
        full: bool = False,
    ):
        self.rows, self.arrays, self.pad_id, self.most, self.full = rows, arrays, pad_id, most, full
        self.lengths = np.array([len(row.ids) for row in rows])
        self.by_length = np.argsort(self.lengths, kind="stable")

    def __len__(self) -> int:
        return len(self.lengths)

    def shuffled(self, seed: int, batch_size: int) -> RowSource:
        """Endless rows in batches of `batch_size`, each epoch in another order, a pure function of the seed.

        Every batch is as long as its own longest row needs.
        """

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            batch = shuffled(seed, len(self), first // batch_size * batch_size, batch_size)
            return self._batch(shuffled(seed, len(self), first, number), number, self._length(batch))

        return rows

    def sorted(self, batch_size: int) -> RowSource:
        """All rows once, in batches of `batch_size`, the short ones first; see `in_order`."""

        def rows(first: int, number: int) -> dict[str, np.ndarray]:
            start = first // batch_size * batch_size
            batch = self.by_length[start : start + batch_size]
            return self._batch(self.by_length[first : first + number], number, self._length(batch))

        return rows

    def in_order(self, outputs: Outputs) -> Outputs:
        """Outputs of `sorted` rows in the order of the examples."""
        back = np.argsort(self.by_length, kind="stable")
        return {name: x[back] for name, x in outputs.items()}

    def _length(self, indices: np.ndarray) -> int:
        if self.full:
            return self.most
        return batch_length(int(self.lengths[indices].max()), self.most)

    def _batch(self, indices: np.ndarray, count: int, length: int) -> dict[str, np.ndarray]:
        fill = count - len(indices)
        rows = [self.rows[i] for i in indices] + [Row([], [])] * fill
        batch = make_batch(rows, self.pad_id, length)
        for name, x in self.arrays.items():
            batch[name] = np.concatenate([x[indices], np.zeros((fill, *x.shape[1:]), x.dtype)])
        return batch
