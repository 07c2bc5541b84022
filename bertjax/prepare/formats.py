"""The corpus formats that --format names: `format_of`."""

import json
import os
import re
from collections.abc import Iterable, Iterator

from bertjax.data import tfds
from bertjax.errors import InputError, nearest, quoted
from bertjax.extensions import import_named
from bertjax.files import find_files
from bertjax.prepare import pydoc as pydoc_prose
from bertjax.prepare import wikipedia
from bertjax.prepare.interface import Block, Format, Input, TextFormat
from bertjax.prepare.sentences import free_text, paragraph_sentences

# A document of the format "sentences" is cut when it is longer. (The Bible has 4 MB.)
DOCUMENT_BYTES = 8 << 20

BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")
PAGE = re.compile(r"<page>.*?</page>", re.DOTALL)


class Sentences(TextFormat):
    """A sentence a line, a blank line between documents (as the 2018 release has it).

    A document of more than DOCUMENT_BYTES is cut into several.
    """

    divisible = True

    def longest(self, block_bytes: int) -> int:
        return DOCUMENT_BYTES

    def last_boundary(self, buffer: bytes, searched: int) -> int:
        for mark in (b"\n\n", b"\n\r\n"):
            if (end := buffer.rfind(mark, searched)) >= 0:
                return end + len(mark)
        # A blank line may hold spaces; slower, so only where there is no plain one.
        return max((match.end() for match in BLANK_LINE.finditer(buffer, searched)), default=0)

    def parse_text(self, inp: Input, block: Block, text: str) -> list[list[str]]:
        documents: list[list[str]] = [[]]
        for line in text.split("\n"):  # not splitlines: U+2028 and the like end no line
            if line := line.strip():
                documents[-1].append(line)
            elif documents[-1]:
                documents.append([])
        return documents


class Text(TextFormat):
    """Free text, a file is a document. Paragraphs have blank lines between them, other line ends are spaces.

    A file longer than a block is cut at a paragraph (else a line), and each piece is then a document of its
    own.
    """

    divisible = True

    def longest(self, block_bytes: int) -> int:
        return block_bytes

    def last_boundary(self, buffer: bytes, searched: int) -> int:
        return 0

    def parse_text(self, inp: Input, block: Block, text: str) -> list[list[str]]:
        return [free_text(text, inp.language)]


class JsonLines(TextFormat):
    """A JSON object a line, whose `text_field` holds one document, free text as above."""

    record = "line"

    def last_boundary(self, buffer: bytes, searched: int) -> int:
        return buffer.rfind(b"\n", searched) + 1

    def parse_text(self, inp: Input, block: Block, text: str) -> Iterator[list[str]]:
        for number, line in enumerate(text.split("\n"), block.line):
            if line and not line.isspace():
                yield free_text(_json_text(f"{block.source}:{number}", line, inp.text_field), inp.language)


def _json_text(where: str, line: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        raise InputError(
            f"{where}: not a JSON object ({reason}); jsonl has one object on each line"
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: a JSON {type(record).__name__}; jsonl has one object on each line")
    if field not in record:
        raise InputError(f"{where}: no '{field}', only {', '.join(record) or 'none'}; name the right one")
    value = record[field]
    if not isinstance(value, str):
        raise InputError(f"{where}: field '{field}' is {type(value).__name__}, not text; name the text field")
    return value


class Wikipedia(TextFormat):
    """A MediaWiki XML dump of English (pages-articles), each article a document. See wikipedia.py."""

    record = "page"

    def check(self, inp: Input) -> None:
        wikipedia.parser()

    def last_boundary(self, buffer: bytes, searched: int) -> int:
        end = buffer.rfind(b"</page>", searched)
        return 0 if end < 0 else end + len(b"</page>")

    def end(self, file: str, line: int, rest: bytes, found: bool) -> int:
        if not found and b"<page>" not in rest:
            raise InputError(f"{file}: no <page> in it; a MediaWiki XML dump (pages-articles) is needed")
        if b"<page>" in rest or b"</mediawiki>" not in rest:
            raise InputError(
                f"{file}:{line}: the dump ends without </mediawiki>, so it is cut short; get it again"
            )
        return 0

    def parse_text(self, inp: Input, block: Block, text: str) -> Iterator[list[str]]:
        for page in PAGE.finditer(text):
            try:
                paragraphs = wikipedia.page_paragraphs(page.group())
            except wikipedia.PageError as error:
                line = block.line + text.count("\n", 0, page.start()) + error.line - 1
                raise InputError(f"{block.source}:{line}: {error}") from error
            yield paragraph_sentences(paragraphs, inp.language)


class Tfds(Format):
    """A TensorFlow Datasets name ("imdb_reviews", "name/config:1.0.0") or the folder of a prepared set.

    The `text_field` of each record is a document, free text as above. See bertjax.data.tfds.
    """

    def files(self, inp: Input) -> list[str]:
        return (
            find_files(inp.path) if os.path.isdir(inp.path) else []
        )  # a name's version stands for its content

    def total_bytes(self, inp: Input) -> int:
        return tfds.total_bytes(inp.path, inp.split)

    def read_blocks(self, inp: Input, block_bytes: int) -> Iterator[Block]:
        for start, end, read in tfds.record_ranges(inp.path, inp.split, block_bytes):
            yield Block(inp.path, start, f"{start} {end}".encode(), read)

    def parse_block(self, inp: Input, block: Block) -> list[list[str]]:
        start, end = map(int, block.data.split())
        texts = tfds.read_texts(inp.path, inp.split, inp.text_field, start, end)
        return [free_text(text, inp.language) for text in texts]


class Pydoc(Format):
    """The English prose in Python's documentation. See pydoc.py."""

    reads_any_file = False  # Python source only

    def files(self, inp: Input) -> list[str]:
        return pydoc_prose.find_sources(inp.path)

    def read_blocks(self, inp: Input, block_bytes: int) -> Iterator[Block]:
        for paths, read in pydoc_prose.source_groups(inp.path, block_bytes):
            yield Block(paths[0], 1, os.fsencode("\n".join(paths)), read)

    def parse_block(self, inp: Input, block: Block) -> Iterable[list[str]]:
        for paragraphs in pydoc_prose.prose(os.fsdecode(block.data).split("\n")):
            document = paragraph_sentences(paragraphs, inp.language)
            if len(document) > 1:  # others are no use for next sentences
                yield document


FORMATS: dict[str, Format] = {
    "sentences": Sentences(),
    "text": Text(),
    "jsonl": JsonLines(),
    "wikipedia": Wikipedia(),
    "tfds": Tfds(),
    "pydoc": Pydoc(),
}


def format_of(name: str) -> Format:
    """The format of this name, or one's own, as "module:NAME". Raises InputError."""
    found = FORMATS.get(name) or import_named(name, Format, "--format")  # type: ignore[type-abstract]
    if found is None:
        raise InputError(
            f"--format={quoted(name)}: no such format; the nearest is {nearest(name, FORMATS)} of "
            f"{', '.join(FORMATS)}, and your own is module:NAME"
        )
    return found


def input_bytes(inp: Input) -> int:
    """On-disk size of the input, in bytes. Raises InputError if it is not there."""
    return format_of(inp.format).total_bytes(inp)


def read_blocks(inp: Input, block_bytes: int) -> Iterator[Block]:
    """As Format.read_blocks."""
    if block_bytes < 64:
        raise ValueError(f"block_bytes {block_bytes} is below 64")
    return format_of(inp.format).read_blocks(inp, block_bytes)


def parse_block(inp: Input, block: Block) -> list[list[str]]:
    """The documents of a block that `read_blocks` gave, none of them empty. Raises as Format.parse_block."""
    return [document for document in format_of(inp.format).parse_block(inp, block) if document]
