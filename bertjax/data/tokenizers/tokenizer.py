"""WordPiece, SentencePiece and GPT's tokenizers behind one interface: text to ids and back, without special
tokens.

Shape letter: V vocabulary.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import models, normalizers, pre_tokenizers, processors

from bertjax.data.tokenizers import gpt_bpe, words
from bertjax.data.tokenizers.wordpiece import MAX_WORD_CHARACTERS, WordPiece
from bertjax.errors import InputError, quoted
from bertjax.files import read_json, read_small

# The order of the first ids of a vocabulary made here.
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# ALBERT's released models name the first two in SentencePiece's own way.
SPECIAL_PIECES = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[CLS]",), ("[SEP]",), ("[MASK]",))
# bertjax.data.tokenizers.wordpiece's rules in regular expressions of the tokenizers library.
_CONTROL = r"[\p{Cc}\p{Cf}\x{FFFD}&&[^\t\n\r]]"
_FINAL_SIGMA = r"{0}\p{{Case_Ignorable}}*\KΣ(?!\p{{Case_Ignorable}}*{0})".format(
    r"[\p{Cased}&&[^\p{Case_Ignorable}]]"
)
# The last range is the part of a CJK range that the library's own spacing leaves out.
_SYMBOL = r"[\p{P}$+<=>^`|~\x{2B820}-\x{2B91F}]"


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and its rules. `load_tokenizer` makes it."""

    kind: str  # "wordpiece", "unigram", "bpe" (both SentencePiece's), "gpt_bpe" or "words"
    lower_case: bool
    tokens: tuple[str, ...]  # [V], the token of each id
    # Where a vocabulary lacks a mark its id is -1. "gpt_bpe" and "words" pad with their unknown token. GPT's
    # start, delimiter and extract are bos, sep and cls, which `add_task_tokens` gives it.
    pad_id: int
    unk_id: int
    # bool [V], the token goes on with the word of the token before it; False for "gpt_bpe", which marks the
    # ends of words instead
    continuation: np.ndarray
    sha256: str  # of the vocabulary and whether it lower-cases, or of the SentencePiece model
    files: dict[str, bytes]  # name: content, of what `save` writes
    _encode_batch: Callable[[Sequence[str]], list[list[int]]]
    _decode: Callable[[Sequence[int]], str]
    bos_id: int = -1  # before a text or a sentence
    eos_id: int = -1  # behind it
    cls_id: int = -1  # whose state a text is classified by
    sep_id: int = -1  # between two texts
    mask_id: int = -1  # in place of a word that is predicted

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; no special token is added, and "[MASK]" written in a text is plain text."""
        return self._encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text. What the tokenizer dropped (case, accents, spacing) is lost."""
        return self._decode(ids)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files into an existing folder."""
        for name, content in self.files.items():
            with open(Path(folder, name), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def load_tokenizer(path: str | os.PathLike[str], lower_case: bool | None = None) -> Tokenizer:
    """The tokenizer of a vocab.txt, a SentencePiece .model, OpenAI GPT's vocab.json and merges.txt, a
    words.json, or a folder (store, checkpoint) that holds one.

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
        names = ("vocab.txt", "spm.model", gpt_bpe.VOCAB, words.FILE)
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise InputError(f"{path}: holds no {', '.join(names[:-1])} or {names[-1]}; name the "
                             "vocabulary's file")  # fmt: skip
        path = found[0]
    if not path.is_file():
        raise InputError(f"{path}: no such vocabulary file; give a vocab.txt or a SentencePiece .model")
    if path.suffix == ".model":
        return sentencepiece_tokenizer(path.read_bytes(), str(path), lower_case)
    if path.name == words.FILE:
        tokens, declared = words.read_file(path)
        if lower_case not in (None, declared):
            raise InputError(_case_message(path, cased=not declared))
        return word_tokenizer(tokens, declared)
    if path.suffix == ".json":
        if lower_case is False:
            raise InputError(_case_message(path, cased=False))
        return gpt_tokenizer(*gpt_bpe.read_files(path), str(path))
    tokens = _read_vocab(path)
    stated = _declared_case(path.parent)
    if stated is None:
        _check_case(tokens, str(path), lower_case)
        stated = _is_lower_case(tokens) if lower_case is None else lower_case
    elif lower_case not in (None, stated):
        raise InputError(_case_message(path.parent / "tokenizer.json", cased=not stated))
    return wordpiece_tokenizer(tokens, stated, str(path))


def wordpiece_tokenizer(tokens: Sequence[str], lower_case: bool, name: str) -> Tokenizer:
    """BERT's tokenizer over `tokens` [V]. `name` is for messages. Raises InputError if one is missing."""
    ids = {token: i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"{name}: has no {' '.join(missing)}; a BERT vocabulary needs {' '.join(SPECIAL_TOKENS)}"
        )
    for token in tokens:
        if (
            not token
            or "\n" in token
            or token.endswith("\r")
            or any("\ud800" <= c <= "\udfff" for c in token)
        ):
            raise InputError(
                f"{name}: {quoted(token)} cannot stand in a line of a vocabulary; remove the token"
            )
    model = tokenizers.Tokenizer(
        models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS)
    )
    model.normalizer, model.pre_tokenizer = library_rules(lower_case)
    model.decoder = tokenizers.decoders.WordPiece(cleanup=True)
    continuation = np.array([t.startswith("##") and len(t) > 2 for t in tokens])
    vocab_file = "".join(token + "\n" for token in tokens).encode()
    wordpiece = WordPiece(tokens, lower_case)
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
        sha256=hashlib.sha256(b"lower-case\n" * lower_case + vocab_file).hexdigest(),
        files={"vocab.txt": vocab_file, "tokenizer.json": _tokenizer_json(model, ids)},
        _encode_batch=wordpiece.encode_batch,
        _decode=lambda token_ids: model.decode(list(token_ids), skip_special_tokens=False),
    )


def library_rules(lower_case: bool) -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """The rules of bertjax.data.tokenizers.wordpiece in the tokenizers library, for training and for other
    programs.

    They differ in code points that are unassigned for the library or for Python, and in U+1171E and U+11938,
    since each has the Unicode tables of its own release. The library's BertNormalizer with clean_text would
    also drop private-use code points, and its BertPreTokenizer misses newer punctuation.
    """
    steps = [
        normalizers.Replace(tokenizers.Regex(_CONTROL), ""),
        normalizers.BertNormalizer(
            clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=lower_case
        ),
    ]
    if lower_case:
        # The library lower-cases each character by itself.
        steps.insert(1, normalizers.Replace(tokenizers.Regex(_FINAL_SIGMA), "ς"))
        steps += [normalizers.NFD(), normalizers.Replace(tokenizers.Regex(r"\p{Mn}"), "")]
    split = pre_tokenizers.Split(tokenizers.Regex(_SYMBOL), "isolated")
    return normalizers.Sequence(steps), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])


def _tokenizer_json(model: tokenizers.Tokenizer, ids: dict[str, int]) -> bytes:
    """The tokenizer for other programs, by library_rules: with special tokens recognised, and [CLS] and [SEP]
    added."""
    copy = tokenizers.Tokenizer.from_str(model.to_str())
    copy.add_special_tokens(list(SPECIAL_TOKENS))
    copy.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return copy.to_str(pretty=False).encode()


def _read_vocab(path: Path) -> list[str]:
    first_line: dict[str, int] = {}
    lines = read_small(path).split(b"\n")
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
        normalizer = read_json(path)["normalizer"]
        steps = normalizer.get("normalizers", [normalizer])
        return next(bool(step["lowercase"]) for step in steps if "lowercase" in step)
    except (KeyError, AttributeError, TypeError, StopIteration) as error:
        raise InputError(f"{path}: not a BERT tokenizer; remove it to use the vocab.txt beside it") from error


def _is_lower_case(tokens: Sequence[str]) -> bool:
    plain = (t for t in tokens if not (t[0] in "[<" and t[-1] in "]>"))
    return not any("A" <= character <= "Z" for token in plain for character in token)


def _check_case(tokens: Sequence[str], name: str, lower_case: bool | None) -> None:
    if lower_case is not None and lower_case != _is_lower_case(tokens):
        raise InputError(_case_message(name, cased=lower_case))


def _case_message(name: object, cased: bool) -> str:
    if cased:
        return f"{name}: the vocabulary is cased, but lower case is asked for; mend what asks, or add --cased"
    return f"{name}: the vocabulary is lower-case, but case is asked for; mend that, or leave out --cased"


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
    literal = re.compile("|".join(map(re.escape, literals))) if literals else None

    def edit(text: str) -> str:
        text = text.lower() if lower_text else text
        return literal.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text) if literal else text

    def encode_batch(texts: Sequence[str]) -> list[list[int]]:
        result: list[list[int]] = processor.encode(list(map(edit, texts)), out_type=int, num_threads=1)
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


def gpt_tokenizer(tokens: Sequence[str], merges: Sequence[gpt_bpe.Merge], name: str) -> Tokenizer:
    """OpenAI GPT's tokenizer over `tokens` [V]. `name` is for messages. Raises InputError."""
    model = gpt_bpe.build(tokens, merges, name)
    ids = {token: i for i, token in enumerate(tokens)}
    files = gpt_bpe.to_files(tokens, merges, model)

    def encode(text: str) -> list[int]:
        ids: list[int] = model.encode(gpt_bpe.without_surrogates(text), add_special_tokens=False).ids
        return ids

    start, delimiter, extract = (ids.get(token, -1) for token in gpt_bpe.TASK_TOKENS)
    return Tokenizer(
        kind="gpt_bpe",
        lower_case=True,
        tokens=tuple(tokens),
        pad_id=ids[gpt_bpe.UNKNOWN],
        unk_id=ids[gpt_bpe.UNKNOWN],
        bos_id=start,
        sep_id=delimiter,
        cls_id=extract,
        continuation=np.zeros(len(tokens), bool),
        sha256=hashlib.sha256(files[gpt_bpe.VOCAB] + files[gpt_bpe.MERGES]).hexdigest(),
        files=files,
        _encode_batch=lambda texts: [encode(text) for text in texts],
        _decode=lambda token_ids: model.decode(list(token_ids), skip_special_tokens=False),
    )


def word_tokenizer(tokens: Sequence[str], lower_case: bool) -> Tokenizer:
    """The tokenizer of whole words, words.MARKS before them; one that is not among them is "<UNK>"."""
    ids = {token: i for i, token in enumerate(tokens)}
    begin, end, unknown = range(len(words.MARKS))
    split, content = words.Splitter(lower_case), words.to_file(tokens, lower_case)

    def encode(text: str) -> list[int]:
        return [ids.get(word, unknown) for word in split(text)]

    return Tokenizer(
        kind="words",
        lower_case=lower_case,
        tokens=tuple(tokens),
        pad_id=unknown,
        unk_id=unknown,
        bos_id=begin,
        eos_id=end,
        continuation=np.zeros(len(tokens), bool),
        sha256=hashlib.sha256(content).hexdigest(),
        files={words.FILE: content},
        _encode_batch=lambda texts: [encode(text) for text in texts],
        _decode=lambda token_ids: " ".join(tokens[i] for i in token_ids),
    )


def add_task_tokens(tokenizer: Tokenizer, where: str = "tokenizer") -> Tokenizer:
    """A "gpt_bpe" tokenizer with start, delimiter and extract tokens behind its own, where it lacks them.

    A model needs embeddings for them: bertjax.models.gpt.with_new_tokens.

    Args:
      where: begins an error's line.

    Raises:
      InputError: it is of another kind.
    """
    if tokenizer.kind != "gpt_bpe":
        raise InputError(
            f"{where}: its vocabulary ({tokenizer.kind}) takes no start, delimiter and extract tokens; "
            "prepare the text with --tokenizer=gpt_bpe"
        )
    new = [token for token in gpt_bpe.TASK_TOKENS if token not in tokenizer.tokens]
    merges = gpt_bpe.read_merges(tokenizer.files[gpt_bpe.MERGES], gpt_bpe.MERGES)
    return gpt_tokenizer([*tokenizer.tokens, *new], merges, gpt_bpe.VOCAB)
