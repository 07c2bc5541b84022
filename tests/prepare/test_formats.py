import bz2
import gzip
import json
import lzma
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bertjax.errors import InputError
from bertjax.prepare import formats as corpus
from bertjax.prepare import pydoc as pydoc_prose
from bertjax.prepare import wikipedia
from bertjax.prepare.formats import Block, Input, input_bytes, parse_block, read_blocks

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


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("format", ["sentences", "text", "jsonl", "wikipedia"])
def test_formats_and_compressions(tmp_path: Path, format: str, suffix: str) -> None:
    documents = make_documents()
    file = tmp_path / f"corpus.txt{suffix}"
    file.write_bytes(COMPRESS[suffix](encode(documents, format)))
    inp = Input(str(file), format)
    expected = documents if format != "text" else [[s for document in documents for s in document]]
    assert read(inp) == expected
    assert input_bytes(inp) == file.stat().st_size


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("format", ["sentences", "jsonl", "wikipedia"])
def test_block_size_does_not_change_documents(tmp_path: Path, format: str, suffix: str) -> None:
    documents = make_documents()
    file = tmp_path / f"corpus{suffix}"
    file.write_bytes(COMPRESS[suffix](encode(documents, format)))
    inp = Input(str(file), format)
    for block_bytes in (64, 100, 1000, 1 << 20):
        assert read(inp, block_bytes) == documents
    if not suffix:
        blocks = list(read_blocks(inp, 64))
        assert len(blocks) > 20
        whole = file.read_bytes()
        lines = whole.split(b"\n")
        for block in blocks:  # a block's line number is where it begins
            assert block.data.split(b"\n")[0] in lines[block.line - 1]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_block_goes_to_another_process_by_its_place_where_it_has_one(tmp_path, suffix, mark):
    for name in ("a", "b"):
        data = mark + encode(make_documents(), "sentences")
        (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](data))
    blocks = list(read_blocks(Input(str(tmp_path), "sentences"), 3000))
    sent = [pickle.dumps(block) for block in blocks]
    assert [pickle.loads(each) for each in sent] == blocks
    assert len(blocks) > 1
    assert all((block.data in each) == bool(suffix) for block, each in zip(blocks, sent, strict=True))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_every_member_of_a_compressed_file_is_read(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"parts{suffix}"
    compress = COMPRESS[suffix]
    file.write_bytes(compress(b"one\n") + compress(b"two\n\nth") + compress(b"") + compress(b"ree\n"))
    assert read(Input(str(file), "sentences")) == [["one", "two"], ["three"]]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_truncated_and_broken_compression_is_an_error(tmp_path: Path, suffix: str) -> None:
    first = COMPRESS[suffix](encode(make_documents(), "sentences"))
    file = tmp_path / f"corpus{suffix}"
    inp = Input(str(file), "sentences")
    # Cut in the first member, at its last byte, and in the header of a second one.
    for data in (first[: len(first) // 2], first[:-1], first + first[:3], first + first[: len(first) // 2]):
        file.write_bytes(data)
        with pytest.raises(InputError, match=rf"corpus{suffix}: the compressed data is cut short"):
            read(inp)
    for data in (b"plain text, no compression\n" * 9, first + b"garbage" * 9):
        file.write_bytes(data)
        with pytest.raises(InputError, match=rf"corpus{suffix}: broken compressed data"):
            read(inp)


def test_paths(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden", ".git/x.txt", "c/note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")

    def sources(path: str) -> list[str]:
        return [str(Path(b.source).relative_to(tmp_path)) for b in read_blocks(Input(path, "sentences"), 64)]

    assert sources(f"{tmp_path}") == ["a.txt", "b/1.txt", "b/2.txt", "c/note.md"]
    assert sources(f"{tmp_path}/b/2.txt") == ["b/2.txt"]
    assert sources(f"{tmp_path}/*/*.txt") == ["b/1.txt", "b/2.txt"]
    assert sources(f"{tmp_path}/**") == ["a.txt", "b/1.txt", "b/2.txt", "c/note.md"]
    reads = [block.read_bytes for block in read_blocks(Input(str(tmp_path), "sentences"), 64)]
    assert reads == sorted(reads)
    assert reads[-1] == input_bytes(Input(str(tmp_path), "sentences"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links/broken.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes/pipe.txt")
    for path, message in (
        ("", "path is empty"),
        (f"{tmp_path}/no", "no such file"),
        (f"{tmp_path}/empty", "no files"),
        (f"{tmp_path}/links/broken.txt", r"/broken\.txt: cannot be read \(a broken link\)"),
        (f"{tmp_path}/links", r"/broken\.txt: cannot be read \(a broken link\); mend or remove it"),
        (f"{tmp_path}/l*/*", r"/broken\.txt: cannot be read \(a broken link\)"),
        (f"{tmp_path}/pipes/pipe.txt", r"/pipe\.txt: is a pipe or device, not a file; write its text to"),
        (f"{tmp_path}/pipes", r"/pipe\.txt: is a pipe or device"),
        ("/dev/null", "/dev/null: is a pipe or device, not a file"),
    ):
        with pytest.raises(InputError, match=message):
            read(Input(path, "sentences"))
        with pytest.raises(InputError, match=message):
            input_bytes(Input(path, "sentences"))


@pytest.mark.parametrize("format", ["sentences", "text", "jsonl", "wikipedia"])
@pytest.mark.parametrize("data", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_an_error(tmp_path: Path, format: str, data: bytes) -> None:
    file = tmp_path / "empty.txt"
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"empty\.txt: (holds no text|no <page>)"):
        read(Input(str(file), format))


def test_input_is_checked() -> None:
    with pytest.raises(InputError, match="unknown format 'txt'; choose from sentences"):
        Input("a", "txt")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="must be a positive number"):
            Input("a", "text", weight=weight)


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "dos.txt"
    file.write_bytes("\ufeffone\r\ntwo \r\n\r\n three\u2028x\x0by\x85z\r\n \t\r\nfour\rfive".encode())
    expected = [["one", "two"], ["three\u2028x\x0by\x85z"], ["four five"]]
    for block_bytes in (64, 1 << 20):
        assert read(Input(str(file), "sentences"), block_bytes) == expected


def test_invalid_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    # U+2028 and a lone carriage return are no line ends; the blank lines cut blocks before the bad byte.
    good = "a\u2028b\rc\n\n" * 40
    for suffix, compress in COMPRESS.items():
        file = tmp_path / f"latin.txt{suffix}"
        file.write_bytes(compress(good.encode() + b"d\ncaf\xe9\n"))
        for block_bytes in (64, 1 << 20):
            with pytest.raises(InputError, match=rf"latin\.txt{suffix}:82: byte 0xe9 is not UTF-8"):
                read(Input(str(file), "sentences"), block_bytes)


def test_long_documents_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "DOCUMENT_BYTES", 1000)
    lines = [f"Sentence {i} é." for i in range(1000)]
    file = tmp_path / "long.txt"
    file.write_text("\n".join(lines))
    inp = Input(str(file), "sentences")
    documents = read(inp, 100)
    assert len(documents) > 10
    assert [s for document in documents for s in document] == lines
    assert documents == read(inp, 300)
    assert max(len(block.data) for block in read_blocks(inp, 100)) <= 1000

    file.write_text("é" * 5000)  # one line; never cut inside of a letter
    assert "".join(s for document in read(inp, 101) for s in document) == "é" * 5000


def test_text_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {i} is\nwrapped. It has   two sentences." for i in range(100)]
    file = tmp_path / "book.txt"
    file.write_text("\n\n\n".join(paragraphs))
    inp = Input(str(file), "text")
    expected = [s for i in range(100) for s in (f"Paragraph {i} is wrapped.", "It has   two sentences.")]
    assert read(inp, file.stat().st_size) == [expected]
    documents = read(inp, 500)
    assert len(documents) > 8
    assert [s for document in documents for s in document] == expected
    assert max(len(block.data) for block in read_blocks(inp, 500)) <= 500
    assert all(document[0].startswith("Paragraph") for document in documents)


def test_sentences_of_free_text(tmp_path: Path) -> None:
    text = 'Mr. Smith went (e.g. by train).  "Really?" she asked.\r\n'
    text += "It runs on ASP.NET now! Title \r\n \t\r\nEnd"
    block = Block("x", 1, json.dumps({"body": text + " \ud800."}).encode())
    assert parse_block(Input("x", "jsonl", text_field="body"), block) == [
        [
            "Mr. Smith went (e.g. by train).",
            '"Really?" she asked.',
            "It runs on ASP.NET now!",
            "Title",
            "End \ufffd.",
        ]
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "not a JSON object"),
        ("[1]", "a JSON list"),
        ('{"title": "x", "id": 1}', "no 'text', only title, id"),
        ("{}", "no 'text', only none"),
        ('{"text": null}', "field 'text' is NoneType"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_bad_json_lines(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "Fine \\n\u2028."}\n\n' * 20 + line)
    for block_bytes in (64, 1 << 20):
        with pytest.raises(InputError, match=rf"bad\.jsonl:41: .*{message}") as caught:
            read(Input(str(file), "jsonl"), block_bytes)
        assert "\n" not in str(caught.value)


def test_too_long_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "RECORD_BYTES", 1 << 20)
    file = tmp_path / "one.json"
    file.write_text('{"text": "A."}\n' + "x" * (3 << 20))
    with pytest.raises(InputError, match=r"one\.json:2: a line of more than 1 MiB"):
        read(Input(str(file), "jsonl"))


WIKITEXT = """{{Infobox person
| name = Ada | image = [[File:x.jpg|thumb]]
}}
'''Ada''' ({{IPA|x}}; born 1815) was an ''English'' [[mathematician|expert]]<ref name="a">{{cite|b}}</ref>,
{{circa|1833}}, and [[writer]].&nbsp;She was [https://x.org first].<ref name=b/> <!-- hidden
text -->
== Life ==
[[File:Foo.jpg|thumb|A caption with a [[link]].]]
[[Category:People]] [[de:Ada]]
* bullet
** deeper ''bullet''
# number
: indented
; term : definition
{| class="wikitable"
! head !! head
|-
| cell || cell
|}
A formula <math>x^2</math> was <small>here</small>.<br />[[Star Trek: Voyager]] too. __NOTOC__
<ul><li>html bullet</li></ul>
<gallery>
File:a.jpg|caption
</gallery>
<blockquote>Quoted text is 5 &lt; 6.</blockquote>
[[Broken link

Never {{closed.
"""


def test_wikitext() -> None:
    assert wikipedia.paragraphs(WIKITEXT) == [
        "Ada (born 1815) was an English expert, and writer. She was first.",
        "A formula was here. Star Trek: Voyager too.",
        "Quoted text is 5 < 6.",
    ]


def test_wikipedia_pages(tmp_path: Path) -> None:
    file = tmp_path / "dump.xml"
    pages = [
        page("Kept", "One &amp;amp; two &lt;ref&gt;no&lt;/ref&gt;here. It goes\non.\n\nNew paragraph."),
        page("Talk:Kept", "Talk.", ns=1),
        page("Moved", "#REDIRECT [[Kept]]", extra='    <redirect title="Kept" />\n'),
        page("Module", "return 1").replace("wikitext", "Scribunto"),
        page("Only a list", "* One.\n* Two."),
        page("Last", "Last page."),
    ]
    file.write_text(dump(pages))
    inp = Input(str(file), "wikipedia")
    assert read(inp, 64) == [["One & two here.", "It goes on.", "New paragraph."], ["Last page."]]

    for cut in (-5, -20, -100):
        file.write_text(dump(pages)[:cut])
        with pytest.raises(InputError, match=r"dump\.xml:\d+: the dump ends without </mediawiki>"):
            read(inp)
    file.write_text(dump([pages[0], pages[-1].replace("</text>", "</txt>")]))
    for block_bytes in (64, 1 << 20):
        with pytest.raises(
            InputError, match=r"dump\.xml:19: the page is not well-formed XML \(mismatched tag"
        ):
            read(inp, block_bytes)
    file.write_text(dump([pages[0].replace("<revision>", "<revision></revision><revision>")]))
    with pytest.raises(InputError, match=r"dump\.xml:3: page 'Kept' has 2 revisions"):
        read(inp)
    file.write_text(dump([pages[0].replace("<ns>0</ns>", "")]))
    with pytest.raises(InputError, match=r"dump\.xml:3: the page has no <ns>"):
        read(inp)
    file.write_text("<html>no dump</html>\n")
    with pytest.raises(InputError, match=r"dump\.xml: no <page> in it"):
        read(inp)


def test_blocks_and_documents_can_be_sent_to_workers(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("One.\n")
    inp = Input(str(file), "sentences")
    inp, blocks = pickle.loads(pickle.dumps((inp, list(read_blocks(inp, 1 << 20)))))
    assert pickle.loads(pickle.dumps(parse_block(inp, blocks[0]))) == [["One."]]


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


TFDS_SCRIPT = """
import pathlib
import shutil
import sys
import numpy as np
import tensorflow_datasets as tfds
from bertjax.prepare.formats import Input, input_bytes, parse_block, read_blocks
from bertjax.errors import InputError

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {"text": tfds.features.Text(), "n": np.int64,
                    "raw": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features),
                                     disable_shuffling=True)
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(100):
            yield i, {"text": f"Record {i} is here.\\n\\nIt has more.", "n": i, "raw": b"\\xff"}

Toy(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
expected = [[f"Record {i} is here.", "It has more."] for i in range(100)]
for path in ("toy", "toy:1.0.0", sys.argv[1] + "/toy/1.0.0"):
    inp = Input(path, "tfds")
    blocks = list(read_blocks(inp, 500))
    assert len(blocks) > 5 and blocks[-1].read_bytes == input_bytes(inp), blocks
    assert [document for block in blocks for document in parse_block(inp, block)] == expected
old = sys.argv[1] + "/old/toy/1.0.0"
shutil.copytree(sys.argv[1] + "/toy/1.0.0", old)
info = pathlib.Path(old, "dataset_info.json")
info.write_text(info.read_text().replace("array_record", "tfrecord"))
cut = sys.argv[1] + "/cut/toy/1.0.0"
shutil.copytree(sys.argv[1] + "/toy/1.0.0", cut)
shard = next(pathlib.Path(cut).glob("*array_record*"))
shard.write_bytes(shard.read_bytes()[:-1000])
wrong = [Input(path, "tfds") for path in ("toy:2.0.0", "no_set", "imdb_reviews", old, cut)]
wrong += [Input("toy", "tfds", text_field=field) for field in ("body", "n", "raw")]
for inp in [*wrong, Input("toy", "tfds", split="test")]:
    try:
        [parse_block(inp, block) for block in read_blocks(inp, 1 << 20)]
        print("no error")
    except InputError as error:
        assert "\\n" not in str(error)
        print(error)
assert "tensorflow" not in sys.modules
"""


def test_tfds_without_tensorflow(tmp_path: Path) -> None:
    # In a process of its own, since another test may have imported tensorflow.
    done = subprocess.run(
        [sys.executable, "-c", TFDS_SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            "TFDS_DATA_DIR": str(tmp_path),
            "PYTHONPATH": str(Path(corpus.__file__).parents[2]),
            "HOME": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    expected = [
        "toy:2.0.0: cannot be opened by tfds",
        "no_set: cannot be opened by tfds .Dataset no_set not found",
        "imdb_reviews: not prepared in .*; run: tfds build imdb_reviews --file_format=array_record",
        "prepared as .*, not ArrayRecord; run: tfds build toy --file_format=array_record --overwrite",
        "split 'train' is broken .*; prepare it again",
        "no feature 'body' among n, raw, text",
        "feature 'n' is int\\w*, not text",
        "feature 'raw' is not UTF-8",
        "no split 'test'; choose from train",
    ]
    messages = done.stdout.splitlines()[-len(expected) :]  # after what tfds itself prints
    for message, pattern in zip(messages, expected, strict=True):
        assert re.search(pattern, message), message


def test_a_dump_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    wikipedia.parser.cache_clear()
    message = (
        r'--format=wikipedia: mwparserfromhell is not installed; run: pip install "bertjax\[wikipedia\]"'
    )
    with pytest.raises(InputError, match=message):
        Input("dump.xml", "wikipedia")
    Input("text.txt", "text")
