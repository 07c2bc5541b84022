"""Where every array lives: one table from parameter path to mesh axes, and batches over a mesh.

data: copies of the model, each with its part of the batch. fsdp: also splits the batch, and the parameters
and moments with it. tensor: splits heads, feed-forward units and the vocabulary.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # every array of a batch, on its first axis
REPLICATED = PartitionSpec()

Table = Sequence[tuple[str, tuple[str | tuple[str, ...] | None, ...]]]

# Rows of every table, behind those of a kind of model (ModelKind.sharding). The first match counts. A row
# names the axes of the last dimensions; the leading dimension of stacked layers stays whole.
COMMON: Table = (
    (r"(^|[/_])(bias|scale)$", (None,)),
    (r"(^|/)(step|bad_steps|bad_in_a_row)$", ()),
)


def path_name(path: tuple[Any, ...]) -> str:
    """ "encoder/layers/output_bias" for a path of jax.tree_util over nested dicts."""
    return "/".join(key.key for key in path)


def spec(table: Table, name: str, ndim: int) -> PartitionSpec:
    """The axes of the array at this path. Raises KeyError if neither `table` nor COMMON has a row for it."""
    for pattern, axes in (*table, *COMMON):
        if re.search(pattern, name):
            return PartitionSpec(*(None,) * (ndim - len(axes)), *axes)
    raise KeyError(f"no row of the sharding table is for {name}")


def state_shardings(table: Table, state: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every array of a train state, or of any nested dict of parameters.

    What the optimizer keeps for a parameter, under a path that ends in the parameter's and of its shape, is
    placed as the parameter is. Anything else of the optimizer's is on every device: counts, and statistics
    over a parameter's axes, which are small.
    """
    params = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(state.get("params", {}))}

    def one(path: tuple[Any, ...], x: Any) -> NamedSharding:
        name = path_name(path)
        if path[0].key != "optimizer":
            return NamedSharding(mesh, spec(table, name, x.ndim))
        parts = name.split("/")
        ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
        owner = next((end for end in ends if end in params), None)
        follows = owner is not None and params[owner].shape == x.shape
        return NamedSharding(mesh, spec(table, owner, x.ndim) if owner and follows else REPLICATED)

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
    split: jax.Array = jax.lax.with_sharding_constraint(x, BATCH)
    return split


@contextlib.contextmanager
def tracing(mesh: Mesh, dtype: str) -> Iterator[None]:
    """What a step is traced under: `split_rows` sees the mesh, and a dtype of "float32" is float32.

    By default TPUs multiply float32 in bfloat16 and H100s in TF32.
    """
    precision = "highest" if dtype == "float32" else None
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
            rows_of_device: np.ndarray = part[name][first - start : stop - start]
            return rows_of_device

        shape = parts[0][1][name].shape[1:]
        return jax.make_array_from_callback((batch_size, *shape), sharding, on_device)

    return {name: place(name) for name in parts[0][1]}


def to_global(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays of a batch that every process has as a whole."""

    def rows(first: int, count: int) -> dict[str, np.ndarray]:
        return {name: x[first : first + count] for name, x in batch.items()}

    return make_global(mesh, rows, 0, len(next(iter(batch.values()))))
