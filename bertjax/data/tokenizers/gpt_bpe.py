"""OpenAI GPT's byte-pair encoding by the rules of Hugging Face's class without ftfy and spaCy: words by
BERT's rules in lower case, the last piece of each with "</w>" at its end; and the files that hold it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from bertjax.errors import InputError, quoted
from bertjax.files import read_json, read_small

VOCAB, MERGES, TOKENIZER = "vocab.json", "merges.txt", "tokenizer.json"
UNKNOWN = "<unk>"
WORD_END = "</w>"
# Embeddings that fine-tuning adds, by the original program's names: before a text, between two, and the one
# whose state tells of the text. The rules cut text at "_", so no text has them.
TASK_TOKENS = ("_start_", "_delimiter_", "_classify_")

_HEADER = "#version: 0.2"
_SURROGATES = re.compile("[\ud800-\udfff]")

Merge = tuple[str, str]


def rules() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """How text is cleaned, and how it is cut into words."""
    return normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()


def build(tokens: Sequence[str], merges: Sequence[Merge], name: str) -> tokenizers.Tokenizer:
    """The tokenizer of `tokens` [V] and of pieces that are put together, the first merge first.

    Raises:
      InputError: a token is missing, there twice or not text; a merge is there twice. It begins with `name`.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise InputError(f"{name}: has a token twice; take a whole copy of the model")
    if UNKNOWN not in ids:
        raise InputError(f"{name}: has no {UNKNOWN}; OpenAI GPT's vocabularies begin with it")
    for token in tokens:
        if _SURROGATES.search(token):
            raise InputError(f"{name}: {quoted(token)} is no text; take a whole copy of the model")
    ranks: dict[Merge, int] = {}
    for number, merge in enumerate(merges, 1):
        missing = [piece for piece in (*merge, "".join(merge)) if piece not in ids]
        if missing:
            raise InputError(
                f"{name}: merge {number} is {quoted(' '.join(merge))}, but {quoted(missing[0])} is no token; "
                "take vocabulary and merges from one model"
            )
        if ranks.setdefault(merge, number) != number:
            raise InputError(f"{name}: merges {ranks[merge]} and {number} are the same; remove one")
    model = tokenizers.Tokenizer(
        models.BPE(ids, list(merges), unk_token=UNKNOWN, end_of_word_suffix=WORD_END, fuse_unk=False)
    )
    model.normalizer, model.pre_tokenizer = rules()
    model.decoder = decoders.BPEDecoder(WORD_END)
    return model


def without_surrogates(text: str) -> str:
    """The text of the same length with what no UTF-8 can hold as U+FFFD, which the rules drop."""
    return _SURROGATES.sub("\ufffd", text)


def to_files(tokens: Sequence[str], merges: Sequence[Merge], model: tokenizers.Tokenizer) -> dict[str, bytes]:
    """The content of the files, by name."""
    ids = {token: i for i, token in enumerate(tokens)}
    lines = [_HEADER, *(" ".join(merge) for merge in merges)]
    other = tokenizers.Tokenizer.from_str(model.to_str())
    other.add_special_tokens([UNKNOWN, *(token for token in TASK_TOKENS if token in ids)])
    return {
        VOCAB: json.dumps(ids, ensure_ascii=False).encode() + b"\n",
        MERGES: "".join(line + "\n" for line in lines).encode(),
        TOKENIZER: other.to_str(pretty=False).encode(),
    }


def read_files(vocab: Path) -> tuple[list[str], list[Merge]]:
    """The tokens of a vocab.json, and the merges of the merges.txt beside it. Raises InputError."""
    return _in_order(read_json(vocab), str(vocab)), read_merges(
        read_small(vocab.with_name(MERGES)), str(vocab.with_name(MERGES))
    )


def read_merges(content: bytes, name: str) -> list[Merge]:
    """The merges of a merges.txt, whose lines are two pieces with a space between. Raises InputError."""
    merges: list[Merge] = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: not UTF-8; take a whole copy of the model") from error
        if not text or (number == 1 and text.startswith("#version")):
            continue
        merges.append(_merge(text.split(" "), f"{name}:{number}"))
    return merges


def read_tokenizer_json(path: Path) -> tuple[list[str], list[Merge]]:
    """The tokens and merges of a tokenizer.json by the same rules. Raises InputError."""
    fields = read_json(path)
    try:
        model, normalizer, words = fields["model"], fields["normalizer"], fields["pre_tokenizer"]
        stated = {
            "model": (model["type"], model["end_of_word_suffix"], model["unk_token"]),
            "normalizer": (normalizer["type"], normalizer["lowercase"], normalizer.get("strip_accents")),
            "pre_tokenizer": words["type"],
        }
        added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
        vocab, merges = model["vocab"], model["merges"]
        pieces = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not OpenAI GPT's tokenizer; use the model's vocab.json and merges.txt"
        ) from error
    for name, wanted in (
        ("model", ("BPE", WORD_END, UNKNOWN)),
        ("normalizer", ("BertNormalizer", True, None)),
        ("pre_tokenizer", "BertPreTokenizer"),
    ):
        if stated[name] != wanted:
            raise InputError(
                f"{path}: {name} is {quoted(stated[name])}; only {wanted}, OpenAI GPT's, is known here"
            )
    tokens = _in_order(vocab, str(path))
    for token, number in added.items():
        if vocab.get(token) != number:
            raise InputError(f"{path}: the added token {quoted(token)} is not in the vocabulary; OpenAI "
                             "GPT's tokenizer has none")  # fmt: skip
    return tokens, [_merge(merge, f"{path}: merge {number}") for number, merge in enumerate(pieces, 1)]


def _in_order(ids: Any, name: str) -> list[str]:
    numbers = list(ids.values()) if isinstance(ids, dict) else []
    whole = all(type(number) is int for number in numbers)
    if not (numbers and whole and sorted(numbers) == list(range(len(numbers)))):
        raise InputError(f"{name}: does not number its tokens 0, 1, ...; take a whole copy of the model")
    return sorted(ids, key=ids.__getitem__)


def _merge(pieces: Any, where: str) -> Merge:
    if not (
        isinstance(pieces, list)
        and len(pieces) == 2
        and all(isinstance(piece, str) and piece for piece in pieces)
    ):
        shown = " ".join(map(str, pieces)) if isinstance(pieces, list) else pieces
        raise InputError(f"{where}: {quoted(shown)} is not two pieces with a space between them")
    return pieces[0], pieces[1]
