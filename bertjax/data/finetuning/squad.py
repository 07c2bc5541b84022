"""Questions on texts, in SQuAD's JSON (v1.1 and v2.0) and in JSON Lines.

A line of JSON Lines is one question: its id, context, question and answers. Answers are [{"text": ...,
"answer_start": ...}, ...], or {"text": [...], "answer_start": [...]}. Sets of tfds_sets have the same fields.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data.finetuning import tfds_sets
from bertjax.errors import InputError, quoted

ENDINGS = (".json", ".jsonl")
WORD = re.compile("[^ \t\r\n\u202f]+")  # of a context: the white space of the 2018 release's run_squad.py
TRAIN, DEV, TEST = "train", "dev", "test"  # one answer each; one or several; none is read


class OtherVersion(InputError):
    """The file is of the version of SQuAD that was not asked for."""


class Answer(NamedTuple):
    """A piece of the context."""

    text: str
    start: int  # its first character in the context


@dataclass(frozen=True)
class Question:
    """A question on a text. Questions on one text share the string."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]  # () if the context does not answer it, and in a test set
    where: str  # "file: question 'id'" or "file:line: question 'id'", for messages


def read_questions(path: str, use: str, unanswerable: bool) -> list[Question]:
    """The questions of a file, in its order.

    Args:
      path: .json in SQuAD's format, or .jsonl; or a split of a set.
      use: TRAIN, DEV or TEST.
      unanswerable: whether questions may have no answer (v2.0). SQuAD's JSON says of each question whether it
        "is_impossible"; in JSON Lines it may, and has no answers otherwise.

    Raises:
      InputError: no such file, another ending, no question in it, not JSON, a field that is missing or of
        another type, an id that comes twice, a question whose answers do not fit `use` and `unanswerable`
        (OtherVersion where they would fit the other value of that); or see tfds_sets.
    """
    file, read = Path(path), _of_set
    if not tfds_sets.is_tfds(path):
        if file.suffix not in ENDINGS:
            raise InputError(
                f"{path}: the name must end with {' or '.join(ENDINGS)}, which says what it holds"
            )
        if not file.is_file():
            raise InputError(f"{path}: no such file")
        read = _objects if file.suffix == ".json" else _lines
    questions = [
        make_question(fields, where, source, use, unanswerable) for fields, where, source in read(path)
    ]
    if not questions:
        raise InputError(f"{path}: has no question")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InputError(f"{question.where}: the id comes twice; each question needs its own")
        seen.add(question.id)
    return questions


def _parse(content: bytes, path: str, line: int) -> Any:
    """The JSON value of a file, or of its line `line`."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line += content[: error.start].count(b"\n")
        raise InputError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; convert the file"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{line + error.lineno - 1}: not JSON ({error.msg})") from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise InputError(f"{path}:{line}: not JSON that a data set has (a number too long)") from error
    except RecursionError as error:
        raise InputError(f"{path}:{line}: not JSON that a data set has (nested too deep)") from error


def _lines(path: str) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(fields, place, place) of each line but blank ones."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                fields = _parse(line, path, number)
                if not isinstance(fields, dict):
                    raise InputError(f"{path}:{number}: expected an object, found {type(fields).__name__}")
                answers = fields.get("answers")
                texts = answers.get("text") if isinstance(answers, dict) else answers
                yield {"is_impossible": not texts, **fields}, f"{path}:{number}", f"{path}:{number}"


def _objects(path: str) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(fields, place, file) of each question of a file in SQuAD's format."""
    data = _parse(Path(path).read_bytes(), path, 1)
    for i, article in enumerate(_list(data, "data", path)):
        of_article = f"{path}: article {i}"
        for j, paragraph in enumerate(_list(article, "paragraphs", of_article)):
            of_paragraph = f"{of_article}, paragraph {j}"
            questions = _list(paragraph, "qas", of_paragraph)
            context = paragraph.get("context")
            for k, question in enumerate(questions):
                where = f"{of_paragraph}, question {k}"
                if not isinstance(question, dict):
                    raise InputError(f"{where}: expected an object, found {type(question).__name__}")
                yield {**question, "context": context}, where, path


def _of_set(path: str) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(fields, place, path) of each question of a split."""
    return ((fields, where, path) for fields, where in tfds_sets.read_fields(path))


def _list(value: Any, name: str, where: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{where}: has no list {name!r}; expected SQuAD's data, paragraphs and qas")
    return found


def make_question(
    fields: Mapping[str, Any], where: str, source: str, use: str, unanswerable: bool
) -> Question:
    """The question of some fields: id, context, question, answers, is_impossible.

    Args:
      where: its place, for messages where it has no id.
      source: what stands before its id in the others.
      use, unanswerable: see read_questions.

    Raises:
      InputError: see read_questions.
    """

    def text(name: str) -> str:
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            what = "is empty" if isinstance(value, str) else "is not a text" if value else "is missing"
            raise InputError(f"{where}: {name!r} {what}; every question needs id, context and question")
        return value

    name = text("id")
    where = f"{source}: question {quoted(name)}"
    question, context = text("question"), text("context")
    answers: tuple[Answer, ...] = ()
    if use != TEST:
        answers = _answers(fields.get("answers"), context, where, use == TRAIN)
        _check_number(fields.get("is_impossible"), len(answers), where, use, unanswerable)
    return Question(name, question, context, answers, where)


def _answers(value: Any, context: str, where: str, located: bool) -> tuple[Answer, ...]:
    """The answers, each where it says that it is if `located`: scores are by their text only."""
    if value is None:
        raise InputError(f"{where}: has no 'answers'; a file without them can only be a test set")
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise InputError(f"{where}: 'answers' has no lists 'text' and 'answer_start' of one length")
        value = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
    if not isinstance(value, list) or not all(isinstance(answer, dict) for answer in value):
        raise InputError(f"{where}: 'answers' is no list of objects with 'text' and 'answer_start'")
    found = []
    for answer in value:
        text, start = answer.get("text"), answer.get("answer_start")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: an answer has no 'text'")
        if type(start) is not int:
            raise InputError(f"{where}: the answer {quoted(text)} has no number 'answer_start'")
        if located and not _is_there(text, context, start):
            there = context[max(start, 0) :][: len(text)]
            raise InputError(
                f"{where}: the context has {quoted(there)} at answer_start={start}, not {quoted(text)}; "
                "count in characters, from 0"
            )
        found.append(Answer(text, start))
    return tuple(found)


def _is_there(text: str, context: str, start: int) -> bool:
    """Whether the text begins at `start`, or, if that is a little beside it, stands in the words there."""
    if start >= 0 and context.startswith(text, start):
        return True
    end = start + len(text)
    words = [m[0] for m in WORD.finditer(context) if start < m.end() and m.start() < end]
    return start >= 0 and " ".join(text.split()) in " ".join(words)


def _check_number(impossible: Any, count: int, where: str, use: str, unanswerable: bool) -> None:
    """Whether a question of a training or dev set has as many answers as it may."""
    if not unanswerable and (impossible or not count):
        raise OtherVersion(
            f"{where}: has no answer; for such questions (SQuAD v2.0) set --config.examples.unanswerable=True"
        )
    if unanswerable:
        if not isinstance(impossible, bool):
            raise OtherVersion(
                f"{where}: does not say whether it 'is_impossible', as SQuAD v2.0 does; for v1.1 set "
                "--config.examples.unanswerable=False"
            )
        if impossible != (not count):
            raise InputError(f"{where}: 'is_impossible' is {str(impossible).lower()}, with {count} answers")
    if use == TRAIN and count > 1:
        raise InputError(f"{where}: has {count} answers; a training set has one for each, so keep one")
