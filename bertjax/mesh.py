"""The mesh of devices that a run computes on."""

import math
import os
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax.errors import InputError
from bertjax.models import kind_of
from bertjax.models.interface import Divisible
from bertjax.sections import batch_field, batch_size, phases
from bertjax.sharding import AXES


def all_devices() -> list[Any]:
    """Every device that JAX finds, on all hosts. Raises InputError if there is none of the kind asked for."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the second where JAX looks for a GPU and sees none
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        raise InputError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device{reason}; set JAX_PLATFORMS=cpu, or install the "
            "device's packages: pip install 'bertjax[cuda13]' or 'bertjax[tpu]'"
        ) from error


def _sizes(config: ConfigDict, devices: int) -> list[int]:
    """Of the axes of config.mesh, -1 for what is left."""
    sizes = [config.mesh[axis] for axis in AXES]
    rest = devices // math.prod(n for n in sizes if n != -1)
    return [rest if n == -1 else n for n in sizes]


def batch_parts(config: ConfigDict) -> int:
    """Into how many parts of equal size the rows of a training step are divided."""
    data, fsdp, _ = _sizes(config, len(all_devices()))
    return data * fsdp * int(config.train.accumulation)


def make_mesh(config: ConfigDict, devices: list[Any] | None = None) -> Mesh:
    """The mesh that config.mesh asks for, over all devices or those given.

    Args:
      config: whose config.model is whole.

    Raises:
      InputError: the mesh does not fit the devices, the batches, the heads or another dimension of the model;
        or JAX finds no device.
    """
    devices = all_devices() if devices is None else devices
    sizes = dict(zip(AXES, _sizes(config, len(devices)), strict=True))
    if math.prod(sizes.values()) != len(devices):
        asked = " x ".join(f"{axis}={config.mesh[axis]}" for axis in AXES)
        raise InputError(
            f"--config.mesh: {asked} does not divide the {len(devices)} devices; "
            "the product of the axes must be the number of devices"
        )
    kind = kind_of(config.model.kind)
    rules = kind.divisible(config.model, config.head if "head" in config else None)
    for name in phases(config):
        phase = config[name]
        field = f"{name}.{batch_field(phase)} / {name}.accumulation"
        rules.append(Divisible(field, batch_size(phase) // phase.accumulation, ("data", "fsdp")))
    rules.append(Divisible("eval.batch_rows", config.eval.batch_rows, ("data", "fsdp")))
    for field, size, axes in rules:
        product = math.prod(sizes[axis] for axis in axes)
        if size % product:
            raise InputError(
                f"--config.mesh: {' x '.join(axes)}={product} does not divide {field}={size}; change one of "
                "them"
            )
    shape = tuple(sizes.values())
    return jax.make_mesh(shape, AXES, (jax.sharding.AxisType.Auto,) * len(AXES), devices=devices)
