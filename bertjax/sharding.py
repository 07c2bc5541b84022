"""Where every array lives: the mesh of devices and one table from parameter path to mesh axes.

data: copies of the model, each with its part of the batch. fsdp: also splits the batch, and the parameters
and moments with it. tensor: splits heads, feed-forward units and the vocabulary.
"""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from bertjax.config import padded_vocab_size, sections
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
    (r"(nsp|classifier|score|span)_kernel$", ("fsdp", None)),  # D2, DC
    # ELMo and what is built of LSTMs. Every step of an LSTM reads the kernels of its loop whole.
    (r"characters/(embedding|width_\d+_kernel)$", (None, None)),
    (r"characters/highway_kernel$", ("fsdp", None, "tensor")),  # NGN
    (r"characters/projection_kernel$|(^|/)hidden_kernel$", ("fsdp", "tensor")),  # NP, DF
    (r"layer_\d+/input_kernel$", ("fsdp", None, "tensor")),  # DGH
    (r"layer_\d+/(recurrent|projection)_kernel$|(^|/)transitions$", (None, None)),
    (r"softmax_kernel$", (("tensor", "fsdp"), None)),  # VP
    (r"softmax_bias$", (("tensor", "fsdp"),)),  # V
    (r"(^|[/_])(bias|scale)$", (None,)),
    (r"(^|/)(step|bad_steps|bad_in_a_row)$", ()),
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


def _sizes(config: ConfigDict, devices: int) -> list[int]:
    """Of the axes of config.mesh, -1 for what is left."""
    sizes = [config.mesh[axis] for axis in AXES]
    rest = devices // math.prod(n for n in sizes if n != -1)
    return [rest if n == -1 else n for n in sizes]


def batch_parts(config: ConfigDict) -> int:
    """Into how many parts of equal size the rows of a training step are divided."""
    data, fsdp, _ = _sizes(config, len(all_devices()))
    return data * fsdp * config.train.accumulation


def make_mesh(config: ConfigDict, devices: list[Any] | None = None) -> Mesh:
    """The mesh that config.mesh asks for, over all devices or those given.

    Raises:
      InputError: the mesh does not fit the devices, the batches, the heads or another dimension of the model;
        or JAX finds no device.
    """
    devices = all_devices() if devices is None else devices
    sizes = _sizes(config, len(devices))
    asked = " x ".join(f"{axis}={config.mesh[axis]}" for axis in AXES)
    if int(np.prod(sizes)) != len(devices):
        raise InputError(
            f"--config.mesh: {asked} does not divide the {len(devices)} devices; "
            "the product of the axes must be the number of devices"
        )
    data, fsdp, tensor = sizes
    rules = _elmo_rules(config, fsdp, tensor) if config.model.kind == "elmo" else _rules(config, fsdp, tensor)
    for phase in sections(config):
        part = config[phase].batch_size // config.train.accumulation
        rules.append((f"{phase}.batch_size / train.accumulation", part, "data x fsdp", data * fsdp))
    rules.append(("eval.batch_size", config.eval.batch_size, "data x fsdp", data * fsdp))
    for field, value, axis, size in rules:
        if value % size:
            raise InputError(
                f"--config.mesh: {axis}={size} does not divide {field}={value}; change one of them"
            )
    return jax.make_mesh(sizes, AXES, (jax.sharding.AxisType.Auto,) * 3, devices=devices)


def _rules(config: ConfigDict, fsdp: int, tensor: int) -> list[tuple[str, int, str, int]]:
    """What of a Transformer must be divisible: (field, its value, axes, their size)."""
    m = config.model
    rules = [
        ("model.num_attention_heads", m.num_attention_heads, "tensor", tensor),
        ("model.intermediate_size", m.intermediate_size, "tensor", tensor),
        ("model.hidden_size", m.hidden_size, "fsdp", fsdp),
        ("model.hidden_size", m.hidden_size, "tensor", tensor),
        ("model.vocab_size, padded", padded_vocab_size(m.vocab_size), "fsdp x tensor", fsdp * tensor),
    ]
    if config.head.lstm_layers:
        size = config.head.lstm_size
        rules += [("head.lstm_size", size, "tensor", tensor), ("2 x head.lstm_size", 2 * size, "fsdp", fsdp)]
    return rules


def _elmo_rules(config: ConfigDict, fsdp: int, tensor: int) -> list[tuple[str, int, str, int]]:
    """Likewise of an ELMo, and of what stands on it."""
    c, rules = config.elmo, list[tuple[str, int, str, int]]()
    for axis, size in (("fsdp", fsdp), ("tensor", tensor)):
        rules += [
            ("elmo.filters, all counts", sum(count for _, count in c.filters), axis, size),
            ("elmo.projection", c.projection, axis, size),
            ("elmo.cells", c.cells, axis, size),
        ]
        if config.task != "elmo":
            rules += [(f"elmo.{name}", c[name], axis, size) for name in ("head_cells", "head_hidden")]
    rows = padded_vocab_size(c.vocab_size)
    return [*rules, ("elmo.vocab_size, padded", rows, "fsdp x tensor", fsdp * tensor)]


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
    """A NamedSharding for every array of a train state, or of any nested dict of parameters.

    What the optimizer keeps for a parameter, under a path that ends in the parameter's and of its shape, lies
    as the parameter does. Anything else of the optimizer's is on every device: counts, and statistics over a
    parameter's axes, which are small.
    """
    params = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(state.get("params", {}))}

    def one(path: tuple[Any, ...], x: Any) -> NamedSharding:
        name = path_name(path)
        if path[0].key != "optimizer":
            return NamedSharding(mesh, spec(name, x.ndim))
        parts = name.split("/")
        ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
        owner = next((end for end in ends if end in params), None)
        follows = owner is not None and params[owner].shape == x.shape
        return NamedSharding(mesh, spec(owner, x.ndim) if owner and follows else REPLICATED)

    return jax.tree_util.tree_map_with_path(one, state)


def bytes_on_a_device(tree: Any) -> int:
    """Of arrays, or of jax.ShapeDtypeStruct, with shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def split_rows(x: jax.Array) -> jax.Array:
    """x [B, ...], split over the mesh as a batch is. Does nothing where no mesh is set.

    The one sharding of an activation not left to the compiler stands at the embeddings' end. Without it,
    hidden states may follow the parameters' fsdp axis through all layers, the whole batch on every device.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


@contextlib.contextmanager
def tracing(config: ConfigDict, mesh: Mesh) -> Iterator[None]:
    """What a step is traced under: `split_rows` sees the mesh, and config.model.dtype="float32" is float32.

    By default TPUs multiply float32 in bfloat16 and H100s in TF32.
    """
    precision = "highest" if config.model.dtype == "float32" else None
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), jax.default_matmul_precision(precision):
        yield


def local_rows(mesh: Mesh, batch_size: int) -> list[tuple[int, int]]:
    """The ranges [start, stop) of a global batch that this process's devices need, in order.

    There may be several: a TPU's mesh follows the wires between its chips, not the hosts.
    """
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,)).values()
    slices = {index[0].indices(batch_size)[:2] for index in indices if index is not None}
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted(slices):
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop))
    return ranges


def make_global(
    mesh: Mesh, rows: Callable[[int, int], dict[str, np.ndarray]], position: int, batch_size: int
) -> dict[str, jax.Array]:
    """Global arrays [batch_size, ...] of the rows from `position` on.

    Args:
      rows: (first row, count) -> rows; it is asked only for those of this process's devices.
    """
    parts = [(start, rows(position + start, stop - start)) for start, stop in local_rows(mesh, batch_size)]
    sharding = NamedSharding(mesh, BATCH)

    def place(name: str) -> jax.Array:
        def on_device(index: Any) -> np.ndarray:
            first, stop, _ = index[0].indices(batch_size)
            start, part = next(each for each in reversed(parts) if each[0] <= first)
            return part[name][first - start : stop - start]

        shape = parts[0][1][name].shape[1:]
        return jax.make_array_from_callback((batch_size, *shape), sharding, on_device)

    return {name: place(name) for name in parts[0][1]}


def to_global(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays of a batch that every process has as a whole."""

    def rows(first: int, count: int) -> dict[str, np.ndarray]:
        return {name: x[first : first + count] for name, x in batch.items()}

    return make_global(mesh, rows, 0, len(next(iter(batch.values()))))
