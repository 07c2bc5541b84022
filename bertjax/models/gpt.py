"""OpenAI GPT (Radford et al. 2018, and its program finetune-transformer-lm): the left-to-right Transformer
that the BERT paper compares with.

Its layers are BERT's, each position seeing itself and those before it in its segment. Its embeddings have no
LayerNorm, and token types only where config.type_vocab_size is above 1, which the paper's has not. Its
language model is the word embeddings without a bias, and what it tells of a text is read from the state of
the text's last token, "extract". Shapes: see bertjax.models.bert; C labels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from bertjax.config import padded_vocab_size
from bertjax.models.bert import Batch, Encoder, Init, Params
from bertjax.models.layers import (
    HEAD_DROPOUT,
    bind_module,
    cross_entropy,
    dropout,
    fold_in,
    init_module,
    product,
)
from bertjax.sharding import split_rows

# What stands on the encoder beside the language model, which has no parameters of its own. "classifier" has a
# bias, as in the original program; "score" has none, as in the paper's equation and Hugging Face's model.
PARTS = ("classifier", "score")

# The models that are made of them; "multiple_choice" has one label, the score of a choice.
HEADS: dict[str, tuple[str, ...]] = {
    "causal_lm": (),
    "multiple_choice": ("classifier",),
    "sequence_classification": ("score",),
}


class GptInit(Init):
    """Makes parameters; matrices are normal, as in the paper."""

    def normal(self, *shape: int) -> nnx.Param:
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
        if c.type_vocab_size > 1:
            self.token_type = init.normal(c.type_vocab_size, c.hidden_size)

    def __call__(self, batch: Batch, dtype: jnp.dtype, keys: jax.Array | None) -> jax.Array:
        x_BSD = self.word[...][batch["input_ids"]] + self.position[...][batch["position_ids"]]
        if hasattr(self, "token_type"):
            x_BSD += self.token_type[...][batch["token_type_ids"]]
        return split_rows(dropout(x_BSD.astype(dtype), self.rate, keys))


class Gpt(nnx.Module):
    """The left-to-right encoder, its language model, and some of the parts that stand on it."""

    def __init__(self, config: ConfigDict, rngs: nnx.Rngs, parts: Sequence[str], num_labels: int = 0):
        """Args:
        config: config.model.
        parts: of PARTS.
        num_labels: C, of either part.
        """
        init = GptInit(config, rngs)
        self.vocab_size, self.rate = config.vocab_size, config.hidden_dropout_prob
        self.encoder = Encoder(init, Embeddings(init), causal=True)
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

    def head_states(
        self,
        batch: Batch,
        positions_BM: jax.Array,
        *,
        packed: bool = False,
        keys: jax.Array | None = None,
        frozen: bool = False,
    ) -> jax.Array:
        """What a head stands on, [B, M, D]: the last layer's states. See bertjax.models.bert.Bert."""
        keys = None if frozen else keys
        return self.encoder(batch, packed=packed, keys=keys, positions_BM=positions_BM)

    def class_positions(self, segment_ids: jax.Array) -> jax.Array:
        """What the one sequence of each row is told by: its last token. int32 [B, 1]."""
        return jnp.maximum((segment_ids > 0).sum(-1) - 1, 0)[:, None].astype(jnp.int32)

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


def init_params(
    config: ConfigDict,
    key: jax.Array,
    parts: Sequence[str] = HEADS["causal_lm"],
    num_labels: int = 0,
    head: ConfigDict | None = None,
) -> Params:
    """Parameters of Gpt as a nested dict of float32 arrays.

    For the arguments see Gpt; `head`, config.head, is the default (see bertjax.config.checks.check).
    """
    return init_module(lambda rngs: Gpt(config, rngs, parts, num_labels), key)


def bind(config: ConfigDict, params: Params, head: ConfigDict | None = None) -> Gpt:
    """The module with these parameters (arrays of JAX or NumPy), for use inside a traced function.

    It has the parts whose parameters there are. For `head` see init_params.
    """
    parts = parts_of(params)
    labels = params[f"{parts[0]}_kernel"].shape[1] if parts else 0
    gpt: Gpt = bind_module(lambda rngs: Gpt(config, rngs, parts, labels), params)
    return gpt


def parts_of(params: Params) -> tuple[str, ...]:
    """Which of PARTS have parameters here."""
    return tuple(part for part in PARTS if any(name.startswith(part) for name in params))


def with_new_tokens(config: ConfigDict, params: Params, vocab_size: int, key: jax.Array) -> Params:
    """The parameters with embeddings, newly drawn, for tokens that the vocabulary had not.

    A pre-trained model meets start, delimiter and extract tokens in fine-tuning first. The config of what is
    returned has `vocab_size`.

    Args:
      config: config.model of `params`.
      vocab_size: of the larger vocabulary, which begins with the old one.
      key: of jax.random.
    """
    old, embeddings = config.vocab_size, params["encoder"]["embeddings"]
    if vocab_size < old:
        raise ValueError(f"{vocab_size} tokens are fewer than the model's {old}")
    shape = vocab_size - old, config.hidden_size
    new = jax.random.normal(key, shape, jnp.float32) * config.initializer_range
    rows = jnp.concatenate([jnp.asarray(embeddings["word"])[:old], new])
    word = jnp.pad(rows, ((0, padded_vocab_size(vocab_size) - vocab_size), (0, 0)))
    return params | {"encoder": params["encoder"] | {"embeddings": embeddings | {"word": word}}}
