"""Properties of the training examples; test_fidelity.py compares their distributions with the release's."""

import hashlib
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from examples_fixture import (
    CLS,
    FIRST,
    MASK,
    SEP,
    contents,
    equal,
    make,
    make_store,
    original_ids,
    random_store,
    sequences,
)

from bertjax.config import default
from bertjax.data.pretraining import sentence_pairs
from bertjax.data.pretraining.bert_examples import Batch, build, pad_rows, predictions_per_row
from bertjax.errors import InputError

OPTIONS = [
    {},
    {"pack": 4},
    {"masking": "dynamic"},
    {"masking": "dynamic", "pack": 3, "whole_word_mask": True},
    {"next_sentence": False, "pack": 2},
    {"next_sentence": False, "whole_word_mask": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_are_a_pure_function_of_position(options):
    store = random_store(800)
    one, two = make(store, **options), make(store, **options)
    n = one.epoch_rows(0) + 40  # over an epoch's end, and over windows of packed rows
    whole = one.rows(0, n)
    position = 0
    parts = []
    for size in [1, 7, 300, 2, 1500, n]:
        size = min(size, n - position)
        parts.append((position, two.rows(position, size)))
        position += size
    for name, array in whole.items():
        assert np.array_equal(array, np.concatenate([part[name] for _, part in parts]))
    late = make(store, **options)  # the end first, then the start
    position, part = parts[-1]
    assert equal(late.rows(position, len(part["input_ids"])), part)
    assert equal(late.rows(0, 1), parts[0][1])
    assert not equal(make(store, seed=1, **options).rows(0, 8), one.rows(0, 8))
    assert not equal(make(store, phase=1, **options).rows(0, 8), one.rows(0, 8))


def test_threads_get_the_same_rows():
    store = random_store()
    shared, own = make(store, masking="dynamic", pack=2), make(store, masking="dynamic", pack=2)
    positions = [5000 - 97 * i for i in range(40)]  # some tens of epochs
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda position: shared.rows(position, 9), positions))
    assert all(equal(batch, own.rows(position, 9)) for position, batch in zip(positions, found, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_invariants_of_rows(options):
    store = random_store()
    examples = make(store, **options)
    batch = examples.rows(0, examples.epoch_rows(0))
    pack = examples.pack
    b, s, p = len(batch["input_ids"]), 64, examples.predictions_per_row
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "input_ids": ((b, s), np.int32), "token_type_ids": ((b, s), np.int32),
        "position_ids": ((b, s), np.int32), "segment_ids": ((b, s), np.int32),
        "masked_lm_positions": ((b, p), np.int32), "masked_lm_ids": ((b, p), np.int32),
        "masked_lm_weights": ((b, p), np.float32), "next_sentence_positions": ((b, pack), np.int32),
        "next_sentence_labels": ((b, pack), np.int32), "next_sentence_weights": ((b, pack), np.float32),
    }  # fmt: skip
    padding = batch["segment_ids"] == 0
    assert not batch["input_ids"][padding].any()
    assert not batch["token_type_ids"][padding].any()
    assert not batch["position_ids"][padding].any()
    unused = batch["masked_lm_weights"] == 0
    assert not batch["masked_lm_positions"][unused].any()
    assert not batch["masked_lm_ids"][unused].any()
    for positions, weights in zip(batch["masked_lm_positions"], batch["masked_lm_weights"], strict=True):
        used = positions[weights > 0]
        assert np.array_equal(used, np.unique(used))
        assert np.array_equal(weights, np.arange(p) < len(used))
    masks = 0
    document_of = (
        np.searchsorted(store.sentences[store.documents], np.arange(len(store.tokens)), side="right") - 1
    )
    for original, ids, types, positions, masked, label in sequences(batch):
        n = len(original)
        assert original[0] == CLS
        assert np.array_equal(positions, np.arange(n))
        ends = np.flatnonzero(original == SEP)
        assert ends[-1] == n - 1
        assert len(ends) == 2 or (len(ends) == 1 and label is None)
        assert np.array_equal(types, np.arange(n) > ends[0])
        a, b_tokens = original[1 : ends[0]], original[ends[0] + 1 : ends[-1]]
        assert len(a) > 0
        assert (np.diff(a) == 1).all()  # contiguous text
        assert (np.diff(b_tokens) == 1).all()
        assert (label is None) == (not examples._pair_rules.next_sentence)
        if len(b_tokens):
            same = document_of[a[0] - FIRST] == document_of[b_tokens[0] - FIRST]
            assert same == (label in (0, None))
        wanted = min(10, max(1, round(0.15 * n)))
        assert len(masked) == wanted or (options.get("whole_word_mask") and len(masked) < wanted)
        assert not np.isin(original[masked], [CLS, SEP]).any()
        untouched = np.delete(np.arange(n), masked)
        assert np.array_equal(ids[untouched], original[untouched])
        masks += len(masked)
    assert masks == batch["masked_lm_weights"].sum()


def test_both_texts_of_a_pair_are_trimmed_by_draws_of_their_own():
    """Sentences as long as a row: A and B each lose half of theirs, at random from either end."""
    store = make_store([[60, 60]] * 300)
    examples = make(store, np.arange(300), short_seq_prob=0.0, dupe_factor=1)
    fronts = []
    for original, *_ in sequences(examples.rows(0, examples.epoch_rows(0))):
        first_end, last_end = np.flatnonzero(original == SEP)
        texts = original[1:first_end] - FIRST, original[first_end + 1 : last_end] - FIRST
        if {len(text) for text in texts} == {30, 31}:
            fronts.append([text[0] % 60 for text in texts])
    a, b = np.transpose(fronts)
    assert len(a) > 200
    np.testing.assert_allclose([a.var(), b.var()], 29.5 / 4, rtol=0.5)  # of so many coin flips
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_a_text_alone_fills_its_row():
    """Without a second text there is one [SEP] less, so one token more."""
    examples = make(make_store([[100]] * 20), next_sentence=False, short_seq_prob=0.0, seq_length=32)
    batch = examples.rows(0, examples.epoch_rows(0))
    assert (batch["segment_ids"] > 0).all()
    assert ((original_ids(batch) >= FIRST).sum(1) == 30).all()


@pytest.mark.parametrize("pack", [1, 3])
def test_every_next_token_is_predicted_inside_its_sequence(pack):
    examples = make(random_store(), masking="next_token", next_sentence=False, pack=pack, seq_length=96)
    batch = examples.rows(0, examples.epoch_rows(0))
    assert batch["masked_lm_positions"].shape[1] == 95
    ids, segments = batch["input_ids"], batch["segment_ids"]
    assert not (ids == MASK).any()
    goes_on = (segments[:, 1:] > 0) & (segments[:, 1:] == segments[:, :-1])
    assert batch["masked_lm_weights"].sum() == goes_on.sum()
    for r in range(len(ids)):
        real = batch["masked_lm_weights"][r] > 0
        assert np.array_equal(batch["masked_lm_positions"][r, real], np.flatnonzero(goes_on[r]))
        assert np.array_equal(batch["masked_lm_ids"][r, real], ids[r, 1:][goes_on[r]])
    assert (segments.max() > 1) == (pack > 1)


@pytest.mark.parametrize("pack", [1, 4])
@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_every_sequence_occurs_once_an_epoch(pack, masking):
    store = random_store(800)
    examples = make(store, pack=pack, masking=masking)
    rows = [examples.epoch_rows(epoch) for epoch in range(2)]
    epochs = [examples.rows(0, rows[0]), examples.rows(rows[0], rows[1])]
    for epoch, batch in enumerate(epochs):
        index = examples._index(0 if masking == "static" else epoch)[0]
        n = int(index.first[-1])
        assert n > 2048
        direct = Batch(**{k: np.zeros((n, *v.shape[1:]), v.dtype) for k, v in batch.items()})
        places = np.stack([np.arange(n), np.zeros(n), np.zeros(n)]).astype(np.int32)
        build(
            examples._tokens, examples._corpus, examples._pair_rules, examples._mask_rules, index,
            np.arange(n), places, direct,
        )  # fmt: skip
        assert contents(direct._asdict()) == contents(batch)
    common = contents(epochs[0]) & contents(epochs[1])
    if masking == "static":
        assert contents(epochs[0]) == contents(epochs[1])
        assert not np.array_equal(epochs[0]["input_ids"][:50], epochs[1]["input_ids"][:50])
    else:
        assert sum(common.values()) < 0.02 * len(contents(epochs[0]))


def test_the_order_follows_from_the_seed_and_the_phase():
    """Of the same sequences: where none is cut, seed and phase decide no more than order and masks."""
    store = make_store([[8] * 7] * 120)
    same = {"next_sentence": False, "short_seq_prob": 0.0, "dupe_factor": 1}

    def firsts(**seeds):
        examples = make(store, **same, **seeds)
        return original_ids(examples.rows(0, examples.epoch_rows(0)))[:, 1]

    orders = [firsts(), firsts(seed=1), firsts(phase=1), firsts(seed=1, phase=1)]
    for i, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), np.sort(orders[0]))
        for other in orders[:i]:
            assert (order == other).mean() < 0.1


def test_order_is_random_over_the_whole_epoch():
    examples = make(random_store(300), next_sentence=False)
    batch = examples.rows(0, examples.epoch_rows(0))
    first_token = original_ids(batch)[:, 1]
    assert abs(np.corrcoef(first_token, np.arange(len(first_token)))[0, 1]) < 5 / np.sqrt(len(first_token))


@pytest.mark.parametrize("options", [{}, {"pack": 4}, {"masking": "dynamic"}], ids=str)
def test_training_never_sees_held_out_documents(options):
    store = random_store()
    bounds = store.sentences[store.documents]

    def seen(documents):
        examples = make(store, documents, **options)
        tokens = original_ids(examples.rows(0, 2 * examples.epoch_rows(0)))
        tokens = np.unique(tokens[tokens >= FIRST]) - FIRST
        return set(np.searchsorted(bounds, tokens, side="right") - 1)

    assert seen(store.train_documents) == set(store.train_documents)
    assert seen(store.heldout_documents) == set(store.heldout_documents)


def test_packed_rows_are_fuller_and_within_their_predictions():
    store = random_store(200, most_tokens=8)
    fill = {}
    for pack in (1, 2, 8):
        examples = make(store, pack=pack, seq_length=128, most=20, short_seq_prob=0.5)
        batch = examples.rows(0, examples.epoch_rows(0))
        fill[pack] = (batch["segment_ids"] > 0).mean()
        assert batch["segment_ids"].max() <= pack
        expected = {1: 20, 2: 21, 8: 24}[pack]  # ceil(0.15 * 128 + pack / 2)
        assert batch["masked_lm_weights"].shape[1] == examples.predictions_per_row == expected
    assert fill[1] < fill[2] < fill[8]
    assert fill[8] > 0.97


@pytest.mark.parametrize("prob", [0.0, 0.01, 0.15, 0.5])
@pytest.mark.parametrize("next_sentence", [True, False])
def test_predictions_of_a_packed_row_suffice(prob, next_sentence):
    config = default().data
    config.update(pack=8, masked_lm_prob=prob, next_sentence=next_sentence)
    rng = random.Random(0)
    shortest = 5 if next_sentence else 3
    for seq_length in (40, 64, 128):
        limit = predictions_per_row(config, seq_length, 20)
        for _ in range(300):
            lengths = [shortest + rng.choice([0, 0, 1, 2, rng.randrange(12)]) for _ in range(8)]
            while sum(lengths) > seq_length:
                lengths.pop()
            assert sum(min(20, max(1, round(prob * n))) for n in lengths) <= limit


def test_unfit_documents_are_refused():
    store = random_store()
    with pytest.raises(InputError, match="only one document"):
        make(store, np.array([3]))
    with pytest.raises(InputError, match="no document"):
        make(store, np.array([], np.int64))
    with pytest.raises(InputError, match="single sentence"):
        make(make_store([[5]] * 20))
    with pytest.raises(InputError, match=r"store: its vocabulary \(made\) has no mask; prepare one"):
        make(store, mask_id=-1)
    assert make(store, mask_id=-1, masking="next_token", next_sentence=False).epoch_rows(0) > 0
    with pytest.raises(InputError, match="sequence length 7"):
        make(store, seq_length=7)
    with pytest.raises(InputError, match="no example"):
        make(store, weights=(1e-9,))
    assert make(store, np.array([3]), next_sentence=False).epoch_rows(0) > 0


def test_padding_rows_weigh_nothing():
    batch = make(random_store(), pack=2).rows(0, 5)
    padded = pad_rows(batch, 8)
    for name, array in padded.items():
        assert array.shape == (8, *batch[name].shape[1:])
        assert array.dtype == batch[name].dtype
        assert np.array_equal(array[:5], batch[name])
        assert not array[5:].any()


def test_both_token_types_give_the_same_rows():
    assert equal(make(random_store(dtype=np.uint16)).rows(0, 50), make(random_store()).rows(0, 50))


def digest():
    """Of some rows, for a comparison with numba switched off."""
    total = hashlib.sha256()
    for options in ({"whole_word_mask": True}, {"pack": 3, "masking": "dynamic"}, {"next_sentence": False}):
        examples = make(random_store(12), **options)
        for array in examples.rows(examples.epoch_rows(0) - 4, 8).values():
            total.update(array.tobytes())
    return total.hexdigest()


def test_without_numba_rows_are_the_same():
    code = f"import runpy; print(runpy.run_path({__file__!r})['digest']())"
    here = Path(__file__)
    paths = os.pathsep.join(map(str, (here.parents[3], here.parent)))
    env = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == digest()


def test_long_documents_cost_no_more_than_short_ones():
    store = make_store([[10] * 20_000, [10] * 20_000])
    examples = make(store, np.arange(2))
    index = examples._index(0)[0]
    assert index.first[1] > 100 * sentence_pairs.MARK_EVERY
    assert len(index.marks) == -(-int(index.first[-1]) // sentence_pairs.MARK_EVERY)
    assert (np.diff(index.marks.astype(np.int64)) > 0).sum() >= len(index.marks) - 4
