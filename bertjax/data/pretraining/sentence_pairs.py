"""Which sentences make a training sequence: the 2018 release's algorithm, one document and pass at a time.

A document is cut into chunks of whole sentences that reach a target length. A chunk's first sentences are
segment A; segment B is either the rest of the chunk or, half of the time, text of another document, and then
the rest of the chunk goes back into the document. All draws of a sequence are keyed by (seed, pass, document,
copy, number of the sequence in the document), so a sweep over a document can stop and start again anywhere.

Names: a pass is one visit of all documents; an entry is a (document, copy), as a document of weight 3 is
visited three times a pass; an index runs over the sequences of all passes of an epoch, pass by pass and entry
by entry.
"""

from typing import Any, NamedTuple

import numpy as np

from bertjax.data.rng import below, chance, draw, jit

MARK_EVERY = 32  # a sweep over part of a document starts at most so many sequences ahead
_TRIES = 10  # draws of another document, as in the 2018 release

# Counters of a sequence's stream.
_SPLIT, _COIN, _SENTENCE, _DOCUMENT = 0, 1, 2, 8
TRIM_A, TRIM_B, MASK = 100, 101, 102  # keys of further streams
# Counters of a document's stream beside those of its sequences, which are 0, 1, 2, ...
_VISIT, _SHORT, _LENGTH = np.uint64(1 << 63), np.uint64((1 << 63) + 1), np.uint64((1 << 63) + 2)
_BITS = np.int64(64)


class Corpus(NamedTuple):
    """The store's offsets and what is visited of them. int64 arrays but entry_share."""

    sentences: np.ndarray  # [Ns+1] token offsets
    documents: np.ndarray  # [D+1] sentence offsets
    split: np.ndarray  # documents that a random B may come from
    entry_document: np.ndarray  # [E]
    entry_copy: np.ndarray  # [E]
    entry_share: np.ndarray  # float64 [E], the probability that a pass visits the entry


class PairRules(NamedTuple):
    key: np.uint64
    room: int  # tokens of A and B together: sequence length - 3, for [CLS] and two [SEP]
    short_seq_prob: float
    next_sentence: bool


class Index(NamedTuple):
    """Where the sequences of one epoch are found."""

    first_pass: int
    first: (
        np.ndarray
    )  # int64 [passes * E + 1], the index of each entry's first sequence; the last is their number
    marks: np.ndarray  # uint32, of every 32nd sequence, the sentence of its document that it starts at


@jit
def visit(corpus: Corpus, rules: PairRules, pass_number: int, entry: int) -> Any:
    """(key, target length) of one visit of an entry; the target is 0 where this pass leaves the entry out."""
    document_key = draw(draw(rules.key, pass_number), corpus.entry_document[entry])
    key = draw(document_key, corpus.entry_copy[entry])
    if chance(key, _VISIT) >= corpus.entry_share[entry]:
        return key, np.int64(0)
    if chance(key, _SHORT) < rules.short_seq_prob:
        return key, 2 + below(key, _LENGTH, rules.room - 1)
    return key, np.int64(rules.room)


@jit
def cut(corpus: Corpus, rules: PairRules, key: np.uint64, target: int, start: int, end: int) -> Any:
    """The sequence that starts at sentence `start` of a document that stops before `end`.

    Returns (middle, stop, is_random, following): A is sentences start..middle, the chunk start..stop, and the
    next sequence starts at `following`.
    """
    goal = corpus.sentences[start] + target
    stop = start + 1
    while stop < end and corpus.sentences[stop] < goal:
        stop += 1
    count = stop - start
    middle = start + 1
    if count > 1:
        middle += below(key, _SPLIT, count - 1)
    is_random = rules.next_sentence and (count == 1 or chance(key, _COIN) < 0.5)
    return middle, stop, is_random, (middle if is_random else stop)


@jit
def random_next(corpus: Corpus, key: np.uint64, document: int, wanted: int) -> Any:
    """(first, stop) of sentences of another document that together have `wanted` tokens, or all that it has
    left.

    If all draws give `document` itself it is used, and the pair still counts as random, as in the 2018
    release.
    """
    other = document
    for i in range(_TRIES):
        other = corpus.split[below(key, _DOCUMENT + i, len(corpus.split))]
        if other != document:
            break
    end = corpus.documents[other + 1]
    first = corpus.documents[other] + below(key, _SENTENCE, end - corpus.documents[other])
    goal = corpus.sentences[first] + wanted
    stop = first + 1
    while stop < end and corpus.sentences[stop] < goal:
        stop += 1
    return first, stop


@jit
def describe(
    corpus: Corpus, rules: PairRules, key: np.uint64, document: int, target: int, start: int, end: int
) -> Any:
    """(A first token, A stop, B first token, B stop, is_random, following) of the sequence at sentence
    `start`.

    Token offsets before truncation. B is empty in a sequence without a second segment.
    """
    middle, stop, is_random, following = cut(corpus, rules, key, target, start, end)
    a_first, a_stop = corpus.sentences[start], corpus.sentences[middle]
    b_first, b_stop = a_stop, corpus.sentences[stop]
    if is_random:
        first, last = random_next(corpus, key, document, target - (a_stop - a_first))
        b_first, b_stop = corpus.sentences[first], corpus.sentences[last]
    return a_first, a_stop, b_first, b_stop, is_random, following


@jit
def truncated(a: int, b: int, room: int) -> Any:
    """The lengths that remain of a and b tokens when one at a time comes off the longer, off B when equal."""
    if a + b <= room:
        return a, b
    half = room // 2
    if a <= room - half:
        return a, room - a
    if b <= half:
        return room - b, b
    return room - half, half


@jit
def heads(key: np.uint64, n: int) -> Any:
    """Heads in n fair coin flips: how many of n truncated tokens come off the front."""
    count = np.int64(0)
    bits = np.uint64(0)
    for i in range(n):
        if i % _BITS == 0:
            bits = draw(key, i // _BITS)
        count += np.int64(bits & np.uint64(1))
        bits >>= np.uint64(1)
    return count


@jit
def sequence_length(a: int, b: int, room: int) -> Any:
    """The length of a sequence of a and b tokens with [CLS] and [SEP]s; without b it has one [SEP] only."""
    if b == 0:
        return min(a, room + 1) + 2
    return min(a + b, room) + 3


@jit
def count_sequences(
    corpus: Corpus, rules: PairRules, first_pass: int, begin: int, stop: int, counts: np.ndarray
) -> None:
    """Writes the number of sequences of visits begin..stop (pass * E + entry) to counts[visit + 1]."""
    entries = len(corpus.entry_document)
    for v in range(begin, stop):
        key, target = visit(corpus, rules, first_pass + v // entries, v % entries)
        document = corpus.entry_document[v % entries]
        start, end = corpus.documents[document], corpus.documents[document + 1]
        count = 0
        while target > 0 and start < end:
            start = cut(corpus, rules, draw(key, count), target, start, end)[3]
            count += 1
        counts[v + 1] = count


@jit
def index_sequences(
    corpus: Corpus, rules: PairRules, index: Index, begin: int, stop: int, lengths: np.ndarray
) -> None:
    """Writes the marks of visits begin..stop and, unless `lengths` is empty, their lengths (uint16)."""
    entries = len(corpus.entry_document)
    for v in range(begin, stop):
        key, target = visit(corpus, rules, index.first_pass + v // entries, v % entries)
        document = corpus.entry_document[v % entries]
        first_sentence, end = corpus.documents[document], corpus.documents[document + 1]
        start = first_sentence
        for i in range(index.first[v], index.first[v + 1]):
            if i % MARK_EVERY == 0:
                index.marks[i // MARK_EVERY] = start - first_sentence
            sequence_key = draw(key, i - index.first[v])
            if len(lengths):
                a0, a1, b0, b1, _, start = describe(corpus, rules, sequence_key, document, target, start, end)
                lengths[i] = sequence_length(a1 - a0, b1 - b0, rules.room)
            else:
                start = cut(corpus, rules, sequence_key, target, start, end)[3]


@jit
def find_sequence(corpus: Corpus, rules: PairRules, index: Index, i: int) -> Any:
    """(key, A first token, A stop, B first token, B stop, is_random) of sequence i of the epoch."""
    low, high = 0, len(index.first) - 1  # bisect for the last visit that starts at or before i
    while high - low > 1:
        middle = (low + high) // 2
        if index.first[middle] <= i:
            low = middle
        else:
            high = middle
    entries = len(corpus.entry_document)
    key, target = visit(corpus, rules, index.first_pass + low // entries, low % entries)
    document = corpus.entry_document[low % entries]
    start, end = corpus.documents[document], corpus.documents[document + 1]
    at = index.first[low]
    mark = i // MARK_EVERY
    if mark * MARK_EVERY > at:
        start += np.int64(index.marks[mark])
        at = mark * MARK_EVERY
    for j in range(at - index.first[low], i - index.first[low]):
        start = cut(corpus, rules, draw(key, j), target, start, end)[3]
    sequence_key = draw(key, i - index.first[low])
    a0, a1, b0, b1, is_random, _ = describe(corpus, rules, sequence_key, document, target, start, end)
    return sequence_key, a0, a1, b0, b1, is_random
