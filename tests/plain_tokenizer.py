"""The 2018 release's rules (FullTokenizer of google-research/bert tokenization.py), one character and one
step at a time, to measure bertjax.data.tokenizers.wordpiece by. It shares no code with that."""

import functools
import unicodedata

CJK = (
    range(0x4E00, 0xA000),
    range(0x3400, 0x4DC0),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820),
    range(0x2B820, 0x2CEB0),
    range(0xF900, 0xFB00),
    range(0x2F800, 0x2FA20),
)


@functools.cache
def is_white_space(c):
    return c in (" ", "\t", "\n", "\r") or unicodedata.category(c) == "Zs"


@functools.cache
def is_control(c):
    return c not in ("\t", "\n", "\r") and unicodedata.category(c) in ("Cc", "Cf")


@functools.cache
def is_cjk(c):
    return any(ord(c) in span for span in CJK)


@functools.cache
def is_punctuation(c):
    code = ord(c)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(c).startswith("P")


def cut_at_white_space(text):
    """As str.split() cuts, which is wider than is_white_space: U+2028 and U+2029 remain in cleaned text."""
    return text.strip().split()


def basic_tokens(text, lower_case):
    """The words of a text: cleaned, spaced, lower-cased, without accents, and cut at punctuation."""
    pieces = []
    for c in text:
        if ord(c) in (0, 0xFFFD) or is_control(c):
            continue
        pieces.append(" " if is_white_space(c) else c)
    cleaned = "".join(pieces)
    pieces = []
    for c in cleaned:
        pieces += [" ", c, " "] if is_cjk(c) else [c]
    tokens = []
    for token in cut_at_white_space("".join(pieces)):
        if lower_case:
            decomposed = unicodedata.normalize("NFD", token.lower())
            token = "".join([c for c in decomposed if unicodedata.category(c) != "Mn"])
        tokens += cut_at_punctuation(token)
    return cut_at_white_space(" ".join(tokens))


def cut_at_punctuation(token):
    groups = []
    begin_a_word = True
    for c in token:
        if is_punctuation(c):
            groups.append([c])
            begin_a_word = True
        else:
            if begin_a_word:
                groups.append([])
            begin_a_word = False
            groups[-1].append(c)
    return ["".join(group) for group in groups]


def word_pieces(word, vocabulary):
    """The pieces of one word; `vocabulary` is any container of tokens."""
    if len(word) > 200:
        return ["[UNK]"]
    pieces = []
    start = 0
    while start < len(word):
        end = len(word)
        while end > start:
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocabulary:
                break
            end -= 1
        if end == start:
            return ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces


def tokenize(text, vocabulary, lower_case):
    """The tokens of a text."""
    return [piece for word in basic_tokens(text, lower_case) for piece in word_pieces(word, vocabulary)]
