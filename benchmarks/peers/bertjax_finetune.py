"""bertjax: fine-tuning steps as bertjax.train takes them, batches made on the way."""

import jax
from protocol import serve

from benchmarks import finetune_step
from bertjax import sharding
from bertjax.convert.load import load
from bertjax.cpu_memory import keep_memory
from bertjax.data.loader import prefetch
from bertjax.init_from import initial_params
from bertjax.mesh import make_mesh
from bertjax.models.layers import padded_vocab_size
from bertjax.tasks.classify import TASK as classify
from bertjax.train import make_train_step, scalars


def setup(settings, batches):
    config = finetune_step.config_of(settings)
    source = load(config.init_from)
    data = classify.open_data(classify.resolve(config, source), source)
    config, rows = data.config, data.rows["train"]
    mesh = make_mesh(config)
    step, init, shardings = make_train_step(config, classify, mesh)

    def batch_of(number):
        return sharding.make_global(mesh, rows.train, number * rows.batch_rows, rows.batch_rows)

    def begin():
        state = init()
        state["params"], _ = initial_params(
            config, classify, source, data, state["params"], shardings["params"]
        )
        return state

    given = scalars(config, 0)
    state, count = begin(), len(batches["labels"])
    shapes = {}  # compiled beforehand
    for number in range(count):
        batch = batch_of(number)
        if batch["input_ids"].shape not in shapes:
            shapes[batch["input_ids"].shape] = step.lower(state, batch, given).compile()
    state = [state, 0]

    def run(steps):
        for batch in prefetch(batch_of, state[1], state[1] + steps):
            state[0], measured = shapes[batch["input_ids"].shape](state[0], batch, given)
        state[1] += steps
        return float(classify.metrics(jax.device_get(measured))["loss"])

    padding = padded_vocab_size(config.model.vocab_size) - config.model.vocab_size
    stored = sum(x.size for x in jax.tree.leaves(state[0]["params"]))
    return run, stored - padding * config.model.hidden_size, {"jax": jax.__version__}


if __name__ == "__main__":
    keep_memory()  # as bertjax.main does
    serve(setup)
