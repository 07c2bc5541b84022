"""Questions on texts as rows of tokens: a question and a window of its context, as a pair of texts.

The 2018 release's run_squad.py: a context's words lie between white space, each is tokenised by itself, and a
context that is too long for a row is cut into windows that overlap.

Shapes: Q questions, W windows, T tokens of a context.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from bertjax.data.finetuning.sequences import Row
from bertjax.data.finetuning.squad import WORD, Question
from bertjax.data.row_form import RowForm
from bertjax.data.tokenizers.tokenizer import Tokenizer
from bertjax.errors import InputError

NO_ANSWER = -1  # in place of an answer's tokens
LOST = -2  # the release leaves the question out


@dataclass(frozen=True)
class Context:
    """A text, its words and their tokens."""

    text: str
    starts: np.ndarray  # int32 [words], the first character of each
    ends: np.ndarray  # int32 [words], the character after its last
    ids: np.ndarray  # int32 [T]
    word_of: np.ndarray  # int32 [T], the word that each token is of
    first: np.ndarray  # int32 [words + 1], the first token of each, and T

    def words(self, first: int, end: int) -> str:
        """The words from `first` up to `end`, with one space between them."""
        places = zip(self.starts[first:end].tolist(), self.ends[first:end].tolist(), strict=True)
        return " ".join(self.text[start:stop] for start, stop in places)


@dataclass(frozen=True)
class Encoded:
    """Questions with the tokens of their contexts, each of which is tokenised once."""

    questions: Sequence[Question]  # [Q]
    queries: list[list[int]]  # [Q]
    contexts: list[Context]
    context_of: np.ndarray  # int32 [Q]

    def context(self, question: int) -> Context:
        return self.contexts[int(self.context_of[question])]


def encode_questions(questions: Sequence[Question], tokenizer: Tokenizer, max_query_length: int) -> Encoded:
    """Tokenises questions, which are cut to `max_query_length` tokens, and their contexts."""
    numbers: dict[str, int] = {}
    context_of = np.array([numbers.setdefault(q.context, len(numbers)) for q in questions], np.int32)
    words = list(dict.fromkeys(word for text in numbers for word in WORD.findall(text)))
    pieces = dict(zip(words, tokenizer.encode_batch(words), strict=True))
    contexts = []
    for text in numbers:
        matches = list(WORD.finditer(text))
        parts = [pieces[match[0]] for match in matches]
        lengths = np.array([len(part) for part in parts], np.int32)
        contexts.append(
            Context(
                text,
                np.array([match.start() for match in matches], np.int32),
                np.array([match.end() for match in matches], np.int32),
                np.array(list(chain.from_iterable(parts)), np.int32),
                np.repeat(np.arange(len(matches), dtype=np.int32), lengths),
                np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)]),
            )
        )
    queries = [ids[:max_query_length] for ids in tokenizer.encode_batch([q.text for q in questions])]
    return Encoded(questions, queries, contexts, context_of)


def find_answers(encoded: Encoded, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Where each question's first answer lies.

    Returns:
      int32 [Q, 2], its first and last token in the context; NO_ANSWER twice where there is none; LOST twice
      where the words that it touches do not hold it once each white space is one space.
      bool [Q], whether those tokens are the answer's own. Where its ends lie inside tokens, the whole words
      are taken, as in the release.
    """
    answers = [question.answers[0] if question.answers else None for question in encoded.questions]
    pieces = iter(tokenizer.encode_batch([answer.text for answer in answers if answer]))
    spans = np.full((len(answers), 2), NO_ANSWER, np.int32)
    exact = np.ones(len(answers), bool)
    for i, answer in enumerate(answers):
        if answer is None:
            continue
        context, wanted = encoded.context(i), next(pieces)
        # A white-space character counts to the word before it; before the first, as in the release, that is
        # the last word.
        starts = context.starts
        first = (bisect_right(starts, answer.start) - 1) % len(starts)
        last = bisect_right(starts, answer.start + len(answer.text) - 1) - 1
        if " ".join(answer.text.split()) not in context.words(first, last + 1):
            spans[i] = LOST
            continue
        start, end = int(context.first[first]), int(context.first[last + 1]) - 1
        tokens = context.ids[start : end + 1].tolist()
        for skip in range(len(tokens) - len(wanted) + 1):
            if tokens[skip : skip + len(wanted)] == wanted and wanted:
                start, end = start + skip, start + skip + len(wanted) - 1
                break
        else:
            exact[i] = False
        spans[i] = start, end
    return spans, exact


class Windows(Sequence[Row]):
    """The rows of some questions, each made when it is asked for.

    Attributes:
      encoded: the questions.
      question: int32 [W], which question each window is of.
      start, length: int32 [W], the tokens of the context that it holds.
      first_window: int64 [Q + 1], the first window of each question, and W.
    """

    def __init__(self, encoded: Encoded, form: RowForm, seq_length: int, doc_stride: int):
        """Cuts the contexts. A row has `seq_length` tokens at most, and a window begins `doc_stride` tokens
        after the one before it."""
        self.encoded, self.form = encoded, form
        counts, starts, lengths = [], [], []
        for i, query in enumerate(encoded.queries):
            tokens = len(encoded.context(i).ids)
            room = seq_length - len(query) - len(form.between) - 2
            step = min(room, doc_stride)
            number = -(-max(tokens - room, 0) // step) + 1 if tokens else 0
            counts.append(number)
            for start in range(0, number * step, step):
                starts.append(start)
                lengths.append(min(tokens - start, room))
        self.question = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.start, self.length = np.array(starts, np.int32), np.array(lengths, np.int32)
        self.first_window = np.cumsum([0, *counts])
        before = 1 + len(form.between)
        self.offset = np.array([len(query) + before for query in encoded.queries], np.int32)[self.question]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, window: int) -> Row:  # type: ignore[override]  # no slices
        question, start = int(self.question[window]), int(self.start[window])
        part = self.encoded.context(question).ids[start : start + int(self.length[window])]
        query, form = self.encoded.queries[question], self.form
        first = [form.before, *query, form.between[0]]
        rest = [*form.between[1:], *part.tolist(), form.after]
        return Row(first + rest, [0] * len(first) + [1] * len(rest))

    def positions(self, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32 [W] each: where in its row the answer begins and ends, both 0 in a window that does not hold
        all of it, and where there is none.

        Args:
          spans: int32 [Q, 2], of find_answers.
        """
        start, end = spans[self.question].T
        held = (start >= self.start) & (end < self.start + self.length) & (start >= 0)
        shift = self.offset - self.start
        return np.where(held, start + shift, 0), np.where(held, end + shift, 0)

    def fullest_context(self, question: int) -> list[np.ndarray]:
        """bool [length] for each of the question's windows: whether a token has more context on its poorer
        side there than in the windows before, and as much as in those after."""
        windows = range(*self.first_window[question : question + 2].tolist())
        if len(windows) < 2:  # none where the context has no token
            return [np.ones(self.length[window], bool) for window in windows]
        tokens = np.arange(len(self.encoded.context(question).ids))
        scores = np.full((len(windows), len(tokens)), -np.inf)
        for i, window in enumerate(windows):
            start, length = int(self.start[window]), int(self.length[window])
            left = tokens[:length]
            scores[i, start : start + length] = np.minimum(left, left[::-1]) + 0.01 * length
        best = scores.argmax(0)
        return [
            best[self.start[window] : self.start[window] + self.length[window]] == i
            for i, window in enumerate(windows)
        ]


def file_windows(encoded: Encoded, form: RowForm, seq_length: int, doc_stride: int) -> Windows:
    """The windows of a file's questions. Raises InputError if no context has a token."""
    windows = Windows(encoded, form, seq_length, doc_stride)
    if not len(windows):
        raise InputError(f"{encoded.questions[0].where}: neither its context nor any other of the file "
                         "has a token; name another file")  # fmt: skip
    return windows


def training_windows(
    encoded: Encoded, tokenizer: Tokenizer, form: RowForm, seq_length: int, doc_stride: int
) -> tuple[Windows, dict[str, np.ndarray], str]:
    """The windows of the questions whose answers are found, their labels, and a line on what is left out.

    Labels are start_positions and end_positions, int32 [W], and label_weights, float32 [W].

    Raises:
      InputError: no answer is found, or no context has a token.
    """
    spans, exact = find_answers(encoded, tokenizer)
    questions, kept = encoded.questions, np.flatnonzero(spans[:, 0] != LOST)
    if not len(kept):
        raise InputError(
            f"{questions[0].where}: no answer is found among the words around it; nothing is left"
        )
    some = kept.tolist()
    found = Encoded([questions[i] for i in some], [encoded.queries[i] for i in some], encoded.contexts,
                    encoded.context_of[kept])  # fmt: skip
    windows = file_windows(found, form, seq_length, doc_stride)
    starts, ends = windows.positions(spans[kept])
    arrays = {
        "start_positions": starts,
        "end_positions": ends,
        "label_weights": np.ones(len(windows), np.float32),
    }
    answered = np.bincount(windows.question[starts > 0], minlength=len(kept)) > 0
    note = (
        f"{len(windows)} windows of {len(questions)} questions; answers that no window holds: "
        f"{((spans[kept, 0] >= 0) & ~answered).sum()}, that are not whole tokens: {(~exact[kept]).sum()}; "
        f"left out for their white space: {len(questions) - len(kept)}"
    )
    return windows, arrays, note
