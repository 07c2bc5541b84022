"""Training of a vocabulary on a bounded sample of the corpus. The same text always gives the same bytes."""

import io
import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from bertjax.data.tokenizers import gpt_bpe
from bertjax.data.tokenizers.tokenizer import SPECIAL_TOKENS, library_rules
from bertjax.errors import InputError

# About as many single characters as the released vocabularies have; of more (CJK) the frequent ones are kept.
ALPHABET = 1000
MIN_FREQUENCY = 2  # of a pair of pieces that is merged
GPT_MERGES = 40_000  # Radford et al. 2018, section 4.1
# Part of the model's bytes, so it does not follow the machine.
SENTENCEPIECE_THREADS = 8


class Sample:
    """A bounded, deterministic choice of blocks: every k-th, and k doubles when it outgrows its bytes.

    Blocks are added in order; one that is not wanted() any more when its text arrives is left out.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.every = 1
        self._texts: dict[int, bytes] = {}
        self.bytes = 0

    def wanted(self, index: int) -> bool:
        return index % self.every == 0

    def add(self, index: int, sentences: Sequence[str]) -> None:
        if not self.wanted(index):
            return
        text = "\n".join(sentences).encode()
        self._texts[index] = text
        self.bytes += len(text)
        while self.bytes > self.max_bytes and len(self._texts) > 1:
            self.every *= 2
            self._texts = {i: kept for i, kept in self._texts.items() if self.wanted(i)}
            self.bytes = sum(map(len, self._texts.values()))

    def sentences(self) -> Iterator[list[str]]:
        """The sentences of each kept block."""
        for text in self._texts.values():
            yield text.decode().split("\n")


def train_wordpiece(sample: Sample, vocab_size: int, lower_case: bool) -> list[str]:
    """A WordPiece vocabulary of at most `vocab_size` tokens, fewer if the text has not so many pieces.

    Raises InputError if the characters alone are more than `vocab_size`, or if there is no text.
    """
    alphabet, continuing = _characters(sample, *library_rules(lower_case))
    if not alphabet:
        raise InputError("the vocabulary's sample has no text; check the inputs and their --format")
    # The trainer numbers "##x" in the order of a hash map, and breaks ties between merges by number; so every
    # number is given beforehand. Its own choice of an alphabet has ties too.
    given = [*SPECIAL_TOKENS, *alphabet, *("##" + character for character in continuing)]
    if vocab_size < len(given):
        raise _too_small(vocab_size, len(given))
    model = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = library_rules(lower_case)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        show_progress=False,
        special_tokens=given,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    model.train_from_iterator(sample.sentences(), trainer)
    ids = model.get_vocab(with_added_tokens=False)
    return sorted(ids, key=ids.__getitem__)


def train_gpt_bpe(sample: Sample, vocab_size: int | None) -> tuple[list[str], list[gpt_bpe.Merge]]:
    """Tokens and merges of OpenAI GPT's form: "<unk>", each character within a word and at its end, merges.

    There are at most `vocab_size` tokens, or for None GPT_MERGES merges.

    Raises InputError if the characters alone are more than `vocab_size`, or if there is no text.
    """
    alphabet, _ = _characters(sample, *gpt_bpe.rules())
    if not alphabet:
        raise InputError("the vocabulary's sample has no text; check the inputs and their --format")
    # Every number is given beforehand, as for WordPiece.
    ends = (character + gpt_bpe.WORD_END for character in alphabet)
    given = [gpt_bpe.UNKNOWN, *alphabet, *ends]
    vocab_size = vocab_size or len(given) + GPT_MERGES
    if vocab_size < len(given):
        raise _too_small(vocab_size, len(given))
    model = tokenizers.Tokenizer(models.BPE(unk_token=gpt_bpe.UNKNOWN, end_of_word_suffix=gpt_bpe.WORD_END))
    model.normalizer, model.pre_tokenizer = gpt_bpe.rules()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        show_progress=False,
        special_tokens=given,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        end_of_word_suffix=gpt_bpe.WORD_END,
    )
    model.train_from_iterator(sample.sentences(), trainer)
    trained = json.loads(model.to_str())["model"]
    return sorted(trained["vocab"], key=trained["vocab"].__getitem__), [*map(tuple, trained["merges"])]


def _characters(
    sample: Sample, normalizer: normalizers.Normalizer, pre_tokenizer: pre_tokenizers.PreTokenizer
) -> tuple[list[str], list[str]]:
    """The most frequent characters of the normalised text, and those of them that occur inside words, by code
    point."""
    raw = np.zeros(0x110000, np.int64)
    for sentences in sample.sentences():
        raw += np.bincount(_code_points(sentences), minlength=len(raw))
    counts: dict[str, int] = {}
    inside: set[str] = set()
    dropped, joins = np.zeros(len(raw), bool), np.zeros(len(raw), bool)
    forms: dict[int, str] = {}
    for point in np.flatnonzero(raw).tolist():
        form = normalizer.normalize_str(chr(point))
        dropped[point] = not form
        joins[point] = bool(form) and len(pre_tokenizer.pre_tokenize_str(f"a{form}a")) == 1
        forms[point] = form
        for character in "".join(form.split()):
            counts[character] = counts.get(character, 0) + int(raw[point])
    follows = np.zeros(len(raw), bool)
    for sentences in sample.sentences():
        points = _code_points(sentences)
        points = points[~dropped[points]]
        follows[points[1:][joins[points[1:]] & joins[points[:-1]]]] = True
    for point in np.flatnonzero(joins).tolist():
        inside.update(forms[point][0 if follows[point] else 1 :])
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:ALPHABET]
    return sorted(frequent), sorted(inside.intersection(frequent))


def _code_points(sentences: Sequence[str]) -> np.ndarray:
    return np.frombuffer("\n".join(sentences).encode("utf-32-le"), "<u4")


def train_sentencepiece(sample: Sample, vocab_size: int, kind: str, lower_case: bool) -> bytes:
    """A serialised SentencePiece model of `kind` ("unigram" or "bpe") with the special tokens as ids 0 to 4.

    Raises InputError if the characters alone are more than `vocab_size`, or with the trainer's reason, such
    as a vocabulary too large for the text.
    """
    output = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(sentence for batch in sample.sentences() for sentence in batch),
            model_writer=output,
            model_type=kind,
            vocab_size=vocab_size,
            normalization_rule_name="nmt_nfkc_cf" if lower_case else "nmt_nfkc",
            # Control pieces are never found in plain text.
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece="[PAD]",
            unk_piece="[UNK]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            control_symbols=["[MASK]"],
            num_threads=SENTENCEPIECE_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1].rpartition("] ")[2]
        if small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason):
            raise _too_small(vocab_size, int(small[1])) from error  # it names an option that is not ours
        raise InputError(f"--vocab_size={vocab_size}: SentencePiece found no vocabulary: {reason}") from error
    return output.getvalue()


def _too_small(vocab_size: int, needed: int) -> InputError:
    return InputError(
        f"--vocab_size={vocab_size}: too small for {needed} characters and special tokens; "
        f"give {needed} or more"
    )
