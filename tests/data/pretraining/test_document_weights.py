"""How often documents are visited: an input's weight is passes over it."""

import numpy as np
import pytest
from examples_fixture import FIRST, contents, make, original_ids, random_store

from bertjax.config import default
from bertjax.data.pretraining.bert_examples import corpus_of, document_weights
from bertjax.errors import InputError


def test_weights_are_passes_over_an_input():
    inputs = [
        {"path": "a", "weight": 1.0, "first_document": 0, "end_document": 100},
        {"path": "b", "weight": 3.0, "first_document": 100, "end_document": 200},
        {"path": "c", "weight": 0.5, "first_document": 200, "end_document": 300},
        {"path": "d", "weight": 0.0, "first_document": 300, "end_document": 310},
    ]
    store = random_store(310, inputs=inputs)
    bounds = store.sentences[store.documents[[0, 100, 200, 300, 310]]]

    def shares(**options):
        """Sequences whose A comes from each input, by the sequences of one visit of that input."""
        examples = make(store, np.arange(310), dupe_factor=20, next_sentence=False, **options)
        tokens = original_ids(examples.rows(0, examples.epoch_rows(0)))[:, 1] - FIRST
        counts = np.histogram(tokens, bounds)[0] / 20
        plain = make(store, np.arange(310), dupe_factor=20, next_sentence=False, weights=(1, 1, 1, 1))
        tokens = original_ids(plain.rows(0, plain.epoch_rows(0)))[:, 1] - FIRST
        return counts / (np.histogram(tokens, bounds)[0] / 20)

    np.testing.assert_allclose(shares(), [1, 3, 0.5, 0], atol=0.06)
    np.testing.assert_allclose(shares(weights=(0, 1.25, 2, 1)), [0, 1.25, 2, 1], atol=0.06)
    # An input of weight 0 is not drawn as a random next sentence either; copies are cut differently.
    examples = make(store, np.arange(310), weights=(0, 2, 0, 0), dupe_factor=1)
    batch = examples.rows(0, examples.epoch_rows(0))
    tokens = original_ids(batch)
    assert set(np.searchsorted(bounds, tokens[tokens >= FIRST] - FIRST, side="right")) == {2}
    assert max(contents(batch).values()) < 10


def test_a_document_is_visited_exactly_as_often_as_its_weight_says():
    """On average over passes: the shares of its visits add up to the weight."""
    inputs = [
        {"path": name, "weight": weight, "first_document": 10 * i, "end_document": 10 * (i + 1)}
        for i, (name, weight) in enumerate({"a": 1.0, "b": 3.0, "c": 0.5, "d": 0.0, "e": 2.25}.items())
    ]
    store = random_store(50, inputs=inputs)
    weights = document_weights(store, default().data)
    np.testing.assert_array_equal(weights, np.repeat([1, 3, 0.5, 0, 2.25], 10))
    documents = np.arange(3, 50)
    corpus = corpus_of(store, documents, weights[documents])
    visits = np.bincount(corpus.entry_document, weights=corpus.entry_share, minlength=50)
    np.testing.assert_array_equal(visits[3:], weights[3:])
    assert not visits[:3].any()
    assert len(set(zip(corpus.entry_document, corpus.entry_copy, strict=True))) == len(corpus.entry_copy)
    assert set(corpus.split) == set(documents[weights[documents] > 0])


@pytest.mark.parametrize("weights", [(1.0, 2.0), (-1.0,), (0.0,), (float("nan"),)])
def test_unfit_weights_are_refused(weights):
    with pytest.raises(InputError, match=r"--config.data.weights=\(.*\): "):
        make(random_store(), weights=weights)
