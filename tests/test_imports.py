"""Imports in the package go one way: from what is built on top to what it is built of.

A room is a module of the package or a folder of modules; each room of data/ counts by itself.
"""

import ast
from pathlib import Path

import pytest

import bertjax

PACKAGE = Path(bertjax.__file__).parent
# A room may import from the rows above its own, and within itself.
ORDER = (
    ("errors", "checksums"),
    ("files", "extensions"),
    ("cpu_memory", "distributed", "flags", "metrics", "optimizer_names", "sharding"),
    ("data",),  # what its rooms share
    ("data.tokenizers",),
    ("data.pretraining", "data.finetuning"),
    ("models", "prepare"),
    ("sections",),
    ("mesh", "optim", "checkpoint_manifest", "logs", "throughput"),
    ("checkpoint",),
    ("workdir", "trained_model"),
    ("tasks",),
    ("config", "convert", "evaluate", "metering", "train_state"),
    ("init_from", "predict"),
    ("train",),
    ("main", "ensemble", "plan", "report", "sweep"),
    ("demo", "tables"),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def room_of(module):
    """The room of "bertjax.data.pretraining.store": "data.pretraining"."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "data" and ".".join(parts[:2]) in RANK else parts[0]


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
    """One line for each import that goes the wrong way. `sources`: {"bertjax.logs": source}."""
    found = []
    for name, source in sources.items():
        if name == "bertjax":  # the package itself, whose door `bertjax.load` is above all
            continue
        room = room_of(name)
        if room not in RANK:
            found.append(f"{name}: has no place in ORDER of tests/test_imports.py")
            continue
        for line, target in imported(source, sources):
            root = target.partition(".")[0]
            # Only the program on top of all may ask the package for its version.
            whole = target == "bertjax" and room != "__main__"
            if root in ("", "tests", "benchmarks") or whole:
                found.append(f"{name}:{line}: imports {target or 'relatively'}")
            elif (
                root == "bertjax" != target
                and room_of(target) != room
                and RANK[room_of(target)] >= RANK[room]
            ):
                found.append(f"{name}:{line}: imports {target}, which is above or beside it")
    return found


def cycles(sources):
    """One line for each module that imports itself by way of others."""
    edges = {name: {target for _, target in imported(source, sources)} & sources.keys()
             for name, source in sources.items()}  # fmt: skip
    found = []
    for start in sources:
        seen, todo = set(), list(edges[start])
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += edges[name]
        if start in seen:
            found.append(f"{start}: imports itself by way of others")
    return found


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_go_one_way():
    sources = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    assert "bertjax.data.pretraining.store" in sources
    assert offences(sources) == []
    assert cycles(sources) == []


@pytest.mark.parametrize(
    ("name", "source", "offence"),
    [
        ("bertjax.config", "import bertjax.train", "bertjax.config:1: imports bertjax.train"),
        (
            "bertjax.config",
            "def f():\n    from bertjax import train",
            "bertjax.config:2: imports bertjax.train",
        ),
        ("bertjax.data.loader", "from bertjax.data.pretraining.store import Store", "imports bertjax.data.p"),
        ("bertjax.logs", "from . import train", "imports ."),
        ("bertjax.logs", "from tests import golden", "imports tests"),
        ("bertjax.trainer", "", "bertjax.trainer: has no place"),
        ("bertjax.train", "import bertjax.config, jax\nfrom bertjax import evaluate", None),
        (
            "bertjax.data.pretraining.packing",
            "from bertjax.data import rng\nfrom bertjax.data.pretraining import store",
            None,
        ),
    ],
)
def test_what_counts_as_an_offence(name, source, offence):
    modules = ("bertjax.train", "bertjax.evaluate", "bertjax.config", "bertjax.data.rng",
               "bertjax.data.pretraining.store")  # fmt: skip
    found = offences({**dict.fromkeys(modules, ""), name: source})
    assert (len(found), offence is None or offence in found[0]) == (offence is not None, True)


def test_what_counts_as_a_cycle():
    sources = {"bertjax.a": "from bertjax import b", "bertjax.b": "import bertjax.c", "bertjax.c": ""}
    assert cycles(sources) == []
    assert len(cycles(sources | {"bertjax.c": "from bertjax.a import x"})) == 3
