"""What the fine-tuning tasks share: the run's config from the model and the examples, and rows in order.

Shapes: B rows, S sequence.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from bertjax import config as config_lib
from bertjax.data.rng import permute_range, root_key
from bertjax.data.texts import Row, make_batch
from bertjax.errors import InputError
from bertjax.tasks.common import Outputs, RowSource
from bertjax.trained import Trained

HEAD_DROPOUT = 10_000  # the number of the place of the dropout before a head, past the encoder's
_LENGTHS = 32  # a batch is as long as its longest row, rounded up, so that few shapes are compiled


def fine_tuned_config(
    config: ConfigDict, source: Trained | None, labels: tuple[str, ...], num_examples: int
) -> ConfigDict:
    """The config with the model's sizes, the labels, and the steps that config.train.epochs asks for.

    Steps are whole batches, int(examples / batch * epochs), as in run_classifier.py of the 2018 release.

    Raises:
      InputError: there is no model to begin from, or there are fewer examples than make one step.
    """
    if source is None:
        raise InputError("--config.init_from is empty; name a pre-trained model (see docs/models.md)")
    config = config.copy_and_resolve_references()
    for name in config_lib.ARCHITECTURE:
        config.model[name] = source.config[name]
    config.examples.labels = labels
    if config.train.epochs:
        config.train.steps = int(num_examples / config.train.batch_size * config.train.epochs)
        if not config.train.steps:
            raise InputError(
                f"--config.train.epochs={config.train.epochs}: {num_examples} examples give no batch of "
                f"{config.train.batch_size}; lower --config.train.batch_size"
            )
        if config.optim.warmup_proportion:
            config.optim.warmup_steps = int(config.train.steps * config.optim.warmup_proportion)
    config_lib.check(config)
    return config


def fingerprints(examples: ConfigDict) -> dict[str, str]:
    """The sha256 of each file of config.examples, for Data."""
    found = {}
    for name in (examples.train, *examples.dev, *examples.test):
        with open(os.path.join(examples.folder, name), "rb") as file:
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


def encoder_flops(config: ConfigDict, lengths: np.ndarray, positions: float | None = None) -> float:
    """Floating-point operations of the encoder's matrix products in a training step, on average.

    Args:
      lengths: tokens of each sequence that the batches are drawn from.
      positions: of each sequence that its head stands on, which alone the last layer computes; None: all.
    """
    m, n = config.model, np.asarray(lengths, np.float64)
    d, f = m.hidden_size, m.intermediate_size
    key_value, other = 2 * d * d * n, 2 * d * d + 2 * d * f + 2 * d * n
    each = (
        (m.num_hidden_layers - 1) * (key_value + other * n)
        + key_value
        + other * (n if positions is None else positions)
    )
    return float(6.0 * config.train.batch_size * each.mean())


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
        return len(self.rows)

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
        return min(-(-int(self.lengths[indices].max()) // _LENGTHS) * _LENGTHS, self.most)

    def _batch(self, indices: np.ndarray, count: int, length: int) -> dict[str, np.ndarray]:
        fill = count - len(indices)
        batch = make_batch([self.rows[i] for i in indices] + [Row([], [])] * fill, self.pad_id, length)
        for name, x in self.arrays.items():
            batch[name] = np.concatenate([x[indices], np.zeros((fill, *x.shape[1:]), x.dtype)])
        return batch
