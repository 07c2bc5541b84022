"""For the tests of checkpoints: a train state in small, steps on disk, and damage."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.checkpoint import Checkpoints


def sharding(devices: int, *axes: str | None) -> NamedSharding:
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(2, -1), ("data", "fsdp"))
    return NamedSharding(mesh, PartitionSpec(*axes))


def make_state(scale: float = 1.0, devices: int = 8):
    """A train state in small: kernel [16, 8] is sharded, the rest is on every device."""
    kernel = scale * jnp.arange(128, dtype=jnp.float32).reshape(16, 8)
    params = {"dense": {"kernel": kernel, "bias": jnp.full(8, float(scale))}}
    state = {
        "params": params,
        "mu": jax.tree.map(lambda x: x / 2, params),
        "step": jnp.int32(scale),
        "key": jnp.array([1, 2], jnp.uint32),
    }
    return jax.tree.map(lambda x: jax.device_put(x, spec_of(x, devices)), state)


def spec_of(x, devices: int) -> NamedSharding:
    return sharding(devices, "data", "fsdp") if x.ndim == 2 else sharding(devices)


def target_of(state, devices: int = 8):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spec_of(x, devices)), state)


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@contextlib.contextmanager
def opened(folder, keep_last=3, keep_every=0):
    checkpoints = Checkpoints(str(folder), keep_last=keep_last, keep_every=keep_every)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def save_steps(folder, *steps: int, **rules):
    with opened(folder, **rules) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"loss": step / 2})


def files_of(folder: Path, step: int) -> list[Path]:
    return sorted(path for path in (folder / str(step)).rglob("*") if path.is_file())


def flip_bit(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
