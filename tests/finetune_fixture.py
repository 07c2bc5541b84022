"""Toy fine-tuning runs: their configs, and how they are refused."""

import pytest

import bertjax
from bertjax import config as config_lib
from bertjax.errors import InputError


def toy_settings(task, folder, model, workdir, fields, **examples):
    """The config.

    Args:
      model: what the run begins from.
      fields: others than these, by name ("train__epochs").
      examples: fields of config.examples.
    """
    config = config_lib.default()
    config.task, config.workdir, config.init_from = task, str(workdir), str(model)
    config.model.dtype = "float32"
    config.examples.update(folder=str(folder), **examples)
    config.train.update(epochs=4.0, batch_size=8, seq_length=48, log_every=10, eval_every=10**6)
    config.phase2.steps = 0
    config.optim.update(learning_rate=3e-3, warmup_proportion=0.1)
    config.eval.batch_size = 8
    config.mesh.data = 1
    config.mesh.fsdp = -1
    for name, value in fields.items():
        section, _, leaf = name.rpartition("__")
        (config[section] if section else config)[leaf] = value
    return config


def refusal(task, config):
    """The one line with which a task refuses its data."""
    with pytest.raises(InputError) as error:
        task.open_data(config, bertjax.load(config.init_from) if config.init_from else None)
    assert "\n" not in str(error.value)
    return str(error.value)
