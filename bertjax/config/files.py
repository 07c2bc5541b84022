"""Reading of config files and of what the command line changes in them.

A config file is a Python file with `get_config()` (or `get_config(arg)`, for `--config=file.py:arg`) that
takes bertjax.config.default(), changes what its recipe needs and returns it. Fields are overridden on the
command line as `--config.train.steps=1000`.
"""

import ast
import difflib
import inspect
import runpy
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from bertjax.config import default, fields, optimizers
from bertjax.config.checks import check
from bertjax.errors import InputError


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of `path` ("file.py" or "file.py:arg") with overrides ("train.steps=10"), checked.

    Raises:
      InputError: no such file; an unknown field (the nearest is named); a value of another type; a value
        out of range; an override that another field makes void.
    """
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        raise InputError(f"{file}: no such config file; the shipped ones are in configs/")
    config = _run_file(file, arg)
    defaults = dict(fields(default()))
    for name, value in fields(config):
        if name not in defaults:
            raise InputError(f"{file}: {name}: no such field; the nearest is {_nearest(name, defaults)}")
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
    _check_overrides(config, {override.partition("=")[0] for override in overrides})
    return config


def _check_overrides(config: ConfigDict, given: Iterable[str]) -> None:
    """Raises InputError if another field makes one of the `given` void."""
    epochs, share = config.train.epochs, config.optim.warmup_proportion
    void = dict(optimizers.unread(config.optim))
    if epochs:
        void["train.steps"] = "train.epochs gives them here; add --config.train.epochs=0"
    if epochs and share:
        void["optim.warmup_steps"] = (
            "optim.warmup_proportion gives them here; add --config.optim.warmup_proportion=0"
        )
    if share and not epochs:
        void["optim.warmup_proportion"] = "is of train.epochs' steps, and that is 0; set optim.warmup_steps"
    for name in given:
        if name in void:
            raise InputError(f"--config.{name}: {void[name]}")


def _run_file(file: str, arg: str) -> ConfigDict:
    try:
        module = runpy.run_path(file)
        if "get_config" not in module:
            raise InputError(f"{file}: defines no get_config(); see configs/pretrain_tiny.py")
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


def _nearest(name: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def parse_args(args: Sequence[str]) -> ConfigDict:
    """The config that `--config=FILE --config.FIELD=VALUE ...` asks for. Raises InputError."""
    path, overrides = "", []
    for arg in args:
        name, equals, value = arg.partition("=")
        if name == "--config" and equals:
            path = value
        elif name.startswith("--config.") and equals:
            overrides.append(f"{name.removeprefix('--config.')}={value}")
        else:
            raise InputError(f"{arg}: not understood; use --config=FILE and --config.FIELD=VALUE")
    if not path:
        raise InputError("no config; use --config=FILE, such as --config=configs/pretrain_tiny.py")
    return load(path, overrides)


def _apply(config: ConfigDict, override: str) -> None:
    name, _, text = override.partition("=")
    known = dict(fields(config))
    if name not in known:
        raise InputError(f"--config.{name}: no such field; the nearest is --config.{_nearest(name, known)}")
    old = known[name]
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
