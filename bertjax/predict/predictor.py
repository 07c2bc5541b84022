"""Questions to a trained model of any kind, over any number of texts: batched by length, answered in order.

Everything is computed in float32, whatever config.dtype.

Shapes: B rows, S sequence, M masked positions, D hidden, V vocabulary, L layers.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.data.finetuning.conll import Sentence
from bertjax.data.finetuning.sequences import Row, Text, batch_length, encode, make_batch
from bertjax.data.finetuning.squad import Question
from bertjax.data.finetuning.squad_answers import Prediction, answer_all
from bertjax.data.finetuning.squad_windows import Windows, encode_questions
from bertjax.data.finetuning.word_windows import cut_windows, word_weights
from bertjax.errors import InputError, check_utf8, show
from bertjax.models import bert
from bertjax.models.head_features import HEAD_LAYERS, read_layers
from bertjax.models.interface import BoundModel, Reader
from bertjax.trained_model import Trained

MASK = "[MASK]"
POOLINGS = ("mean", "cls", "pooled", "tokens")
_ROWS = 16  # texts computed together
_CHUNK = 64 * _ROWS  # texts sorted by length among themselves

Guesses = list[tuple[str, float]]  # (token, probability), the likeliest first


def encode_masked(reader: Reader, texts: Sequence[str], most: int) -> list[Row]:
    """The rows of texts in which "[MASK]" stands for the mask token.

    Raises:
      InputError: a text has none, has too many tokens, or comes from bytes that are not UTF-8.
    """
    tokenizer, form, rows = reader.tokenizer, reader.form, []
    for text in texts:
        check_utf8(text)
        # The tokenizer takes "[MASK]" for plain text, so what lies between is encoded.
        parts = tokenizer.encode_batch(text.split(MASK))
        if len(parts) == 1:
            raise InputError(f"{show(text)}: has no {MASK}; put one where a word is to be guessed")
        ids = [form.before, *parts[0]]
        for part in parts[1:]:
            ids += [tokenizer.mask_id, *part]
        ids.append(form.after)
        if len(ids) > most:
            raise InputError(f"{show(text)}: has {len(ids)} tokens, the model takes {most}; shorten it")
        rows.append(Row(ids, [0] * len(ids)))
    return rows


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities of logits [..., C], of the same shape."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    normalised: np.ndarray = shares / shares.sum(-1, keepdims=True)
    return normalised


def chunks(texts: Iterator[Any] | Sequence[Any]) -> Iterator[list[Any]]:
    """The texts in lists that are worth one call of the functions below, so that no more are in memory."""
    chunk = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class Predictor:
    """A model's parameters on the device, with its compiled functions."""

    def __init__(self, model: Trained):
        self.config = model.config.copy_and_resolve_references()
        self.config.dtype = "float32"
        self.kind, self.head, self.labels = model.kind, model.reads, model.labels
        self.params = jax.device_put(model.params)
        self.tokenizer = model.tokenizer
        self.parts = self.kind.parts_of(model.params)
        self._pairs = self.kind.trained_on_pairs(model.params)
        self._compiled: dict[Any, Any] = {}

    @property
    def most(self) -> int:
        """Tokens that the model takes."""
        return self.kind.longest(self.config)

    @functools.cached_property
    def reader(self) -> Reader:
        """How texts become its batches. Raises InputError if its vocabulary lacks the marks of texts."""
        return self.kind.reader(self.tokenizer, self.config)

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
        rows = encode_masked(self.reader, texts, self.most)
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

        return self._in_batches(rows, compute, take)

    def next_sentence(self, pairs: Sequence[tuple[str, str]], truncate: bool = False) -> list[float]:
        """The probability that the second text of each pair follows the first. Raises InputError."""
        self._need("nsp", "tell whether a sentence is the next")
        self._need("pooler", "tell whether a sentence is the next")

        def probabilities(model: bert.Bert, batch: Any) -> jax.Array:
            pooled_BD = model.pool(model.head_states(batch, batch["class_positions"])[:, 0])
            return jax.nn.softmax(model.next_sentence(pooled_BD))[:, 0]

        return self._in_batches(
            self._encode(pairs, truncate),
            lambda batch: self._run("next_sentence", probabilities, batch),
            lambda share, _: float(share),
        )

    def classify(
        self, texts: Sequence[Text], truncate: bool = False, both_orders: bool = False
    ) -> list[np.ndarray]:
        """The classifier's logits for each text or pair, float32 [C]; softmax gives probabilities of classes,
        a sigmoid those of labels of which any number may be there, and the one logit of a model of numbers is
        the number.

        Args:
          both_orders: whether a pair is read in both orders and both orders' states are added.

        Raises:
          InputError: the model has no classifier of texts, or was trained on the other of single texts and
            pairs; see encode.
        """
        wanted = self.kind.heads.get("sequence_classification", ())
        for part in wanted:
            self._need(part, "classify texts")
        for text in texts:
            if self._pairs is not None and isinstance(text, str) == self._pairs:
                one, many = text if isinstance(text, str) else text[0], "pairs of texts"
                many = many if self._pairs else "single texts"
                raise InputError(f"{show(one)}: the model was trained on {many}; give those")
        if both_orders:
            pairs = [text for text in texts if not isinstance(text, str)]
            if len(pairs) < len(texts):
                raise InputError("the model reads pairs in both orders, so it takes no single texts")
            one_order = self.classify(pairs, truncate)
            other = self.classify([(b, a) for a, b in pairs], truncate)
            return [x + y for x, y in zip(one_order, other, strict=True)]
        return self._text_logits(texts, truncate)

    def _text_logits(self, texts: Sequence[Text], truncate: bool) -> list[np.ndarray]:
        def logits(model: BoundModel, batch: Any) -> jax.Array:
            return model.text_logits(batch, keys=None, frozen=False, packed=False, each=1, further=False)[0][
                :, 0
            ]

        return self._in_batches(
            self._encode(texts, truncate), lambda batch: self._run("classify", logits, batch), lambda x, _: x
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
        self.kind.check_pairs(self.config)
        encoded = encode_questions(questions, self.tokenizer, examples.max_query_length)
        rows = Windows(encoded, self.reader.form, seq_length, examples.doc_stride)

        def spans(model: BoundModel, batch: Any) -> jax.Array:
            return model.span_logits(batch, keys=None, frozen=False)

        logits = self._in_batches(
            rows,
            lambda batch: self._run("answer", spans, batch),
            lambda x_S2, row: x_S2[: len(row.ids)],
            most=seq_length,
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
        scores = iter(self._text_logits(pairs, truncate))
        return [np.concatenate([next(scores) for _ in choices]) for _, choices in questions]

    def best_tags(
        self, sentences: Sequence[Sentence], seq_length: int, document_context: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The likeliest tag of each word of each sentence, int [words], and its probability.

        Args:
          seq_length, document_context: of the windows, see bertjax.data.finetuning.word_windows.cut_windows.

        Raises:
          InputError: the model has no head for tags.
        """
        for part in self.kind.heads.get("token_classification", ("tags",)):
            self._need(part, "tag words")
        reader = self.reader
        cut = cut_windows(sentences, reader.tokenizer, reader.form, seq_length, document_context)

        def tags(model: BoundModel, batch: Any) -> tuple[jax.Array, jax.Array]:
            return model.best_tags(batch, self.labels, packed=False)

        answers = self._in_batches(
            [window.row for window in cut],
            lambda batch: self._run("tag", tags, batch),
            lambda x, _: x,
            most=seq_length,
            label_weights=word_weights(cut),
        )
        found = [(np.zeros(len(each.words), int), np.zeros(len(each.words))) for each in sentences]
        for window, answer in zip(cut, answers, strict=True):
            for sentence, word, position in window.words:
                for of_sentence, x_S in zip(found[sentence], answer, strict=True):
                    of_sentence[word] = x_S[position]
        return found

    def embed(
        self, texts: Sequence[Text], pooling: str = "mean", layer: int | str = -1, truncate: bool = False
    ) -> list[np.ndarray]:
        """Hidden states of each text, float32.

        Args:
          pooling: "mean" over the row's tokens, [CLS] and [SEP] among them: [D]; "cls", that of [CLS]: [D];
            "pooled", the pooler's output: [D]; "tokens", all of them: [tokens, D].
          layer: 0 the embeddings, 1 to L the layers; or from the end, -1 the last; or one of
            bertjax.models.head_features.HEAD_LAYERS, what a head on a frozen encoder reads: D is then 4
            times as large for "concat_last_four". Sums have the weights of a model that learned them, else
            equal ones.

        Raises:
          InputError: no such layer or pooling, no pooler; see encode.
        """
        if "encoder" not in self.kind.heads:
            raise InputError(f"{self.kind.title} gives no states here; name a BERT")
        layer = self._layer(layer)
        last = layer in (self.config.num_hidden_layers, "last")
        if pooling not in POOLINGS:
            raise InputError(f"pooling {pooling}: it is one of {', '.join(POOLINGS)}")
        if pooling == "pooled":
            self._need("pooler", "give pooled output")
            if not self.kind.plain_head(self.head):
                reads = self.kind.describe_head(self.head)
                raise InputError(f"the model's pooler reads {reads}; take other states")
            if not last:
                raise InputError(f"layer {layer}: the pooler reads the last layer; leave out the layer")

        def states(model: bert.Bert, batch: Any) -> Any:
            if last:
                x_BSD = model.encoder(batch)
            elif isinstance(layer, str):
                learned = model.features.mix if self.head.layers == layer else None
                x_BSD = read_layers(model.encoder, layer, batch, learned)
            else:
                x_BSD = model.encoder(batch, every_layer=True)[layer]
            if pooling == "tokens":
                return x_BSD
            if pooling == "mean":
                weights_BS1 = (batch["segment_ids"] > 0)[:, :, None]
                return (x_BSD * weights_BS1).sum(1) / weights_BS1.sum(1)
            return x_BSD[:, 0] if pooling == "cls" else model.pool(x_BSD[:, 0])

        return self._in_batches(
            self._encode(texts, truncate),
            lambda batch: self._run(("embed", pooling, layer), states, batch),
            lambda x, row: x[: len(row.ids)] if pooling == "tokens" else x,
        )

    def _in_batches(
        self,
        rows: Sequence[Row],
        compute: Callable[[dict[str, np.ndarray]], Any],
        take: Callable[[Any, Row], Any],
        most: int | None = None,
        **of_tokens: Sequence[np.ndarray],
    ) -> list[Any]:
        """take(result [...] of a row, row) for every row, in order; `compute` gives a batch's, [B, ...].

        Rows of like length go together, and every batch of one length has one shape.

        Args:
          most: tokens of a row; None: as many as the model takes.
          of_tokens: further arrays of a batch, one [tokens] for each row.
        """
        form, pad_id, at_end = (
            self.reader.form,
            self.reader.tokenizer.pad_id,
            self.kind.class_at_end(self.config),
        )
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        empty = Row([form.before, form.after], [0, 0])
        answers: list[Any] = [None] * len(rows)
        for first in range(0, len(rows), _ROWS):
            some = order[first : first + _ROWS]
            length = batch_length(len(rows[some[-1]].ids), self.most if most is None else most)
            of_batch = [rows[i] for i in some] + [empty] * (_ROWS - len(some))
            batch = make_batch(of_batch, pad_id, length)
            ends = [[(len(row.ids) - 1) * at_end] for row in of_batch]
            batch["class_positions"] = np.array(ends, np.int32)
            for name, arrays in of_tokens.items():
                batch[name] = np.zeros((_ROWS, length), arrays[0].dtype)
                for place, i in enumerate(some):
                    batch[name][place, : len(arrays[i])] = arrays[i]
            results = compute(self.reader.complete(batch))
            for place, i in enumerate(some):
                answers[i] = take(jax.tree.map(lambda x, at=place: x[at], results), rows[i])
        return answers

    def _run(self, name: Any, function: Any, *inputs: Any) -> Any:
        """function(model, *inputs) as NumPy arrays, compiled once for each shape."""
        if name not in self._compiled:

            def compute(params: Any, *inputs: Any) -> Any:
                with jax.default_matmul_precision("highest"):
                    return function(self.kind.bind(self.config, params, self.head), *inputs)

            self._compiled[name] = jax.jit(compute)
        return jax.device_get(self._compiled[name](self.params, *inputs))

    def _encode(self, texts: Sequence[Text], truncate: bool) -> list[Row]:
        if any(not isinstance(text, str) for text in texts):
            self.kind.check_pairs(self.config)
        return encode(self.reader.tokenizer, self.reader.form, texts, self.most, truncate)

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
        return int(layer % (layers + 1))

    def _need(self, part: str, what: str) -> None:
        if part not in self.parts:
            raise InputError(f"the model has no {part} part, so it cannot {what}; name one that has")
