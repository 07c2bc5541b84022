"""Tagged sentences in the CoNLL format: a word a line, its tag in the last column, an empty line between
sentences, and a line that begins with -DOCSTART- before each document. Or from sets of tfds_sets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertjax import metrics
from bertjax.data.finetuning import tfds_sets
from bertjax.errors import InputError
from bertjax.files import utf8_lines

_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class Sentence:
    """One sentence of a file."""

    words: tuple[str, ...]
    tags: tuple[str, ...]  # IOB2, whatever the file's scheme; () if it has none
    line: int  # of its first word; in a set's, where it would be in a file of the set
    document: int  # number of the document


def read_conll(path: str, tagged: bool) -> list[Sentence]:
    """The sentences of a file, or of a split of a set, which does not tell its documents apart.

    Args:
      tagged: whether the last column is a tag: O, or B-X, I-X, E-X, S-X in any of the schemes IOB1, IOB2 and
        IOBES. False: further columns than the word are not read.

    Raises:
      InputError: no such file, no sentence in it, bytes that are not UTF-8, or a line without a tag; or see
        tfds_sets.
    """
    if tfds_sets.is_tfds(path):
        return _of_set(path, tagged)
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    document, first = 0, 1

    def end() -> None:
        if words:
            sentences.append(Sentence(tuple(words), tuple(to_iob2(tags)), first, document))
        words.clear()
        tags.clear()

    for number, line in enumerate(utf8_lines(path), 1):
        columns = line.split()
        if not columns or columns[0] == _DOCUMENT:
            end()
            document += bool(columns)
            continue
        if not words:
            first = number
        words.append(columns[0])
        if tagged:
            tags.append(_tag(columns, f"{path}:{number}"))
    end()
    if not sentences:
        raise InputError(f"{path}: has no sentence")
    return sentences


def _of_set(path: str, tagged: bool) -> list[Sentence]:
    sentences, line = [], 1
    for words, tags in tfds_sets.read_sentences(path):
        found = tuple(to_iob2(tags)) if tagged else ()
        sentences.append(Sentence(tuple(words), found, line, 0))
        line += len(words) + 1
    if not sentences:
        raise InputError(f"{path}: has no sentence")
    return sentences


def _tag(columns: Sequence[str], where: str) -> str:
    if len(columns) < 2:
        raise InputError(f"{where}: expected a word and a tag, found one column; a dev set needs tags too")
    place, dash, kind = columns[-1].partition("-")
    if columns[-1] != "O" and not (place in ("B", "I", "E", "S") and dash and kind):
        raise InputError(f"{where}: {columns[-1]!r} is no tag; expected O, or B-, I-, E- or S- and a type")
    return columns[-1]


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities with B- on the first word of each and I- on the others."""
    result = ["O"] * len(tags)
    for kind, start, end in metrics.read_entities(tags):
        result[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return result


def conll_lines(sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> Iterator[str]:
    """Words, their tags if they have any, and the predicted ones, as conlleval reads them."""
    document = sentences[0].document
    for sentence, predicted in zip(sentences, tags, strict=True):
        if sentence.document != document:
            yield f"{_DOCUMENT} O\n\n"
            document = sentence.document
        for i, (word, tag) in enumerate(zip(sentence.words, predicted, strict=True)):
            columns = [word, *sentence.tags[i : i + 1], tag]
            yield " ".join(columns) + "\n"
        yield "\n"
