"""How the 2018 release makes its pre-training examples, told in plain Python, to compare bertjax with.

Lists of tokens and one random.Random, an example at a time, in the words of the release's rules. The recipe's
constants can be changed, to see that a comparison notices it.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PAD, UNK, CLS, SEP, MASK = range(5)
FIRST = 5  # the first id that is no special token

Document = list[list[int]]  # sentences of token ids


class Recipe(NamedTuple):
    """The release's flags and the constants that it writes out."""

    seq_length: int
    max_predictions: int
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    whole_word: bool = False
    random_next: float = 0.5
    front: float = 0.5  # of the tokens cut off an overlong pair
    mask: float = 0.8
    unchanged: float = 0.1


class Pair(NamedTuple):
    document: int  # that A comes from
    a: list[int]
    b: list[int]
    is_random: bool


class Example(NamedTuple):
    """A pair with [CLS], [SEP] and masks."""

    pair: Pair
    original: list[int]
    tokens: list[int]
    positions: list[int]  # of masked tokens, ascending

    @property
    def types(self) -> list[int]:
        return [0] * (len(self.pair.a) + 2) + [1] * (len(self.pair.b) + 1)


def flat(sentences: Sequence[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(sentences))


def pairs_of(documents: Sequence[Document], own: int, recipe: Recipe, rng: random.Random) -> Iterator[Pair]:
    """The pairs of one pass over a document."""
    room = recipe.seq_length - 3
    target = rng.randint(2, room) if rng.random() < recipe.short_seq_prob else room
    waiting = list(documents[own])
    while waiting:
        chunk = [waiting.pop(0)]
        while waiting and sum(map(len, chunk)) < target:
            chunk.append(waiting.pop(0))
        split = 1 if len(chunk) == 1 else rng.randint(1, len(chunk) - 1)
        a, rest = flat(chunk[:split]), chunk[split:]
        is_random = not rest or rng.random() < recipe.random_next
        if is_random:
            b = random_text(documents, own, target - len(a), rng)
            waiting = rest + waiting
        else:
            b = flat(rest)
        while len(a) + len(b) > room:
            longer = a if len(a) > len(b) else b
            del longer[0 if rng.random() < recipe.front else -1]
        yield Pair(own, a, b, is_random)


def random_text(documents: Sequence[Document], own: int, wanted: int, rng: random.Random) -> list[int]:
    """Sentences from somewhere in another document, until there are `wanted` tokens or it ends."""
    for _ in range(10):
        other = rng.randint(0, len(documents) - 1)
        if other != own:
            break
    text: list[int] = []
    for sentence in documents[other][rng.randint(0, len(documents[other]) - 1) :]:
        text += sentence
        if len(text) >= wanted:
            break
    return text


def masked(pair: Pair, recipe: Recipe, continuation: Sequence[bool], rng: random.Random) -> Example:
    """The example of a pair. `continuation` [V] says which ids go on with the word before them."""
    original = [CLS, *pair.a, SEP, *pair.b, SEP]
    words: list[list[int]] = []
    for i, token in enumerate(original):
        if token in (CLS, SEP):
            continue
        if recipe.whole_word and words and continuation[token]:
            words[-1].append(i)
        else:
            words.append([i])
    rng.shuffle(words)
    wanted = min(recipe.max_predictions, max(1, round(recipe.masked_lm_prob * len(original))))
    chosen: list[int] = []
    for word in words:
        if len(chosen) == wanted:
            break
        if len(chosen) + len(word) <= wanted:
            chosen += word
    tokens = list(original)
    for i in chosen:
        if rng.random() < recipe.mask:
            tokens[i] = MASK
        elif rng.random() >= recipe.unchanged / (1 - recipe.mask):
            tokens[i] = rng.randint(0, len(continuation) - 1)
    return Example(pair, original, tokens, sorted(chosen))


def examples_of(
    documents: Sequence[Document], recipe: Recipe, continuation: Sequence[bool], seed: int, passes: int
) -> Iterator[Example]:
    """The examples of some passes over all documents, which the release shuffles."""
    rng = random.Random(seed)
    for own in list(range(len(documents))) * passes:
        for pair in pairs_of(documents, own, recipe, rng):
            yield masked(pair, recipe, continuation, rng)
