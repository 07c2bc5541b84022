"""Makes loss_curve.json: the losses of ten seeded steps of a toy model, for tests/test_train.py to compare.

    PYTHONPATH=.:tests python tests/golden/make_loss_curve.py

Run it after a change that is meant to change training's numbers, and say why in the commit.
"""

import json
from pathlib import Path

import jax
from store_fixture import make_batch, toy_config

from bertjax import sharding
from bertjax.mesh import make_mesh
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import make_train_step, scalars


def loss_curve():
    """Masked-LM plus next-sentence loss of ten steps over four batches, on one device, with dropout."""
    config = toy_config(seed=1, **{"train.steps": 20, "optim.learning_rate": 3e-3})
    mesh = make_mesh(config, jax.devices()[:1])
    step, init, _ = make_train_step(config, pretrain, mesh)
    state, losses = init(), []
    for i in range(10):
        batch = sharding.to_global(mesh, make_batch(config, seed=i % 4))
        state, measured = step(state, batch, scalars(config, i))
        losses.append(pretrain.metrics({name: float(x) for name, x in measured.items()})["loss"])
    return losses


if __name__ == "__main__":
    path = Path(__file__).with_name("loss_curve.json")
    path.write_text(json.dumps(loss_curve(), indent=1) + "\n")
    print(path.read_text(), end="")
