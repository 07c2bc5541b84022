"""bertjax: the step of bertjax.train, as the training loop compiles it."""

import jax
from protocol import serve

from benchmarks import workload
from bertjax import sharding
from bertjax.cpu_memory import keep_memory
from bertjax.mesh import make_mesh
from bertjax.models.layers import padded_vocab_size
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.train import make_train_step, scalars


def setup(settings, batch):
    config = workload.bertjax_config(settings)
    mesh = make_mesh(config)
    step, init, _ = make_train_step(config, pretrain, mesh)
    state = [init()]
    data = sharding.to_global(mesh, batch)
    given = scalars(config, 0)
    padding = padded_vocab_size(settings.vocab_size) - settings.vocab_size  # rows of the table, not of BERT
    stored = sum(x.size for x in jax.tree.leaves(state[0]["params"]))

    def run(steps):
        for _ in range(steps):
            state[0], measured = step(state[0], data, given)
        return float(pretrain.metrics(jax.device_get(measured))["loss"])

    return run, stored - padding * (settings.hidden + 1), {"jax": jax.__version__}


if __name__ == "__main__":
    keep_memory()  # as bertjax.main does
    serve(setup)
