"""Files and folders are written whole or stay as they were; lines are read as they are."""

import os

import pytest

from bertjax.errors import InputError
from bertjax.files import read_json, read_small, utf8_lines, write_folder, write_whole


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(text, error=None):
        with write_whole(str(path)) as part:
            with open(part, "w") as file:
                file.write(text)
            assert path.read_text() == "old"
            if error:
                raise error

    with pytest.raises(RuntimeError, match="half"):
        write("half", RuntimeError("half"))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    write("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError("half"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_folder_is_written_whole_or_stays_as_it_was(tmp_path, error):
    folder = tmp_path / "folder"

    def write(text, error=None):
        with write_folder(str(folder)) as part:
            with open(os.path.join(part, "file"), "w") as file:
                file.write(text)
            if error:
                raise error

    expected = InputError if isinstance(error, OSError) else type(error)
    for there in ([], ["folder"]):
        with pytest.raises(expected):
            write("half", error)
        assert os.listdir(tmp_path) == there
        write("new")
        assert (folder / "file").read_text() == "new"
    (folder / "other").write_text("of the old folder")
    write("newer")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(folder) == ["file"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    folder, rename = tmp_path / "folder", os.rename
    folder.mkdir()
    (folder / "file").write_text("old")

    def refused(old, new):
        if new == str(folder) and not old.endswith("-old"):
            raise PermissionError(13, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(InputError, match="folder: Permission denied; name another folder"):  # noqa: SIM117
        with write_folder(str(folder)):
            pass
    assert os.listdir(tmp_path) == ["folder"]
    assert (folder / "file").read_text() == "old"


def test_lines_are_those_of_the_file_without_its_byte_order_mark(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\nthr\xc3\xa9e")
    assert list(utf8_lines(str(path))) == ["one\n", "\ufefftwo\n", "thr\u00e9e"]
    path.write_bytes(b"one\ntw\xff\n")
    with pytest.raises(InputError, match=r"lines\.txt:2: byte 0xff is not UTF-8; convert the file"):
        list(utf8_lines(str(path)))


def test_what_is_no_small_file_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="no such file"):
        read_small(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="not a JSON object; take another"):
        read_json(path, "take another")
    monkeypatch.setattr("bertjax.files._MOST_BYTES", 3)
    assert read_small(path) == b"[1]"
    path.write_text("[12]")
    with pytest.raises(InputError, match="is larger than"):
        read_small(path)
