"""Text corpora as documents: lists of sentences.

Two halves. `read_blocks` runs in one process and only reads, decompresses and cuts bytes at the boundaries of
documents; `parse_block` makes documents of one block and may run in any process.

The formats:
  sentences  a sentence a line, a blank line between documents (as the 2018 release has it). A document of
             more than DOCUMENT_BYTES is cut into several.
  text       free text, a file is a document. Paragraphs have blank lines between them, other line ends are
             spaces. A file longer than a block is cut at a paragraph (else a line), and each piece is then a
             document of its own.
  jsonl      a JSON object a line, whose `text_field` holds one document, free text as above.
  wikipedia  a MediaWiki XML dump of English (pages-articles), each article a document. See wikitext.
  tfds       a TensorFlow Datasets name ("imdb_reviews", "name/config:1.0.0") or the folder of a prepared set;
             `text_field` of each record is a document, free text as above. See tfds_text.
  pydoc      the English prose in Python's documentation. See pydoc_prose.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sentencex import segment

from bertjax.data import tfds
from bertjax.errors import InputError
from bertjax.files import find_files
from bertjax.prepare import pydoc as pydoc_prose
from bertjax.prepare import wikipedia
from bertjax.prepare.compressed_files import file_bytes, is_compressed, read_chunks

FORMATS = ("sentences", "text", "jsonl", "wikipedia", "tfds", "pydoc")

# A document of the format "sentences" is cut when it is longer. (The Bible has 4 MB.)
DOCUMENT_BYTES = 8 << 20

# A JSON line or a page cannot be cut; longer than this, the file is taken to have another format.
RECORD_BYTES = 64 << 20

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")
PARAGRAPH_END = re.compile(r"\n\s*\n")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
PAGE = re.compile(r"<page>.*?</page>", re.DOTALL)


@dataclass(frozen=True)
class Input:
    """One source of text.

    path: a file, a folder (all files below), or a glob; each file plain or .gz .bz2 .xz .zst. For tfds a name
      or a folder; for pydoc "python", a folder or a file.
    weight: passes over it in an epoch.
    text_field: jsonl and tfds only; split: tfds only; language: ISO 639-1 code for cutting sentences.

    Raises InputError for an unknown format, one whose extra is not installed, or a weight that is not
    positive.
    """

    path: str
    format: str
    weight: float = 1.0
    text_field: str = "text"
    split: str = "train"
    language: str = "en"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"{self.path}: unknown format '{self.format}'; choose from {', '.join(FORMATS)}")
        if self.format == "wikipedia":
            wikipedia.parser()
        if not 0 < self.weight < float("inf"):
            raise InputError(f"{self.path}: weight {self.weight} must be a positive number")


@dataclass(frozen=True)
class Block:
    """Whole documents, not parsed yet.

    source: the file, for messages.
    line: number of the first line (of the first record, for tfds).
    data: the bytes; for tfds "start end" of the records, for pydoc the paths of source files, one a line.
    read_bytes: on-disk bytes of the input consumed up to the end of this block, of `input_bytes` in all.
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


def input_bytes(inp: Input) -> int:
    """On-disk size of the input, in bytes. Raises InputError if there is no such input."""
    if inp.format == "tfds":
        return tfds.total_bytes(inp.path, inp.split)
    files = pydoc_prose.find_sources(inp.path) if inp.format == "pydoc" else find_files(inp.path)
    return sum(map(file_bytes, files))


def read_blocks(inp: Input, block_bytes: int) -> Iterator[Block]:
    """The input in blocks of about `block_bytes`, always the same ones in the same order.

    Memory is a few blocks, or one document where that is longer.

    Raises:
      InputError: nothing at the path; an empty, unreadable, broken or truncated file; too long a record.
    """
    if block_bytes < 64:
        raise ValueError(f"block_bytes {block_bytes} is below 64")
    if inp.format == "tfds":
        for start, end, read in tfds.record_ranges(inp.path, inp.split, block_bytes):
            yield Block(inp.path, start, f"{start} {end}".encode(), read)
    elif inp.format == "pydoc":
        for paths, read in pydoc_prose.source_groups(inp.path, block_bytes):
            yield Block(paths[0], 1, os.fsencode("\n".join(paths)), read)
    else:
        before = 0
        for file in find_files(inp.path):
            yield from _file_blocks(inp.format, file, before, block_bytes)
            before += file_bytes(file)


def parse_block(inp: Input, block: Block) -> list[list[str]]:
    """The documents of a block that `read_blocks` gave: lists of sentences, none of them empty.

    A sentence is a stripped string without line ends. Depends on nothing but its arguments (and, for tfds and
    pydoc, the files that they name).

    Raises:
      InputError: invalid UTF-8 or JSON, a missing or wrong text field, a malformed page; with file and line.
    """
    if inp.format == "pydoc":
        sources = os.fsdecode(block.data).split("\n")
        documents = [_paragraph_sentences(p, inp.language) for p in pydoc_prose.prose(sources)]
        documents = [document for document in documents if len(document) > 1]  # no use for next sentences
    elif inp.format == "tfds":
        start, end = map(int, block.data.split())
        texts = tfds.read_texts(inp.path, inp.split, inp.text_field, start, end)
        documents = [_free_text(text, inp.language) for text in texts]
    else:
        text = _decode(block)
        if inp.format == "sentences":
            documents = _sentence_lines(text)
        elif inp.format == "text":
            documents = [_free_text(text, inp.language)]
        elif inp.format == "jsonl":
            documents = [_free_text(text, inp.language) for text in _json_texts(inp, block, text)]
        else:
            documents = [_paragraph_sentences(p, inp.language) for p in _pages(block, text)]
    return [document for document in documents if document]


def _file_blocks(format: str, file: str, before: int, block_bytes: int) -> Iterator[Block]:
    limit = {"sentences": DOCUMENT_BYTES, "text": block_bytes}.get(format, RECORD_BYTES)
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
        yield from take(_last_boundary(format, buffer, searched))
        while len(buffer) > limit:
            if format in ("jsonl", "wikipedia"):
                what = "page" if format == "wikipedia" else "line"
                raise InputError(
                    f"{file}:{line}: a {what} of more than {limit >> 20} MiB; is the format really {format}?"
                )
            yield from take(_forced_cut(buffer, limit))
    if format == "wikipedia":
        _check_dump_end(file, line, buffer, found)
    else:
        yield from take(len(buffer))
    if not found:
        raise InputError(f"{file}: holds no text; remove the file from the input or replace it")


def _last_boundary(format: str, buffer: bytes, searched: int) -> int:
    # The end of the last whole document, 0 if none ends in the buffer; no boundary lies before `searched`.
    if format == "jsonl":
        return buffer.rfind(b"\n", searched) + 1
    if format == "wikipedia":
        end = buffer.rfind(b"</page>", searched)
        return 0 if end < 0 else end + len(b"</page>")
    if format == "sentences":
        for mark in (b"\n\n", b"\n\r\n"):
            if (end := buffer.rfind(mark, searched)) >= 0:
                return end + len(mark)
        # A blank line may hold spaces; slower, so only where there is no plain one.
        return max((match.end() for match in BLANK_LINE.finditer(buffer, searched)), default=0)
    return 0


def _forced_cut(buffer: bytes, limit: int) -> int:
    # In the second half, for no tiny pieces: after a blank line, else a line, else a word, else a letter.
    for mark in (b"\n\n", b"\n\r\n", b"\n", b" "):
        if (end := buffer.rfind(mark, limit // 2, limit)) >= 0:
            return end + len(mark)
    end = limit
    while end > limit - 4 and buffer[end] & 0xC0 == 0x80:  # a UTF-8 continuation byte
        end -= 1
    return end


def _check_dump_end(file: str, line: int, rest: bytes, found: bool) -> None:
    if not found and b"<page>" not in rest:
        raise InputError(f"{file}: no <page> in it; a MediaWiki XML dump (pages-articles) is needed")
    if b"<page>" in rest or b"</mediawiki>" not in rest:
        raise InputError(
            f"{file}:{line}: the dump ends without </mediawiki>, so it is cut short; get it again"
        )


def _decode(block: Block) -> str:
    try:
        text = block.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = block.line + block.data.count(b"\n", 0, error.start)
        raise InputError(
            f"{block.source}:{line}: byte 0x{block.data[error.start]:02x} is not UTF-8; convert the file"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", " ") if "\r" in text else text


def _sentence_lines(text: str) -> list[list[str]]:
    documents: list[list[str]] = [[]]
    for line in text.split("\n"):  # not splitlines: U+2028 and the like end no line
        if line := line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return documents


def _clean(text: str) -> str:
    # JSON strings and string literals may hold any line end, and lone surrogates, which UTF-8 cannot hold.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)


def _free_text(text: str, language: str) -> list[str]:
    return _paragraph_sentences(PARAGRAPH_END.split(_clean(text)), language)


def _paragraph_sentences(paragraphs: list[str], language: str) -> list[str]:
    sentences = []
    for paragraph in paragraphs:
        pending = ""
        for part in segment(language, " ".join([line.strip() for line in paragraph.split("\n")])):
            pending += part
            if pending.endswith("."):  # with no space after it, this is the middle of "ASP.NET"
                continue
            if pending := pending.strip():
                sentences.append(pending)
            pending = ""
        if pending:
            sentences.append(pending.strip())
    return sentences


def _json_texts(inp: Input, block: Block, text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), block.line):
        if not line or line.isspace():
            continue
        where = f"{block.source}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise InputError(
                f"{where}: not a JSON object ({reason}); jsonl has one object on each line"
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: a JSON {type(record).__name__}; jsonl has one object on each line")
        if inp.text_field not in record:
            raise InputError(
                f"{where}: no '{inp.text_field}', only {', '.join(record) or 'none'}; name the right one"
            )
        value = record[inp.text_field]
        if not isinstance(value, str):
            raise InputError(
                f"{where}: field '{inp.text_field}' is {type(value).__name__}, not text; name the text field"
            )
        yield value


def _pages(block: Block, text: str) -> Iterator[list[str]]:
    for page in PAGE.finditer(text):
        try:
            yield wikipedia.page_paragraphs(page.group())
        except wikipedia.PageError as error:
            line = block.line + text.count("\n", 0, page.start()) + error.line - 1
            raise InputError(f"{block.source}:{line}: {error}") from error
