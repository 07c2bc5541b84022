"""Reads a BERT from a workdir, a Hugging Face folder or a folder of Google's 2018 release."""

import os
from pathlib import Path

from bertjax.checkpoint import FOLDER
from bertjax.convert import google, huggingface
from bertjax.errors import InputError
from bertjax.manifest import DIGESTS
from bertjax.models import bert
from bertjax.trained import Trained, load_trained


def kind_of(path: str) -> str:
    """ "bertjax", "huggingface" or "google". Raises InputError if it is none of them."""
    folder = Path(path)
    if (folder / FOLDER).is_dir() or (folder / DIGESTS).is_dir():
        return "bertjax"
    if (folder / google.CONFIG).is_file() or Path(f"{folder}.index").is_file() or folder.suffix == ".index":
        return "google"
    if (folder / "config.json").is_file():
        return "huggingface"
    if not folder.exists():
        raise InputError(f"{path}: no such folder")
    raise InputError(
        f"{path}: no model; expected a workdir with {FOLDER}/, a Hugging Face folder with config.json, or a "
        f"folder of Google's release with {google.CONFIG}"
    )


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    head: str | None = None,
    allow_pickle: bool = False,
) -> Trained:
    """The model at `path`.

    Args:
      path: a workdir, a Hugging Face folder, or a folder (or checkpoint) of Google's 2018 release.
      step: of a workdir's checkpoint; None: the newest.
      head: of bertjax.models.bert.HEADS, for the other two; None: the one that the files show.
      allow_pickle: whether pytorch_model.bin may be read where there is no safetensors file. The reader
        builds nothing but tensors, whatever the file says.

    Raises:
      InputError: there is no model there, or it is broken.
    """
    path = os.fspath(path)
    if head is not None and head not in bert.HEADS:
        raise InputError(f"head {head}: there is none of that name; it is one of {', '.join(bert.HEADS)}")
    kind = kind_of(path)
    if kind == "bertjax":
        if head is not None:
            raise InputError(f"{path}: a workdir, whose head is what it was trained with; leave out the head")
        return load_trained(path, step)
    if step is not None:
        raise InputError(f"{path}: not a workdir, so it has no steps; leave out the step")
    if kind == "google":
        return google.read(path, head)
    return huggingface.read(path, head, allow_pickle)
