import itertools
import json
import random
import re
from collections import Counter

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from bertjax.data.tokenizers import gpt_bpe
from bertjax.data.tokenizers.tokenizer import add_task_tokens, gpt_tokenizer, load_tokenizer
from bertjax.errors import InputError
from bertjax.prepare.train_vocab import Sample, train_gpt_bpe

TEXTS = [
    "The cab, a Café; it'd 中x!",
    "",
    " \t\n",
    "x\u200by\ufffd ÉLAN abc\u00a0the",
    "don't stop--now!! <unk> _start_ </w>",
    "İstanbul ẞtraße ﬁ 한국어 😀 $5+3=8^2",
    "null\x00byte e\u0301\u0302 private \ue000use",
]


def make_sample():
    """Text in which many pairs of pieces are equally frequent."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiouü"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    sample = Sample(10**9)
    for index in range(4):
        lines = [" ".join(rng.choices(words, k=9)).capitalize() + ", the café 中文!" for _ in range(60)]
        sample.add(index, lines)
    return sample


@pytest.fixture(scope="module")
def trained():
    return train_gpt_bpe(make_sample(), 300)


@pytest.fixture(scope="module")
def tokenizer(trained):
    return gpt_tokenizer(*trained, "trained")


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    return tmp_path


def library(folder):
    """The pipeline of Hugging Face's OpenAIGPTTokenizer, from the files."""
    model = models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token="<unk>", end_of_word_suffix="</w>"
    )
    other = tokenizers.Tokenizer(model)
    other.normalizer = normalizers.BertNormalizer(lowercase=True)
    other.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return other


def random_texts():
    rng = random.Random(1)
    letters = "abdegiklmnoprstuvzABÉéü .,'!-_中\u0301\u200b\n"
    return ["".join(rng.choices(letters, k=rng.randint(0, 40))) for _ in range(300)]


def test_ids_are_the_librarys(tokenizer, folder):
    texts = [*TEXTS, *random_texts()]
    assert tokenizer.encode_batch(texts) == [library(folder).encode(text).ids for text in texts]
    json_file = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain = [text for text in texts if "<" not in text]
    assert tokenizer.encode_batch(plain) == [json_file.encode(text).ids for text in plain]


def test_known_ids():
    """By hand: the earliest merge first, ends of words apart, the unknown by characters."""
    tokens = ["<unk>", "a", "b", "c", "a</w>", "b</w>", "c</w>", "ab", "bc</w>", "abc</w>", "ab</w>"]
    merges = [("b", "c</w>"), ("a", "b"), ("a", "bc</w>")]
    tokenizer = gpt_tokenizer(tokens, merges, "made")
    assert tokenizer.encode_batch(["abc ABC aba", "b,zy", "ab"]) == [[9, 9, 7, 4], [5, 0, 0, 0], [1, 5]]
    assert tokenizer.decode([9, 7, 4]) == "abc aba"
    assert (tokenizer.kind, tokenizer.lower_case, tokenizer.vocab_size) == ("gpt_bpe", True, 11)
    assert (tokenizer.unk_id, tokenizer.pad_id, tokenizer.mask_id) == (0, 0, -1)


def test_a_round_trip(tokenizer):
    for sentences in make_sample().sentences():
        for text, ids in zip(sentences, tokenizer.encode_batch(sentences), strict=True):
            assert tokenizer.unk_id not in ids
            plain = text.lower().replace("é", "e").replace("ü", "u")
            assert tokenizer.decode(ids) == plain.replace(",", " ,").replace("中文!", "中 文 !")


def test_a_trained_vocabulary(trained):
    tokens, merges = trained
    assert len(tokens) == len(set(tokens)) == 300
    assert tokens[0] == "<unk>"
    characters = (len(tokens) - len(merges) - 1) // 2
    assert tokens[characters + 1 : 2 * characters + 1] == [c + "</w>" for c in tokens[1 : characters + 1]]
    assert ["".join(merge) for merge in merges] == tokens[2 * characters + 1 :]
    assert train_gpt_bpe(make_sample(), 300) == trained
    assert not any(character.isupper() for token in tokens for character in token)
    # By the definition the first merge is of the most frequent pair.
    counts = Counter()
    for sentences in make_sample().sentences():
        for word in re.findall(r"\w+", " ".join(sentences).lower().replace("é", "e").replace("ü", "u")):
            pieces = [*word[:-1], word[-1] + "</w>"]
            counts.update(itertools.pairwise(pieces))
    assert counts[merges[0]] == max(counts.values())


def test_a_vocabulary_that_cannot_be_trained():
    with pytest.raises(InputError, match=r"^--vocab_size=20: too small for \d+ characters"):
        train_gpt_bpe(make_sample(), 20)
    with pytest.raises(InputError, match="no text"):
        train_gpt_bpe(Sample(10), 20)


def test_save_and_load(tokenizer, folder):
    for path in (folder, folder / "vocab.json"):
        again = load_tokenizer(path, lower_case=True)
        assert (again.tokens, again.sha256, again.files) == (
            tokenizer.tokens,
            tokenizer.sha256,
            tokenizer.files,
        )
        assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert gpt_bpe.read_tokenizer_json(folder / "tokenizer.json") == gpt_bpe.read_files(folder / "vocab.json")
    with pytest.raises(InputError, match="vocabulary is lower-case, but case is asked for"):
        load_tokenizer(folder, lower_case=False)


def test_task_tokens_are_added_once_and_are_in_no_text(tokenizer, tmp_path):
    assert (tokenizer.bos_id, tokenizer.sep_id, tokenizer.cls_id) == (-1, -1, -1)
    more = add_task_tokens(tokenizer)
    assert more.tokens == (*tokenizer.tokens, "_start_", "_delimiter_", "_classify_")
    assert (more.bos_id, more.sep_id, more.cls_id) == (300, 301, 302)
    assert more.sha256 != tokenizer.sha256
    texts = [*TEXTS, "_start_ _delimiter_ _classify_"]
    assert more.encode_batch(texts) == tokenizer.encode_batch(texts)
    more.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.sha256, again.bos_id, add_task_tokens(again).sha256) == (more.sha256, 300, more.sha256)


def no_unknown(ids):
    return {token.replace("<unk>", "unk"): number for token, number in ids.items()}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("vocab.json", lambda text: text[:-5], r"vocab.json: not JSON"),
        ("vocab.json", lambda text: "[]", r"vocab.json: not a JSON object"),
        ("vocab.json", lambda text: "{}", r"vocab.json: does not number its tokens 0, 1, \.\.\."),
        ("vocab.json", lambda text: text.replace(": 7,", ": 8,"), r"does not number its tokens"),
        ("vocab.json", lambda text: text.replace(": 7,", ': "7",'), r"does not number its tokens"),
        ("vocab.json", lambda text: json.dumps(no_unknown(json.loads(text))), r"vocab.json: has no <unk>"),
        ("vocab.json", lambda text: text.replace('"a"', '"\\ud800"'), r"vocab.json: '\\ud800' is no text"),
        ("merges.txt", lambda text: f"{text}q q\n", r"merge \d+ is 'q q', but 'q' is no token"),
        ("merges.txt", lambda text: f"{text}a b c\n", r"merges.txt:\d+: 'a b c' is not two pieces"),
        ("merges.txt", lambda text: text + text.split("\n")[1], r"merges 1 and \d+ are the same"),
        ("merges.txt", None, r"merges.txt: no such file"),
    ],
)
def test_bad_files_are_one_line(folder, file, change, message):
    path = folder / file
    if change:
        path.write_text(change(path.read_text()))
    else:
        path.unlink()
    with pytest.raises(InputError, match=message) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.clear(), "not OpenAI GPT's tokenizer"),
        (lambda fields: fields["model"].update(end_of_word_suffix=""), "model is .*; only .*</w>"),
        (lambda fields: fields["normalizer"].update(lowercase=False), "normalizer is"),
        (lambda fields: fields["pre_tokenizer"].update(type="ByteLevel"), "pre_tokenizer is 'ByteLevel'"),
        (lambda fields: fields["added_tokens"][0].update(id=999), "the added token '<unk>' is not in"),
        (lambda fields: fields["model"]["merges"].append(["a"]), r"merge \d+: 'a' is not two pieces"),
    ],
)
def test_a_tokenizer_json_of_other_rules_is_one_line(folder, change, message):
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message) as error:
        gpt_bpe.read_tokenizer_json(path)
    assert "\n" not in str(error.value)
