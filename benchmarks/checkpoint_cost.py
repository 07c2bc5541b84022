"""What a checkpoint of BERT_BASE (110M float32 parameters and two moments) costs on this machine.

python benchmarks/checkpoint_cost.py [FOLDER]    # FOLDER: on the disk to measure; needs 3 GB
"""

import shutil
import sys
import tempfile
import time

import jax
import jax.numpy as jnp

from bertjax.checkpoint import Checkpoints, load_params
from bertjax.checkpoint_manifest import verify

SAVES = 5


def base_sized_state() -> dict:
    """Random arrays (they do not compress) with the sizes of BERT_BASE's."""
    hidden = 768
    shapes = {"embeddings": (30522 + 512 + 2, hidden)}
    for layer in range(12):
        for name in ("query", "key", "value", "output"):
            shapes[f"{layer}/{name}"] = (hidden, hidden)
        shapes |= {f"{layer}/up": (hidden, 4 * hidden), f"{layer}/down": (4 * hidden, hidden)}
    params = {
        name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())
    }
    return {"params": params, "mu": jax.tree.map(jnp.sin, params), "nu": jax.tree.map(jnp.cos, params)}


def main() -> None:
    folder = tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = jax.block_until_ready(step(base_sized_state()))
    print(f"{sum(x.nbytes for x in jax.tree.leaves(state)) / 1e9:.2f} GB on {jax.devices()[0].device_kind}")
    checkpoints = Checkpoints(folder, keep_last=1, keep_every=0)
    try:
        for number in range(SAVES):
            begin = time.perf_counter()
            checkpoints.save(number, state, {})
            blocked = time.perf_counter() - begin
            state = jax.block_until_ready(step(state))  # as a run would go on
            checkpoints.wait()
            safe = time.perf_counter() - begin
            print(f"save {number}: blocks {blocked:.2f} s, safe on disk after {safe:.2f} s")
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        begin = time.perf_counter()
        verify(folder, SAVES - 1)
        verified = time.perf_counter()
        checkpoints.restore(target)
        restored = time.perf_counter()
        load_params(folder)
        print(f"verify {verified - begin:.2f} s, verify and restore {restored - verified:.2f} s, "
              f"verify and load the parameters alone {time.perf_counter() - restored:.2f} s")  # fmt: skip
    finally:
        checkpoints.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
