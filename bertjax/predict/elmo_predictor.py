"""Questions to what was trained on an ELMo: its classes and tags, in float32.

See bertjax.predict.predictor."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from bertjax.config import default
from bertjax.data.finetuning.conll import Sentence
from bertjax.data.finetuning.sequences import Text, encode
from bertjax.data.tokenizers.characters import AnyWords
from bertjax.errors import InputError, show
from bertjax.predict.predictor import in_batches
from bertjax.tasks import elmo_classify, elmo_tag
from bertjax.tasks.elmo_words import any_words
from bertjax.tasks.example_rows import PackedRows
from bertjax.tasks.tag import cut_windows, word_weights
from bertjax.trained_model import Trained

_ROWS = 16  # sentences computed together


class ElmoPredictor:
    """A model's parameters on the device, with its compiled functions.

    Args:
      model: with a head for classes or tags.
    """

    most = 1 << 20  # words: an LSTM takes any number

    def __init__(self, model: Trained):
        self.config = default()
        self.config.model.dtype = "float32"
        self.config.elmo = ConfigDict(model.config.elmo)
        self.config.examples.labels = model.labels
        self.model, self.params = model, jax.device_put(model.params)
        self._tasks: dict[str, Any] = {"classify": elmo_classify.batch_outputs, "tag": elmo_tag.batch_tags}
        self._compiled: dict[str, Any] = {}

    def classify(self, texts: Sequence[Text], truncate: bool = False) -> list[np.ndarray]:
        """The classifier's logits for each text or pair, float32 [C].

        Args:
          truncate: not read; texts of any length are taken.

        Raises:
          InputError: a text comes from bytes that are not UTF-8; single texts where the model was trained on
            pairs, or the other way round.
        """
        pairs = "comparison" in self.params["classifier"]
        for text in texts:
            if isinstance(text, str) == pairs:
                wanted = "pairs of texts" if pairs else "single texts"
                raise InputError(f"{show(text if isinstance(text, str) else text[0])}: the model was trained "
                                 f"on {wanted}; give those")  # fmt: skip
        words, with_words = any_words(self.model)
        rows = encode(with_words.tokenizer, texts, self.most)

        def compute(batch: dict[str, np.ndarray]) -> np.ndarray:
            found: np.ndarray = self._run("classify", words, batch)["logits"][:, 0]
            return found

        return in_batches(rows, with_words.tokenizer, self.most, compute, lambda x, _: x)

    def best_tags(
        self, sentences: Sequence[Sentence], seq_length: int, document_context: bool
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """The best sequence of tags of each sentence, int [words], and each tag's probability over all
        sequences. For the arguments see bertjax.tasks.tag.cut_windows."""
        words, with_words = any_words(self.model)
        cut = cut_windows(sentences, with_words.tokenizer, seq_length, document_context)
        pad_id, weights = with_words.tokenizer.pad_id, {"label_weights": word_weights(cut)}
        rows, count, places = PackedRows(
            [window.row for window in cut], pad_id, {}, weights, alone=True
        ).once()
        parts = [self._run("tag", words, rows(i, _ROWS)) for i in range(0, count, _ROWS)]
        tags_BS, shares_BS = (np.concatenate(x) for x in zip(*parts, strict=True))
        found = [(np.zeros(len(each.words), int), np.zeros(len(each.words))) for each in sentences]
        for window, row, start in zip(cut, places.rows, places.offsets, strict=True):
            for sentence, word, position in window.words:
                for of_sentence, x_BS in zip(found[sentence], (tags_BS, shares_BS), strict=True):
                    of_sentence[word] = x_BS[row, start + position]
        return found

    def _run(self, name: str, words: AnyWords, batch: dict[str, np.ndarray]) -> Any:
        """What the task gives for a batch, as NumPy arrays; compiled once for each shape."""
        if name not in self._compiled:

            def compute(params: Any, batch: Any) -> Any:
                with jax.default_matmul_precision("highest"):
                    return self._tasks[name](self.config, params, batch)

            self._compiled[name] = jax.jit(compute)
        batch = batch | {"character_ids": words.characters(batch["input_ids"])}
        return jax.device_get(self._compiled[name](self.params, batch))
