from pathlib import Path

import pytest
from corpus_fixture import read

from bertjax.errors import InputError
from bertjax.prepare import pydoc as pydoc_prose
from bertjax.prepare.formats import input_bytes, parse_block, read_blocks
from bertjax.prepare.interface import Block, Input

MODULE = '''"""The module of examples keeps ``prose`` for :func:`~pkg.readers` and **careful** people.

It says what it does in more than one sentence. The second one is short, but still counts as prose.

>>> example()  # This is a doctest and it is not wanted here at all.
3

For example, this paragraph introduces a block of code that follows it::

    This Looks Like Prose But It Is Indented Code After Two Colons, So It Goes.

.. note:: The directive's own line is dropped from the text of the document.

Heading Of A Section That Has Many Words In It Here
---------------------------------------------------

- A bullet is not a passage of text, even where it is a long sentence.

:param name: A field list is not prose, however long its sentences may be.

| a table | of two columns | is no prose | at all, whatever | it has in it. |
"""


class Thing:
    """Things hold other things together, and this sentence is long enough.

    Args:
      other: An argument list with a hanging indent is not prose, although it reads so.

    name : str
        The numpy style has its own way to write down what an argument is for.
    """

    def method(self):
        """Things hold other things together, and this sentence is long enough."""

    async def short(self):
        """Too short."""


try:
    def guarded():
        """A function inside of a try statement is found as well, surrogate \\ud800 here."""
except ImportError:
    """Not a docstring, since it is only an expression statement in the code."""
'''


def test_pydoc_prose(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text(
        '"""Prose in a file that cannot be parsed is left out, of course."""\ndef ('
    )
    (tmp_path / "nulls.py").write_bytes(b'"""' + b"\0" * 100 + b'"""')
    (tmp_path / "test_it.py").write_text(MODULE)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    inp = Input(str(tmp_path), "pydoc")
    assert read(inp) == [
        [
            "The module of examples keeps prose for pkg.readers and careful people.",
            "It says what it does in more than one sentence.",
            "The second one is short, but still counts as prose.",
            "For example, this paragraph introduces a block of code that follows it:",
            "Things hold other things together, and this sentence is long enough.",
            "A function inside of a try statement is found as well, surrogate \ufffd here.",
        ]
    ]
    with pytest.raises(InputError, match="no Python source"):
        read(Input(str(tmp_path / "none"), "pydoc"))


def test_pydoc_of_this_python() -> None:
    inp = Input("python", "pydoc")
    blocks = list(read_blocks(inp, 1 << 20))
    assert blocks == list(read_blocks(inp, 1 << 20))
    assert blocks[-1].read_bytes == input_bytes(inp)
    sources = "\n".join(pydoc_prose.find_sources("python")).split("\n")
    assert b"\n".join(block.data for block in blocks).decode().split("\n") == sources
    topics = Block("topics", 1, next(s for s in sources if s.endswith("pydoc_data/topics.py")).encode())
    documents = parse_block(inp, topics)
    assert len(documents) > 40
    assert documents == parse_block(inp, topics)
    sentences = [sentence for document in documents for sentence in document]
    assert len(sentences) > 1000
    assert len(set(sentences)) > 0.9 * len(sentences)
    assert not any(
        ">>>" in sentence or "\n" in sentence or sentence != sentence.strip() for sentence in sentences
    )
