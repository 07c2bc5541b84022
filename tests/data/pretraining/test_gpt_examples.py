"""Pieces of documents for a language model: every token predicted once, from its own document only."""

import numpy as np
import pytest
from examples_fixture import FIRST, PAD, make_store, random_store

from bertjax.config import default
from bertjax.data.pretraining.gpt_examples import Pieces
from bertjax.errors import InputError


def make(store, documents=None, seed=0, phase=0, seq_length=16, shifted=True, **fields):
    config = default("language_model").data
    config.update(fields)
    return Pieces(store, config, PAD, seed=seed, phase=phase, seq_length=seq_length, shifted=shifted,
                  documents=store.train_documents if documents is None else documents)  # fmt: skip


def pieces_of(batch):
    """The token ids of each piece, after a look at everything that belongs to it."""
    found = []
    assert not batch["token_type_ids"].any()
    for ids, positions, segments in zip(
        *(batch[name] for name in ("input_ids", "position_ids", "segment_ids")), strict=True
    ):
        assert (ids[segments == 0] == PAD).all()
        for segment in range(1, segments.max() + 1):
            here = np.flatnonzero(segments == segment)
            np.testing.assert_array_equal(here, np.arange(here[0], here[-1] + 1))
            np.testing.assert_array_equal(positions[here], np.arange(len(here)))
            found.append(ids[here])
    return found


def document_of(store, token):
    ends = store.sentences[store.documents[1:]]
    return int(np.searchsorted(ends, token - FIRST, side="right"))


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("pack", [1, 4])
def test_every_token_but_a_documents_first_is_predicted_once_in_an_epoch(pack, shifted):
    store = random_store(most_sentences=8, most_tokens=9)  # documents of 1 to 70 tokens
    stream = make(store, pack=pack, shifted=shifted)
    rows = stream.epoch_rows(0)
    pieces = pieces_of(stream.rows(0, rows))
    assert all(2 <= len(piece) <= 16 for piece in pieces)
    assert all((np.diff(piece) == 1).all() for piece in pieces)  # contiguous
    assert all(document_of(store, piece[0]) == document_of(store, piece[-1]) for piece in pieces)
    begins, ends = store.sentences[store.documents[:-1]], store.sentences[store.documents[1:]]
    wanted = [FIRST + np.arange(begins[d] + 1, ends[d]) for d in store.train_documents]
    found = np.concatenate([piece[1:] for piece in pieces])
    np.testing.assert_array_equal(np.sort(found), np.sort(np.concatenate(wanted)))
    assert len(pieces) == rows if pack == 1 else len(pieces) > 1.2 * rows
    starts = {int(piece[0]) for piece in pieces}
    assert {int(FIRST + begins[d]) for d in store.train_documents if ends[d] - begins[d] > 1} <= starts


def test_cuts_and_order_are_others_in_each_epoch_and_follow_from_the_seed():
    store = make_store([[100], [90], [3, 5], [80]])
    stream, documents = make(store, np.arange(4)), np.arange(4)
    epochs = [pieces_of(stream.rows(0 if not e else stream.epoch_rows(0), stream.epoch_rows(e)))
              for e in (0, 1)]  # fmt: skip
    starts = [sorted(int(piece[0]) for piece in pieces) for pieces in epochs]
    assert starts[0] != starts[1]
    again = pieces_of(make(store, documents).rows(0, stream.epoch_rows(0)))
    assert all(np.array_equal(a, b) for a, b in zip(epochs[0], again, strict=True))
    other = pieces_of(make(store, documents, seed=1).rows(0, 5))
    assert [piece.tolist() for piece in other] != [piece.tolist() for piece in again[:5]]
    plain = make(store, documents, shifted=False)
    first = {int(piece[0]) for piece in pieces_of(plain.rows(0, plain.epoch_rows(0)))}
    assert {FIRST + i for i in range(0, 91, 15)} <= first


def test_a_part_of_the_stream_is_that_part():
    stream = make(random_store(most_tokens=9), pack=3)
    whole = stream.rows(0, 3 * stream.epoch_rows(0))
    for first, count in ((0, 1), (stream.epoch_rows(0) - 1, 3), (7, 5)):
        part = make(random_store(most_tokens=9), pack=3).rows(first, count)
        for name, x in part.items():
            np.testing.assert_array_equal(x, whole[name][first : first + count])


def test_the_random_end_of_a_first_piece_is_spread_evenly():
    store = make_store([[200]] * 400)
    stream = make(store, np.arange(400), seq_length=11)
    lengths = np.bincount(stream._index(0).predicted, minlength=11)
    assert lengths[0] == 0
    assert (lengths[1:] > 15).all()  # 40 expected, of deviation 6
    assert lengths[1:].sum() == 400


def test_weights_are_passes():
    inputs = [{"path": name, "weight": 1.0, "first_document": 50 * i, "end_document": 50 * i + 50}
              for i, name in enumerate("abc")]  # fmt: skip
    store = make_store([[9]] * 150, inputs=inputs)
    stream = make(store, np.arange(150), weights=(2.0, 0.5, 0.0))
    documents = [document_of(store, piece[0]) for piece in pieces_of(stream.rows(0, stream.epoch_rows(0)))]
    counts = np.bincount(documents, minlength=150)
    assert (counts[:50] == 2).all()
    assert set(counts[50:100]) == {0, 1}
    assert 10 < counts[50:100].sum() < 40
    assert not counts[100:].any()


def test_documents_without_anything_to_predict():
    with pytest.raises(InputError, match=r"store: the documents have no token that another one follows"):
        make(make_store([[1], [1]]), np.arange(2))
