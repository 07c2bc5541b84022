"""ELMo with its heads: its language models, a tagger, a classifier of texts and pairs (Peters et al. 2018;
Wang et al. 2018, section 5.1).

The parameters of the language models' layers are "encoder"; those of the heads are beside it.

Shapes: B batch, S words of a row, D both directions' states, C labels; others as in elmo_layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.characters import AnyWords
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.models import crf, elmo_layers
from bertjax.models.interface import (
    DTYPES,
    Batch,
    Divisible,
    ModelKind,
    Params,
    Reader,
    SplitRow,
    Sums,
    check_choice,
)
from bertjax.models.layers import (
    HEAD_DROPOUT,
    Make,
    bind_module,
    dropout,
    fold_in,
    init_module,
    padded_vocab_size,
)
from bertjax.models.recurrent import LSTM_SHARDING, Lstm
from bertjax.models.text_classifier import PairClassifier, TextClassifier

_LONGEST = 2**16 - 1  # it has no positions; elmo_examples.Sentences keeps lengths as uint16


class _Tagger(nnx.Module):
    def __init__(self, inputs: int, head: ConfigDict, rngs: nnx.Rngs, labels: int):
        self.rate = head.dropout_prob
        self.lstm = Lstm(rngs, inputs, cells=head.lstm_size, layers=head.lstm_layers, rate=head.dropout_prob)
        glorot = jax.nn.initializers.glorot_uniform()
        kernel = glorot(rngs.params(), (2 * head.lstm_size, labels), jnp.float32)
        self.classifier_kernel = nnx.Param(kernel)
        self.classifier_bias = nnx.Param(jnp.zeros(labels, jnp.float32))

    def __call__(self, x_BSD: jax.Array, segment_ids: jax.Array, keys: jax.Array | None) -> jax.Array:
        x_BSH = self.lstm(x_BSD, segment_ids, keys)[-1]
        x_BSH = dropout(x_BSH, self.rate, None if keys is None else fold_in(keys, self.lstm.layers))
        return x_BSH.astype(jnp.float32) @ self.classifier_kernel[...] + self.classifier_bias[...]


def _tagger(model: ConfigDict, head: ConfigDict, labels: int) -> Make:
    return lambda rngs: _Tagger(2 * model.projection, head, rngs, labels)


def _classifier(model: ConfigDict, head: ConfigDict, labels: int, pairs: bool) -> Make:
    make = PairClassifier if pairs else TextClassifier
    return lambda rngs: make(
        rngs, 2 * model.projection, cells=head.lstm_size, layers=head.lstm_layers, hidden=head.hidden_size,
        labels=labels, rate=head.dropout_prob,
    )  # fmt: skip


class Elmo:
    """An ELMo with its parameters, for use inside a traced function."""

    def __init__(self, model: ConfigDict, params: Params, head: ConfigDict):
        self._model, self._params, self._head = model, params, head
        of_layers = {name: x for name, x in params.items() if name.startswith(elmo_layers.PARTS)}
        parts = [part for part in elmo_layers.PARTS if any(name.startswith(part) for name in of_layers)]
        self.language_models: elmo_layers.LanguageModels = bind_module(
            lambda rngs: elmo_layers.LanguageModels(model, rngs, parts, head.mix_norm),
            params["encoder"] | of_layers,
        )

    def mixed(self, batch: Batch, keys: jax.Array | None, frozen: bool) -> jax.Array:
        """The learned mix of all layers, [B, S, D].

        Args:
          batch: character_ids, segment_ids.
          keys: uint32 [B, 2] of `layers.dropout_keys`; None: no dropout.
          frozen: whether the layers are fixed features, without dropout.
        """
        return self.language_models.mix(self.language_models.states(batch, None if frozen else keys))

    def text_logits(
        self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool, each: int, further: bool
    ) -> tuple[jax.Array, Sums]:
        """See bertjax.models.interface.BoundModel: N is 1."""
        texts_BS = jnp.where(batch["segment_ids"] > 0, batch["token_type_ids"] + 1, 0)
        by_text = {"character_ids": batch["character_ids"], "segment_ids": texts_BS}
        x_BSD = self.mixed(by_text, keys, frozen)
        of_head = self._params["classifier"]
        labels, pairs = of_head["classifier_bias"].size, "comparison" in of_head
        classifier = bind_module(_classifier(self._model, self._head, labels, pairs), of_head)
        words_BS = jnp.where(batch["is_word"] > 0, texts_BS, 0)
        return classifier(x_BSD, words_BS, _head_keys(keys))[:, None], {}

    def tag_sums(self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool) -> Sums:
        """-log probability of the rows' tag sequences; see bertjax.models.interface.BoundModel."""
        scores_BSC, words_BS = self._scores(batch, keys, frozen), batch["label_weights"] > 0
        return {"loss": crf.losses(self._params["crf"], scores_BSC, words_BS, batch["labels"]).sum()}

    def best_tags(self, batch: Batch, labels: Sequence[str], *, packed: bool) -> tuple[jax.Array, jax.Array]:
        """The best sequence of tags of those in which an I-X follows a B-X or an I-X, and the probability of
        each tag over all such sequences; see bertjax.models.interface.BoundModel."""
        only = crf.iob2_only(self._params["crf"], labels)
        chains = only, self._scores(batch, None, False), batch["label_weights"] > 0
        tags_BS = crf.viterbi(*chains)
        return tags_BS, jnp.take_along_axis(crf.marginals(*chains), tags_BS[..., None], axis=-1)[..., 0]

    def _scores(self, batch: Batch, keys: jax.Array | None, frozen: bool) -> jax.Array:
        """float32 scores [B, S, C] of each tag at each word, for the CRF."""
        of_head = self._params["tagger"]
        tagger = bind_module(_tagger(self._model, self._head, of_head["classifier_bias"].size), of_head)
        scores: jax.Array = tagger(self.mixed(batch, keys, frozen), batch["segment_ids"], _head_keys(keys))
        return scores

    def span_logits(self, batch: Batch, *, keys: jax.Array | None, frozen: bool) -> jax.Array:
        """None: no head of an ELMo answers questions (ElmoKind.heads)."""
        raise NotImplementedError


def _head_keys(keys: jax.Array | None) -> jax.Array | None:
    return None if keys is None else fold_in(keys, HEAD_DROPOUT)


class ElmoKind(ModelKind):
    """ELMo."""

    name, title = "elmo", "ELMo"
    parts = (*elmo_layers.PARTS, "tagger", "crf", "classifier")
    heads: Mapping[str, tuple[str, ...]] = {
        "language_models": ("softmax",),
        "token_classification": ("mix", "tagger", "crf"),
        "sequence_classification": ("mix", "classifier"),  # of texts or of pairs
        "multi_label_classification": ("mix", "classifier"),
    }
    label_parts = ("tagger", "crf", "classifier")
    tokenizers = ("words",)
    packs, stacked_layers, recomputes = False, False, False
    sharding = (
        SplitRow(r"characters/(embedding|width_\d+_kernel)$", (None, None)),
        SplitRow(r"characters/highway_kernel$", ("fsdp", None, "tensor")),  # NGN
        SplitRow(r"characters/projection_kernel$|(^|/)hidden_kernel$", ("fsdp", "tensor")),  # NP, DF
        *LSTM_SHARDING,
        SplitRow(r"(^|/)transitions$", (None, None)),  # CC
        SplitRow(r"classifier_kernel$", ("fsdp", None)),  # DC
        SplitRow(r"softmax_kernel$", (("tensor", "fsdp"), None)),  # VP
        SplitRow(r"softmax_bias$", (("tensor", "fsdp"),)),  # V
    )

    def architecture(self) -> ConfigDict:
        c = ConfigDict()
        c.vocab_size = 793_471  # words that the language models predict, sorted by frequency
        c.characters = 50  # of a word, with its begin and end; bytes after them are left out
        c.character_size = 16
        c.filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))  # width, count
        c.highway_layers = 2
        c.cells = 4096  # of a layer's LSTM in each direction
        c.projection = 512
        c.layers = 2
        c.clip = 3.0  # absolute value of cells and of projected outputs; 0: no limit
        return c

    def computation(self) -> ConfigDict:
        c = ConfigDict()
        c.dropout_prob = 0.1
        c.dtype = "bfloat16"  # of activations and matrix products; parameters and statistics are float32
        return c

    def head_section(self) -> ConfigDict:
        """What reads the mix in another task: a biLSTM, and for classes an MLP behind it."""
        c = ConfigDict()
        c.mix_norm = False  # LayerNorm of each layer before the learned mix
        c.lstm_layers = 2
        c.lstm_size = 200  # units in each direction
        c.hidden_size = 512  # units of the MLP
        c.dropout_prob = 0.5  # on the input of each layer
        return c

    def check(self, model: ConfigDict) -> None:
        check_choice("model.dtype", model.dtype, DTYPES)
        pairs = all(
            isinstance(each, tuple) and len(each) == 2 and all(type(n) is int and n > 0 for n in each)
            for each in model.filters
        )
        if not (model.filters and pairs) or len({width for width, _ in model.filters}) < len(model.filters):
            raise InputError(
                f"--config.model.filters={model.filters}: must be (width, count) pairs of positive integers, "
                "each width once"
            )
        widest = max(width for width, _ in model.filters)
        if model.characters < max(widest, 3):
            raise InputError(
                f"--config.model.characters={model.characters}: must be at least 3 and the widest of "
                f"model.filters={widest}"
            )

    def describe(self, fields: Mapping[str, Any]) -> str:
        layers, cells, projection = (fields[f"model.{name}"] for name in ("layers", "cells", "projection"))
        return f"{layers} layer{'s' * (layers > 1)}, {cells} cells, projection {projection}"

    def longest(self, model: ConfigDict) -> int:
        return _LONGEST

    def init_params(
        self,
        model: ConfigDict,
        key: jax.Array,
        parts: Sequence[str],
        labels: int = 0,
        head: ConfigDict | None = None,
        pairs: bool = False,
    ) -> Params:
        head = self.head_section() if head is None else head
        of_layers = [part for part in parts if part in elmo_layers.PARTS]
        flat = init_module(lambda rngs: elmo_layers.LanguageModels(model, rngs, of_layers), key)
        params = {name: x for name, x in flat.items() if name.startswith(elmo_layers.PARTS)}
        params["encoder"] = {name: x for name, x in flat.items() if name not in params}
        tagger_key, classifier_key = (jax.random.fold_in(key, i) for i in range(2))
        if "tagger" in parts:
            params["tagger"] = init_module(_tagger(model, head, labels), tagger_key)
        if "crf" in parts:
            params["crf"] = crf.init_params(labels)
        if "classifier" in parts:
            params["classifier"] = init_module(_classifier(model, head, labels, pairs), classifier_key)
        return params

    def bind(
        self, model: ConfigDict, params: Params, head: ConfigDict | None = None, remat: str = "none"
    ) -> Elmo:
        return Elmo(model, params, self.head_section() if head is None else head)

    def trained_on_pairs(self, params: Mapping[str, Any]) -> bool | None:
        return "comparison" in params["classifier"] if "classifier" in params else None

    def encoder_flops(
        self,
        model: ConfigDict,
        head: ConfigDict,
        lengths: np.ndarray,
        *,
        positions: float | None = None,
        frozen: bool = False,
    ) -> float:
        """As fixed features, its states are computed once."""
        mean = float(np.mean(np.asarray(lengths, np.float64)))
        return (2.0 if frozen else 6.0) * mean * elmo_layers.encoder_products(model)

    def divisible(self, model: ConfigDict, head: ConfigDict | None) -> list[Divisible]:
        sizes = {
            "model.filters, all counts": sum(count for _, count in model.filters),
            "model.projection": model.projection,
            "model.cells": model.cells,
        }
        if head is not None:
            sizes |= {f"head.{name}": head[name] for name in ("lstm_size", "hidden_size")}
        found = [
            Divisible(field, size, (axis,)) for axis in ("fsdp", "tensor") for field, size in sizes.items()
        ]
        rows = padded_vocab_size(model.vocab_size)
        return [*found, Divisible("model.vocab_size, padded", rows, ("fsdp", "tensor"))]

    def row_form(self, tokenizer: Tokenizer) -> RowForm:
        if tokenizer.kind not in self.tokenizers:
            raise InputError(
                f"an ELMo reads words, but the vocabulary is of {tokenizer.kind} tokens; take one of "
                "--tokenizer=words"
            )
        begin, end = tokenizer.bos_id, tokenizer.eos_id
        return RowForm(begin, (end, begin), end)  # either text is a sentence of its own

    def further_inputs(self, model: ConfigDict, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {
            "character_ids": jax.ShapeDtypeStruct((rows, length, model.characters), jnp.int32),
            "is_word": jax.ShapeDtypeStruct((rows, length), jnp.int32),
        }

    def reader(self, tokenizer: Tokenizer, model: ConfigDict) -> Reader:
        """A task's own words are numbered as they come, since it looks at their characters alone; the rule by
        which text is cut is that of the model's store. Adds character_ids int32 [B, S, C], and is_word
        int32 [B, S], 0 at marks and padding."""
        words = AnyWords(tokenizer, model.characters)

        def complete(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            ids, segments = batch["input_ids"], batch["segment_ids"]
            is_word = ((segments > 0) & (ids >= tokenizer.unk_id)).astype(np.int32)
            return batch | {"character_ids": words.characters(ids), "is_word": is_word}

        return Reader(words.tokenizer, self.row_form(tokenizer), complete)


KIND = ElmoKind()
