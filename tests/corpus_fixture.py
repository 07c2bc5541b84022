"""For the tests of corpus formats: documents in each of them, compressed or not, and how they are read."""

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable

import zstandard

from bertjax.prepare.formats import parse_block, read_blocks
from bertjax.prepare.interface import Input

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(inp: Input, block_bytes: int = 1 << 20) -> list[list[str]]:
    return [document for block in read_blocks(inp, block_bytes) for document in parse_block(inp, block)]


def make_documents(count: int = 60) -> list[list[str]]:
    rng = random.Random(0)
    words = "alpha beta gamma épsilon ζeta 数字 eta theta".split()  # noqa: SIM905

    def sentence() -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(2, 12))).capitalize() + "."

    return [[sentence() for _ in range(rng.randint(1, 6))] for _ in range(count)]


def page(title: str, text: str, ns: int = 0, extra: str = "") -> str:
    return (
        f"  <page>\n    <title>{title}</title>\n    <ns>{ns}</ns>\n{extra}    <revision>\n"
        f"      <model>wikitext</model>\n      <text>{text}</text>\n    </revision>\n  </page>\n"
    )


def dump(pages: list[str]) -> str:
    return "<mediawiki>\n  <siteinfo></siteinfo>\n" + "".join(pages) + "</mediawiki>\n"


def encode(documents: list[list[str]], format: str) -> bytes:
    if format == "sentences":
        return "\n\n".join("\n".join(document) for document in documents).encode()
    if format == "text":
        return "\n\n".join(" ".join(document) for document in documents).encode()
    texts = [" ".join(document) for document in documents]
    if format == "jsonl":
        return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()
    return dump([page(f"T{i}", text) for i, text in enumerate(texts)]).encode()
