"""What a corpus format gives to the building of a store: the input's blocks, and the documents of a block.

A document is a list of sentences, stripped strings without line ends. `read_blocks` runs in one process and
only reads, decompresses and cuts bytes where documents end; `parse_block` may run in any process. A new
format is a Format, for text files a TextFormat, in a file of its own; docs/adding.md has one.
"""

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bertjax.errors import InputError
from bertjax.files import find_files
from bertjax.prepare.compressed_files import file_bytes, is_compressed, read_chunks

# Where a document cannot be cut and is longer than this, the file is taken to have another format.
RECORD_BYTES = 64 << 20

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Input:
    """One source of text.

    path: a file, a folder (all files below), or a glob; each file plain or .gz .bz2 .xz .zst. For tfds a name
      or a folder; for pydoc "python", a folder or a file.
    format: the name of a Format, as `formats.format_of` takes it.
    weight: passes over it in an epoch.
    text_field: jsonl and tfds only; split: tfds only; language: ISO 639-1 code for cutting sentences.

    Raises InputError for a weight that is not positive.
    """

    path: str
    format: str
    weight: float = 1.0
    text_field: str = "text"
    split: str = "train"
    language: str = "en"

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise InputError(f"{self.path}: weight {self.weight} must be a positive number")


@dataclass(frozen=True)
class Block:
    """Whole documents, not parsed yet.

    source: the file, for messages.
    line: number of the first line (of the first record, for tfds).
    data: the bytes; for tfds "start end" of the records, for pydoc the paths of source files, one a line.
    read_bytes: on-disk bytes of the input consumed up to the end of this block, of `total_bytes` in all.
    start: where the data begins in the file, if it lies there as it is: then another process is sent only the
      place, and reads it. -1: it does not.
    """

    source: str
    line: int
    data: bytes
    read_bytes: int = 0
    start: int = -1

    def __reduce__(self) -> tuple[Any, ...]:
        if self.start < 0:
            return Block, (self.source, self.line, self.data, self.read_bytes)
        return _read_block, (self.source, self.line, self.start, len(self.data), self.read_bytes)


def _read_block(source: str, line: int, start: int, size: int, read_bytes: int) -> Block:
    with open(source, "rb") as file:
        file.seek(start)
        return Block(source, line, file.read(size), read_bytes, start)


class Format(abc.ABC):
    """A corpus format. Its methods are functions of their arguments; it has no state."""

    reads_any_file: bool = True  # so that a store in the input's folder would be taken for text

    def check(self, inp: Input) -> None:  # noqa: B027 (most need nothing)
        """Raises InputError if something that it needs is not installed."""

    def files(self, inp: Input) -> list[str]:
        """The files whose dates tell that the input has changed. Raises InputError if it is not there."""
        return find_files(inp.path)

    def total_bytes(self, inp: Input) -> int:
        """On-disk size of the input. Raises InputError if it is not there."""
        return sum(map(file_bytes, self.files(inp)))

    @abc.abstractmethod
    def read_blocks(self, inp: Input, block_bytes: int) -> Iterator[Block]:
        """The input in blocks of about `block_bytes`, always the same ones in the same order.

        Memory is a few blocks, or one document where that is longer.

        Raises:
          InputError: nothing at the path; an empty, unreadable, broken or truncated file; too long a
            document.
        """

    @abc.abstractmethod
    def parse_block(self, inp: Input, block: Block) -> Iterable[list[str]]:
        """The documents of a block; those without a sentence are left out by the caller.

        Depends on nothing but its arguments (and files that they name).

        Raises:
          InputError: it is malformed; with file and line.
        """


class TextFormat(Format):
    """Files of UTF-8 text, plain or compressed, cut into blocks where documents end."""

    divisible: bool = False  # whether a document that is too long is cut; if not, the file is refused
    record: str = "document"  # what messages call one

    def longest(self, block_bytes: int) -> int:
        """Bytes above which a document is too long."""
        return RECORD_BYTES

    @abc.abstractmethod
    def last_boundary(self, buffer: bytes, searched: int) -> int:
        """The end of the last whole document, 0 if none ends in the buffer.

        Args:
          searched: no boundary lies before it, if what marks one has at most 16 bytes.
        """

    def end(self, file: str, line: int, rest: bytes, found: bool) -> int:
        """How much of `rest`, which is left at the file's end, holds documents.

        Args:
          line: where it begins.
          found: whether there was text before it.

        Raises:
          InputError: the file is cut short.
        """
        return len(rest)

    @abc.abstractmethod
    def parse_text(self, inp: Input, block: Block, text: str) -> Iterable[list[str]]:
        """As parse_block. `text` is the block's, with "\\n" at the ends of lines from `block.line` on."""

    def read_blocks(self, inp: Input, block_bytes: int) -> Iterator[Block]:
        before = 0
        for file in self.files(inp):
            yield from self._file_blocks(inp, file, before, block_bytes)
            before += file_bytes(file)

    def parse_block(self, inp: Input, block: Block) -> Iterable[list[str]]:
        return self.parse_text(inp, block, _decode(block))

    def _file_blocks(self, inp: Input, file: str, before: int, block_bytes: int) -> Iterator[Block]:
        limit = self.longest(block_bytes)
        buffer, line, start, read, found = b"", 1, 0, before, False
        plain = not is_compressed(file)

        def take(end: int) -> Iterator[Block]:
            nonlocal buffer, line, start, found
            data, buffer = buffer[:end], buffer[end:]
            if data and not data.isspace():
                found = True
                yield Block(file, line, data, read, start if plain else -1)
            line += data.count(b"\n")
            start += len(data)

        for chunk, position in read_chunks(file, block_bytes):
            if read == before and chunk.startswith(BYTE_ORDER_MARK):
                chunk, start = chunk[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
            searched = max(0, len(buffer) - 16)
            buffer, read = buffer + chunk, before + position
            yield from take(self.last_boundary(buffer, searched))
            while len(buffer) > limit:
                if not self.divisible:
                    raise InputError(
                        f"{file}:{line}: a {self.record} of more than {limit >> 20} MiB; is the format "
                        f"really {inp.format}?"
                    )
                yield from take(_forced_cut(buffer, limit))
        yield from take(self.end(file, line, buffer, found))
        if not found:
            raise InputError(f"{file}: holds no text; remove the file from the input or replace it")


def _forced_cut(buffer: bytes, limit: int) -> int:
    # In the second half, for no tiny pieces: after a blank line, else a line, else a word, else a letter.
    for mark in (b"\n\n", b"\n\r\n", b"\n", b" "):
        if (end := buffer.rfind(mark, limit // 2, limit)) >= 0:
            return end + len(mark)
    end = limit
    while end > limit - 4 and buffer[end] & 0xC0 == 0x80:  # a UTF-8 continuation byte
        end -= 1
    return end


def _decode(block: Block) -> str:
    try:
        text = block.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = block.line + block.data.count(b"\n", 0, error.start)
        raise InputError(
            f"{block.source}:{line}: byte 0x{block.data[error.start]:02x} is not UTF-8; convert the file"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", " ") if "\r" in text else text
