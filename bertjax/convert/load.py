"""Reads a model from a workdir, a Hugging Face folder or a folder of Google's 2018 release."""

import dataclasses
import os
from pathlib import Path

from bertjax.checkpoint import FOLDER
from bertjax.convert import google, huggingface, openai_gpt
from bertjax.errors import InputError
from bertjax.files import read_json
from bertjax.models import KINDS
from bertjax.trained_model import Trained, load_trained


def kind_of(path: str) -> str:
    """ "bertjax", "huggingface" or "google". Raises InputError if it is none of them."""
    folder = Path(path)
    if (folder / FOLDER).is_dir() or _is_checkpoint(folder):
        return "bertjax"
    if Path(f"{folder}.index").is_file() or folder.suffix == ".index":
        return "google"
    if (folder / "config.json").is_file() and not any(folder.glob("*.index")):
        return "huggingface"
    if (folder / google.CONFIG).is_file():
        return "google"
    if not folder.exists():
        raise InputError(f"{path}: no such folder")
    raise InputError(
        f"{path}: no model; expected a workdir with {FOLDER}/, a Hugging Face folder with config.json, or a "
        f"folder of Google's release with {google.CONFIG}"
    )


def _is_checkpoint(folder: Path) -> bool:
    return folder.parent.name == FOLDER and folder.name.isdecimal() and folder.is_dir()


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    head: str | None = None,
    allow_pickle: bool = False,
    model_kind: str | None = None,
) -> Trained:
    """The model at `path`.

    Args:
      path: a workdir or one of its checkpoints (WORKDIR/checkpoints/1000), a Hugging Face folder, or a folder
        (or checkpoint) of Google's 2018 release.
      step: of a workdir's checkpoint; None: the newest.
      head: of ModelKind.heads; None: the one that the files show.
      allow_pickle: whether pytorch_model.bin may be read where there is no safetensors file. The reader
        builds nothing but tensors, whatever the file says.
      model_kind: the config.model.kind that the caller can use; None: any.

    Raises:
      InputError: there is no model there, or it is broken or of another kind.
    """
    path = os.fspath(path)
    heads = dict.fromkeys(name for kind in KINDS.values() for name in kind.heads)
    if head is not None and head not in heads:
        raise InputError(f"head {head}: there is none of that name; it is one of {', '.join(heads)}")
    model = _load(path, step, head, allow_pickle)
    if model_kind not in (None, model.config.kind):
        raise InputError(
            f"{path}: a model of kind {model.config.kind}, which cannot be used here; name one of kind "
            f"{model_kind}"
        )
    return model


def _load(path: str, step: int | None, head: str | None, allow_pickle: bool) -> Trained:
    kind = kind_of(path)
    if step is None and _is_checkpoint(Path(path)):
        path, step = str(Path(path).parent.parent), int(Path(path).name)
    if kind == "bertjax":
        model = load_trained(path, step)
        return model if head in (None, model.head) else _take_head(model, str(head), path)
    if step is not None:
        raise InputError(f"{path}: not a workdir, so it has no steps; leave out the step")
    if kind == "google":
        return google.read(path, head)
    if read_json(Path(path, "config.json")).get("model_type") == openai_gpt.MODEL_TYPE:
        return openai_gpt.read(path, head, allow_pickle)
    return huggingface.read(path, head, allow_pickle)


def _take_head(model: Trained, head: str, path: str) -> Trained:
    """The model with another head, whose parts it must have."""
    if head not in model.kind.heads:
        raise InputError(f"{path}: a model of kind {model.config.kind}, which has no head {head}")
    if not model.kind.plain_head(model.reads):
        raise InputError(f"{path}: a model for {model.head} on {model.kind.describe_head(model.reads)}, "
                         "of which no other head can be taken")  # fmt: skip
    wanted, given = model.kind.heads[head], model.kind.parts_of(model.params)
    missing = [part for part in wanted if part not in given]
    if missing or set(wanted) & set(
        model.kind.label_parts
    ):  # one that was trained to tell other things apart is no other head
        raise InputError(f"{path}: a model for {model.head}, which has no {' and '.join(missing)} of {head}"
                         if missing else f"{path}: a model for {model.head}, not for {head}")  # fmt: skip
    left_out = tuple(part for part in given if part not in wanted)
    params = {name: x for name, x in model.params.items() if not (left_out and name.startswith(left_out))}
    return dataclasses.replace(model, head=head, labels=(), params=params, left_out=left_out)
