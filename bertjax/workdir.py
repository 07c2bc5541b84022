"""The folder of a run: one writer, one config."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping

import jax
from ml_collections import ConfigDict

from bertjax.checkpoint import FOLDER
from bertjax.checkpoint_manifest import steps_in
from bertjax.errors import InputError
from bertjax.files import lock_folder, read_json, write_atomically
from bertjax.sections import fields

# Fields, and whole sections, that say how a run is computed, watched or kept, not what it computes: they may
# change on resume. Data may have moved; their fingerprints tell that they are the same.
CHANGEABLE = ("mesh.", "log.", "eval.", "workdir", "init_from", "data.store", "data.tfrecord",
              "data.tfrecord_heldout", "data.vocab", "examples.cache", "train.log_every", "train.eval_every",
              "train.save_every", "train.keep_last", "train.keep_every", "train.max_bad_steps",
              "train.accumulation", "train.remat", "phase2.accumulation", "phase2.remat",
              "model.scan_layers")  # fmt: skip


@contextlib.contextmanager
def lock_workdir(workdir: str) -> Iterator[None]:
    """Holds `workdir` (made if absent) against a second writer; the lock dies with the process.

    Process 0 takes it for all processes of a run.

    Raises:
      InputError: another process holds it (host and pid are named), or the folder cannot be written.
    """
    if jax.process_index() != 0:
        yield
        return
    with lock_folder(workdir):
        yield


def check_config(workdir: str, config: ConfigDict, fingerprints: Mapping[str, str]) -> None:
    """Writes `workdir/config.json`, or compares with it once the workdir has a checkpoint.

    Process 0 does it for all processes of a run.

    Args:
      config: whose fields must be the same, but for those of `CHANGEABLE`.
      fingerprints: of data that no field tells apart, by names that are no field's.

    Raises:
      InputError: the run began with others; all are named with both values.
    """
    if jax.process_index() != 0:
        return
    path = os.path.join(workdir, "config.json")
    checkpoints = os.path.join(workdir, FOLDER)
    new = json.loads(json.dumps(dict(fields(config)) | dict(fingerprints)))
    try:
        begun = os.path.isdir(checkpoints) and steps_in(checkpoints)
        if not begun or not os.path.exists(path):
            os.makedirs(workdir, exist_ok=True)
            write_atomically(path, json.dumps(new, indent=1) + "\n")
            return
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make room or use another workdir") from error
    old = read_json(path, "mend it or use another workdir")
    absent = "(absent)"
    differences = [
        f"{name} was {old.get(name, absent)!r}, now {new.get(name, absent)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, absent) != new.get(name, absent) and not may_change(name)
    ]
    if differences:
        raise InputError(f"{path}: the run began with another config: {'; '.join(differences)}; "
                         "use another workdir, or the old values to continue")  # fmt: skip


def may_change(name: str) -> bool:
    """Whether a run that goes on may have another value of this field."""
    return name in CHANGEABLE or f"{name.partition('.')[0]}." in CHANGEABLE
