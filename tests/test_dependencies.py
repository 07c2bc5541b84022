"""What the package imports is declared, and what is declared is imported."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

import bertjax

PACKAGE = Path(bertjax.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
# Packages whose module has another name.
MODULES = {
    "google-crc32c": "google_crc32c",
    "ml-collections": "ml_collections",
    "orbax-checkpoint": "orbax",
    "protobuf": "google",
    "scikit-learn": "sklearn",
    "tensorflow-datasets": "tensorflow_datasets",
}
# Declared though bertjax/ imports them only by way of another package.
INDIRECT = {
    "array-record": "tensorflow-datasets reads ArrayRecord files with it and does not ask for it everywhere",
    "optax": "any of its optimizers can be named; flax asks for any version of it",
}
FEATURES = ("wikipedia", "hdf5", "wandb")  # extras for what few want; bertjax imports their packages
OTHERS = ("tpu", "cuda13", "test", "parity")  # hardware, and tools of the repository


def names(requirements):
    """The packages of requirements, {name: module}."""
    found = [re.match(r"[A-Za-z0-9_.-]+", requirement)[0] for requirement in requirements]
    return {name: MODULES.get(name, name) for name in found}


def imports(tree):
    """(top-level name, whether it is imported when the module is) of every import but those for types."""
    todo = [(node, True) for node in tree.body]
    while todo:
        node, at_once = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0], at_once
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += [(child, at_once) for child in node.orelse]
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            todo += [(child, at_once and not inside) for child in ast.iter_child_nodes(node)]


CORE = names(PROJECT["dependencies"])
EXTRAS = {name: names(PROJECT["optional-dependencies"][name]) for name in FEATURES}
IMPORTED = {
    (module, at_once, str(path.relative_to(PACKAGE)))
    for path in PACKAGE.rglob("*.py")
    for module, at_once in imports(ast.parse(path.read_text()))
    if module not in sys.stdlib_module_names and module not in ("bertjax", "")
}


def test_every_import_is_a_core_dependency_or_a_late_one_of_an_extra():
    late = {module for extra in EXTRAS.values() for module in extra.values()}
    wrong = [(module, path) for module, at_once, path in sorted(IMPORTED)
             if module not in CORE.values() and (at_once or module not in late)]  # fmt: skip
    assert wrong == []


def test_every_dependency_is_imported():
    found = {module for module, _, _ in IMPORTED}
    declared = CORE | {name: module for extra in EXTRAS.values() for name, module in extra.items()}
    assert {name for name, module in declared.items() if module not in found} <= INDIRECT.keys()
    assert declared.keys() >= INDIRECT.keys()


def test_every_extra_has_a_place_here_and_no_core_dependency():
    assert PROJECT["optional-dependencies"].keys() == {*FEATURES, *OTHERS}
    for extra in EXTRAS.values():
        assert not extra.keys() & CORE.keys()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b, c", {("a", True), ("c", True)}),
        ("try:\n    from a.b import c\nexcept ImportError:\n    pass", {("a", True)}),
        ("class A:\n    import a\n    def f(self):\n        with x():\n            import b",
         {("a", True), ("b", False)}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {("b", True)}),
    ],
)  # fmt: skip
def test_what_counts_as_an_import(source, found):
    assert set(imports(ast.parse(source))) == found


def test_the_version_has_one_source():
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", bertjax.__version__)
    installed = importlib.metadata.distribution("bertjax")
    if Path(str(installed.locate_file("bertjax"))) == PACKAGE:  # not where a checkout shadows another one
        assert installed.version == bertjax.__version__
