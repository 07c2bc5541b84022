"""Files that can be trusted: written whole or not at all, and digest manifests that tell what changed since.

`folder/<step>/` holds the files of a step and `folder/digests/<step>.json` its manifest,
{"manifest": {"step", "meta", "files": {relative path: {"bytes", "sha256"}}}, "sha256": of "manifest"}.
"""

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bertjax.errors import InputError
from bertjax.files import sync_folder, write_atomically

DIGESTS = "digests"
_HASH_THREADS = 8


class DamagedError(Exception):
    """A step is not what was saved. The message names the file."""


def steps_in(folder: str) -> list[int]:
    """Steps that have a folder, in order, whatever is in it."""
    return sorted(int(name) for name in os.listdir(folder) if name.isascii() and name.isdigit())


def manifest_path(folder: str, step: int) -> str:
    """Where the manifest of `step` is."""
    return os.path.join(folder, DIGESTS, f"{step}.json")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1)


def write_manifest(folder: str, manifest: dict[str, Any]) -> None:
    """Puts the manifest of `manifest["step"]` safely on disk."""
    own = hashlib.sha256(_canonical(manifest).encode()).hexdigest()
    path = manifest_path(folder, manifest["step"])
    write_atomically(path, _canonical({"manifest": manifest, "sha256": own}) + "\n")
    sync_folder(os.path.dirname(path))


def read_manifest(folder: str, step: int) -> dict[str, Any]:
    """The manifest as it was written; raises DamagedError if it is absent or changed."""
    path = manifest_path(folder, step)
    try:
        with open(path, encoding="utf-8") as file:
            outer = json.load(file)
        manifest: dict[str, Any] = outer["manifest"]
        own = outer["sha256"]
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: not a manifest") from error
    if hashlib.sha256(_canonical(manifest).encode()).hexdigest() != own or manifest["step"] != step:
        raise DamagedError(f"{path}: its content changed after it was written")
    return manifest


def digest_files(folder: str) -> dict[str, dict[str, Any]]:
    """{relative path: {"bytes", "sha256"}} of all files below `folder`, each flushed to the disk."""
    paths = []
    for root, _, names in os.walk(folder):
        paths += [os.path.join(root, name) for name in names]
        sync_folder(root)
    paths.sort()

    def digest(path: str) -> dict[str, Any]:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            return {"bytes": os.path.getsize(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    with ThreadPoolExecutor(_HASH_THREADS) as threads:
        return dict(zip((os.path.relpath(p, folder) for p in paths), threads.map(digest, paths), strict=True))


def verify(folder: str, step: int) -> None:
    """Raises DamagedError, naming the file, unless every file of `step` is as its manifest says."""
    manifest = read_manifest(folder, step)

    def check(name: str) -> None:
        path = os.path.join(folder, str(step), name)
        expected = manifest["files"][name]
        try:
            size = os.path.getsize(path)
            if size != expected["bytes"]:
                raise DamagedError(f"{path}: {size} bytes, {expected['bytes']} were saved")
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise DamagedError(f"{path}: its content changed after it was saved (sha256)")
        except OSError as error:
            raise DamagedError(f"{path}: {error.strerror}") from error

    with ThreadPoolExecutor(_HASH_THREADS) as threads:
        list(threads.map(check, manifest["files"]))


def find_whole(folder: str, step: int | None, damaged: set[int]) -> int | None:
    """The newest whole step (or `step`); None if the folder has no step. Adds what it skips to `damaged`.

    Prints a line for each step that it skips. Raises InputError if none is whole, with the fault of each.
    """
    steps = steps_in(folder)
    if step is not None and step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise InputError(f"{folder}: no checkpoint of step {step}; there are: {known}")
    faults = []
    for candidate in reversed(steps) if step is None else [step]:
        try:
            verify(folder, candidate)
        except DamagedError as error:
            damaged.add(candidate)
            faults.append((candidate, error))
        else:
            for bad, fault in faults:
                print(f"bertjax: checkpoint of step {bad} is damaged and not used: {fault}", file=sys.stderr)
            return candidate
    if not steps:
        return None
    tried = "; ".join(f"step {bad}: {fault}" for bad, fault in faults)
    raise InputError(
        f"{folder}: no whole checkpoint ({tried}); bring back a copy, or begin in another workdir"
    )
