"""Compares bertjax.data.tokenizers.wordpiece with plain_tokenizer on every code point and on many strings.

python tests/data/tokenizers/sweep_tokenizer.py [STRINGS]

Prints, for each group of texts, how many were compared and how many differ in their ids; ends with code 1 if
any does. STRINGS (1,000,000) is the number of random ones. It takes at most 20 CPU minutes.
"""

import random
import sys
import time
import unicodedata

import plain_tokenizer

from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS
from bertjax.data.tokenizers.wordpiece import WordPiece

CONTEXTS = ("{}", "a{}b", "A {} Σ{}. {}z")
POOLS = (
    "abcxyzABCXYZ0189",
    "éÉñÅçşİıẞßǅÅe\u0301A\u030ao\u0323\u0302q\u0307\u0323",
    "Σσς.'’:·\u00ad\u0345ʰªΑάΌᾳῼ",
    "中文漢字㐀\U00020000\U0002b820\U0002b91f\U0002ceaf豈\U0002f800ひらカナ。、々〇",
    "한국어각갂\u1100\u1161\u11a8ㄱ",
    "😀👩\u200d👩\u200d👧👍🏽\ufe0f🇩🇪✂️",
    "\0\x07\x0b\x0c\x1b\x1c\x1d\x1e\x1f\x7f\x85\x9f\u200b\u200e\u2060\ufeff\ufffd\U000e0001",
    " \t\n\r\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u180e",
    "!#$+<=>^`|~[]—«¿·;\u1fef\u037e\u2e43\U00011945\u05be",
    "ﬁﬃǆĲ½Ω℃Ⅷ①ａＺ",
    "\ue000\uf8ff\U000f0000\U0010fffd\u0378\ufdd0\U0001ffff\U000e0080\ud800\udfff",
    # Marks that are kept but that NFD moves, and marks of other classes to move them past.
    "\u302e\u302f\U0001d165\U0001d16d\U00016ff0\u1b44\u0bd7\u0301\u0316\u0327\u05b0\u0e48\u0344\U0001d160",
)
WORDS = (
    "[MASK]",
    "[UNK]",
    "[CLS][SEP]",
    "##a",
    "ΟΔΟΣ",
    "İSTANBUL",
    "don't",
    "U.S.A.",
    "unaffable",
    "e\u0301",
)


def make_vocabulary(characters):
    """Single characters as whole words and as pieces, so that ids show any difference of two words, but for
    every seventh, so that some words are [UNK]; and longer pieces."""
    vocabulary = dict.fromkeys(SPECIAL_TOKENS)
    for character in characters:
        if unicodedata.category(character) == "Cs":
            continue
        vocabulary[character] = None
        if ord(character) % 7:
            vocabulary["##" + character] = None
    vocabulary |= dict.fromkeys(
        ("ab", "abc", "##bc", "##xyz", "##οσ", "##δος", "una", "##ffab", "##が", "##각")
    )
    return {token: i for i, token in enumerate(vocabulary)}


def make_texts(number, seed):
    """Strings of several kinds of characters."""
    rng = random.Random(seed)
    for _ in range(number):
        kind = rng.random()
        if kind < 0.1:
            yield "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randint(1, 12)))
            continue
        pools = rng.choices(POOLS, k=rng.randint(1, 4))
        parts = [
            "".join(rng.choices(rng.choice(pools), k=rng.randint(1, 6))) for _ in range(rng.randint(0, 8))
        ]
        if kind < 0.4:
            parts.insert(rng.randint(0, len(parts)), rng.choice(WORDS))
        if kind > 0.98:
            parts.insert(rng.randint(0, len(parts)), rng.choice("aÀΣ한\u302e") * rng.randint(64, 204))
        yield rng.choice(("", "", " ")).join(parts)


def make_long_lines(length):
    """Texts of `length` characters and more: with spaces, of one word, and of everything without spaces."""
    rng = random.Random(0)
    few = [text for text in make_texts(1000, 1) if text]
    yield " ".join(rng.choices(("the", "Abc,", "é", "x.", "\x07"), k=length // 3))
    yield "aÉ" * (length // 2)
    yield "".join(rng.choices(few, k=length // 20)).translate(dict.fromkeys(map(ord, POOLS[7])))


def difference(tokenizer, vocabulary, text, lower_case):
    """What is wrong with the ids of a text, or None."""
    [ids] = tokenizer.encode_batch([text])
    words = plain_tokenizer.basic_tokens(text, lower_case)
    tokens = [token for word in words for token in plain_tokenizer.word_pieces(word, vocabulary)]
    expected = [vocabulary[token] for token in tokens]
    if ids != expected:
        return f"{ascii(text)[:200]}: ids {ids[:20]}, not {expected[:20]}"
    return None


def sweep(strings, long):
    vocabulary = make_vocabulary(map(chr, range(0x110000)))
    failures = 0
    print(f"Python {sys.version.split()[0]}, Unicode {unicodedata.unidata_version}, {len(vocabulary)} tokens")
    for lower_case in (True, False):
        groups = {
            f"code points in {context!r}": (context.replace("{}", chr(p)) for p in range(0x110000))
            for context in CONTEXTS
        }
        groups["random strings"] = make_texts(strings, 0)
        groups[f"lines of {long} characters"] = make_long_lines(long)
        for name, texts in groups.items():
            tokenizer = WordPiece(list(vocabulary), lower_case)
            start, count, wrong = time.perf_counter(), 0, []
            for text in texts:
                found = difference(tokenizer, vocabulary, text, lower_case)
                count += 1
                wrong += [found] if found else []
            case = "uncased" if lower_case else "cased"
            seconds = time.perf_counter() - start
            print(f"{case:8} {name:42} {count:9} compared {len(wrong):6} differ {seconds:6.0f} s", flush=True)
            print("".join(f"    {line}\n" for line in wrong[:5]), end="")
            failures += len(wrong)
    return failures


if __name__ == "__main__":
    sys.exit(sweep(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, 10_000_000) > 0)
