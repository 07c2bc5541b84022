"""The optimizers that config.optim.name may name: bertjax's own by short names, optax's by dotted ones, and
those of a module of one's own as "module:NAME"."""

import difflib
import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from types import FunctionType, NoneType
from typing import Any

from ml_collections import ConfigDict

from bertjax.errors import InputError
from bertjax.extensions import import_named

OWN = ("bert_adamw", "adamw", "lamb")

# Types of values that a config may hold as arguments.
_LITERALS = (bool, int, float, str, tuple, list, NoneType)
# Those that a train step cannot use, and why.
REFUSED = {
    "optax.lbfgs": "evaluates the loss again within an update",
    "optax.contrib.sophia": "evaluates the loss again within an update",
    "optax.contrib.galore": "projects arrays of two axes, and those of stacked layers have more",
    "optax.noisy_sgd": "keeps a random key in its state, which no checkpoint holds",
}
# Arguments that bertjax gives: optim.learning_rate with its schedule, and which axes of a parameter count
# matrices (bertjax.optim.matrices).
_GIVEN = ("learning_rate", "adam_learning_rate", "muon_weight_dimension_numbers", "weight_dimension_numbers")
# Fields of config.optim that only bertjax's own optimizers read, and how optax calls them.
_OWN_FIELDS = {"beta1": "b1", "beta2": "b2", "eps": "eps", "weight_decay": "weight_decay"}


@functools.cache
def constructors() -> dict[str, Callable[..., Any]]:
    """{"optax.adam": optax.adam, ...}: all that become an optimizer by a learning rate alone."""
    import optax  # here, because most configs need not wait for it
    import optax.contrib

    found: dict[str, Callable[..., Any]] = {}
    for module in (optax, optax.contrib):
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith(("_", "scale_by_")) and _needs_a_rate(value):
                found[f"{module.__name__}.{name}"] = value
    return found


def _needs_a_rate(function: FunctionType) -> bool:
    """Whether it can be called with a learning rate and nothing else."""
    parameters = inspect.signature(function).parameters
    needed = {each.name for each in parameters.values() if each.default is each.empty}
    return "learning_rate" in parameters and needed <= {"learning_rate"}


def constructor(name: str) -> Callable[..., Any]:
    """What makes the optimizer `name`, which is none of OWN. Raises InputError if there is none."""
    field = f"--config.optim.name={name}"
    if name in REFUSED:
        raise InputError(f"{field}: it {REFUSED[name]}; name another optimizer")
    if name in constructors():
        return constructors()[name]
    function = import_named(name, FunctionType, "--config.optim.name")
    if function is None:
        raise InputError(
            f"{field}: no such optimizer; the nearest is {_nearest(name)}; there are {', '.join(OWN)}, by "
            "their full names those of optax and optax.contrib, and your own as module:NAME"
        )
    if not _needs_a_rate(function):
        raise InputError(f"{field}: it must take learning_rate, and have a default for every other argument")
    return function


def arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments that config.optim.args may hold for an optimizer that is none of OWN."""
    parameters = inspect.signature(constructor(name)).parameters.values()
    return {
        each.name: each for each in parameters
        if each.name not in _GIVEN and (type(each.default) in _LITERALS or isinstance(each.default, type))
    }  # fmt: skip


def check(optim: ConfigDict) -> None:
    """Raises InputError if config.optim names no optimizer, or arguments that it does not accept."""
    name, args = optim.name, optim.args
    if name in OWN:
        if args:
            fields = ", ".join(f"optim.{field}" for field in _OWN_FIELDS)
            raise InputError(f"--config.optim.args={args}: is for optimizers of optax; {name} reads {fields}")
        return
    accepted = arguments(name)
    for key, value in args.items():
        if key in _GIVEN:
            given = "optim.learning_rate and its schedule give it" if "rate" in key else "bertjax gives it"
            raise _refusal(optim, f"{key}: {given}")
        if key not in accepted:
            raise _refusal(optim, f"{name} has no argument {key!r}")
        fault = _fault(accepted[key], value)
        if fault:
            raise _refusal(optim, f"{key}={value!r}: expected {fault}")
    if "layer_decay" in optim and optim.layer_decay != 1 and "schedule_free" in name:
        raise InputError(
            f"--config.optim.layer_decay={optim.layer_decay}: {name} averages parameters that moved at one "
            "rate; set it to 1.0"
        )


def _refusal(optim: ConfigDict, fault: str) -> InputError:
    """What is wrong with config.optim.args, in one line that lists what the optimizer accepts."""
    accepted = ", ".join(arguments(optim.name)) or "no arguments"
    return InputError(f"--config.optim.args={optim.args}: {fault}; {optim.name} accepts {accepted}")


def refused(optim: ConfigDict, error: Exception) -> InputError:
    """The error that an optimizer of optax itself raised, as one line."""
    return _refusal(optim, (str(error).strip() or type(error).__name__).splitlines()[0])


def unread(optim: ConfigDict) -> Mapping[str, str]:
    """{"optim.beta1": what to do instead} for the fields that the optimizer does not read."""
    if optim.name in OWN:
        return {}
    accepted, notes = arguments(optim.name), {}
    for field, key in _OWN_FIELDS.items():
        note = f'set --config.optim.args="{{{key!r}: {optim[field]!r}}}" instead'
        if key not in accepted:
            note = f"its arguments are {', '.join(accepted) or 'none'}"
        notes[f"optim.{field}"] = f"{optim.name} does not read it; {note}"
    return notes


def _fault(parameter: inspect.Parameter, value: Any) -> str:
    """What the value of an argument must be, "" if it may be this one. An array's shape is left to optax."""
    default, choices = parameter.default, typing.get_args(parameter.annotation)
    if typing.get_origin(parameter.annotation) is typing.Literal:
        return "" if value in choices else f"one of {', '.join(map(repr, choices))}"
    if value is None and (default is None or NoneType in choices):
        return ""
    if default is None:
        return "" if isinstance(value, _LITERALS) else "a number, a text, a tuple or None"
    if isinstance(default, bool):
        ok = isinstance(value, bool)
    elif isinstance(default, int | float):
        ok = type(value) in (int, float) and math.isfinite(value)
    elif isinstance(default, type):  # of an array's numbers
        return "" if isinstance(value, str) else "a type's name, such as 'bfloat16'"
    elif isinstance(default, tuple | list):
        ok = isinstance(value, tuple | list | str)  # muon's coefficients have names too
    else:
        ok = isinstance(value, type(default))
    return "" if ok else f"{type(default).__name__}, such as {default!r}"


def _nearest(name: str) -> str:
    """The optimizer whose last name is most like the last one of `name`."""
    last: dict[str, str] = {each.rpartition(".")[2]: each for each in reversed(constructors())}
    if not name.startswith("optax"):
        last |= {each: each for each in OWN}
    near: str = difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.0)[0]
    return last[near]
