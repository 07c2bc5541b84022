"""What a kind of model gives to the rest of the framework: its config, parameters, cost, placement and texts.

Nothing outside of models/ and convert/ asks which kind a model is of: it asks the kind. A new encoder is a
ModelKind in a file of its own; docs/adding.md has one.

Shapes: B rows, S sequence, M positions, N sequences in a row, C labels.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError, quoted

Params = dict[str, Any]  # a nested dict of arrays
Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]

DTYPES = ("float32", "bfloat16")
NUMBER = ("number",)  # the labels of a model that predicts a number
# Heads whose labels have names.
LABELLED = ("sequence_classification", "multi_label_classification", "token_classification")


class SplitRow(NamedTuple):
    """A row of a sharding table: which parameters, and the mesh axes of their last dimensions."""

    pattern: str  # regular expression, searched in the parameter's path
    axes: tuple[str | tuple[str, ...] | None, ...]


class Divisible(NamedTuple):
    """A size that mesh axes must divide."""

    field: str  # how messages name it
    size: int
    axes: tuple[str, ...]  # the product of their sizes divides it


@dataclasses.dataclass(frozen=True)
class Reader:
    """How texts become what a model reads."""

    tokenizer: Tokenizer  # which numbers the tokens of texts; the model's own, but where any word can be read
    form: RowForm
    # Adds to a batch of token ids what else the model reads.
    complete: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda batch: batch


class BoundModel(Protocol):
    """A model with its parameters, as `ModelKind.bind` gives it; which methods work depends on its parts.

    `keys` are uint32 [B, 2] of `layers.dropout_keys`, None for no dropout. `frozen`: the encoder's states are
    fixed features, without dropout. `packed`: rows may hold several sequences.
    """

    def text_logits(
        self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool, each: int, further: bool
    ) -> tuple[jax.Array, Sums]:
        """float32 logits [B, N, C] of the sequences at batch["class_positions"], and sums of further losses.

        Args:
          each: so many sequences, one behind the other, are one example, whose states are added.
          further: whether the losses of ModelKind.further_losses are computed; if not, there are none.
        """
        ...

    def tag_sums(self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool) -> Sums:
        """The loss of the tags of words, "loss", and if they are predicted one by one "correct", summed over
        the words at which batch["label_weights"] [B, S] is 1."""
        ...

    def best_tags(self, batch: Batch, labels: Sequence[str], *, packed: bool) -> tuple[jax.Array, jax.Array]:
        """The likeliest tag at each token, int32 [B, S], and its probability, float32 [B, S]."""
        ...

    def span_logits(self, batch: Batch, *, keys: jax.Array | None, frozen: bool) -> jax.Array:
        """float32 logits [B, S, 2] of an answer's first and last token at each position."""
        ...


class ModelKind(abc.ABC):
    """A kind of model. Its methods are functions of their arguments; it has no state."""

    name: str  # what config.model.kind calls it
    title: str  # what a reader calls it
    # The first words of the names of parameters that are not the encoder's, in the order in which they are
    # drawn, and the heads that are made of them.
    parts: tuple[str, ...]
    heads: Mapping[str, tuple[str, ...]]
    label_parts: tuple[str, ...] = ("classifier",)  # parts that fit one set of labels only
    tokenizers: tuple[str, ...]  # kinds of tokenizer whose text it reads
    sharding: tuple[SplitRow, ...]  # the first match counts
    sizes: Mapping[str, Mapping[str, int]] = {}  # named values of fields of `architecture`
    packs: bool = True  # False: rows hold one example each, since a longer row takes more time
    stacked_layers: bool = True  # whether encoder/layers has its L layers on a leading axis
    recomputes: bool = True  # whether a phase's `remat` has any effect
    reads_both_orders: bool = False  # whether the states of a pair's two orders can be added

    # Its config.

    @abc.abstractmethod
    def architecture(self) -> ConfigDict:
        """The fields of config.model that its parameters fit or not, or that change what they compute."""

    @abc.abstractmethod
    def computation(self) -> ConfigDict:
        """The fields of config.model that say how it is computed and drawn."""

    @abc.abstractmethod
    def head_section(self) -> ConfigDict:
        """config.head: what a fine-tuned head reads, and how."""

    def section(self, *, architecture: bool = True) -> ConfigDict:
        """config.model with its defaults; in fine-tuning the architecture is that of config.init_from."""
        section = ConfigDict({"kind": self.name})
        if architecture:
            section.update(self.architecture())
        section.update(self.computation())
        return section

    @abc.abstractmethod
    def check(self, model: ConfigDict) -> None:
        """Raises InputError if fields of a whole config.model contradict each other."""

    def check_head(self, head: ConfigDict) -> None:  # noqa: B027 (most have numbers only)
        """Raises InputError if fields of config.head have no such value, whatever the model."""

    def check_head_fits(self, model: ConfigDict, head: ConfigDict) -> None:  # noqa: B027 (most fit any)
        """Raises InputError if config.head is not one that a model of this architecture can have."""

    def same_head(self, one: ConfigDict, other: ConfigDict) -> bool:
        """Whether a head's parameters by one config.head fit the other."""
        return bool(one == other)

    def plain_head(self, head: ConfigDict) -> bool:
        """Whether a head reads the last layer alone, as those of models from elsewhere do."""
        return True

    def describe_head(self, head: ConfigDict) -> str:
        """What a head reads, in words, where it is not plain."""
        return ""

    @abc.abstractmethod
    def describe(self, fields: Mapping[str, Any]) -> str:
        """The sizes in words, by {"model.hidden_size": 768} and the like."""

    @abc.abstractmethod
    def longest(self, model: ConfigDict) -> int:
        """Tokens of the longest row that it reads."""

    # Its parameters.

    @abc.abstractmethod
    def init_params(
        self,
        model: ConfigDict,
        key: jax.Array,
        parts: Sequence[str],
        labels: int = 0,
        head: ConfigDict | None = None,
        pairs: bool = False,
    ) -> Params:
        """Newly drawn float32 parameters of the encoder, "encoder", and of some parts.

        Args:
          model: config.model.
          parts: of `parts`.
          labels: C.
          head: config.head; None: its defaults.
          pairs: whether texts come in pairs.
        """

    @abc.abstractmethod
    def bind(
        self, model: ConfigDict, params: Params, head: ConfigDict | None = None, remat: str = "none"
    ) -> Any:
        """A BoundModel with the parts whose parameters there are, for use inside a traced function.

        Args:
          remat: what a training step's backward pass computes again (bertjax.models.transformer.REMAT).
        """

    def parts_of(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Which of `parts` have parameters here."""
        return tuple(part for part in self.parts if any(name.startswith(part) for name in params))

    def trained_on_pairs(self, params: Mapping[str, Any]) -> bool | None:
        """Whether these are of a classifier of pairs of texts, or of single texts; None: of either."""
        return None

    def with_new_tokens(
        self, model: ConfigDict, params: Params, tokenizer: Tokenizer, key: jax.Array, where: str
    ) -> tuple[ConfigDict, Params, Tokenizer]:
        """The model with newly drawn embeddings for the marks of `row_form` that its vocabulary lacks.

        Raises InputError, whose line begins with `where`, if the vocabulary can have no such marks.
        """
        return model, params, tokenizer

    def further_losses(self, head: ConfigDict) -> dict[str, float]:
        """The weights of losses beside the task's own, by name; a text classifier adds their sums."""
        return {}

    # What it costs, and where it lives.

    @abc.abstractmethod
    def encoder_flops(
        self,
        model: ConfigDict,
        head: ConfigDict,
        lengths: np.ndarray,
        *,
        positions: float | None = None,
        frozen: bool = False,
    ) -> float:
        """Floating-point operations of the matrix products of encoder and config.head in a training step, for
        one sequence, on average. What remat computes again does not count.

        Args:
          lengths: tokens of each sequence that batches are drawn from.
          positions: of each sequence that its head reads; None: all.
          frozen: there is no backward pass of the encoder.
        """

    def text_flops(
        self, model: ConfigDict, head: ConfigDict, lengths: np.ndarray, *, frozen: bool = False
    ) -> float:
        """Likewise where one state stands for each sequence."""
        return self.encoder_flops(model, head, lengths, positions=1, frozen=frozen)

    @abc.abstractmethod
    def divisible(self, model: ConfigDict, head: ConfigDict | None) -> list[Divisible]:
        """What mesh axes must divide."""

    # Its texts.

    @abc.abstractmethod
    def row_form(self, tokenizer: Tokenizer) -> RowForm:
        """The marks around texts. Raises InputError if the vocabulary lacks one."""

    def reader(self, tokenizer: Tokenizer, model: ConfigDict) -> Reader:
        """How texts become its batches. Raises InputError as `row_form`."""
        return Reader(tokenizer, self.row_form(tokenizer))

    def further_inputs(self, model: ConfigDict, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of what the reader adds to a batch of `rows` rows of `length` tokens."""
        return {}

    def class_at_end(self, model: ConfigDict) -> bool:
        """Whether a sequence's last token stands for the whole of it, not its first."""
        return False

    def check_pairs(self, model: ConfigDict) -> None:  # noqa: B027 (most take them)
        """Raises InputError if it reads no pairs of texts."""


def check_choice(field: str, value: object, known: Sequence[str]) -> None:
    """Raises InputError if `value` of config.`field` is not one of `known`."""
    if value not in known:
        raise InputError(f"--config.{field}={quoted(value)}: must be one of {', '.join(known)}")
