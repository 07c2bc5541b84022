"""Recipes by path and by name, from any folder."""

import shutil
from pathlib import Path

import pytest
from store_fixture import TESTS

from bertjax.config import files, recipes
from bertjax.errors import InputError
from bertjax.sections import fields

CONFIGS = TESTS.parent / "configs"
OWN = """
from bertjax.config import default, set_size

def get_config(size="mini"):
    return set_size(default(), size)
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_all_that_are_shipped_are_found():
    assert recipes.shipped() == {path.stem: str(path) for path in sorted(CONFIGS.glob("*.py"))}
    assert "pretrain_tiny" in recipes.shipped()


@pytest.mark.parametrize(
    ("name", "hidden_size"),
    [
        ("pretrain_tiny", 128),
        ("configs/pretrain_tiny.py", 128),  # as a checkout's folder has it
        (str(CONFIGS / "pretrain_tiny.py"), 128),
        ("./own.py", 256),
        ("own.py", 256),
        ("own.py:large", 1024),
        ("pretrain_base", 768),  # in spite of the file beside it
        ("./pretrain_base", 256),
        ("./pretrain_base:large", 1024),
        ("without_ending", 256),
    ],
)
def test_a_recipe_is_found_by_path_or_by_name(tmp_path, name, hidden_size):
    for file in ("own.py", "pretrain_base", "without_ending"):
        (tmp_path / file).write_text(OWN)
    assert files.load(name).model.hidden_size == hidden_size


def test_a_name_takes_an_argument():
    by_name, by_path = files.load("glue:mrpc"), files.load(f"{CONFIGS / 'glue.py'}:mrpc")
    assert dict(fields(by_name)) == dict(fields(by_path))


def test_a_shipped_recipe_loads_another_from_anywhere():
    assert files.load("gpt_swag").examples.text_a == files.load("swag").examples.text_a


def test_a_file_of_ones_own_comes_before_the_shipped_one_at_its_path(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "pretrain_tiny.py").write_text(OWN)
    assert files.load("configs/pretrain_tiny.py").model.hidden_size == 256
    assert files.load("pretrain_tiny").model.hidden_size == 128


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("pretrain_tyni", "pretrain_tiny"),
        ("pretrain_tiny.py", "pretrain_tiny"),
        ("configs/pretrain_lage.py", "pretrain_large"),
        ("/nowhere/squat.py:v1.1", "squad"),
        ("other/configs/swag.py", "swag"),
    ],
)
def test_what_is_neither_is_one_line_with_the_nearest(name, nearest):
    with pytest.raises(InputError) as error:
        files.load(name)
    assert str(error.value) == (
        f"{name.partition(':')[0]}: neither a file nor a shipped recipe; the nearest of those is {nearest}; "
        "bertjax main --help lists them"
    )


def test_an_installed_package_holds_them_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "_PACKAGE", tmp_path / "bertjax")
    shutil.copytree(CONFIGS, tmp_path / "bertjax" / "configs")
    assert recipes.find("ner") == str(tmp_path / "bertjax" / "configs" / "ner.py")
    assert Path(recipes.find("ner")).is_file()
