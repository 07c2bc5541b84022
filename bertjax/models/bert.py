"""BERT: its embeddings, its heads and its kind (Devlin et al. 2018; the 2018 release's modeling.py).

Modules declare parameters and the forward pass. `BertKind.init_params` gives the parameters as a plain nested
dict of arrays, `bind` a module that computes with such a dict.

Shapes: B batch, S sequence, D hidden, M masked positions, N sequences in a row, V vocabulary (see
padded_vocab_size), W what a head reads, C labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError
from bertjax.models import head_features
from bertjax.models.cpu_gradients import add_bias, product
from bertjax.models.head_features import (
    HEAD_LAYERS,
    Features,
    lstm_products,
    reads_last_layer,
    same_features,
)
from bertjax.models.interface import Batch, Divisible, Params, SplitRow, Sums, check_choice
from bertjax.models.layers import (
    ACTIVATIONS,
    HEAD_DROPOUT,
    bind_module,
    cross_entropy,
    dropout,
    fold_in,
    init_module,
    padded_vocab_size,
)
from bertjax.models.recurrent import LSTM_SHARDING
from bertjax.models.transformer import Encoder, Init, LayerNorm, TransformerKind, encoder_products
from bertjax.sharding import split_rows


class Embeddings(nnx.Module):
    def __init__(self, init: Init):
        c = init.config
        self.rate = c.hidden_dropout_prob
        table = init.normal(padded_vocab_size(c.vocab_size), c.hidden_size)
        # Rows past the vocabulary are padding: zero, never looked up and never predicted.
        self.word = nnx.Param(table[...].at[c.vocab_size :].set(0.0))
        self.position = init.normal(c.max_position_embeddings, c.hidden_size)
        self.token_type = init.normal(c.type_vocab_size, c.hidden_size)
        self.norm = LayerNorm(init)

    def __call__(self, batch: Batch, dtype: jnp.dtype, keys: jax.Array | None) -> jax.Array:
        x_BSD = self.word[...][batch["input_ids"]]
        x_BSD += self.position[...][batch["position_ids"]]
        x_BSD += self.token_type[...][batch["token_type_ids"]]
        return split_rows(dropout(self.norm(x_BSD).astype(dtype), self.rate, keys))


class Bert(nnx.Module):
    """The encoder and some of its heads' parts."""

    def __init__(
        self,
        config: ConfigDict,
        rngs: nnx.Rngs,
        parts: Sequence[str],
        num_labels: int,
        head: ConfigDict,
        remat: str = "none",
    ):
        """Args:
        config: config.model.
        parts: of BertKind.parts; the features follow from `head` alone.
        num_labels: C, of the classifier.
        head: config.head.
        remat: of bertjax.models.transformer.REMAT.
        """
        init = Init(config, rngs)
        d = config.hidden_size
        self.vocab_size = config.vocab_size
        self.act = ACTIVATIONS[config.hidden_act]
        self.causal, self.rate = config.causal, config.hidden_dropout_prob
        self.encoder = Encoder(init, self.make_embeddings(init), config.causal, remat)
        self.features = Features(config, head, rngs)
        w = self.features.size
        if "pooler" in parts:
            self.pooler_kernel, self.pooler_bias = init.normal(w, d), init.zeros(d)
        if "mlm" in parts:
            self.mlm_kernel, self.mlm_bias = init.normal(d, d), init.zeros(d)
            self.mlm_norm = LayerNorm(init)
            self.mlm_output_bias = init.zeros(padded_vocab_size(config.vocab_size))
        if "nsp" in parts:
            self.nsp_kernel, self.nsp_bias = init.normal(d, 2), init.zeros(2)
        if "classifier" in parts:
            self.classifier_kernel = init.normal(d if "pooler" in parts else w, num_labels)
            self.classifier_bias = init.zeros(num_labels)
        if "span" in parts:
            self.span_kernel, self.span_bias = init.normal(w, 2), init.zeros(2)

    def make_embeddings(self, init: Init) -> Any:
        """What the encoder's first layer reads; a variant may have another one."""
        return Embeddings(init)

    def pretraining(
        self, batch: Batch, *, packed: bool = False, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Logits of the masked positions and of the next-sentence label.

        Args:
          batch: the encoder's arrays, masked_lm_positions [B, M] and next_sentence_positions [B, N].
          packed, keys: see Encoder.

        Returns:
          float32 masked-LM logits [B, M, V], -1e9 for the vocabulary's padding; float32 next-sentence
          logits [B, N, 2], class 1 for a random second sentence.
        """
        positions = batch["masked_lm_positions"], batch["next_sentence_positions"]
        x_BMD = self.encoder(batch, packed=packed, keys=keys, positions_BM=jnp.concatenate(positions, axis=1))
        masked_BMD, first_BND = jnp.split(x_BMD, [positions[0].shape[1]], axis=1)
        return self.masked_lm(masked_BMD), self.next_sentence(self.pool(first_BND))

    def masked_lm(self, x_BMD: jax.Array) -> jax.Array:
        """float32 logits [B, M, V] of hidden states [B, M, D]."""
        dtype = x_BMD.dtype
        h_BMD = self.act(x_BMD @ self.mlm_kernel[...].astype(dtype) + self.mlm_bias[...].astype(dtype))
        h_BMD = self.mlm_norm(h_BMD)
        word_VD = self.encoder.embeddings.word[...].astype(dtype)
        logits_BMV = product("BMD,VD->BMV", h_BMD, word_VD, jnp.float32)
        padding_V = jnp.where(jnp.arange(word_VD.shape[0]) < self.vocab_size, 0.0, -1e9)
        return add_bias(logits_BMV, self.mlm_output_bias[...] + padding_V)

    def head_states(
        self,
        batch: Batch,
        positions_BM: jax.Array | None = None,
        *,
        packed: bool = False,
        keys: jax.Array | None = None,
        frozen: bool = False,
    ) -> jax.Array:
        """What a fine-tuned head reads: of each token, [B, S, W], or of the sequences at `positions_BM`,
        [B, M, W]. See bertjax.models.head_features.

        Args:
          positions_BM: int32, the token that stands for the whole of each sequence.
          packed, keys: see Encoder.
          frozen: the encoder is not trained: its states are fixed features, without dropout.
        """
        return self.features(self.encoder, batch, positions_BM, packed=packed, keys=keys, frozen=frozen)

    def pool(self, first_BNW: jax.Array) -> jax.Array:
        """tanh-pooled output [B, N, D] of the state that stands for each sequence: by default, at [CLS]."""
        dtype = first_BNW.dtype
        return jnp.tanh(
            first_BNW @ self.pooler_kernel[...].astype(dtype) + self.pooler_bias[...].astype(dtype)
        )

    def next_sentence(self, pooled_BND: jax.Array) -> jax.Array:
        """float32 logits [B, N, 2]."""
        return pooled_BND.astype(jnp.float32) @ self.nsp_kernel[...] + self.nsp_bias[...]

    def classify(self, x: jax.Array) -> jax.Array:
        """float32 logits [..., C] of pooled output or of what `head_states` gives for a token."""
        return x.astype(jnp.float32) @ self.classifier_kernel[...] + self.classifier_bias[...]

    def class_logits(self, first_BNW: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """float32 logits [B, N, C] of the states that stand for whole sequences; `keys` are of dropout."""
        keys = None if keys is None else fold_in(keys, HEAD_DROPOUT)
        return self.classify(dropout(self.pool(first_BNW), self.rate, keys))

    def spans(self, x_BSW: jax.Array) -> jax.Array:
        """float32 logits [B, S, 2] of an answer's beginning and ending at each position."""
        return x_BSW.astype(jnp.float32) @ self.span_kernel[...] + self.span_bias[...]

    def text_logits(
        self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool, each: int, further: bool
    ) -> tuple[jax.Array, Sums]:
        """See bertjax.models.interface.BoundModel."""
        x_BNW = self.head_states(batch, batch["class_positions"], packed=packed, keys=keys, frozen=frozen)
        return self.class_logits(add_each(x_BNW, each), keys), {}

    def tag_sums(self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool) -> Sums:
        """Losses and correct tags; see bertjax.models.interface.BoundModel."""
        logits_BSC = self._tag_logits(batch, keys, frozen, packed)
        loss_BS, correct_BS = cross_entropy(logits_BSC, batch["labels"])
        weights_BS = batch["label_weights"]
        return {"loss": (loss_BS * weights_BS).sum(), "correct": (correct_BS * weights_BS).sum()}

    def best_tags(self, batch: Batch, labels: Sequence[str], *, packed: bool) -> tuple[jax.Array, jax.Array]:
        """The likeliest tag of each token by itself; see bertjax.models.interface.BoundModel."""
        logits_BSC = self._tag_logits(batch, None, False, packed)
        return logits_BSC.argmax(-1).astype(jnp.int32), jax.nn.softmax(logits_BSC).max(-1)

    def _tag_logits(self, batch: Batch, keys: jax.Array | None, frozen: bool, packed: bool) -> jax.Array:
        x_BSW = self.head_states(batch, packed=packed, keys=keys, frozen=frozen)
        keys = None if keys is None else fold_in(keys, HEAD_DROPOUT)
        return self.classify(dropout(x_BSW, self.rate, keys))

    def span_logits(self, batch: Batch, *, keys: jax.Array | None, frozen: bool) -> jax.Array:
        """See bertjax.models.interface.BoundModel."""
        return self.spans(self.head_states(batch, keys=keys, frozen=frozen))


def add_each(x_BMW: jax.Array, each: int) -> jax.Array:
    """[B, M / each, W]: the sums of so many states, one behind the other."""
    if each == 1:
        return x_BMW
    b, m, w = x_BMW.shape
    return x_BMW.reshape(b, m // each, each, w).sum(2)


class BertKind(TransformerKind):
    """BERT, and its left-to-right variant (model.causal)."""

    name, title = "bert", "BERT"
    module: type[Bert] = Bert  # of a variant another one
    parts = ("features", "pooler", "mlm", "nsp", "classifier", "span")
    heads: Mapping[str, tuple[str, ...]] = {
        "encoder": ("pooler",),
        "pretraining": ("pooler", "mlm", "nsp"),
        "masked_lm": ("mlm",),
        "next_sentence": ("pooler", "nsp"),
        "sequence_classification": ("pooler", "classifier"),
        "token_classification": ("classifier",),
        "question_answering": ("span",),
        "multi_label_classification": ("pooler", "classifier"),
        "multiple_choice": ("pooler", "classifier"),  # one label, the score of a choice
    }
    tokenizers = ("wordpiece", "unigram", "bpe")
    sharding = (
        *TransformerKind.sharding,
        SplitRow(r"(pooler|mlm)_kernel$", ("fsdp", "tensor")),  # WD, DD
        SplitRow(r"mlm_output_bias$", (("tensor", "fsdp"),)),  # V
        SplitRow(r"(nsp|classifier|span)_kernel$", ("fsdp", None)),  # D2, DC
        *LSTM_SHARDING,
    )
    # Feed-forward size is 4 x hidden. base, large: Devlin et al. 2018, section 3; tiny to medium: Turc et al.
    # 2019; the others: the model-size ablation of Devlin et al. 2018.
    sizes: Mapping[str, Mapping[str, int]] = {
        name: {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "intermediate_size": 4 * hidden,
        }
        for name, (layers, hidden, heads) in {
            "tiny": (2, 128, 2),
            "mini": (4, 256, 4),
            "small": (4, 512, 8),
            "medium": (8, 512, 8),
            "base": (12, 768, 12),
            "large": (24, 1024, 16),
            "3x768": (3, 768, 12),
            "6x768-3heads": (6, 768, 3),
            "6x768": (6, 768, 12),
            "12x1024": (12, 1024, 16),
        }.items()
    }

    def architecture(self) -> ConfigDict:
        c = super().architecture()
        c.type_vocab_size = 2
        c.causal = False  # True: no token sees a later one; a text's class is read at its end, not at [CLS]
        return c

    def head_section(self) -> ConfigDict:
        """See bertjax.models.head_features (Devlin et al. 2018, sections 5.1, 5.3)."""
        c = ConfigDict()
        # States after the "last" layer or the "second_to_last"; the "embeddings"; a learned weighted sum of
        # the last four layers ("sum_last_four") or of all layers, without the embeddings ("sum_all"); or the
        # last four side by side ("concat_last_four").
        c.layers = "last"
        c.lstm_layers = 0  # of a bidirectional LSTM between them and the head; the paper has 2
        c.lstm_size = 768  # units in each direction, so that the head reads twice as many
        c.dropout_prob = 0.1  # on the input of each layer of the LSTM
        return c

    def check_head(self, head: ConfigDict) -> None:
        check_choice("head.layers", head.layers, tuple(HEAD_LAYERS))

    def check_head_fits(self, model: ConfigDict, head: ConfigDict) -> None:
        if HEAD_LAYERS[head.layers] > model.num_hidden_layers:
            raise InputError(
                f"--config.head.layers={head.layers}: the model has {model.num_hidden_layers} layers, which "
                "are too few"
            )

    def same_head(self, one: ConfigDict, other: ConfigDict) -> bool:
        return same_features(one, other)

    def plain_head(self, head: ConfigDict) -> bool:
        return reads_last_layer(head)

    def describe_head(self, head: ConfigDict) -> str:
        return head_features.describe(head)

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
        return init_module(lambda rngs: self.module(model, rngs, parts, labels, head), key)

    def bind(
        self, model: ConfigDict, params: Params, head: ConfigDict | None = None, remat: str = "none"
    ) -> Bert:
        head, parts = self.head_section() if head is None else head, self.parts_of(params)
        labels = params["classifier_bias"].shape[0] if "classifier" in parts else 0
        bert: Bert = bind_module(lambda rngs: self.module(model, rngs, parts, labels, head, remat), params)
        return bert

    def encoder_flops(
        self,
        model: ConfigDict,
        head: ConfigDict,
        lengths: np.ndarray,
        *,
        positions: float | None = None,
        frozen: bool = False,
    ) -> float:
        n = np.asarray(lengths, np.float64)
        # Where a head reads nothing but some states of the last layer, that computes no others.
        each = encoder_products(model, n, positions if reads_last_layer(head) else None)
        if head.layers == "embeddings":
            each = 0 * n
        each = each * (2.0 if frozen else 6.0) + 6.0 * lstm_products(model, head) * n
        return float(np.mean(each))

    def divisible(self, model: ConfigDict, head: ConfigDict | None) -> list[Divisible]:
        found = super().divisible(model, head)
        if head is not None and head.lstm_layers:
            size = head.lstm_size
            found += [
                Divisible("head.lstm_size", size, ("tensor",)),
                Divisible("2 x head.lstm_size", 2 * size, ("fsdp",)),
            ]
        return found

    def row_form(self, tokenizer: Tokenizer) -> RowForm:
        marks = {"[CLS]": tokenizer.cls_id, "[SEP]": tokenizer.sep_id}
        absent = [name for name, number in marks.items() if number < 0]
        if absent or tokenizer.kind not in self.tokenizers:
            raise InputError(
                f"the vocabulary ({tokenizer.kind}) has no {' and '.join(absent or marks)}, which a BERT "
                "reads; take one of another --tokenizer"
            )
        return RowForm(tokenizer.cls_id, (tokenizer.sep_id,), tokenizer.sep_id)

    def class_at_end(self, model: ConfigDict) -> bool:
        return bool(model.causal)  # there the first token sees nothing

    def check_pairs(self, model: ConfigDict) -> None:
        if model.type_vocab_size < 2:
            raise InputError("the model has one token type, so it takes no pairs; give single texts")


KIND = BertKind()
