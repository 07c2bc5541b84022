"""Toy fine-tuning runs: their configs, and how they are refused."""

import pytest
from store_fixture import with_fields

import bertjax
from bertjax.config import default
from bertjax.config.checks import check
from bertjax.errors import InputError
from bertjax.sections import batch_field
from bertjax.tasks import task_of


def toy_settings(task, folder, model, workdir, fields, kind="", **examples):
    """The config.

    Args:
      model: what the run begins from.
      fields: others than these, by name ("train__epochs").
      kind: of the model; "": the first that the task trains.
      examples: fields of config.examples.
    """
    config = default(task, kind)
    config.workdir, config.init_from = str(workdir), str(model)
    config.model.dtype = "float32"
    config.examples.folder = str(folder)
    config.train.update(epochs=4.0, seq_length=48, log_every=10)
    config.train[batch_field(config.train)] = 8
    config.optim.update(learning_rate=3e-3, warmup_proportion=0.1)
    config.eval.batch_rows = 8
    config.mesh.data = 1
    config.mesh.fsdp = -1
    given = {f"examples__{name}": value for name, value in examples.items()} | fields
    return with_fields(config, {name.replace("__", "."): value for name, value in given.items()})


def open_data(config, source=None):
    """The data of a config's task, as a run opens it; `source` is loaded where it is not given."""
    task = task_of(config.task)
    check(config)
    if source is None and config.init_from:
        source = bertjax.load(config.init_from)
    return task.open_data(task.resolve(config, source), source)


def refusal(config):
    """The one line with which a config, or its data, is refused."""
    with pytest.raises(InputError) as error:
        open_data(config)
    assert "\n" not in str(error.value)
    return str(error.value)
