"""Checkpoints that survive a kill, a full disk and a flipped bit; the lock and the config of a workdir.

A checkpoint folder holds one folder a step (Orbax, uncompressed OCDBT) and `digests/<step>.json`, the step's
manifest: the size and sha256 of each of its files, and the run's own small facts ("meta"). A step is written
as `saving-<step>`, hashed, and gets its name once its manifest is on disk: a folder with a number for a name
is whole unless something damaged it later, and the manifest tells.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bertjax.checkpoint_manifest import (
    DIGESTS,
    digest_files,
    find_whole,
    manifest_path,
    read_manifest,
    steps_in,
    write_manifest,
)
from bertjax.distributed import together
from bertjax.errors import InputError, NotFiniteError
from bertjax.files import sync_folder

FOLDER = "checkpoints"  # of a workdir
_STAGING = "saving-"
_SAVE_TIMEOUT_SECONDS = 3600


@functools.cache
def _quiet_failed_writes() -> None:
    """Leaves the report of a failed write to InputError's one line.

    Orbax logs the traceback of an error that it raises again later. After the first failed write it closes
    its event loop under the other ones, and Python prints a traceback for each of those that fails or ends.
    """
    logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


class Checkpoints:
    """Saves and restores the train state of one run. Every process of the run makes one and calls it alike.

    Args:
      folder: where the steps go, on a file system that all processes share. Made if absent; what a killed
        save left in it is removed.
      keep_last: so many of the newest checkpoints stay.
      keep_every: checkpoints at multiples of so many steps stay for good; 0: none.

    Raises:
      InputError: the folder cannot be made.
    """

    def __init__(self, folder: str, *, keep_last: int, keep_every: int):
        if "://" in folder:
            raise InputError(
                f"{folder}: checkpoints need a mounted file system; mount the bucket and name its path"
            )
        _quiet_failed_writes()
        self.folder = os.path.abspath(folder)
        self._keep_last, self._keep_every = keep_last, keep_every
        self._good: set[int] = set()  # saved by this object, or verified
        self._damaged: set[int] = set()
        self._pending: tuple[int, Future[None]] | None = None
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._orbax = _async_checkpointer()
        if jax.process_index() == 0:
            try:
                os.makedirs(os.path.join(self.folder, DIGESTS), exist_ok=True)
                self._remove_leftovers()
            except OSError as error:
                raise InputError(f"{self.folder}: {error.strerror}; use another workdir") from error

    def save(self, step: int, state: Any, meta: dict[str, Any], *, wait: bool = False) -> None:
        """Copies `state` off the devices and returns; the rest happens in the background.

        A step that this object has saved or restored is not written again; another one of the same number
        is replaced.

        Args:
          step: updates made so far.
          state: nested dicts of jax.Array (float32, int32 or uint32), on any mesh.
          meta: what JSON can hold.
          wait: True returns when the checkpoint is safe.

        Raises:
          NotFiniteError: an array holds NaN or infinity; nothing is written.
          InputError: this save or the one before failed, for example on a full disk; older checkpoints stay.
        """
        bad = _non_finite(state)
        if bad:
            raise NotFiniteError(f"step {step} is not saved: NaN or infinity in {', '.join(bad)}")
        meta = json.loads(json.dumps(meta))
        together(self.wait)
        if step in self._good:
            return
        staging = os.path.join(self.folder, f"{_STAGING}{step}")
        try:
            self._orbax.save(staging, args=ocp.args.PyTreeSave(state), force=True)
        except Exception as error:
            raise self._save_error(step, error) from error
        self._good.add(step)
        self._pending = step, self._background.submit(self._commit, step, staging, meta)
        if wait:
            self.wait()

    def restore(self, target: Any) -> tuple[Any, dict[str, Any], int] | None:
        """(state, meta, step) of the newest whole checkpoint; None if there is none at all.

        A damaged checkpoint is skipped with a line on stderr that names the file.

        Args:
          target: the state's tree of jax.ShapeDtypeStruct with shardings, on any mesh.

        Raises:
          InputError: checkpoints exist but all are damaged; arrays are missing, unexpected or of another
            shape or type than the target's (all are listed).
        """
        self.wait()
        found = self._agree_on_step()
        if found is None:
            return None
        path = os.path.join(self.folder, str(found))
        meta = read_manifest(self.folder, found)["meta"]
        _compare(path, target, self._orbax.metadata(path).item_metadata.tree)
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        state = self._orbax.restore(path, args=ocp.args.PyTreeRestore(item=target, restore_args=restore_args))
        self._good = {found}  # another one may have been damaged since it was saved
        return state, meta, found

    def wait(self) -> None:
        """Returns when the last save is safe on disk. Raises InputError if it failed."""
        if self._pending is None:
            return
        step, future = self._pending
        try:
            future.result()
        except Exception as error:
            self._pending = None
            raise self._save_error(step, error) from error
        self._pending = None

    def close(self) -> None:
        """Waits for the last save and ends the background threads. Raises InputError if the save failed."""
        try:
            self.wait()
        finally:
            self._background.shutdown()
            self._orbax.close()

    def steps(self) -> list[int]:
        """Steps with a checkpoint and a manifest, in order. Their content is not verified."""
        return [step for step in steps_in(self.folder) if os.path.exists(manifest_path(self.folder, step))]

    def _agree_on_step(self) -> int | None:
        """The step that process 0 finds whole, on every process."""
        if jax.process_count() == 1:
            return find_whole(self.folder, None, self._damaged)
        answer, failure = -2, None
        if jax.process_index() == 0:
            try:
                found = find_whole(self.folder, None, self._damaged)
                answer = -1 if found is None else found
            except InputError as error:  # raised below, when the other processes know
                failure = error
        answer = int(multihost_utils.broadcast_one_to_all(np.int32(answer)))
        if answer == -2:
            raise failure or InputError(f"{self.folder}: process 0 found no whole checkpoint")
        return None if answer == -1 else answer

    def _commit(self, step: int, staging: str, meta: dict[str, Any]) -> None:
        """In the background: hashes what Orbax wrote, names it, and deletes what need not stay."""
        self._orbax.wait_until_finished()
        if jax.process_index() != 0:
            return
        final = os.path.join(self.folder, str(step))
        if os.path.exists(final):  # damaged, or left by a run that this object did not restore
            shutil.rmtree(final)
        write_manifest(self.folder, {"step": step, "meta": meta, "files": digest_files(staging)})
        os.rename(staging, final)
        sync_folder(self.folder)  # the new step outlives a power cut before an older one goes
        self._damaged.discard(step)
        self._delete_old(step)

    def _delete_old(self, newest: int) -> None:
        whole = [step for step in self.steps() if step not in self._damaged]
        oldest_kept = whole[-self._keep_last :][0]
        for step in steps_in(self.folder):
            for_good = self._keep_every > 0 and step % self._keep_every == 0
            if step < oldest_kept and step != newest and not for_good:
                shutil.rmtree(os.path.join(self.folder, str(step)))
                with contextlib.suppress(FileNotFoundError):
                    os.remove(manifest_path(self.folder, step))

    def _remove_leftovers(self) -> None:
        for name in os.listdir(self.folder):
            if name.startswith(_STAGING):
                shutil.rmtree(os.path.join(self.folder, name))
        steps = {f"{step}.json" for step in steps_in(self.folder)}
        for name in os.listdir(os.path.join(self.folder, DIGESTS)):
            if name not in steps:
                os.remove(os.path.join(self.folder, DIGESTS, name))

    def _save_error(self, step: int, error: Exception) -> InputError:
        self._good.discard(step)
        with contextlib.suppress(Exception):  # other failures of the same save
            self._orbax.close()
        self._orbax = _async_checkpointer()
        if jax.process_index() == 0:  # a half-written step would keep a full disk full
            for name in os.listdir(self.folder):
                if name.startswith(_STAGING):
                    shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
        reason = (str(error).splitlines() or [""])[0]
        return InputError(
            f"{self.folder}: saving step {step} failed ({type(error).__name__}: {reason}); older checkpoints "
            "stay; make room or mend the disk and run the same command again"
        )


def load_params(folder: str, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The parameters alone of a whole checkpoint, without knowing their shapes.

    Args:
      folder: a workdir, or the checkpoint folder in it.
      step: None takes the newest whole one.

    Returns:
      (nested dict of numpy arrays, meta, step).

    Raises:
      InputError: no such folder, no checkpoint in it, or none is whole.
    """
    inner = os.path.join(os.path.abspath(folder), FOLDER)
    path = inner if os.path.isdir(inner) else os.path.abspath(folder)
    found = find_whole(path, step, set()) if os.path.isdir(path) else None
    if found is None:
        raise InputError(f"{folder}: no checkpoint; name the workdir of a run that has saved one")
    meta = read_manifest(path, found)["meta"]
    step_path = os.path.join(path, str(found))
    with ocp.Checkpointer(_handler()) as orbax:
        tree = orbax.metadata(step_path).item_metadata.tree
        if "params" not in tree:
            raise InputError(f"{step_path}: holds no parameters, only {', '.join(tree)}")
        item = {"params": tree["params"]}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
        return orbax.restore(step_path, args=args)["params"], meta, found


def _async_checkpointer() -> ocp.AsyncCheckpointer:
    return ocp.AsyncCheckpointer(_handler(), timeout_secs=_SAVE_TIMEOUT_SECONDS)


def _handler() -> ocp.PyTreeCheckpointHandler:
    # Float32 weights hardly shrink, and zstd would take longer than the rest of a save.
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def _describe(tree: Any) -> dict[str, str]:
    """{"params/layer/kernel": "float32[2,3]"} for every array or array description of a tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{np.dtype(x.dtype)}{list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def _compare(path: str, target: Any, saved: Any) -> None:
    expected, found = _describe(target), _describe(saved)
    differences = [
        f"{name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differences:
        raise InputError(f"{path}: not the state of this config: {'; '.join(differences)}")


@functools.cache
def _all_finite(result: jax.sharding.Sharding) -> Any:
    return jax.jit(lambda arrays: jnp.stack([jnp.isfinite(x).all() for x in arrays]), out_shardings=result)


def _non_finite(state: Any) -> list[str]:
    """Paths of the floating-point arrays that hold NaN or infinity."""
    leaves = [
        (p, x) for p, x in jax.tree_util.tree_leaves_with_path(state) if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    if not leaves:
        return []
    sharding = leaves[0][1].sharding
    if isinstance(sharding, NamedSharding):  # the answer is needed on every process
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    finite = np.asarray(_all_finite(sharding)([x for _, x in leaves]))
    return [
        jax.tree_util.keystr(p, simple=True, separator="/")
        for (p, _), ok in zip(leaves, finite, strict=True)
        if not ok
    ]
