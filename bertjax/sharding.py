"""Where every array lives: the mesh of devices and one table from parameter path to mesh axes.

data: copies of the model, each with its part of the batch. fsdp: also splits the batch, and the parameters
and moments with it. tensor: splits heads, feed-forward units and the vocabulary.
"""

import os
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from bertjax.config import padded_vocab_size
from bertjax.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # every array of a batch, on its first axis
REPLICATED = PartitionSpec()

# The first match counts. A table row names the axes of the last dimensions; the leading dimension of stacked
# layers stays whole. Shape letters: see bertjax.models.bert.
TABLE: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = (
    # A lookup whose rows were split over fsdp would have to be split anew over the batch: V takes both axes.
    (r"embeddings/word$", (("tensor", "fsdp"), None)),  # VD
    (r"embeddings/(position|token_type)$", (None, None)),
    (r"attention/qkv_kernel$", ("fsdp", None, "tensor", None)),  # DKNH
    (r"attention/qkv_bias$", (None, "tensor", None)),  # KNH
    (r"attention/output_kernel$", ("tensor", None, "fsdp")),  # NHD
    (r"layers/intermediate_kernel$", ("fsdp", "tensor")),  # DF
    (r"layers/intermediate_bias$", ("tensor",)),
    (r"layers/output_kernel$", ("tensor", "fsdp")),  # FD
    (r"(pooler|mlm)_kernel$", ("fsdp", "tensor")),  # DD
    (r"mlm_output_bias$", (("tensor", "fsdp"),)),  # V
    (r"nsp_kernel$", ("fsdp", None)),
    (r"(^|[/_])(bias|scale)$", (None,)),
    (r"(^|/)(count|step|bad_steps|bad_in_a_row)$", ()),
)


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


def make_mesh(config: ConfigDict, devices: list[Any] | None = None) -> Mesh:
    """The mesh that config.mesh asks for, over all devices or those given.

    Raises:
      InputError: the mesh does not fit the devices, the batches, the heads or another dimension of the model;
        or JAX finds no device.
    """
    devices = all_devices() if devices is None else devices
    sizes = [config.mesh[axis] for axis in AXES]
    known = int(np.prod([n for n in sizes if n != -1]))
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    asked = " x ".join(f"{axis}={config.mesh[axis]}" for axis in AXES)
    if int(np.prod(sizes)) != len(devices):
        raise InputError(
            f"--config.mesh: {asked} does not divide the {len(devices)} devices; "
            "the product of the axes must be the number of devices"
        )
    data, fsdp, tensor = sizes
    m = config.model
    vocab = padded_vocab_size(m.vocab_size)
    rules = [("model.num_attention_heads", m.num_attention_heads, "tensor", tensor),
             ("model.intermediate_size", m.intermediate_size, "tensor", tensor),
             ("model.hidden_size", m.hidden_size, "fsdp", fsdp),
             ("model.hidden_size", m.hidden_size, "tensor", tensor),
             ("model.vocab_size, padded", vocab, "fsdp x tensor", fsdp * tensor)]  # fmt: skip
    for phase in ("train", *(["phase2"] if config.phase2.steps else [])):
        part = config[phase].batch_size // config.train.accumulation
        rules.append((f"{phase}.batch_size / train.accumulation", part, "data x fsdp", data * fsdp))
    rules.append(("eval.batch_size", config.eval.batch_size, "data x fsdp", data * fsdp))
    for field, value, axis, size in rules:
        if value % size:
            raise InputError(
                f"--config.mesh: {axis}={size} does not divide {field}={value}; change one of them"
            )
    return jax.make_mesh(sizes, AXES, (jax.sharding.AxisType.Auto,) * 3, devices=devices)


def path_name(path: tuple[Any, ...]) -> str:
    """ "encoder/layers/output_bias" for a path of jax.tree_util over nested dicts."""
    return "/".join(key.key for key in path)


def spec(name: str, ndim: int) -> PartitionSpec:
    """The axes of the array at this path. Raises KeyError if the table has no row for it."""
    for pattern, axes in TABLE:
        if re.search(pattern, name):
            return PartitionSpec(*(None,) * (ndim - len(axes)), *axes)
    raise KeyError(f"bertjax.sharding.TABLE has no row for {name}")


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array of a train state, or of any nested dict of parameters."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec(path_name(path), x.ndim)), state
    )


def split_rows(x: jax.Array) -> jax.Array:
    """x [B, ...], split over the mesh as a batch is. Does nothing where no mesh is set.

    The one sharding of an activation not left to the compiler stands at the embeddings' end. Without it,
    hidden states may follow the parameters' fsdp axis through all layers, the whole batch on every device.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """The rows [start, stop) of a global batch that this process's devices need."""
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,)).values()
    slices = [index[0].indices(batch_size) for index in indices if index is not None]
    return min(s[0] for s in slices), max(s[1] for s in slices)


def to_global(
    mesh: Mesh, batch: dict[str, np.ndarray], first_row: int, batch_size: int
) -> dict[str, jax.Array]:
    """Global arrays [batch_size, ...] from the rows of this process, which start at `first_row`."""
    sharding = NamedSharding(mesh, BATCH)

    def place(x: np.ndarray) -> jax.Array:
        def rows(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return x[start - first_row : stop - first_row]

        return jax.make_array_from_callback((batch_size, *x.shape[1:]), sharding, rows)

    return {name: place(x) for name, x in batch.items()}
