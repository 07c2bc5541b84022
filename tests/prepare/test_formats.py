import json
import pickle
from pathlib import Path

import pytest
from corpus_fixture import COMPRESS, encode, make_documents, read

from bertjax.errors import InputError
from bertjax.prepare import formats, interface
from bertjax.prepare.formats import format_of, input_bytes, parse_block, read_blocks
from bertjax.prepare.interface import Block, Input


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


def test_blocks_and_documents_can_be_sent_to_workers(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("One.\n")
    inp = Input(str(file), "sentences")
    inp, blocks = pickle.loads(pickle.dumps((inp, list(read_blocks(inp, 1 << 20)))))
    assert pickle.loads(pickle.dumps(parse_block(inp, blocks[0]))) == [["One."]]


def test_input_is_checked() -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="must be a positive number"):
            Input("a", "text", weight=weight)


def test_a_name_that_is_no_format() -> None:
    for name, message in (
        (
            "txt",
            "--format='txt': no such format; the nearest is text of sentences, text, jsonl, ",
        ),
        ("nowhere:FORMAT", "--format='nowhere:FORMAT': .*No module named 'nowhere'; .*, and a Format in it"),
        ("json:loads", "--format='json:loads': is a function, not a Format"),
    ):
        with pytest.raises(InputError, match=message):
            format_of(name)
        with pytest.raises(InputError, match=message):
            read(Input("a", name))


def test_long_documents_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "DOCUMENT_BYTES", 1000)
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
    monkeypatch.setattr(interface, "RECORD_BYTES", 1 << 20)
    file = tmp_path / "one.json"
    file.write_text('{"text": "A."}\n' + "x" * (3 << 20))
    with pytest.raises(InputError, match=r"one\.json:2: a line of more than 1 MiB"):
        read(Input(str(file), "jsonl"))
