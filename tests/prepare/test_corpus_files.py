import os
from pathlib import Path

import pytest
from corpus_fixture import COMPRESS, encode, make_documents, read

from bertjax.errors import InputError
from bertjax.prepare.formats import input_bytes, read_blocks
from bertjax.prepare.interface import Input


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
