"""WordPiece and SentencePiece tokenizers behind one interface: text to ids and back, without special tokens.

Shape letters: V vocabulary.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from bertjax.errors import InputError

# The order of the first ids of a vocabulary made here.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# ALBERT's released models name the first two in SentencePiece's own way.
SPECIAL_PIECES = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[CLS]",), ("[SEP]",), ("[MASK]",))
MAX_WORD_CHARACTERS = 200  # google-research/bert tokenization.py; a longer word is [UNK]
# What the original drops: U+FFFD and the categories Cc and Cf. The tokenizers library's own "clean_text" also
# drops private-use and unassigned code points, which the original keeps.
CONTROL = r"[\p{Cc}\p{Cf}\x{FFFD}&&[^\t\n\r]]"
# Cc code points at which str.split() would cut although the original deletes them.
_CONTROL_SPACES = dict.fromkeys((0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x1F, 0x85))
_CACHED_WORDS = 100_000  # entries; about 30 MB a process
_CACHED_WORD_CHARACTERS = 32  # longer words hardly repeat


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and its rules. `load_tokenizer` makes it."""

    kind: str  # "wordpiece", "unigram" or "bpe"
    lower_case: bool
    tokens: tuple[str, ...]  # [V], the token of each id
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    continuation: np.ndarray  # bool [V], the token goes on with the word of the token before it
    sha256: str  # of the vocabulary: vocab.txt as `save` writes it, or the SentencePiece model
    files: dict[str, bytes]  # name: content, of what `save` writes
    _encode_batch: Callable[[Sequence[str]], list[list[int]]]
    _decode: Callable[[Sequence[int]], str]

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; no special token is added, and "[MASK]" written in a text is plain text."""
        return self._encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text. What the tokenizer dropped (case, accents, spacing) is lost."""
        return self._decode(ids)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes vocab.txt and tokenizer.json, or spm.model, into an existing folder."""
        for name, content in self.files.items():
            with open(Path(folder, name), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def load_tokenizer(path: str | os.PathLike, lower_case: bool | None = None) -> Tokenizer:
    """The tokenizer of a vocab.txt, a SentencePiece .model, or a folder (store, checkpoint) that holds one.

    Args:
      path: the file or folder.
      lower_case: what the caller expects; None takes what the files say, or, for a bare vocabulary, whether
        it has no upper-case letter.

    Raises:
      InputError: no such file; a vocabulary that is empty, not UTF-8, has a duplicate or lacks a special
        token; a model of another type; a case setting that contradicts the vocabulary.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in ("vocab.txt", "spm.model") if (path / name).is_file()]
        if not found:
            raise InputError(f"{path}: holds neither vocab.txt nor spm.model; name the vocabulary's file")
        path = found[0]
    if not path.is_file():
        raise InputError(f"{path}: no such vocabulary file; give a vocab.txt or a SentencePiece .model")
    if path.suffix == ".model":
        return sentencepiece_tokenizer(path.read_bytes(), str(path), lower_case)
    tokens = _read_vocab(path)
    declared = _declared_case(path.parent)
    if declared is None:
        _check_case(tokens, str(path), lower_case)
        declared = _is_lower_case(tokens) if lower_case is None else lower_case
    elif lower_case not in (None, declared):
        raise InputError(_case_message(path.parent / "tokenizer.json", cased=not declared))
    return wordpiece_tokenizer(tokens, declared, str(path))


def wordpiece_tokenizer(tokens: Sequence[str], lower_case: bool, name: str) -> Tokenizer:
    """BERT's tokenizer over `tokens` [V]. `name` is for messages. Raises InputError if one is missing."""
    ids = {token: i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"{name}: has no {' '.join(missing)}; a BERT vocabulary needs {' '.join(SPECIAL_TOKENS)}"
        )
    model = tokenizers.Tokenizer(
        WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS)
    )
    model.normalizer = bert_normalizer(lower_case)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = tokenizers.decoders.WordPiece(cleanup=True)
    continuation = np.array([t.startswith("##") and len(t) > 2 for t in tokens])
    vocab_file = "".join(token + "\n" for token in tokens).encode()
    words = _WordCache(model)

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        look_up = words.__getitem__
        return [list(chain.from_iterable(map(look_up, _split(text)))) for text in texts]

    return Tokenizer(
        kind="wordpiece",
        lower_case=lower_case,
        tokens=tuple(tokens),
        pad_id=ids["[PAD]"],
        unk_id=ids["[UNK]"],
        cls_id=ids["[CLS]"],
        sep_id=ids["[SEP]"],
        mask_id=ids["[MASK]"],
        continuation=continuation,
        sha256=hashlib.sha256(vocab_file).hexdigest(),
        files={"vocab.txt": vocab_file, "tokenizer.json": _tokenizer_json(model, ids)},
        _encode_batch=encode_batch,
        _decode=lambda token_ids: model.decode(list(token_ids), skip_special_tokens=False),
    )


def bert_normalizer(lower_case: bool) -> normalizers.Normalizer:
    """The cleaning, CJK spacing, lower-casing and accent stripping of tokenization.py's BasicTokenizer."""
    return normalizers.Sequence(
        [
            normalizers.Replace(tokenizers.Regex(CONTROL), ""),
            normalizers.BertNormalizer(
                clean_text=False, handle_chinese_chars=True, strip_accents=lower_case, lowercase=lower_case
            ),
        ]
    )


class _WordCache(dict[str, list[int]]):
    """Ids of the words between white space. BERT's rules never look across white space, words repeat, and a
    dictionary is five times faster than the model."""

    def __init__(self, model: tokenizers.Tokenizer):
        super().__init__()
        self.model = model

    def __missing__(self, word: str) -> list[int]:
        ids: list[int] = self.model.encode(word, add_special_tokens=False).ids
        if len(word) <= _CACHED_WORD_CHARACTERS:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _split(text: str) -> list[str]:
    # isprintable() is False for every control character and little else, and is far cheaper than translate().
    return (text if text.isprintable() else text.translate(_CONTROL_SPACES)).split()


def _tokenizer_json(model: tokenizers.Tokenizer, ids: dict[str, int]) -> bytes:
    """The tokenizer for other programs: with special tokens recognised, and [CLS] and [SEP] added."""
    copy = tokenizers.Tokenizer.from_str(model.to_str())
    copy.add_special_tokens(list(SPECIAL_TOKENS))
    copy.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return copy.to_str(pretty=False).encode()


def _read_vocab(path: Path) -> list[str]:
    first_line: dict[str, int] = {}
    lines = path.read_bytes().split(b"\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise InputError(f"{path}: is empty; a vocabulary has one token a line")
    for number, line in enumerate(lines, 1):
        try:
            token = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}:{number}: not UTF-8; a vocabulary has one UTF-8 token a line"
            ) from error
        if not token:
            raise InputError(f"{path}:{number}: empty line; a vocabulary has one token a line, so remove it")
        if token in first_line:
            raise InputError(
                f"{path}:{number}: {token!r} is already on line {first_line[token]}; keep one of them"
            )
        first_line[token] = number
    return list(first_line)


def _declared_case(folder: Path) -> bool | None:
    """Whether the tokenizer.json beside a vocab.txt lower-cases; None without one."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        normalizer = json.loads(path.read_bytes())["normalizer"]
        steps = normalizer.get("normalizers", [normalizer])
        return next(bool(step["lowercase"]) for step in steps if "lowercase" in step)
    except (ValueError, KeyError, AttributeError, TypeError, StopIteration) as error:
        raise InputError(f"{path}: not a BERT tokenizer; remove it to use the vocab.txt beside it") from error


def _is_lower_case(tokens: Sequence[str]) -> bool:
    plain = (t for t in tokens if not (t[0] in "[<" and t[-1] in "]>"))
    return not any("A" <= character <= "Z" for token in plain for character in token)


def _check_case(tokens: Sequence[str], name: str, lower_case: bool | None) -> None:
    if lower_case is not None and lower_case != _is_lower_case(tokens):
        raise InputError(_case_message(name, cased=lower_case))


def _case_message(name: object, cased: bool) -> str:
    if cased:
        return f"{name}: the vocabulary is cased, but lower-cased text was asked for; add --cased"
    return f"{name}: the vocabulary is lower-case, but cased text was asked for; leave out --cased"


def sentencepiece_tokenizer(model: bytes, name: str, lower_case: bool | None = None) -> Tokenizer:
    """The tokenizer of a serialised SentencePiece model. `name` is for messages. Raises InputError."""
    try:
        spec = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except Exception as error:  # protobuf's own errors, or RuntimeError
        raise InputError(
            f"{name}: not a SentencePiece model; give the .model file that its trainer wrote"
        ) from error
    kind = {1: "unigram", 2: "bpe"}.get(spec.trainer_spec.model_type)
    if kind is None:
        raise InputError(f"{name}: neither a unigram nor a BPE model; train one with --tokenizer=unigram")
    tokens = tuple(piece.piece for piece in spec.pieces)
    ids = {token: i for i, token in enumerate(tokens)}
    special: list[int] = [next((ids[p] for p in names if p in ids), -1) for names in SPECIAL_PIECES]
    missing = [names[0] for names, i in zip(SPECIAL_PIECES, special, strict=True) if i < 0]
    if missing:
        raise InputError(f"{name}: has no piece {' '.join(missing)}; define it when you train the model")
    _check_case(tokens, name, lower_case)
    lower_case = _is_lower_case(tokens)
    # A trained model folds case itself (nmt_nfkc_cf); ALBERT's released models expect lower-cased text.
    lower_text = lower_case and processor.normalize("A").endswith("A")
    # A user-defined piece would be found in plain text; a space inside breaks it.
    literals = [tokens[i] for i in special if spec.pieces[i].type == spec.pieces[i].USER_DEFINED]

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        texts = [text.lower() for text in texts] if lower_text else list(texts)
        for literal in literals:
            for i, text in enumerate(texts):
                if literal in text:
                    texts[i] = text.replace(literal, f"{literal[0]} {literal[1:]}")
        result: list[list[int]] = processor.encode(texts, out_type=int, num_threads=1)
        return result

    continuation = np.array([not token.startswith("▁") for token in tokens])
    continuation[special] = False
    return Tokenizer(
        kind=kind,
        lower_case=lower_case,
        tokens=tokens,
        pad_id=special[0],
        unk_id=special[1],
        cls_id=special[2],
        sep_id=special[3],
        mask_id=special[4],
        continuation=continuation,
        sha256=hashlib.sha256(model).hexdigest(),
        files={"spm.model": model},
        _encode_batch=encode_batch,
        _decode=lambda token_ids: processor.decode([int(i) for i in token_ids]),
    )
