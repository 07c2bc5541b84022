"""Free text cut into sentences."""

import re

from sentencex import segment

PARAGRAPH_END = re.compile(r"\n\s*\n")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def free_text(text: str, language: str) -> list[str]:
    """The sentences of a text in which blank lines end paragraphs and other line ends are spaces.

    Args:
      language: ISO 639-1 code.
    """
    return paragraph_sentences(PARAGRAPH_END.split(_clean(text)), language)


def paragraph_sentences(paragraphs: list[str], language: str) -> list[str]:
    """The sentences of paragraphs; none goes on in the next one."""
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


def _clean(text: str) -> str:
    # JSON strings and string literals may hold any line end, and lone surrogates, which UTF-8 cannot hold.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)
