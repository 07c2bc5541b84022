"""English prose that is on every machine with Python: its reference topics and its packages' docstrings.

A path of "python" names the standard library and the installed packages; else it is a folder or a file of
Python source. Sources are parsed, never imported; tests are skipped. A topic is a document, and so is a
module: the paragraphs of its docstrings, in the order of the source. Only prose is kept: examples, tables,
signatures, field lists and headings go, and so do paragraphs that came before in the same block.
"""

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator

from bertjax.errors import InputError

SKIPPED_FOLDERS = frozenset(("__pycache__", "site-packages", "test", "tests", "testing", "idle_test"))
TOPICS = os.path.join("pydoc_data", "topics.py")

# Set by hand; a sample of what they let through read as prose.
MIN_WORDS = 8
MIN_WORD_SHARE = 0.75  # of the paragraph's space-separated parts that are plain words
SENTENCE_END = frozenset(".?!:)")

NOT_PROSE = re.compile(
    r">>>|\.\.\.|\.\. |:[\w ]+:($|\s)|[-*+•] |\(?\d+[.)]\s|[@$#|+=`~<{\[\\]|-{2}|\w+\(.*\)\s*(->.*)?$|"
    r"\*{0,2}[\w.]+(, ?\*{0,2}[\w.]+)* ?:(\s|$)"
)
UNDERLINE = re.compile(r"""\s*([-=~^"'`*+#.])\1{2,}\s*$""")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # in escapes; UTF-8 cannot hold it
ROLE = re.compile(r":[\w:+.-]+:`~?([^`<]*?)(\s*<[^`>]*>)?`")
LITERAL = re.compile(r"``?[~!]?([^`]*?)(\s*<[^`>]*>)?``?_{0,2}")
STRONG = re.compile(r"\*{1,2}(\w[^*\n]*?)\*{1,2}")
WORD = re.compile(r"""["'(]*[A-Za-z]+(['’-][A-Za-z]+)*[)"']*[.,;:?!]*[)"']*""")


def find_sources(path: str) -> list[str]:
    """The Python source files that `path` names, in a fixed order. Raises InputError if there are none."""
    if path == "python":
        places = sysconfig.get_paths()
        roots = [places["stdlib"], *sorted({places["purelib"], places["platlib"]})]
    else:
        roots = [path]
    sources = [source for root in roots for source in _walk(root)]
    if not sources:
        raise InputError(
            f"{path}: no Python source; pydoc takes 'python', or a folder or file of Python source"
        )
    return sources


def _walk(root: str) -> Iterator[str]:
    if os.path.isfile(root) and root.endswith(".py"):
        yield root
        return
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier())
        for name in sorted(names):
            path = os.path.join(parent, name)
            is_test = name.startswith("test_") or name.endswith("_test.py")
            if name.endswith(".py") and not is_test and os.path.isfile(path):  # no broken links
                yield path


def source_groups(path: str, block_bytes: int) -> Iterator[tuple[list[str], int]]:
    """(source files, bytes of source up to their end): runs of files of up to `block_bytes`, or of one file.

    Raises InputError if `path` names no source files.
    """
    group: list[str] = []
    held = read = 0
    for source in find_sources(path):
        size = os.path.getsize(source)
        if group and held + size > block_bytes:
            yield group, read
            group, held = [], 0
        group.append(source)
        held += size
        read += size
    yield group, read


def docstrings(source: bytes) -> list[str]:
    """Docstrings of a module, its classes and their functions, unindented; [] if it cannot be parsed."""
    if b'"""' not in source and b"'''" not in source:  # parsing is most of the time
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            module = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # also null bytes, wrong encodings
            return []
    found: list[str] = []
    _collect(module, found)
    return found


def _collect(node: ast.AST, found: list[str]) -> None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text and len(text) > 40:
            found.append(inspect.cleandoc(LONE_SURROGATE.sub("\ufffd", text)))
    if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try):
        for child in node.body:
            _collect(child, found)


def prose(sources: list[str]) -> Iterator[list[str]]:
    """The prose paragraphs of each source file that has some (of pydoc's topics: of each topic)."""
    seen: set[str] = set()
    for path in sources:
        try:
            with open(path, "rb") as file:
                source = file.read()
        except OSError:  # such as another user's
            continue
        is_topics = path.endswith(TOPICS)
        for texts in [[text] for text in _topics(source)] if is_topics else [docstrings(source)]:
            kept = []
            for text in texts:
                for paragraph in prose_paragraphs(text):
                    if paragraph not in seen:
                        seen.add(paragraph)
                        kept.append(paragraph)
            if kept:
                yield kept


def _topics(source: bytes) -> list[str]:
    # topics.py is one assignment: topics = {"name": "text", ...}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            return [text for _, text in sorted(ast.literal_eval(statement.value).items())]
    return []


def prose_paragraphs(text: str) -> list[str]:
    """The paragraphs of documentation that are English prose, without inline markup and line ends."""
    found = []
    code_indent = -1  # what is indented deeper, after "::", is code
    for lines in _paragraphs(text):
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        if indent <= code_indent:
            code_indent = -1
        if code_indent >= 0:
            continue
        if lines[-1].endswith("::"):
            code_indent = indent
        paragraph = _prose(lines)
        if paragraph:
            found.append(paragraph)
    return found


def _paragraphs(text: str) -> Iterator[list[str]]:
    lines: list[str] = []
    for line in [*text.expandtabs().split("\n"), ""]:
        line = line.rstrip()
        if line and not line.lstrip().startswith(".. "):
            lines.append(line)
        elif lines:
            yield lines
            lines = []


def _prose(lines: list[str]) -> str:
    # The paragraph's text, or "" if it is no prose.
    indents = {len(line) - len(line.lstrip()) for line in lines}
    if len(indents) > 1 or any(NOT_PROSE.match(line.lstrip()) or UNDERLINE.match(line) for line in lines):
        return ""  # hanging indents are definitions and arguments
    text = " ".join(" ".join(lines).split())
    text = STRONG.sub(r"\1", LITERAL.sub(r"\1", ROLE.sub(r"\1", text)))
    if text.endswith("::"):
        text = text[:-1]
    words = text.split()
    plain = sum(map(bool, map(WORD.fullmatch, words)))
    if len(words) < MIN_WORDS or plain < MIN_WORD_SHARE * len(words) or text[-1] not in SENTENCE_END:
        return ""
    return text if text[0].isupper() or text[0] in "\"'(" else ""
