"""Small files read whole, folders written whole, and folders with one writer."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from typing import Any

from bertjax.errors import InputError, naming, quoted

_MOST_BYTES = 100_000_000  # of a vocabulary, a config or a tokenizer; real ones have a few million at most


def read_small(path: str | os.PathLike[str]) -> bytes:
    """The content of a file. Raises InputError if it is absent, unreadable or absurdly large."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; name a folder that holds one") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; mend the path or its permissions") from error
    if len(content) > _MOST_BYTES:
        raise InputError(f"{path}: is larger than {_MOST_BYTES // 10**6} MB; take a whole copy of the model")
    return content


def read_json(path: str | os.PathLike[str], advice: str = "take a whole copy of the model") -> dict[str, Any]:
    """A file with one JSON object. Raises InputError, with `advice` if the file holds something else."""
    content = read_small(path)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({quoted(error)}); {advice}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object; {advice}")
    return value


@contextlib.contextmanager
def write_whole(path: str) -> Iterator[str]:
    """The path of a new file to write, which takes the place of `path` at the end, or is removed if anything
    fails."""
    part = f"{path}.part-{os.getpid()}"
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)


@contextlib.contextmanager
def write_folder(folder: str) -> Iterator[str]:
    """A new folder to write into, which takes the place of `folder` at the end.

    If anything fails, or Ctrl-C comes, the new folder is removed and an old one stays as it was.

    Raises:
      InputError: instead of an OSError.
    """
    folder = os.path.realpath(folder)
    part = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.part-{os.getpid()}")
    old = f"{part}-old"
    try:
        os.makedirs(part)
        yield part
        if os.path.exists(folder):
            os.rename(folder, old)
        os.rename(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if os.path.exists(old) and not os.path.exists(folder):
            os.rename(old, folder)
        if not isinstance(error, OSError):
            raise
        advice = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name another folder"
        raise InputError(f"{folder}: {error.strerror}; {advice}, then the same command") from error


@contextlib.contextmanager
def lock_folder(folder: str) -> Iterator[None]:
    """Holds `folder` (made if absent) against a second writer; the lock dies with the process.

    Raises:
      InputError: another process holds it (host and pid are named), or the folder cannot be written.
    """
    path = os.path.join(folder, ".lock")
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115 (closed below; opening must not empty the holder's name)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; use another workdir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            lock.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise InputError(f"{folder}: in use by {holder}; stop that run or use another workdir") from None
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}; use another workdir") from error
        yield


def utf8_lines(path: str) -> Iterator[str]:
    """The lines of a text file with their ends, the first without a byte order mark.

    Raises:
      InputError: a line is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the file"
                ) from error


def write_atomically(path: str, text: str) -> None:
    """Replaces `path` by `text`: at any moment the file is the old or the new one, whole."""
    with naming(path):
        with open(f"{path}.tmp", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.tmp", path)


def sync_folder(folder: str) -> None:
    """Returns when names made or changed in `folder` would outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_files(path: str) -> list[str]:
    """The files that `path` names, sorted: a file itself, all files below a folder, or a glob (`**` too).

    Below a folder, names that begin with a dot are skipped, and links to folders are not followed.

    Raises:
      InputError: `path` is empty, matches nothing, or names folders without files; a broken link; something
        that is no file, such as a pipe.
    """
    if not path:
        raise InputError("an input's path is empty; give a file, a folder or a glob")
    matches = [path] if os.path.lexists(path) else glob.glob(path, recursive=True)
    if not matches:
        raise InputError(f"{path}: no such file or folder, and no match as a glob; check the path")
    files: set[str] = set()
    for match in matches:
        if os.path.isdir(match):
            files.update(_files_below(match))
        else:
            files.add(match)
    if not files:
        raise InputError(f"{path}: no files in this folder (hidden ones are skipped); check the path")
    for file in sorted(files):
        _check_file(file)
    return sorted(files)


def _check_file(path: str) -> None:
    # Inputs are read twice, and their size and date are compared; a pipe has neither, and may never end.
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        reason = "a broken link" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: cannot be read ({reason}); mend or remove it") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a pipe or device, not a file; write its text to a file first")


def _files_below(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield os.path.join(parent, name)
