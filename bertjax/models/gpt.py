"""OpenAI GPT (Radford et al. 2018, and its program finetune-transformer-lm): the left-to-right Transformer
that the BERT paper compares with.

Its layers are BERT's, each position seeing itself and those before it in its segment. Its embeddings have no
LayerNorm, and token types only where config.model.type_vocab_size is not 0. Its language model is the word
embeddings without a bias, and a text is classified by the state of its last token, "extract".

Shapes: B batch, S sequence, M positions, N sequences in a row, D hidden, V vocabulary, C labels.
"""

from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer, add_task_tokens
from bertjax.errors import InputError
from bertjax.models.bert import BertKind, add_each
from bertjax.models.cpu_gradients import product
from bertjax.models.interface import Batch, Params, SplitRow, Sums
from bertjax.models.layers import (
    HEAD_DROPOUT,
    bind_module,
    cross_entropy,
    dropout,
    fold_in,
    init_module,
    padded_vocab_size,
    take_positions,
)
from bertjax.models.transformer import Encoder, Init, TransformerKind, encoder_products
from bertjax.sharding import split_rows


class GptInit(Init):
    """Makes parameters; matrices are normal, as in the paper."""

    def normal(self, *shape: int) -> nnx.Param[jax.Array]:
        draw = jax.random.normal(self.rngs.params(), shape, jnp.float32)
        return nnx.Param(draw * self.config.initializer_range)


class Embeddings(nnx.Module):
    def __init__(self, init: Init):
        c = init.config
        self.rate = c.hidden_dropout_prob
        table = init.normal(padded_vocab_size(c.vocab_size), c.hidden_size)
        # Rows past the vocabulary are padding: zero, never looked up and never predicted.
        self.word = nnx.Param(table[...].at[c.vocab_size :].set(0.0))
        self.position = init.normal(c.max_position_embeddings, c.hidden_size)
        if c.type_vocab_size:
            self.token_type = init.normal(c.type_vocab_size, c.hidden_size)

    def __call__(self, batch: Batch, dtype: jnp.dtype, keys: jax.Array | None) -> jax.Array:
        x_BSD = self.word[...][batch["input_ids"]] + self.position[...][batch["position_ids"]]
        if hasattr(self, "token_type"):
            x_BSD += self.token_type[...][batch["token_type_ids"]]
        return split_rows(dropout(x_BSD.astype(dtype), self.rate, keys))


class Gpt(nnx.Module):
    """The left-to-right encoder, its language model, and some of its heads' parts."""

    def __init__(
        self,
        config: ConfigDict,
        rngs: nnx.Rngs,
        parts: Sequence[str],
        num_labels: int = 0,
        further: Collection[str] = (),
        remat: str = "none",
    ):
        """Args:
        config: config.model.
        parts: of GptKind.parts.
        num_labels: C, of either part.
        further: of GptKind.further_losses, what `text_logits` computes beside logits.
        remat: of bertjax.models.transformer.REMAT.
        """
        self.further = frozenset(further)
        init = GptInit(config, rngs)
        self.vocab_size, self.rate = config.vocab_size, config.hidden_dropout_prob
        self.encoder = Encoder(init, Embeddings(init), causal=True, remat=remat)
        if "classifier" in parts:
            self.classifier_kernel = init.normal(config.hidden_size, num_labels)
            self.classifier_bias = init.zeros(num_labels)
        if "score" in parts:
            self.score_kernel = init.normal(config.hidden_size, num_labels)

    def language_model(self, x_BMD: jax.Array) -> jax.Array:
        """float32 logits [B, M, V] of the tokens that follow hidden states [B, M, D]; -1e9 for the
        vocabulary's padding."""
        word_VD = self.encoder.embeddings.word[...].astype(x_BMD.dtype)
        logits_BMV = product("BMD,VD->BMV", x_BMD, word_VD, jnp.float32)
        return logits_BMV + jnp.where(jnp.arange(word_VD.shape[0]) < self.vocab_size, 0.0, -1e9)

    def text_logits(
        self, batch: Batch, *, keys: jax.Array | None, frozen: bool, packed: bool, each: int, further: bool
    ) -> tuple[jax.Array, Sums]:
        """See bertjax.models.interface.BoundModel; "lm_loss" is the language model's, by example."""
        positions_BM = batch["class_positions"]
        if not (further and "lm_loss" in self.further):
            encoder_keys = None if frozen else keys
            x_BMD = self.encoder(batch, packed=packed, keys=encoder_keys, positions_BM=positions_BM)
            return self.class_logits(add_each(x_BMD, each), keys), {}
        x_BSD = self.encoder(batch, packed=packed, keys=keys)
        logits_BNC = self.class_logits(add_each(take_positions(x_BSD, positions_BM), each), keys)
        return logits_BNC, {"lm_loss": language_model_loss(self, x_BSD, batch)}

    def class_logits(self, x_BND: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """float32 logits [B, N, C] of the states of extract tokens.

        Args:
          keys: uint32 [B, 2] of `dropout_keys`; None: no dropout.
        """
        head_keys = None if keys is None else fold_in(keys, HEAD_DROPOUT)
        x_BND = dropout(x_BND, self.rate, head_keys).astype(jnp.float32)
        if hasattr(self, "score_kernel"):
            return x_BND @ self.score_kernel[...]
        return x_BND @ self.classifier_kernel[...] + self.classifier_bias[...]


def next_tokens(input_ids: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The language model's labels.

    Args:
      input_ids, segment_ids: int32 [B, S].

    Returns:
      int32 [B, S], the token after each; float32 [B, S], 1 where it belongs to the same segment, 0 at the
      last token of a segment and at padding.
    """
    labels_BS, after_BS = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (input_ids, segment_ids))
    return labels_BS, ((segment_ids == after_BS) & (segment_ids > 0)).astype(jnp.float32)


def language_model_loss(model: Gpt, x_BSD: jax.Array, batch: Batch) -> jax.Array:
    """The sum over a batch's segments of the mean loss of their tokens, which fine-tuning adds to its own.

    Args:
      x_BSD: the encoder's states of the batch.
    """
    segment_ids = batch["segment_ids"]
    labels_BS, weights_BS = next_tokens(batch["input_ids"], segment_ids)
    loss_BS, _ = cross_entropy(model.language_model(x_BSD), labels_BS)
    same_BST = segment_ids[:, :, None] == segment_ids[:, None, :]
    predicted_BS = (same_BST * weights_BS[:, None, :]).sum(-1)  # of the segment that a token belongs to
    return (loss_BS * weights_BS / jnp.maximum(predicted_BS, 1.0)).sum()


class GptKind(TransformerKind):
    """OpenAI GPT."""

    name, title = "gpt", "OpenAI GPT"
    # "classifier" has a bias, as in the original program; "score" has none, as in the paper's equation and
    # Hugging Face's model. The language model has no parameters of its own.
    parts = ("classifier", "score")
    heads: Mapping[str, tuple[str, ...]] = {
        "causal_lm": (),
        "multiple_choice": ("classifier",),  # one label, the score of a choice
        "sequence_classification": ("score",),
        "multi_label_classification": ("score",),
    }
    label_parts = ("classifier", "score")
    tokenizers = ("gpt_bpe",)
    reads_both_orders = True  # "score" has no bias, so that of two states' sum is the sum of their scores
    sizes = BertKind.sizes
    sharding = (*TransformerKind.sharding, SplitRow(r"(classifier|score)_kernel$", ("fsdp", None)))  # DC

    def architecture(self) -> ConfigDict:
        c = super().architecture()
        c.vocab_size = 40_478  # the released model's
        c.layer_norm_eps = 1e-5
        c.type_vocab_size = 0  # the paper's has none; 2 with data.special_tokens
        return c

    def head_section(self) -> ConfigDict:
        c = ConfigDict()
        c.lm_weight = 0.0  # of the language model's loss beside the task's own; the paper's is 0.5
        return c

    def same_head(self, one: ConfigDict, other: ConfigDict) -> bool:
        return True

    def init_params(
        self,
        model: ConfigDict,
        key: jax.Array,
        parts: Sequence[str],
        labels: int = 0,
        head: ConfigDict | None = None,
        pairs: bool = False,
    ) -> Params:
        return init_module(lambda rngs: Gpt(model, rngs, parts, labels), key)

    def bind(
        self, model: ConfigDict, params: Params, head: ConfigDict | None = None, remat: str = "none"
    ) -> Gpt:
        parts = self.parts_of(params)
        labels = params[f"{parts[0]}_kernel"].shape[1] if parts else 0
        further = self.further_losses(self.head_section() if head is None else head)
        gpt: Gpt = bind_module(lambda rngs: Gpt(model, rngs, parts, labels, further, remat), params)
        return gpt

    def with_new_tokens(
        self, model: ConfigDict, params: Params, tokenizer: Tokenizer, key: jax.Array, where: str
    ) -> tuple[ConfigDict, Params, Tokenizer]:
        """A pre-trained model meets start, delimiter and extract tokens in fine-tuning first."""
        tokenizer = add_task_tokens(tokenizer, where)
        # A model from elsewhere may have more embeddings than its vocabulary has tokens.
        size = max(model.vocab_size, tokenizer.vocab_size)
        params = with_new_embeddings(model, params, size, key)
        model = model.copy_and_resolve_references()
        model.vocab_size = size
        return model, jax.device_get(params), tokenizer

    def further_losses(self, head: ConfigDict) -> dict[str, float]:
        return {"lm_loss": head.lm_weight} if head.lm_weight else {}

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
        return float(np.mean(encoder_products(model, n, positions) * (2.0 if frozen else 6.0)))

    def text_flops(
        self, model: ConfigDict, head: ConfigDict, lengths: np.ndarray, *, frozen: bool = False
    ) -> float:
        if not head.lm_weight:
            return super().text_flops(model, head, lengths, frozen=frozen)
        vocabulary = 6.0 * float(np.mean(lengths)) * model.hidden_size * model.vocab_size
        return float(self.encoder_flops(model, head, lengths) + vocabulary)

    def row_form(self, tokenizer: Tokenizer) -> RowForm:
        if tokenizer.kind not in self.tokenizers or tokenizer.bos_id < 0:
            raise InputError(
                f"the vocabulary ({tokenizer.kind}) has no start, delimiter and extract tokens; name a model "
                "that was fine-tuned on texts"
            )
        return RowForm(tokenizer.bos_id, (tokenizer.sep_id,), tokenizer.cls_id)

    def class_at_end(self, model: ConfigDict) -> bool:
        return True


def with_new_embeddings(model: ConfigDict, params: Params, vocab_size: int, key: jax.Array) -> Params:
    """The parameters with embeddings, newly drawn, for tokens that the vocabulary had not.

    Args:
      model: config.model of `params`.
      vocab_size: of the larger vocabulary, which begins with the old one.
      key: of jax.random.
    """
    old, embeddings = model.vocab_size, params["encoder"]["embeddings"]
    if vocab_size < old:
        raise ValueError(f"{vocab_size} tokens are fewer than the model's {old}")
    shape = vocab_size - old, model.hidden_size
    new = jax.random.normal(key, shape, jnp.float32) * model.initializer_range
    rows = jnp.concatenate([jnp.asarray(embeddings["word"])[:old], new])
    word = jnp.pad(rows, ((0, padded_vocab_size(vocab_size) - vocab_size), (0, 0)))
    return params | {"encoder": params["encoder"] | {"embeddings": embeddings | {"word": word}}}


KIND = GptKind()
