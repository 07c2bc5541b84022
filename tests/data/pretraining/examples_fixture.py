"""For the tests of training examples: stores that give every token of the corpus an id of its own, so that a
row tells where its text came from, and rows read back."""

import collections
from types import SimpleNamespace

import numpy as np

from bertjax.config import default
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.data.row_form import RowForm

PAD, CLS, SEP, MASK, FIRST = 0, 1, 2, 3, 5
FORM = RowForm(CLS, (SEP,), SEP)


def make_store(sentence_lengths, dtype=np.uint32, inputs=None):
    """A store of documents given as lists of sentence lengths; token i of the corpus has the id FIRST + i."""
    sentences = np.concatenate([[0], np.cumsum(np.concatenate(sentence_lengths))]).astype(np.int64)
    documents = np.concatenate([[0], np.cumsum([len(d) for d in sentence_lengths])]).astype(np.int64)
    n = len(sentence_lengths)
    return SimpleNamespace(
        path="store",
        tokens=(FIRST + np.arange(sentences[-1])).astype(dtype),
        sentences=sentences,
        documents=documents,
        train_documents=np.array([i for i in range(n) if i % 5]),
        heldout_documents=np.arange(0, n, 5),
        inputs=inputs or [{"path": "a", "weight": 1.0, "first_document": 0, "end_document": n}],
    )


def random_store(documents=60, most_sentences=20, most_tokens=25, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    lengths = [
        rng.integers(1, most_tokens + 1, rng.integers(1, most_sentences + 1)) for _ in range(documents)
    ]
    return make_store(lengths, **kwargs)


def make_tokenizer(store, mask_id):
    size = FIRST + len(store.tokens)
    return SimpleNamespace(
        kind="made",
        vocab_size=size,
        mask_id=mask_id,
        pad_id=PAD,
        continuation=np.arange(size) % 3 == 0,
    )


def make(store, documents=None, seed=0, phase=0, seq_length=64, most=10, mask_id=MASK, **fields):
    config = default().data
    config.update({"dupe_factor": 2, **fields})
    return Examples(
        store, make_tokenizer(store, mask_id), FORM, config, seed=seed, phase=phase, seq_length=seq_length,
        max_predictions_per_seq=most, documents=store.train_documents if documents is None else documents,
    )  # fmt: skip


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def original_ids(batch):
    """input_ids before masking."""
    ids = batch["input_ids"].copy()
    row, p = np.nonzero(batch["masked_lm_weights"])
    ids[row, batch["masked_lm_positions"][row, p]] = batch["masked_lm_ids"][row, p]
    return ids


def sequences(batch):
    """[(original ids, ids, types, positions, masked positions in it, label or None)] of every sequence."""
    originals, found = original_ids(batch), []
    for r in range(len(originals)):
        masked = batch["masked_lm_positions"][r][batch["masked_lm_weights"][r] > 0]
        for segment in range(1, batch["segment_ids"][r].max() + 1):
            at = np.flatnonzero(batch["segment_ids"][r] == segment)
            assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
            assert batch["next_sentence_positions"][r, segment - 1] == at[0]
            inside = masked[(masked >= at[0]) & (masked <= at[-1])] - at[0]
            weight = batch["next_sentence_weights"][r, segment - 1]
            label = int(batch["next_sentence_labels"][r, segment - 1]) if weight else None
            found.append(
                (originals[r, at], batch["input_ids"][r, at], batch["token_type_ids"][r, at],
                 batch["position_ids"][r, at], inside, label)
            )  # fmt: skip
    return found


def contents(batch):
    """How often each sequence (with its masks) occurs."""
    return collections.Counter((s[1].tobytes(), s[4].tobytes()) for s in sequences(batch))
