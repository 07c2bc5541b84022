"""Reading of config files and of what the command line changes in them.

A config file is a Python file with `get_config()` (or `get_config(arg)`, for `--config=file.py:arg`) that
takes bertjax.config.default(), changes what its recipe needs and returns it; recipes.find() says how it is
named. Fields are overridden on the command line as `--config.train.steps=1000`.
"""

import ast
import inspect
import runpy
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from bertjax import optimizer_names
from bertjax.config import default, recipes
from bertjax.config.checks import check
from bertjax.errors import InputError, nearest
from bertjax.sections import fields
from bertjax.tasks import task_of

_COMPOSED_BY = ("task", "model.kind")  # the fields that all others follow from


@dataclass(frozen=True)
class Loaded:
    """A checked config, and where each of its values comes from."""

    config: ConfigDict
    recipe: str  # as it was named
    defaults: dict[str, Any]
    given: tuple[str, ...]  # fields of the command line

    def lines(self) -> Iterator[str]:
        """A line for each field: its value, and "default", "recipe" or "command line"."""
        values = dict(fields(self.config))
        width = max(map(len, values))
        for name, value in values.items():
            if name in self.given:
                source = "command line"
            else:
                source = "default" if value == self.defaults[name] else f"recipe {self.recipe}"
            yield f"{name:{width}} = {value!r}  # {source}"


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a recipe ("file.py", "name", "file.py:arg", "name:arg") with overrides, checked.

    An override is "train.steps=10". recipes.find() says what a name may be.

    Raises:
      InputError: no such file; an unknown field (the nearest is named); a value of another type; a value
        out of range; an override that another field makes void.
    """
    return load_with_sources(path, overrides).config


def load_with_sources(path: str, overrides: Sequence[str] = ()) -> Loaded:
    """As `load`, with where each value comes from."""
    name, _, arg = path.partition(":")
    file = recipes.find(name)
    config = _run_file(file, arg)
    for name in _COMPOSED_BY:
        if name not in dict(fields(config)):
            raise InputError(f"{file}: {name}: missing; change the fields of default(), but remove none")
    defaults = dict(fields(default(config.task, config.model.kind)))
    for name, value in fields(config):
        if name not in defaults:
            raise InputError(
                f"{file}: {name}: {_no_such_field(config)}; the nearest is {nearest(name, defaults)}"
            )
        if type(value) is not type(defaults[name]):
            kind = type(defaults[name]).__name__
            raise InputError(f"{file}: {name}={value!r}: expected {kind}, such as {defaults[name]!r}")
    missing = defaults.keys() - dict(fields(config)).keys()
    if missing:
        names = ", ".join(sorted(missing))
        raise InputError(f"{file}: {names}: missing; change the fields of default(), but remove none")
    for override in overrides:
        _apply(config, override)
    check(config)
    given = tuple(override.partition("=")[0] for override in overrides)
    void = task_of(config.task).void(config) | dict(optimizer_names.unread(config.optim))
    for name in given:
        if name in void:
            raise InputError(f"--config.{name}: {void[name]}")
    return Loaded(config, path, defaults, given)


def _no_such_field(config: ConfigDict) -> str:
    return f"no such field of the task {config.task} on {config.model.kind}"


def _run_file(file: str, arg: str) -> ConfigDict:
    try:
        module = runpy.run_path(file)
        if "get_config" not in module:
            raise InputError(f"{file}: defines no get_config(); see {recipes.find('pretrain_tiny')}")
        get_config, given = module["get_config"], [arg] if arg else []
        _check_call(file, get_config, given)
        config = get_config(*given)
    except InputError:
        raise
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}" if error.filename else file
        raise InputError(f"{where}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # the user's code; the line of it that failed is what helps
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file
        ]
        reason = str(error).strip().partition("\n")[0]
        where = f"{file}:{lines[-1]}" if lines else file
        raise InputError(f"{where}: {type(error).__name__}: {reason}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{file}: get_config() returned {type(config).__name__}, not a config")
    return config


def _check_call(file: str, get_config: Callable[..., object], given: Sequence[str]) -> None:
    takes = inspect.signature(get_config)
    try:
        takes.bind(*given)
    except TypeError as error:
        if given:
            raise InputError(f"{file}:{given[0]}: the file takes nothing behind a colon") from error
        name = next(iter(takes.parameters))
        raise InputError(
            f"{file}: give the {name} behind a colon, --config={file}:{name.upper()}; "
            "the text at the top of the file says which there are"
        ) from error


def joined(args: Sequence[str]) -> list[str]:
    """The arguments with each "--config X" and "--config.FIELD X" as one: "--config=X".

    Raises:
      InputError: the value is missing.
    """
    found, rest = [], iter(args)
    for arg in rest:
        if arg == "--config" or (arg.startswith("--config.") and "=" not in arg):
            value = next(rest, "-h")
            if value.startswith("--") or value == "-h":
                raise InputError(f"{arg}: no value; use {arg}=VALUE")
            arg = f"{arg}={value}"
        found.append(arg)
    return found


def parse_args(args: Sequence[str]) -> ConfigDict:
    """The config that `--config=RECIPE --config.FIELD=VALUE ...` asks for. Raises InputError."""
    return load(*split_args(args))


def split_args(args: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe and the overrides ("train.steps=10") of `--config=RECIPE --config.FIELD=VALUE ...`. Raises
    InputError."""
    path, overrides = "", []
    for arg in joined(args):
        name, equals, value = arg.partition("=")
        if name == "--config" and equals:
            path = value
        elif name.startswith("--config.") and equals:
            overrides.append(f"{name.removeprefix('--config.')}={value}")
        else:
            raise InputError(f"{arg}: not understood; use --config=RECIPE and --config.FIELD=VALUE")
    if not path:
        raise InputError("no config; use --config=RECIPE, such as --config=pretrain_tiny")
    return path, overrides


def _apply(config: ConfigDict, override: str) -> None:
    name, _, text = override.partition("=")
    known = dict(fields(config))
    if name not in known:
        raise InputError(f"--config.{name}: {_no_such_field(config)}; the nearest is "
                         f"--config.{nearest(name, known)}")  # fmt: skip
    old = known[name]
    if name in _COMPOSED_BY and text != old:
        default(*((text, "") if name == "task" else (config.task, text)))  # says if there is none
        raise InputError(
            f"--config.{name}={text}: the config's fields follow from it, so the file decides it ({old}); "
            "name a file that calls default() with another"
        )
    try:
        value = text if isinstance(old, str) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(old, float) and type(value) is int:
        value = float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(old):
        raise InputError(f"--config.{name}={text}: expected {type(old).__name__}, such as {old!r}")
    section, _, leaf = name.rpartition(".")
    target = config
    for part in section.split(".") if section else ():
        target = target[part]
    target[leaf] = value
