"""What a user adds in modules of their own, which a config names as "module:NAME"."""

import importlib
from typing import TypeVar

from bertjax.errors import InputError, quoted

T = TypeVar("T")


def import_named(name: str, contract: type[T], field: str) -> T | None:
    """The object that "module:NAME" names; None where the name has no colon.

    Args:
      contract: what the object must be an instance of.
      field: begins an error's line.

    Raises:
      InputError: there is no such module, nothing of that name in it, or something else.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return None
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of the import, or of the user's code
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{field}={quoted(name)}: {type(error).__name__}: {reason}; name an importable module, and a "
            f"{contract.__name__} in it"
        ) from error
    if not isinstance(found, contract):
        raise InputError(f"{field}={quoted(name)}: is a {type(found).__name__}, not a {contract.__name__}")
    return found
