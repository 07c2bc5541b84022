"""A config holds what its run reads: the fields of all other tasks and kinds of models are errors."""

import pytest
from store_fixture import TESTS
from test_recipes import ARGUMENTS, CONFIGS

from bertjax.config import default, files
from bertjax.errors import InputError
from bertjax.main import main
from bertjax.models import KINDS
from bertjax.sections import fields
from bertjax.tasks import TASKS

TINY = str(TESTS.parent / "configs" / "pretrain_tiny.py")
EVERY = {
    name: value
    for task in TASKS.values()
    for kind in KINDS.values()
    if task.head in kind.heads
    for name, value in fields(default(task.name, kind.name))
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_field_that_the_task_does_not_read_is_an_error(path):
    recipe = f"{path}{ARGUMENTS.get(path.stem, '')}"
    config = files.load(recipe)
    unread = sorted(EVERY.keys() - dict(fields(config)).keys())
    assert len(unread) > 20
    for name in unread:
        with pytest.raises(InputError) as error:
            files.load(recipe, [f"{name}={EVERY[name]}"])
        message = str(error.value)
        assert message.startswith(f"--config.{name}: no such field of the task {config.task} on ")
        assert "; the nearest is --config." in message
        assert "\n" not in message


@pytest.mark.parametrize("name", ["finetuning", "example_rows", "interface", "packed"])
def test_a_module_beside_the_tasks_is_none(name):
    """The task is looked up in a table, and no module is imported by its name."""
    with pytest.raises(InputError, match=rf"^--config\.task='?{name}'?: no such task; the nearest is "):
        files.load(TINY, [f"task={name}"])


def test_a_configs_fields_are_shown_with_where_their_values_come_from(capsys):
    main([f"--config={TINY}", "--config.train.steps", "7", "--print_config"])
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: line.partition("= ")[2] for line in lines}
    assert shown.keys() == dict(fields(files.load(TINY))).keys()
    assert shown["train.steps"] == "7  # command line"
    assert shown["model.hidden_size"] == f"128  # recipe {TINY}"
    assert shown["optim.name"] == "'bert_adamw'  # default"
