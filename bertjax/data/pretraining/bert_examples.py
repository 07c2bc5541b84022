"""Training examples of BERT's pre-training from the token store: row `position` of an endless stream of rows.

Content and order are a pure function of (seed, phase, position). What is kept in memory is a few numbers for
each document and pass (for packed rows also two bytes for each sequence); the examples themselves are made
when asked for. With static masking an epoch is `dupe_factor` differently cut and masked passes, and later
epochs bring the same sequences in another order, as the 2018 release's example files did; with dynamic
masking, and where each next token is predicted instead, an epoch is one new pass.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from bertjax.data.pretraining import masking, sentence_pairs
from bertjax.data.pretraining.store import Store
from bertjax.data.pretraining.stream import Stream, frozen, spread
from bertjax.data.rng import draw, jit, root_key
from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError


class Batch(NamedTuple):
    """B rows of S tokens, P predictions and N sequences; int32 but the weights, which are float32."""

    input_ids: np.ndarray  # [B,S]
    token_type_ids: np.ndarray  # [B,S]
    position_ids: np.ndarray  # [B,S]
    segment_ids: np.ndarray  # [B,S]
    masked_lm_positions: np.ndarray  # [B,P]
    masked_lm_ids: np.ndarray  # [B,P]
    masked_lm_weights: np.ndarray  # [B,P]
    next_sentence_positions: np.ndarray  # [B,N]
    next_sentence_labels: np.ndarray  # [B,N]
    next_sentence_weights: np.ndarray  # [B,N]


class Examples(Stream):
    """The examples of some of a store's documents.

    Args:
      store: the token store.
      tokenizer: the store's tokenizer.
      form: the marks around texts.
      data_config: `config.data`.
      seed: any integer; other seeds give other chunks, pairs, masks and order.
      phase: 0 or 1, the part of training; works like a part of the seed.
      seq_length: S, tokens in a row.
      max_predictions_per_seq: most masked tokens in a sequence.
      documents: int64 ids of the documents to use, such as `store.train_documents`. Random next sentences
        come from these too, so training never sees held-out text.

    Raises:
      InputError: the weights do not fit the store, or the documents cannot give such examples.
    """

    def __init__(
        self,
        store: Store,
        tokenizer: Tokenizer,
        form: RowForm,
        data_config: ConfigDict,
        *,
        seed: int,
        phase: int,
        seq_length: int,
        max_predictions_per_seq: int,
        documents: np.ndarray,
    ) -> None:
        if not 8 <= seq_length < 2**16:
            raise InputError(f"sequence length {seq_length}: must be from 8 to 65535")
        if data_config.masking != "next_token" and tokenizer.mask_id < 0:
            raise InputError(f"{store.path}: its vocabulary ({tokenizer.kind}) has no mask; prepare one with "
                             "another --tokenizer")  # fmt: skip
        weights = document_weights(store, data_config)[documents]
        _check_documents(store, documents[weights > 0], data_config.next_sentence)
        super().__init__(seed, phase, seq_length, data_config.pack)
        self.predictions_per_row = predictions_per_row(data_config, seq_length, max_predictions_per_seq)
        self._passes = data_config.dupe_factor if data_config.masking == "static" else 1
        self._static = data_config.masking == "static"
        self._tokens = frozen(store.tokens, store.tokens.dtype)
        self._corpus = corpus_of(store, documents, weights)
        self._pair_rules = sentence_pairs.PairRules(
            root_key(seed, phase, 0),
            seq_length - 3,
            float(data_config.short_seq_prob),
            bool(data_config.next_sentence),
        )
        self._mask_rules = masking.MaskRules(
            masking.mask_counts(data_config.masked_lm_prob, max_predictions_per_seq, seq_length),
            *masking.split_thresholds(data_config.mask_split),
            bool(data_config.whole_word_mask),
            frozen(tokenizer.continuation, np.bool_),
            int(form.before),
            int(form.between[0]),
            int(form.after),
            int(tokenizer.mask_id),
            data_config.masking == "next_token",
        )
        self._pad_id = tokenizer.pad_id
        self._index = functools.lru_cache(maxsize=2)(self._make_index)
        if self.epoch_rows(0) == 0:
            raise InputError(f"{store.path}: the documents give no example; raise --config.data.weights")

    def count(self, epoch: int) -> int:
        return int(self._index(self._pass(epoch))[0].first[-1])

    def lengths(self, epoch: int) -> np.ndarray:
        return self._index(self._pass(epoch))[1]

    def write(self, epoch: int, instances: np.ndarray, places: np.ndarray, batch: Batch) -> None:
        index, _ = self._index(self._pass(epoch))
        build(self._tokens, self._corpus, self._pair_rules, self._mask_rules, index, instances, places, batch)

    def _pass(self, epoch: int) -> int:
        return 0 if self._static else epoch

    def _make_index(self, first_pass: int) -> tuple[sentence_pairs.Index, np.ndarray]:
        """The index of the passes from `first_pass` on, and the sequences' lengths (none if unpacked)."""
        corpus, rules = self._corpus, self._pair_rules
        visits = self._passes * len(corpus.entry_document)
        first = np.zeros(visits + 1, np.int64)
        spread(lambda a, b: sentence_pairs.count_sequences(corpus, rules, first_pass, a, b, first), visits)
        np.cumsum(first, out=first)
        marks = np.empty(-(-int(first[-1]) // sentence_pairs.MARK_EVERY), np.uint32)
        index = sentence_pairs.Index(first_pass, first, marks)
        lengths = np.empty(int(first[-1]) if self.pack > 1 else 0, np.uint16)
        spread(lambda a, b: sentence_pairs.index_sequences(corpus, rules, index, a, b, lengths), visits)
        return index, lengths

    def empty(self, count: int) -> Batch:
        def zeros(width: int, dtype: Any = np.int32) -> np.ndarray:
            return np.zeros((count, width), dtype)

        tokens, predictions, sequences = self.seq_length, self.predictions_per_row, self.pack
        return Batch(
            np.full((count, tokens), self._pad_id, np.int32),
            zeros(tokens),
            zeros(tokens),
            zeros(tokens),
            zeros(predictions),
            zeros(predictions),
            zeros(predictions, np.float32),
            zeros(sequences),
            zeros(sequences),
            zeros(sequences, np.float32),
        )


def predictions_per_row(data_config: ConfigDict, seq_length: int, max_predictions_per_seq: int) -> int:
    """P, the most predicted tokens in a row of up to `pack` sequences.

    Without masks these are all but the first of each sequence. The number of masks is rounded, which adds at
    most a half to each sequence's share; a sequence has at least one, which is more than that where the share
    of the shortest sequence ([CLS] a [SEP] b [SEP], or [CLS] a [SEP]) is below a half.
    """
    pack, share = data_config.pack, data_config.masked_lm_prob
    if data_config.masking == "next_token":
        return seq_length - 1
    if pack == 1:
        return max_predictions_per_seq
    shortest = 5 if data_config.next_sentence else 3
    extra = max(0.5, 1 - share * shortest)
    return int(min(pack * max_predictions_per_seq, math.ceil(share * seq_length + pack * extra)))


def document_weights(store: Store, data_config: ConfigDict) -> np.ndarray:
    """float64 [D]: visits of each document in a pass over the corpus. Raises InputError for unfit weights."""
    given = tuple(data_config.weights) or tuple(item["weight"] for item in store.inputs)
    name = "--config.data.weights" if data_config.weights else f"{store.path}: weights"
    if len(given) != len(store.inputs):
        paths = ", ".join(str(item["path"]) for item in store.inputs)
        raise InputError(
            f"{name}={given}: {len(given)} numbers for the store's {len(store.inputs)} inputs; "
            f"give one for each of {paths}"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or not any(given):
        raise InputError(f"{name}={given}: must not be negative nor all 0")
    weights = np.zeros(len(store.documents) - 1)
    for item, weight in zip(store.inputs, given, strict=True):
        weights[item["first_document"] : item["end_document"]] = weight
    return weights


def pad_rows(batch: dict[str, np.ndarray], to: int) -> dict[str, np.ndarray]:
    """The batch with rows of zeros added until it has `to`: weights 0, and segment 0, which is padding."""
    short = to - len(batch["input_ids"])
    return {name: np.pad(array, ((0, short), *((0, 0),) * (array.ndim - 1))) for name, array in batch.items()}


@jit
def build(
    tokens: np.ndarray,
    corpus: sentence_pairs.Corpus,
    pair_rules: sentence_pairs.PairRules,
    mask_rules: masking.MaskRules,
    index: sentence_pairs.Index,
    instances: np.ndarray,
    places: np.ndarray,
    batch: Batch,
) -> None:
    """Writes sequences `instances` [M] of the epoch to their places (int32 [3,M]: row, number in it, first
    token).

    The places are in order, and a row's sequences are all among them.
    """
    filled = 0
    for m in range(len(instances)):
        row, slot, begin = places[0, m], places[1, m], places[2, m]
        key, a0, a1, b0, b1, is_random = sentence_pairs.find_sequence(corpus, pair_rules, index, instances[m])
        room = pair_rules.room + (b0 == b1)
        a_length, b_length = sentence_pairs.truncated(a1 - a0, b1 - b0, room)
        a0 += sentence_pairs.heads(draw(key, sentence_pairs.TRIM_A), a1 - a0 - a_length)
        b0 += sentence_pairs.heads(draw(key, sentence_pairs.TRIM_B), b1 - b0 - b_length)

        ids, types = batch.input_ids[row], batch.token_type_ids[row]
        ids[begin] = mask_rules.cls_id
        at = begin + 1
        for i in range(a0, a0 + a_length):
            ids[at] = tokens[i]
            at += 1
        if b_length > 0:
            ids[at] = mask_rules.sep_id
            at += 1
            for i in range(b0, b0 + b_length):
                ids[at] = tokens[i]
                types[at] = 1
                at += 1
        ids[at] = mask_rules.last_id
        types[at] = b_length > 0
        at += 1
        positions, segments = batch.position_ids[row], batch.segment_ids[row]
        for i in range(begin, at):
            positions[i] = i - begin
            segments[i] = slot + 1

        batch.next_sentence_positions[row, slot] = begin
        batch.next_sentence_labels[row, slot] = is_random
        batch.next_sentence_weights[row, slot] = pair_rules.next_sentence
        predictions = batch.masked_lm_positions[row], batch.masked_lm_ids[row], batch.masked_lm_weights[row]
        filled = filled if slot else 0
        if mask_rules.next_token:
            filled = masking.predict_next(ids, begin, at, *predictions, filled)
        else:
            mask_key = draw(key, sentence_pairs.MASK)
            filled = masking.mask_sequence(ids, begin, at, mask_rules, mask_key, *predictions, filled)


def corpus_of(store: Store, documents: np.ndarray, weights: np.ndarray) -> sentence_pairs.Corpus:
    """The sentences of these documents (int64 ids [D]), each visited as often as its weight (float64 [D])
    says, and by its fraction in some passes once more."""
    documents, weights = documents[weights > 0], weights[weights > 0]
    whole = np.floor(weights).astype(np.int64)
    copies = whole + (weights > whole)
    copy = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    return sentence_pairs.Corpus(
        frozen(store.sentences, np.int64),
        frozen(store.documents, np.int64),
        frozen(documents, np.int64),
        frozen(np.repeat(documents, copies), np.int64),
        frozen(copy, np.int64),
        frozen(
            np.where(copy < np.repeat(whole, copies), 1.0, np.repeat(weights - whole, copies)), np.float64
        ),
    )


def _check_documents(store: Store, documents: np.ndarray, next_sentence: bool) -> None:
    if len(documents) == 0:
        raise InputError(f"{store.path}: no document to train on or to evaluate; give prepare more text")
    if not next_sentence:
        return
    if len(documents) < 2:
        raise InputError(
            f"{store.path}: only one document in this split, and next-sentence pairs need two; separate "
            "documents by a blank line, or set --config.data.next_sentence=False"
        )
    if np.max(store.documents[documents + 1] - store.documents[documents]) < 2:
        raise InputError(
            f"{store.path}: every document has a single sentence, so every next sentence would be random; "
            "put a blank line only between documents and prepare again, or set data.next_sentence=False"
        )
