"""Imports in the package go one way: from what is built on top to what it stands on."""

import ast
from pathlib import Path

import pytest

import bertjax

PACKAGE = Path(bertjax.__file__).parent
# A part may import from the rows above its own, and within itself.
ORDER = (
    ("errors",),
    ("files",),
    ("config",),
    ("config_checks",),
    ("config_files", "flags", "host", "manifest", "metrics", "paper", "processes", "submission"),
    ("sharding",),
    ("data", "models"),
    ("optim",),
    ("checkpoint", "logs", "results", "table_data", "table_rows", "throughput"),
    ("runs", "trained"),
    ("table_plan",),
    ("table_files", "table_plot"),
    ("tasks",),
    ("convert", "evaluate"),
    ("asked", "embeddings", "inference", "start"),
    ("inference_elmo",),
    ("train",),
    ("main", "prepare", "predict", "ensemble", "plan", "report", "sweep"),
    ("demo", "tables"),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}


def imported(source, modules):
    """(line, name) of every import, also inside functions; "from a import b" is "a.b" if that is a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                deeper = f"{module}.{alias.name}"
                yield node.lineno, deeper if deeper in modules else module


def offences(sources):
    """One line for each import that goes the wrong way. `sources`: {"bertjax.data.store": source}."""
    found = []
    for name, source in sources.items():
        part = name.removeprefix("bertjax").removeprefix(".").partition(".")[0]
        if not part:  # the package itself, whose door `bertjax.load` stands above all
            continue
        if part not in RANK:
            found.append(f"{name}: has no place in ORDER of tests/test_imports.py")
            continue
        for line, target in imported(source, sources):
            root, _, rest = target.partition(".")
            other = rest.partition(".")[0]
            if root in ("", "tests", "benchmarks") or target == "bertjax":
                found.append(f"{name}:{line}: imports {target or 'relatively'}")
            elif root == "bertjax" and other != part and RANK.get(other, 0) >= RANK.get(part, 0):
                found.append(f"{name}:{line}: imports {target}, which stands above or beside it")
    return found


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_go_one_way():
    sources = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    assert "bertjax.data.store" in sources
    assert offences(sources) == []


@pytest.mark.parametrize(
    ("name", "source", "offence"),
    [
        ("bertjax.config", "import bertjax.train", "bertjax.config:1: imports bertjax.train"),
        (
            "bertjax.config",
            "def f():\n    from bertjax import train",
            "bertjax.config:2: imports bertjax.train",
        ),
        ("bertjax.models.x", "from bertjax.data.store import Store", "imports bertjax.data.store, which"),
        ("bertjax.logs", "from . import train", "imports ."),
        ("bertjax.logs", "from tests import golden", "imports tests"),
        ("bertjax.trainer", "", "bertjax.trainer: has no place"),
        ("bertjax.train", "import bertjax.config, jax\nfrom bertjax import evaluate", None),
        ("bertjax.data.pairs", "from bertjax.data import rng\nfrom bertjax.errors import InputError", None),
    ],
)
def test_what_counts_as_an_offence(name, source, offence):
    others = dict.fromkeys(("bertjax.train", "bertjax.evaluate", "bertjax.config", "bertjax.data.rng"), "")
    found = offences({**others, name: source})
    assert (len(found), offence is None or offence in found[0]) == (offence is not None, True)
