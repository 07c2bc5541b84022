"""The shipped recipes, and how one is found by its name.

They are the files of configs/, which an installed package holds as bertjax/configs and a checkout beside it.
"""

import difflib
from pathlib import Path

from bertjax.errors import InputError

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where the shipped recipes are."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def shipped() -> dict[str, str]:
    """The shipped recipes: {name: file}."""
    return {path.stem: str(path) for path in sorted(folder().glob("*.py"))}


def find(name: str) -> str:
    """The file of a recipe: of "pretrain_tiny" the shipped one, else the path.

    "configs/pretrain_tiny.py" is the shipped one, too, where there is no such file.

    Raises:
      InputError: neither a file nor a shipped recipe; the nearest of those is named.
    """
    known, path = shipped(), Path(name)
    if name in known:
        return known[name]
    if path.is_file():
        return name
    if path.parts == ("configs", f"{path.stem}.py") and path.stem in known:
        return known[path.stem]
    nearest = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.0)[0]
    raise InputError(
        f"{name}: neither a file nor a shipped recipe; the nearest of those is {nearest}; "
        "bertjax main --help lists them"
    )
