"""Prose of a page of a MediaWiki XML dump.

Kept are the text passages only, as in Devlin et al. 2018, section 3.1 ("ignore lists, tables, and headers");
templates, references, files, categories, comments, galleries and formulas go too. Namespace and tag names are
those of the English Wikipedia.
"""

import functools
import html
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from bertjax.errors import extra

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Tag, Wikilink

DROPPED_TAGS = frozenset((
    "ref", "references", "table", "gallery", "math", "chem", "ce", "score", "timeline",
    "syntaxhighlight", "source", "code", "pre", "imagemap", "hiero", "ul", "ol", "dl", "li", "dt",
    "dd", "caption", "style", "templatestyles", "includeonly", "noinclude", "section", "mapframe",
    "graph", "inputbox",
))  # fmt: skip
BLOCK_TAGS = frozenset(("p", "div", "blockquote", "center", "poem", "hr", "h1", "h2", "h3", "h4", "h5", "h6"))
DROPPED_LINKS = frozenset(
    ("file", "image", "media", "category", "template", "wikipedia", "wp", "portal", "help")
)
LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(-[a-z]+)*", re.ASCII)

LIST_MARK = "\x01"  # begins the lines of lists; no XML document can hold this character
NOT_PROSE = (LIST_MARK, "|", "!", "{", "}")  # the last four: tables and templates that are never closed
BROKEN_MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}")
QUOTES = re.compile("'{2,}")  # italics and bold
BEHAVIOUR_SWITCH = re.compile("__[A-Z]+__")
# What dropped templates leave behind: "( ; )", "(, born", "one,, two", "word ,".
EMPTY_BRACKETS = re.compile(r"\s*\([\s,;:–]*\)")
BRACKET_START = re.compile(r"\([\s,;:]+")
REPEATED_COMMAS = re.compile(r",(\s*,)+")
SPACE_BEFORE_MARK = re.compile(r"\s+([,.;:])(?=\s|$)")


class PageError(Exception):
    """The page cannot be used. `line` is counted from the page's first line, from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@functools.cache
def parser() -> ModuleType:
    """The package mwparserfromhell. Raises InputError if it is not installed."""
    with extra("wikipedia", "--format=wikipedia"):
        import mwparserfromhell
    return mwparserfromhell


def page_paragraphs(page: str) -> list[str]:
    """Paragraphs of one `<page>...</page>`; [] for redirects and for pages outside of the article namespace.

    Raises:
      PageError: the page is not well-formed XML, names no namespace, or holds several revisions.
    """
    if "<ns>" not in page:
        raise PageError("the page has no <ns>; use a newer dump, which states it", 1)
    if "<redirect" in page or "<ns>0</ns>" not in page:  # a revision's text has no bare "<"
        return []
    try:
        element = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise PageError(
            f"the page is not well-formed XML ({error}); get the dump again", error.position[0]
        ) from error
    revisions = element.findall("revision")
    if len(revisions) != 1:
        title = element.findtext("title")
        raise PageError(f"page '{title}' has {len(revisions)} revisions, not 1; use a pages-articles dump", 1)
    if revisions[0].findtext("model", "wikitext") != "wikitext":
        return []
    return paragraphs(revisions[0].findtext("text") or "")


def paragraphs(wikitext: str) -> list[str]:
    """The prose paragraphs of wikitext, one string without line ends for each."""
    parts: list[str] = []
    # Quotes are removed below: pairing them is the slowest part of the parser.
    _render(parser().parse(wikitext, skip_style_tags=True).nodes, parts)
    text = BEHAVIOUR_SWITCH.sub("", QUOTES.sub("", "".join(parts)))
    found: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        line = line.strip()
        if line and not line.startswith(NOT_PROSE):
            lines.append(line)
        elif lines:
            paragraph = _tidy(" ".join(lines))
            if not BROKEN_MARKUP.search(paragraph) and any(c.isalpha() for c in paragraph):
                found.append(paragraph)
            lines = []
    return found


def _tidy(text: str) -> str:
    text = BRACKET_START.sub("(", EMPTY_BRACKETS.sub("", text))
    return " ".join(SPACE_BEFORE_MARK.sub(r"\1", REPEATED_COMMAS.sub(",", text)).split())


def _render(nodes: list[Any], parts: list[str]) -> None:
    # Templates, template arguments and comments match no case, and so are dropped.
    kinds = parser().nodes
    for node in nodes:
        match node:
            case kinds.Text():
                parts.append(node.value)
            case kinds.HTMLEntity():
                parts.append(html.unescape(str(node)))
            case kinds.Heading():
                parts.append("\n\n")
            case kinds.Wikilink():
                _render_link(node, parts)
            case kinds.ExternalLink():
                if node.title is not None:  # else a bare address
                    _render(node.title.nodes, parts)
            case kinds.Tag():
                _render_tag(node, parts)


def _render_link(link: "Wikilink", parts: list[str]) -> None:
    namespace, colon, _ = str(link.title).partition(":")
    if colon and (namespace.strip().lower() in DROPPED_LINKS or LANGUAGE_LINK.fullmatch(namespace.strip())):
        return
    if link.text is not None:
        _render(link.text.nodes, parts)
    else:
        parts.append(str(link.title).strip().removeprefix(":"))


def _render_tag(tag: "Tag", parts: list[str]) -> None:
    name = str(tag.tag).strip().lower()
    if tag.wiki_markup in ("*", "#", ":", ";"):
        parts.append(LIST_MARK)
    elif name == "br":
        parts.append(" ")
    elif name not in DROPPED_TAGS:
        around = "\n\n" if name in BLOCK_TAGS else ""
        parts.append(around)
        if tag.contents is not None:
            _render(tag.contents.nodes, parts)
        parts.append(around)
