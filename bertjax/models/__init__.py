"""The kinds of models that config.model.kind names: `kind_of`."""

from bertjax.errors import InputError, nearest, quoted
from bertjax.extensions import import_named
from bertjax.models import bert, elmo, gpt
from bertjax.models.interface import ModelKind

KINDS: dict[str, ModelKind] = {"bert": bert.KIND, "gpt": gpt.KIND, "elmo": elmo.KIND}


def kind_of(name: str) -> ModelKind:
    """The kind of this name, or one's own, as "module:NAME". Raises InputError."""
    field = "--config.model.kind"
    found = KINDS.get(name) or import_named(name, ModelKind, field)  # type: ignore[type-abstract]
    if found is None:
        raise InputError(
            f"{field}={quoted(name)}: no such kind of model; the nearest is {nearest(name, KINDS)}, and your "
            "own is module:NAME"
        )
    return found
