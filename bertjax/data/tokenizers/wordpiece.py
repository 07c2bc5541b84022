"""The 2018 release's tokenization.py: text to words (BasicTokenizer), words to pieces (WordpieceTokenizer).

As there, a character's category, case and decomposition are those of the running Python's unicodedata.
A raw word is what lies between white space; no rule looks across it.
Shape letter: V vocabulary.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Generic, TypeVar

MAX_WORD_CHARACTERS = 200  # google-research/bert tokenization.py; a longer word is [UNK]
_CJK = (
    ("\u4e00", "\u9fff"),
    ("\u3400", "\u4dbf"),
    ("\U00020000", "\U0002a6df"),
    ("\U0002a700", "\U0002b73f"),
    ("\U0002b740", "\U0002b81f"),
    ("\U0002b820", "\U0002ceaf"),
    ("\uf900", "\ufaff"),
    ("\U0002f800", "\U0002fa1f"),
)
# Control characters, which are deleted, but at which str.split() would cut.
_CONTROL_SPACES = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"
_NO_CONTROL_SPACES = str.maketrans("", "", _CONTROL_SPACES)
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+|.")
_CACHED_WORDS = 100_000  # entries; about 30 MB a process
_CACHED_WORD_CHARACTERS = 32  # longer words hardly repeat

_Value = TypeVar("_Value")


class _Table(dict[int, str]):
    """A table for str.translate, filled as characters come: all of them would take a second and 100 MB."""

    def __init__(self, rule: Callable[[str], str]):
        super().__init__()
        self._rule = rule

    def __missing__(self, point: int) -> str:
        self[point] = result = self._rule(chr(point))
        return result


def _clean(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    if character == "\ufffd" or category in ("Cc", "Cf"):
        return ""
    return f" {character} " if any(a <= character <= b for a, b in _CJK) else character


def _isolate_punctuation(character: str) -> str:
    symbol = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return f" {character} " if symbol or unicodedata.category(character)[0] == "P" else character


def _isolate_and_strip(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else _isolate_punctuation(character)


_CLEAN = _Table(_clean)
_SPLIT = {False: _Table(_isolate_punctuation), True: _Table(_isolate_and_strip)}  # key: lower-case


def split_words(text: str, lower_case: bool) -> list[str]:
    """What BasicTokenizer makes of `text`: cleaned words and single punctuation characters, none empty."""
    if text.isascii() and text.isprintable() and " " not in text:  # nearly every raw word of English text
        return _ASCII_WORD.findall(text.lower() if lower_case else text)
    words = text.translate(_CLEAN).split()
    if lower_case:
        # Word by word, since the lower case of a Greek sigma depends on whether the word ends there.
        words = [unicodedata.normalize("NFD", word.lower()) for word in words]
    return " ".join(words).translate(_SPLIT[lower_case]).split()


class Cache(dict[str, _Value], Generic[_Value]):
    """The values of a function of raw words. Words repeat, and a dictionary is many times faster."""

    def __init__(self, function: Callable[[str], _Value]):
        super().__init__()
        self._function = function

    def __missing__(self, word: str) -> _Value:
        value = self._function(word)
        if len(word) <= _CACHED_WORD_CHARACTERS:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = value
        return value


class WordPiece:
    """Text to ids over `tokens` [V], among them "[UNK]".

    A surrogate, which no UTF-8 holds, is a character like any other that the vocabulary lacks.
    """

    def __init__(self, tokens: Sequence[str], lower_case: bool):
        self._ids = {token: i for i, token in enumerate(tokens)}
        self._unk_id = self._ids["[UNK]"]
        self._longest: dict[str, int] = {}  # length of the longest token that begins with "x", or with "##x"
        for token in tokens:
            begin = token[: 3 if token.startswith("##") else 1]
            self._longest[begin] = max(len(token), self._longest.get(begin, 0))
        self._lower_case = lower_case
        self._cached_ids = Cache(self._encode_raw_word)
        self._cached_word_ids = Cache(self._encode_word)  # "word", that "Word," and "(word" are made of

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        look_up = self._cached_ids.__getitem__
        return [list(chain.from_iterable(map(look_up, raw_words(text)))) for text in texts]

    # Tuples of numbers, unlike lists, are nothing that the garbage collector has to look at again and again.
    def _encode_raw_word(self, raw: str) -> tuple[int, ...]:
        words = split_words(raw, self._lower_case)
        return tuple(chain.from_iterable(map(self._cached_word_ids.__getitem__, words)))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """The longest piece first, and so on with the rest; if a rest has none, the whole word is [UNK]."""
        if len(word) > MAX_WORD_CHARACTERS:
            return (self._unk_id,)
        result = []
        rest, begin = word, 1
        while len(rest) >= begin:
            longest = self._longest.get(rest[:begin], 0)
            for end in range(min(len(rest), longest), begin - 1, -1):
                piece = self._ids.get(rest[:end])
                if piece is not None:
                    break
            else:
                return (self._unk_id,)
            result.append(piece)
            rest, begin = "##" + rest[end:], 3
        return tuple(result)


def raw_words(text: str) -> list[str]:
    """What lies between white space, without the control characters at which str.split() would cut too."""
    # isprintable() is False for every control character and little else, and is far cheaper than translate().
    return (text if text.isprintable() else text.translate(_NO_CONTROL_SPACES)).split()
