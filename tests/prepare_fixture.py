"""For the tests of bertjax.prepare: texts, the command on them, and what a store holds."""

import json
import random
from pathlib import Path

from bertjax.data.pretraining.store import open_store
from bertjax.prepare import __main__ as prepare

ROOT = Path(__file__).parents[1]
WORDS = "the old man and a young woman read books by night near rivers where green trees grow slowly".split()  # noqa: SIM905


def make_documents(count, seed=0):
    rng = random.Random(seed)
    return [
        [
            " ".join(rng.choices(WORDS, k=rng.randint(3, 12))).capitalize() + "."
            for _ in range(rng.randint(2, 6))
        ]
        for _ in range(count)
    ]


def write(path, documents):
    path.write_text("\n\n".join("\n".join(document) for document in documents) + "\n")
    return path


def arguments(path, out, *more):
    return [f"--input={path}", "--format=sentences", f"--out={out}", "--vocab_size=150", *more]


def run(path, out, *more, processes=1):
    prepare.main(arguments(path, out, f"--processes={processes}", *more))
    return open_store(out)


def content(out):
    """All bytes of a store but for the seconds in its manifest."""
    found = {file.name: file.read_bytes() for file in out.iterdir()}
    manifest = json.loads(found.pop("store.json"))
    for name in ("seconds", "mb_per_second"):
        del manifest["summary"][name]
    return {**found, "store.json": {**manifest, "sha256": None}}
