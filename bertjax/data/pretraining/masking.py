"""Which tokens of a sequence are predicted: masked ones by the 2018 release's rules, or every next one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.rng import below, chance, draw, jit

_SHUFFLE, _CHOICE, _TOKEN = 0, 1, 2  # streams of a sequence's masking key


class MaskRules(NamedTuple):
    counts: np.ndarray  # int64 [S+1], how many tokens to mask by the sequence's length
    mask_below: (
        float  # a uniform number below this: [MASK]; else below the next: a random token; else unchanged
    )
    random_below: float
    whole_word: bool
    continuation: np.ndarray  # bool [V], tokens that go on with the word before them
    cls_id: int
    sep_id: int  # between two texts
    last_id: int  # what a sequence ends with: [SEP] too
    mask_id: int
    next_token: bool  # nothing is masked, and every token but the first is predicted at the one before it


def mask_counts(masked_lm_prob: float, most: int, seq_length: int) -> np.ndarray:
    """int64 [seq_length + 1]: the number of masked tokens of a sequence by its length, specials included."""
    lengths = range(seq_length + 1)
    return np.array([min(most, max(1, round(masked_lm_prob * n))) for n in lengths], np.int64)


def split_thresholds(mask_split: Sequence[float]) -> tuple[float, float]:
    """(mask_below, random_below) for shares (mask, random, unchanged) that add up to 1."""
    mask, random, unchanged = (float(share) for share in mask_split)
    return mask, 1.0 if unchanged == 0 else mask + random


@jit
def predict_next(
    row: np.ndarray,
    begin: int,
    stop: int,
    positions: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray,
    filled: int,
) -> Any:
    """Appends, at `filled`, each position of row[begin:stop] but the last, the token after it and weight 1.

    Returns how many are filled then.
    """
    for i in range(begin, stop - 1):
        positions[filled] = i
        ids[filled] = row[i + 1]
        weights[filled] = 1.0
        filled += 1
    return filled


@jit
def mask_sequence(
    row: np.ndarray,
    begin: int,
    stop: int,
    rules: MaskRules,
    key: np.uint64,
    positions: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray,
    filled: int,
) -> Any:
    """Masks row[begin:stop] (int32, [CLS] .. [SEP]) in place.

    Appends each masked position, its original token and weight 1 at `filled` in positions, ids and weights,
    in order of position. Returns how many are filled then.
    """
    candidates = np.empty(stop - begin, np.int32)
    words = np.empty(stop - begin + 1, np.int32)  # word w is candidates[words[w]:words[w + 1]]
    n = 0
    word_count = 0
    for i in range(begin, stop):
        if row[i] == rules.cls_id or row[i] == rules.sep_id or row[i] == rules.last_id:
            continue
        # A continuation at the start of a truncated B joins the last word of A, as in the 2018 release.
        if n == 0 or not (rules.whole_word and rules.continuation[row[i]]):
            words[word_count] = n
            word_count += 1
        candidates[n] = i
        n += 1
    words[word_count] = n
    order = np.arange(word_count)
    chosen = np.zeros(stop - begin, np.bool_)
    wanted = rules.counts[stop - begin]
    shuffle_key = draw(key, _SHUFFLE)
    taken = 0
    for i in range(word_count):  # words in random order, shuffled as far as needed
        if taken >= wanted:
            break
        j = i + below(shuffle_key, i, word_count - i)
        word = order[j]
        order[j] = order[i]
        if taken + words[word + 1] - words[word] > wanted:
            continue
        for c in range(words[word], words[word + 1]):
            chosen[candidates[c] - begin] = True
            taken += 1
    choice_key, token_key = draw(key, _CHOICE), draw(key, _TOKEN)
    for i in range(begin, stop):
        if not chosen[i - begin]:
            continue
        positions[filled] = i
        ids[filled] = row[i]
        weights[filled] = 1.0
        filled += 1
        choice = chance(choice_key, i - begin)
        if choice < rules.mask_below:
            row[i] = rules.mask_id
        elif choice < rules.random_below:
            row[i] = below(token_key, i - begin, len(rules.continuation))
    return filled
