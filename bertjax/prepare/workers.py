"""Blocks of a corpus through worker processes, in order: the result does not depend on their number."""

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any

import numpy as np

from bertjax.data.pretraining.store import token_type
from bertjax.data.tokenizers import words
from bertjax.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from bertjax.errors import InputError, Interrupted
from bertjax.prepare.formats import parse_block
from bertjax.prepare.interface import Block, Input

# A tuple of arguments for the function that is mapped.
Job = tuple[Any, ...]


class Workers:
    """A pool of processes (none for 1: the work is done here) and the asking to stop by SIGINT or SIGTERM.

    Use as a context manager in the main thread.
    """

    def __init__(self, processes: int):
        self._window = 2 * processes
        self._stop = False
        self._handlers: list[tuple[int, Any]] = []
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker)
            for _ in range(processes):  # they start while the caller still reads
                self._pool.submit(os.getpid)

    def __enter__(self) -> "Workers":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers.append((number, signal.signal(number, self._ask_to_stop)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        for number, handler in self._handlers:
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Interrupted if the process was asked to stop."""
        if self._stop:
            raise Interrupted("nothing is lost; run the same command again to continue")

    def map(self, function: Callable[..., Any], jobs: Iterable[Job]) -> Iterator[tuple[Job, Any]]:
        """(job, function(*job)) for each job, in order. A few jobs are in flight at a time.

        Raises:
          Interrupted: the process was asked to stop.
          InputError: a worker process died; or what `function` raised.
        """
        if self._pool is None:
            for job in jobs:
                self.check()
                yield job, function(*job)
            return
        pending: deque[tuple[Job, Future[Any]]] = deque()
        try:
            for job in jobs:
                pending.append((job, self._pool.submit(function, *job)))
                if len(pending) >= self._window:
                    yield pending[0][0], self._result(pending[0][1])
                    pending.popleft()
            while pending:
                yield pending[0][0], self._result(pending[0][1])
                pending.popleft()
        except BrokenProcessPool as error:
            time.sleep(0.2)  # a signal for the whole group may reach a worker first
            self.check()
            raise InputError(
                "a worker process was killed, perhaps for want of memory; what is done is saved: run the "
                "same command again, with fewer --processes"
            ) from error

    def _result(self, future: Future[Any]) -> Any:
        while True:
            self.check()
            try:
                return future.result(timeout=0.2)
            except FutureTimeoutError:
                continue

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._stop = True


def _start_worker() -> None:
    # Ctrl-C reaches the whole group; the parent decides. SIGTERM ends a worker, as the pool itself needs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's workers wait for ever when their parent is killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@dataclass(frozen=True)
class Tokens:
    """The documents of one block as StoreWriter.append takes them, and counts."""

    tokens: np.ndarray  # of token_type(vocabulary), all documents in order
    sentence_tokens: np.ndarray  # int64, tokens in each sentence
    document_sentences: np.ndarray  # int64, sentences in each document
    text_bytes: int  # of the sentences in UTF-8
    unknown_tokens: int
    single_sentence_documents: int
    dropped_sentences: int  # without a token
    dropped_documents: int  # without a sentence that has a token
    longest: tuple[int, str] | None  # tokens, where; None without documents
    shortest: tuple[int, str] | None


_cached_tokenizer = functools.lru_cache(maxsize=1)(load_tokenizer)


def tokenise_block(folder: str, sha256: str, inp: Input, block: Block) -> Tokens:
    """The documents of a block in tokens of the tokenizer in `folder`, whose digest is `sha256`.

    Raises InputError as parse_block does, and if the tokenizer is another one.
    """
    tokenizer = _cached_tokenizer(folder)
    if tokenizer.sha256 != sha256:
        _cached_tokenizer.cache_clear()
        tokenizer = _cached_tokenizer(folder)
        if tokenizer.sha256 != sha256:
            raise InputError(
                f"{folder}: the vocabulary has changed since the store was begun; remove the folder"
            )
    return tokenise(tokenizer, inp, block)


def tokenise(tokenizer: Tokenizer, inp: Input, block: Block) -> Tokens:
    """The documents of a block in tokens. Raises InputError as parse_block does."""
    documents = parse_block(inp, block)
    sentences = list(chain.from_iterable(documents))
    ids = tokenizer.encode_batch(sentences)
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    tokens = np.fromiter(chain.from_iterable(ids), token_type(tokenizer.vocab_size), int(lengths.sum()))
    of_document = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    in_document = np.bincount(of_document[lengths > 0], minlength=len(documents))
    document_tokens = np.bincount(of_document, weights=lengths, minlength=len(documents)).astype(np.int64)
    kept = np.flatnonzero(in_document)
    longest = shortest = None
    if len(kept):
        ends = [kept[np.argmax(document_tokens[kept])], kept[np.argmin(document_tokens[kept])]]
        longest, shortest = ((int(document_tokens[d]), locate(block, documents, int(d))) for d in ends)
    return Tokens(
        tokens=tokens,
        sentence_tokens=lengths[lengths > 0],
        document_sentences=in_document[kept],
        text_bytes=sum(len(text) if text.isascii() else len(text.encode()) for text in sentences),
        unknown_tokens=int(np.count_nonzero(tokens == tokenizer.unk_id)),
        single_sentence_documents=int(np.count_nonzero(in_document == 1)),
        dropped_sentences=int(np.count_nonzero(lengths == 0)),
        dropped_documents=len(documents) - len(kept),
        longest=longest,
        shortest=shortest,
    )


def locate(block: Block, documents: list[list[str]], index: int) -> str:
    """Where a document of the block begins, "file:line", found by its first words.

    The block's own line where its bytes are not the plain text, as escapes in JSON are not.
    """
    position = 0
    for number, document in enumerate(documents[: index + 1]):
        found = block.data.find(document[0].encode(), position)
        if found < 0:
            continue
        if number == index:
            return f"{block.source}:{block.line + block.data.count(10, 0, found)}"
        position = found + sum(map(len, document))
    return f"{block.source}:{block.line} (the block from there)"


def sentences_of(index: int, inp: Input, block: Block) -> list[str]:
    """All sentences of a block; `index` is the caller's own. Raises InputError as parse_block does."""
    return list(chain.from_iterable(parse_block(inp, block)))


def words_of(lower_case: bool, inp: Input, block: Block) -> Counter[str]:
    """How often each word is in a block. Raises InputError as parse_block does."""
    return words.count(chain.from_iterable(parse_block(inp, block)), lower_case)
