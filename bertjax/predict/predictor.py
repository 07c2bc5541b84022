"""Questions to a trained model, over any number of texts: batched by length, answered in the texts' order.

Everything is computed in float32, whatever config.dtype.

Shapes: B rows, S sequence, M masked positions, D hidden, V vocabulary, L layers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.config import HEAD_LAYERS, default
from bertjax.data.finetuning.conll import Sentence
from bertjax.data.finetuning.sequences import Row, Text, batch_length, encode, make_batch
from bertjax.data.finetuning.squad import Question
from bertjax.data.finetuning.squad_answers import Prediction
from bertjax.data.finetuning.squad_windows import Windows, encode_questions
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError, check_utf8, show
from bertjax.models import bert, gpt
from bertjax.models.head_features import describe, read_layers, stands_on_last
from bertjax.models.kinds import MODULES
from bertjax.tasks.answer import answer_all
from bertjax.tasks.tag import cut_windows

MASK = "[MASK]"
POOLINGS = ("mean", "cls", "pooled", "tokens")
_ROWS = 16  # texts computed together
_WINDOW = 64 * _ROWS  # texts sorted by length among themselves

Guesses = list[tuple[str, float]]  # (token, probability), the likeliest first


def encode_masked(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[Row]:
    """The rows of texts in which "[MASK]" stands for the mask token.

    Raises:
      InputError: a text has none, has too many tokens, or comes from bytes that are not UTF-8.
    """
    rows = []
    for text in texts:
        check_utf8(text)
        # The tokenizer takes "[MASK]" for plain text, so what lies between is encoded.
        parts = tokenizer.encode_batch(text.split(MASK))
        if len(parts) == 1:
            raise InputError(f"{show(text)}: has no {MASK}; put one where a word is to be guessed")
        ids = [tokenizer.cls_id, *parts[0]]
        for part in parts[1:]:
            ids += [tokenizer.mask_id, *part]
        ids.append(tokenizer.sep_id)
        if len(ids) > most:
            raise InputError(f"{show(text)}: has {len(ids)} tokens, the model takes {most}; shorten it")
        rows.append(Row(ids, [0] * len(ids)))
    return rows


def in_batches(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    most: int,
    compute: Callable[[dict[str, np.ndarray]], Any],
    take: Callable[[Any, Row], Any],
) -> list[Any]:
    """take(result [...] of a row, row) for every row, in order; `compute` gives a batch's results [B, ...].

    Rows of like length go together, and every batch of one length has one shape.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    empty = Row([tokenizer.first_id, tokenizer.last_id], [0, 0])
    answers: list[Any] = [None] * len(rows)
    for first in range(0, len(rows), _ROWS):
        some = order[first : first + _ROWS]
        length = batch_length(len(rows[some[-1]].ids), most)
        batch = make_batch([rows[i] for i in some] + [empty] * (_ROWS - len(some)), tokenizer.pad_id, length)
        results = compute(batch)
        for place, i in enumerate(some):
            answers[i] = take(jax.tree.map(lambda x, at=place: x[at], results), rows[i])
    return answers


def _class_states(model: bert.Bert | gpt.Gpt, batch: Any) -> jax.Array:
    """What tells of the whole of each row, [B, 1, W]."""
    return model.head_states(batch, model.class_positions(batch["segment_ids"]))


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities of logits [..., C], of the same shape."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def windows(texts: Iterator[Any] | Sequence[Any]) -> Iterator[list[Any]]:
    """The texts in lists that are worth one call of the functions below, so that no more are in memory."""
    window = []
    for text in texts:
        window.append(text)
        if len(window) == _WINDOW:
            yield window
            window = []
    if window:
        yield window


class Predictor:
    """A model's parameters on the device, with its compiled functions.

    Args:
      config: config.model.
      params: of the module of config.kind.
      tokenizer: the model's.
      stands_on: config.head, what the head stands on; None: the default, the last layer.
    """

    def __init__(
        self, config: ConfigDict, params: Any, tokenizer: Tokenizer, stands_on: ConfigDict | None = None
    ):
        self.config = ConfigDict({**config.to_dict(), "dtype": "float32", "remat": "none"})
        self.stands_on = default().head if stands_on is None else stands_on
        self.params = jax.device_put(params)
        self.tokenizer = tokenizer
        self.parts = MODULES[config.kind].parts_of(params)
        self._compiled: dict[Any, Any] = {}

    @property
    def most(self) -> int:
        """Tokens that the model takes."""
        return int(self.config.max_position_embeddings)

    def fill_mask(self, texts: Sequence[str], top_k: int = 5) -> list[list[Guesses]]:
        """The likeliest tokens at each [MASK] of each text.

        Args:
          texts: each with one [MASK] or several, which are guessed independently.
          top_k: guesses for each; no more than the vocabulary has.

        Returns:
          For each text and each of its masks, in order, `top_k` tokens with their probabilities.

        Raises:
          InputError: see encode_masked; the model has no masked-LM head.
        """
        self._need("mlm", "guess words")
        rows = encode_masked(self.tokenizer, texts, self.most)
        mask, tokens = self.tokenizer.mask_id, self.tokenizer.tokens

        def guess(model: bert.Bert, batch: Any, positions_BM: Any) -> tuple[jax.Array, jax.Array]:
            x_BMD = model.encoder(batch, positions_BM=positions_BM)
            shares_BMV = jax.nn.softmax(model.masked_lm(x_BMD))[..., : len(tokens)]
            return jax.lax.top_k(shares_BMV, min(top_k, len(tokens)))

        def compute(batch: dict[str, np.ndarray]) -> Any:
            found = [np.flatnonzero(ids == mask) for ids in batch["input_ids"]]
            most = max(map(len, found))
            # Few widths, so that few programs are compiled.
            positions_BM = np.zeros((len(found), 1 << (most - 1).bit_length()), np.int32)
            for i, positions in enumerate(found):
                positions_BM[i, : len(positions)] = positions
            return self._run(("masked_lm", top_k), guess, batch, positions_BM)

        def take(result: tuple[np.ndarray, np.ndarray], row: Row) -> list[Guesses]:
            shares_MK, ids_MK = result
            return [
                [(tokens[i], float(share)) for i, share in zip(ids_MK[m], shares_MK[m], strict=True)]
                for m in range(row.ids.count(mask))
            ]

        return in_batches(rows, self.tokenizer, self.most, compute, take)

    def next_sentence(self, pairs: Sequence[tuple[str, str]], truncate: bool = False) -> list[float]:
        """The probability that the second text of each pair follows the first. Raises InputError."""
        self._need("nsp", "tell whether a sentence is the next")
        self._need("pooler", "tell whether a sentence is the next")

        def probabilities(model: bert.Bert, batch: Any) -> jax.Array:
            pooled_BD = model.pool(_class_states(model, batch)[:, 0])
            return jax.nn.softmax(model.next_sentence(pooled_BD))[:, 0]

        return in_batches(
            self._encode(pairs, truncate),
            self.tokenizer,
            self.most,
            lambda batch: self._run("next_sentence", probabilities, batch),
            lambda share, _: float(share),
        )

    def classify(
        self, texts: Sequence[Text], truncate: bool = False, both_orders: bool = False
    ) -> list[np.ndarray]:
        """The classifier's logits for each text or pair, float32 [C]; softmax gives probabilities of classes,
        and the one logit of a model of numbers is the number.

        Args:
          both_orders: whether a pair is read in both orders, as config.examples.both_orders trains a GPT to.

        Raises:
          InputError: the model has no classifier, or `both_orders` and a text is no pair; see encode.
        """
        if "score" not in self.parts:
            self._need("classifier", "classify")
        if self.config.kind == "bert":
            self._need("pooler", "classify texts")
        if both_orders:
            pairs = [text for text in texts if not isinstance(text, str)]
            if len(pairs) < len(texts):
                raise InputError("the model reads pairs in both orders, so it takes no single texts")
            one = self.classify(pairs, truncate)
            other = self.classify([(b, a) for a, b in pairs], truncate)
            # GPT's score has no bias, so that of two states' sum is the sum of their scores.
            return [x + y for x, y in zip(one, other, strict=True)]

        def logits(model: bert.Bert | gpt.Gpt, batch: Any) -> jax.Array:
            return model.class_logits(_class_states(model, batch))[:, 0]

        return in_batches(
            self._encode(texts, truncate),
            self.tokenizer,
            self.most,
            lambda batch: self._run("classify", logits, batch),
            lambda x, _: x,
        )

    def answer(
        self, questions: Sequence[Question], examples: ConfigDict, seq_length: int
    ) -> dict[str, Prediction]:
        """The answer to each question, by its id.

        Args:
          examples: config.examples, of which the lengths, n_best_size and unanswerable are read.
          seq_length: tokens of a row, and so of a window of a long context.

        Raises:
          InputError: the model does not answer questions, or has one token type.
        """
        self._need("span", "answer questions")
        if self.config.type_vocab_size < 2:
            raise InputError("the model has one token type, so it takes no pairs of question and text")
        encoded = encode_questions(questions, self.tokenizer, examples.max_query_length)
        rows = Windows(encoded, self.tokenizer, seq_length, examples.doc_stride)

        def spans(model: bert.Bert, batch: Any) -> jax.Array:
            return model.spans(model.head_states(batch))

        logits = in_batches(
            rows,
            self.tokenizer,
            seq_length,
            lambda batch: self._run("answer", spans, batch),
            lambda x_S2, row: x_S2[: len(row.ids)],
        )
        outputs = {name: [x_S2[:, i] for x_S2 in logits] for i, name in enumerate(("start", "end"))}
        return answer_all(rows, outputs, self.tokenizer, examples)

    def choose(
        self, questions: Sequence[tuple[str, Sequence[str]]], truncate: bool = False
    ) -> list[np.ndarray]:
        """The scores of each question's choices, float32 [C]; softmax gives probabilities.

        Args:
          questions: (context, its choices); the number of choices may differ.

        Raises:
          InputError: the model's classifier has another width than one, or it has none; see encode.
        """
        self._need("classifier", "choose")
        if self.params["classifier_bias"].shape != (1,):
            raise InputError(
                "the model tells classes apart and scores no choice; name one that was trained to"
            )
        pairs = [(context, choice) for context, choices in questions for choice in choices]
        scores = iter(self.classify(pairs, truncate))
        return [np.concatenate([next(scores) for _ in choices]) for _, choices in questions]

    def tag(self, sentences: Sequence[Sentence], seq_length: int, document_context: bool) -> list[np.ndarray]:
        """The classifier's logits for each word of each sentence, float32 [words, C].

        Args:
          seq_length, document_context: of the windows, see bertjax.tasks.tag.cut_windows.

        Raises:
          InputError: the model has no classifier.
        """
        self._need("classifier", "tag words")
        cut = cut_windows(sentences, self.tokenizer, seq_length, document_context)

        def tags(model: bert.Bert, batch: Any) -> jax.Array:
            return model.classify(model.head_states(batch))

        found = in_batches(
            [window.row for window in cut],
            self.tokenizer,
            seq_length,
            lambda batch: self._run("tag", tags, batch),
            lambda x, _: x,
        )
        size = self.params["classifier_bias"].size
        logits = [np.zeros((len(sentence.words), size), np.float32) for sentence in sentences]
        for window, x in zip(cut, found, strict=True):
            for sentence, word, position in window.words:
                logits[sentence][word] = x[position]
        return logits

    def best_tags(
        self, sentences: Sequence[Sentence], seq_length: int, document_context: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The likeliest tag of each word of each sentence, int [words], and its probability. See `tag`."""
        found = []
        for logits in self.tag(sentences, seq_length, document_context):
            found.append((logits.argmax(-1), softmax(logits).max(-1)))
        return found

    def embed(
        self, texts: Sequence[Text], pooling: str = "mean", layer: int | str = -1, truncate: bool = False
    ) -> list[np.ndarray]:
        """Hidden states of each text, float32.

        Args:
          pooling: "mean" over the row's tokens, [CLS] and [SEP] among them: [D]; "cls", that of [CLS]: [D];
            "pooled", the pooler's output: [D]; "tokens", all of them: [tokens, D].
          layer: 0 the embeddings, 1 to L the layers; or from the end, -1 the last; or one of
            bertjax.config.HEAD_LAYERS, what a head on a frozen encoder is trained on: D is then 4 times as
            large for "concat_last_four". Sums have the weights of a model that learned them, else equal ones.

        Raises:
          InputError: no such layer or pooling, no pooler; see encode.
        """
        layer = self._layer(layer)
        last = layer in (self.config.num_hidden_layers, "last")
        if pooling not in POOLINGS:
            raise InputError(f"pooling {pooling}: it is one of {', '.join(POOLINGS)}")
        if pooling == "pooled":
            self._need("pooler", "give pooled output")
            if not stands_on_last(self.stands_on):
                raise InputError(
                    f"the model's pooler stands on {describe(self.stands_on)}; take other states"
                )
            if not last:
                raise InputError(f"layer {layer}: the pooler stands on the last layer; leave out the layer")

        def states(model: bert.Bert, batch: Any) -> jax.Array:
            if last:
                x_BSD = model.encoder(batch)
            elif isinstance(layer, str):
                learned = model.features.mix if self.stands_on.layers == layer else None
                x_BSD = read_layers(model.encoder, layer, batch, learned)
            else:
                x_BSD = model.encoder(batch, every_layer=True)[layer]
            if pooling == "tokens":
                return x_BSD
            if pooling == "mean":
                weights_BS1 = (batch["segment_ids"] > 0)[:, :, None]
                return (x_BSD * weights_BS1).sum(1) / weights_BS1.sum(1)
            return x_BSD[:, 0] if pooling == "cls" else model.pool(x_BSD[:, 0])

        return in_batches(
            self._encode(texts, truncate),
            self.tokenizer,
            self.most,
            lambda batch: self._run(("embed", pooling, layer), states, batch),
            lambda x, row: x[: len(row.ids)] if pooling == "tokens" else x,
        )

    def _run(self, name: Any, function: Any, *inputs: Any) -> Any:
        """function(module, *inputs) as NumPy arrays, compiled once for each shape."""
        if name not in self._compiled:

            def compute(params: Any, *inputs: Any) -> Any:
                with jax.default_matmul_precision("highest"):
                    module = MODULES[self.config.kind]
                    return function(module.bind(self.config, params, self.stands_on), *inputs)

            self._compiled[name] = jax.jit(compute)
        return jax.device_get(self._compiled[name](self.params, *inputs))

    def _encode(self, texts: Sequence[Text], truncate: bool) -> list[Row]:
        rows = encode(self.tokenizer, texts, self.most, truncate)
        one_type = self.config.kind == "bert" and self.config.type_vocab_size < 2
        if one_type and any(row.types[-1] for row in rows):
            raise InputError("the model has one token type, so it takes no pairs; give single texts")
        return rows

    def _layer(self, layer: int | str) -> int | str:
        """The layer's number from 0, or its name. Raises InputError if the model has none of it."""
        layers = self.config.num_hidden_layers
        if isinstance(layer, str):
            if HEAD_LAYERS.get(layer, layers + 1) > layers:
                raise InputError(f"layer {layer}: a model of {layers} layers has none of that name; give "
                                 f"a number or one of {', '.join(HEAD_LAYERS)}")  # fmt: skip
            return layer
        if not -layers - 1 <= layer <= layers:
            raise InputError(
                f"layer {layer}: the model has 0 (embeddings) to {layers}, or -{layers + 1} to -1"
            )
        return layer % (layers + 1)

    def _need(self, part: str, what: str) -> None:
        if part not in self.parts:
            raise InputError(f"the model has no {part} part, so it cannot {what}; name one that has")
