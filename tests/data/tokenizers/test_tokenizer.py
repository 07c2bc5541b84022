import hashlib
import io
import itertools
import json
import re
import unicodedata

import numpy as np
import plain_tokenizer
import pytest
import sentencepiece
import sweep_tokenizer
import tokenizers

from bertjax.data.tokenizers import wordpiece
from bertjax.data.tokenizers.tokenizer import (
    SPECIAL_TOKENS,
    library_rules,
    load_tokenizer,
    wordpiece_tokenizer,
)
from bertjax.errors import InputError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [
    "un",
    "##aff",
    "##able",
    "the",
    "##ing",
    "read",
    "mask",
    "unk",
    "café",
    "cafe",
    "中",
    "É",
    "é",
    "élan",
]
MARKS = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~—«。")
VOCAB = [*SPECIAL_TOKENS, *LETTERS, *("##" + c for c in LETTERS), *PIECES, *MARKS]
CASED = [*VOCAB, *LETTERS.upper(), *("##" + c for c in LETTERS.upper()), "The", "Read"]

STRINGS = [
    "Unaffable reading, the THE The.",
    "",
    "   \t\n ",
    "Café CAFE\u0301 élan ÉLAN",
    "don't stop--now!! [MASK] [CLS] [UNK] [mask]",
    "中文ab中 the中read",
    "null\x00byte zero\u200bwidth soft\u00adhyphen re\ufffdplaced b\x07ell",
    "vertical\x0btab form\x0cfeed file\x1csep unit\x1fsep next\x85line",
    "no-break\u00a0space em\u2003space ideographic\u3000space line\u2028sep para\u2029sep",
    "tab\tnew\nline\rreturn",
    "private \ue000use\ue000 unassigned\u0378x",
    "İstanbul ẞtraße ǅ ﬁ Ω",
    "a" * 200 + " " + "a" * 201,
    "a" * 199 + "." + "b" * 201,
    "e\u0301\u0302\u0303 \u0301 x",
    "한국어 the",
    "😀 read😀ing",
    "“quoted” —dash… ¿que?",
    "$5+3=8^2 ~x `y` <z>",
]


def code_points():
    """A sample of all, and each that some rule treats in its own way."""
    rare = ("Cc", "Cf", "Zs", "Zl", "Zp", "Pc", "Pd", "Pi", "Pf", "Lt")
    spans = [p for span in plain_tokenizer.CJK for p in (span[0] - 1, span[0], span[-1], span[-1] + 1)]
    chosen = {*range(0x400), *range(0, 0x110000, 499), *spans}
    for point, c in enumerate(map(chr, range(0x110000))):
        kept_mark = unicodedata.combining(c) and unicodedata.category(c) != "Mn"
        if kept_mark or c.isspace() or len(c.lower()) > 1 or unicodedata.category(c) in rare:
            chosen.add(point)
    return sorted(chosen)


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("text", STRINGS)
def test_wordpiece_follows_the_original_rules(text, lower_case):
    vocab = VOCAB if lower_case else CASED
    tokenizer = wordpiece_tokenizer(vocab, lower_case, "vocab")
    expected = [vocab.index(token) for token in plain_tokenizer.tokenize(text, vocab, lower_case)]
    assert tokenizer.encode_batch([text, text]) == [expected, expected]


@pytest.mark.parametrize("lower_case", [True, False])
def test_words_of_code_points(lower_case):
    for point, context in itertools.product(code_points(), sweep_tokenizer.CONTEXTS):
        text = context.replace("{}", chr(point))
        words = wordpiece.split_words(text, lower_case)
        assert words == plain_tokenizer.basic_tokens(text, lower_case), ascii(text)


@pytest.mark.parametrize("lower_case", [True, False])
def test_ids_of_random_strings(lower_case):
    texts = [*sweep_tokenizer.make_texts(3000, seed=2), *STRINGS]
    words = itertools.chain(*(wordpiece.split_words(text, lower_case) for text in texts))
    vocabulary = sweep_tokenizer.make_vocabulary(sorted(set("".join(words))))
    tokenizer = wordpiece_tokenizer(list(vocabulary), lower_case, "vocab")
    wrong = [sweep_tokenizer.difference(tokenizer, vocabulary, text, lower_case) for text in texts]
    assert not list(filter(None, wrong))
    for line in sweep_tokenizer.make_long_lines(20_000):
        assert not sweep_tokenizer.difference(tokenizer, vocabulary, line, lower_case)


def test_a_surrogate_is_an_unknown_character():
    tokenizer = wordpiece_tokenizer(VOCAB, True, "vocab")
    assert tokenizer.encode_batch(["the \ud800 a\udfffb"]) == [[VOCAB.index("the"), 1, 1]]


def test_cache_changes_nothing(monkeypatch):
    texts = [f"{s} word{i} unaffable" for i, s in enumerate(STRINGS)]
    plain = wordpiece_tokenizer(VOCAB, True, "vocab").encode_batch(texts)
    monkeypatch.setattr(wordpiece, "_CACHED_WORDS", 3)
    assert wordpiece_tokenizer(VOCAB, True, "vocab").encode_batch(texts) == plain


def test_special_tokens_in_text_are_plain_text():
    tokenizer = wordpiece_tokenizer(VOCAB, True, "vocab")
    (ids,) = tokenizer.encode_batch(["[MASK] [CLS][SEP] [PAD]"])
    assert not {tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id} & set(ids)


def test_ids_continuation_and_decode():
    tokenizer = wordpiece_tokenizer(VOCAB, True, "vocab")
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.vocab_size == len(VOCAB)
    assert tokenizer.continuation.dtype == bool
    assert [t for t, c in zip(VOCAB, tokenizer.continuation, strict=True) if c] == [
        t for t in VOCAB if t[:2] == "##"
    ]
    assert tokenizer.decode(tokenizer.encode_batch(["Unaffable, reading"])[0]) == "unaffable, reading"


@pytest.mark.parametrize("lower_case", [True, False])
def test_save_and_load(tmp_path, lower_case):
    tokenizer = wordpiece_tokenizer(CASED if not lower_case else VOCAB, lower_case, "vocab")
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.kind, again.tokens, again.lower_case, again.sha256) == (
        "wordpiece", tokenizer.tokens, lower_case, tokenizer.sha256)  # fmt: skip
    content = b"lower-case\n" * lower_case + (tmp_path / "vocab.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == tokenizer.sha256
    assert again.encode_batch(STRINGS) == tokenizer.encode_batch(STRINGS)
    with pytest.raises(InputError, match="cased"):
        load_tokenizer(tmp_path, lower_case=not lower_case)


def test_tokenizer_json_serves_other_programs(tmp_path):
    tokenizer = wordpiece_tokenizer(VOCAB, True, "vocab")
    tokenizer.save(tmp_path)
    other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert other.encode("the [MASK]").tokens == ["[CLS]", "the", "[MASK]", "[SEP]"]
    assert other.encode("the", "read").type_ids == [0, 0, 0, 1, 1]
    plain = [text for text in STRINGS if "[" not in text]
    assert [e.ids for e in other.encode_batch(plain, add_special_tokens=False)] == tokenizer.encode_batch(
        plain
    )


@pytest.mark.parametrize("lower_case", [True, False])
def test_rules_for_other_programs(lower_case):
    # Where the Unicode tables agree, which they do not in code points that one of them has not.
    normalizer, pre_tokenizer = library_rules(lower_case)
    points = {point for point in code_points() if unicodedata.category(chr(point)) not in ("Cn", "Cs")}
    texts = [
        context.replace("{}", chr(p)) for p in points - {0x11938} for context in sweep_tokenizer.CONTEXTS
    ]
    for text in [*texts, "ΑΣ.Σ ΑΣʰ 1Σ \u0345Σ ΣΣ.a ΟΔΟΣ,ΟΔΟΣ"]:
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
        assert words == wordpiece.split_words(text, lower_case), ascii(text)


def test_windows_line_ends(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(VOCAB).encode())
    assert load_tokenizer(tmp_path / "vocab.txt").tokens == tuple(VOCAB)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "vocab.txt: is empty"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", r"has no \[MASK\];"),
        ("\n".join([*VOCAB, "the"]).encode(), rf"vocab.txt:{len(VOCAB) + 1}: 'the' is already on line"),
        (b"[PAD]\n\n[UNK]\n", "vocab.txt:2: empty line"),
        (b"[PAD]\nx\n\xff\n", "vocab.txt:3: not UTF-8"),
    ],
)
def test_bad_vocabularies(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path / "vocab.txt")


def test_bad_paths_and_case(tmp_path):
    with pytest.raises(InputError, match="no such vocabulary file"):
        load_tokenizer(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"no vocab\.txt, spm\.model, vocab\.json or words\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "bad.model").write_bytes(b"not a model at all")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "bad.model")
    (tmp_path / "vocab.txt").write_text("\n".join(CASED))
    with pytest.raises(InputError, match="add --cased"):
        load_tokenizer(tmp_path / "vocab.txt", lower_case=True)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    with pytest.raises(InputError, match="leave out --cased"):
        load_tokenizer(tmp_path / "vocab.txt", lower_case=False)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": None}))
    with pytest.raises(InputError, match=r"tokenizer\.json: not a BERT tokenizer"):
        load_tokenizer(tmp_path / "vocab.txt")


def train_model(kind="unigram", **options):
    words = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog and reads books at night")
    lines = [" ".join(words[(i * 7 + j) % len(words)] for j in range(8)) for i in range(300)]
    output = io.BytesIO()
    settings = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "pad_piece": "[PAD]",
                "unk_piece": "[UNK]", "bos_piece": "[CLS]", "eos_piece": "[SEP]",
                "control_symbols": ["[MASK]"],
                "hard_vocab_limit": False, "vocab_size": 60, **options}  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=output, model_type=kind, minloglevel=2, **settings
    )
    return output.getvalue()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece(tmp_path, kind):
    model = train_model(kind, normalization_rule_name="nmt_nfkc_cf")
    (tmp_path / "spm.model").write_bytes(model)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.lower_case) == (kind, True)
    assert [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id] == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert tokenizer.encode_batch(["The FOX"]) == tokenizer.encode_batch(["the fox"])
    assert tokenizer.decode(tokenizer.encode_batch(["the quick fox"])[0]) == "the quick fox"
    (ids,) = tokenizer.encode_batch(["the [MASK] fox[SEP]"])
    assert not {0, 2, 3, 4} & set(ids)
    starts = [not t.startswith("▁") and i > 4 for i, t in enumerate(tokenizer.tokens)]
    np.testing.assert_array_equal(tokenizer.continuation, starts)
    assert tokenizer.sha256 == hashlib.sha256(model).hexdigest()
    tokenizer.save(tmp_path)
    assert (tmp_path / "spm.model").read_bytes() == model


def test_sentencepiece_made_elsewhere(tmp_path):
    # ALBERT's way: <pad> and <unk>, text lower-cased before; and a special piece that plain text would match.
    model = train_model(
        pad_piece="<pad>", unk_piece="<unk>", control_symbols=[], user_defined_symbols=["[MASK]"],
        normalization_rule_name="nmt_nfkc")  # fmt: skip
    (tmp_path / "albert.model").write_bytes(model)
    tokenizer = load_tokenizer(tmp_path / "albert.model")
    assert tokenizer.encode_batch(["THE Fox"]) == tokenizer.encode_batch(["the fox"])
    mask = tokenizer.tokens.index("[MASK]")
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (0, 1, mask)
    assert mask not in tokenizer.encode_batch(["the [MASK] fox"])[0]


def test_sentencepiece_refusals(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(train_model(control_symbols=[]))
    with pytest.raises(InputError, match=r"has no piece \[MASK\]"):
        load_tokenizer(path)
    path.write_bytes(train_model("char"))
    with pytest.raises(InputError, match="neither a unigram nor a BPE model"):
        load_tokenizer(path)
    path.write_bytes(train_model())
    with pytest.raises(InputError, match="leave out --cased"):
        load_tokenizer(path, lower_case=False)
