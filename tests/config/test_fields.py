"""A config holds what its task and its kind of model read, and nothing else."""

import re
from pathlib import Path

import pytest
from store_fixture import TESTS

from bertjax.config import default
from bertjax.config.files import _apply, load, load_with_sources
from bertjax.errors import InputError
from bertjax.main import main
from bertjax.models import KINDS
from bertjax.sections import fields
from bertjax.tasks import TASKS

# Of configs whose get_config takes an argument.
ARGUMENTS = {"feature_based": ":ner", "glue": ":mrpc", "elmo_glue": ":mrpc", "gpt_glue": ":mrpc",
             "squad": ":v2.0", "gpt_bridge": ":gpt"}  # fmt: skip
RECIPES = [
    f"{path}{ARGUMENTS.get(path.stem, '')}" for path in sorted((TESTS.parent / "configs").glob("*.py"))
]
COMPOSED = {
    (task, kind): dict(fields(default(task, kind)))
    for task in TASKS for kind in KINDS if TASKS[task].head in KINDS[kind].heads
}  # fmt: skip
ALL = set().union(*COMPOSED.values())


def refused(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_task_is_trained_by_some_kind_and_every_kind_by_some_task():
    assert {task for task, _ in COMPOSED} == set(TASKS)
    assert {kind for _, kind in COMPOSED} == set(KINDS)
    assert len(ALL) > 1.3 * max(map(len, COMPOSED.values()))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: Path(recipe).name)
def test_a_field_of_another_task_or_kind_is_none_here(recipe):
    config = load(recipe)
    known = dict(fields(config))
    assert known.keys() == COMPOSED[config.task, config.model.kind].keys()
    message = (
        rf"--config\.(.+): no such field of the task {config.task} on {config.model.kind}; the nearest is "
        r"--config\.(.+)"
    )
    for name in sorted(ALL - known.keys()):
        found = re.fullmatch(message, refused(_apply, config, f"{name}=1"))
        assert found, name
        assert found[1] == name
        assert found[2] in known
    assert dict(fields(config)) == known


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: Path(recipe).name)
def test_every_field_of_a_recipe_can_be_set(recipe):
    """To the value that it has: none is there that the command line cannot reach."""
    config = load(recipe)
    before = dict(fields(config))
    for name, value in before.items():
        _apply(config, f"{name}={value}")
    assert dict(fields(config)) == before


@pytest.mark.parametrize(
    ("recipe", "override", "nearest"),
    [
        ("classify.py", "train.batch_size=8", "train.batch_examples"),
        ("classify.py", "train.lm_weight=1", "train."),
        ("classify.py", "optim.learning_rates=1", "optim.learning_rate"),
        ("classify.py", "optim=1", "optim."),
        ("classify.py", "=5", ""),
        ("multi_label.py", "examples.labels_column=x", "examples.label_columns"),
        ("pretrain_elmo.py", "elmo.cells=1", "model.cells"),
        ("pretrain_elmo.py", "elmo.samples=1", "train.samples"),
        ("pretrain_tiny.py", "model.remat=full", ""),
    ],
)
def test_the_nearest_field_is_named(recipe, override, nearest):
    name, found = override.partition("=")[0], refused(load, f"configs/{recipe}", [override])
    assert re.match(rf"--config\.{name}: no such field of the task \w+ on \w+; ", found)
    assert f"the nearest is --config.{nearest}" in found


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("classify.py", "task=finetuning", "task='finetuning': no such task; the nearest is \\w+ of pre"),
        ("classify.py", "task=../x", "--config.task='../x': no such task; "),
        ("classify.py", "task=", "--config.task='': no such task; "),
        ("classify.py", "task=no_module:TASK", "Error: No module named 'no_module'; name an importable mod"),
        ("classify.py", "task=math:TASK", "AttributeError: module 'math' has no attribute 'TASK'; na"),
        ("classify.py", "task=math:pi", "task='math:pi': is a float, not a Task"),
        ("classify.py", "task=bertjax.models.bert:KIND", "is a BertKind, not a Task"),
        ("classify.py", "task=:TASK", "task=':TASK': .*; name an importable module, and a Task in it"),
        ("classify.py", "task=..x:TASK", "task='..x:TASK': .*; name an importable module, and a Task in it"),
        ("classify.py", "task=tag", "task=tag: .*so the file decides it \\(classify\\); name a file that"),
        ("classify.py", "model.kind=gpt", "kind=gpt: .*so the file decides it \\(bert\\); name a file that"),
        ("classify.py", "model.kind=bret", "kind='bret': no such kind of model; the nearest is bert, and yo"),
        ("classify.py", "model.kind=math:pi", "kind='math:pi': is a float, not a ModelKind"),
        ("ner.py", "model.kind=gpt", "the task tag trains a model for token_classification: bert or elmo$"),
        ("squad.py:v2.0", "model.kind=elmo", "the task answer trains a model for question_answering: bert$"),
        ("pretrain_tiny.py", "task=language_model", "=language_model: .*so the file decides it \\(pretra"),
        ("pretrain_tiny.py", "model.kind=gpt", "the task pretrain trains a model for pretraining: bert$"),
    ],
)  # fmt: skip
def test_a_task_and_a_kind_are_the_files_own(recipe, override, message):
    assert re.search(message, refused(load, f"configs/{recipe}", [override]))


def test_a_task_of_ones_own_is_taken_by_a_file(tmp_path, monkeypatch):
    (tmp_path / "own_task.py").write_text("from bertjax.tasks.classify import TASK\n")
    recipe = tmp_path / "own.py"
    recipe.write_text("from bertjax.config import default\n\n\ndef get_config():\n"
                      "    return default('own_task:TASK', 'bertjax.models.gpt:KIND')\n")  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load(str(recipe), ["task=own_task:TASK", "train.epochs=2"])
    assert (config.task, config.model.kind) == ("own_task:TASK", "bertjax.models.gpt:KIND")
    assert dict(fields(config)).keys() == COMPOSED["classify", "gpt"].keys()
    found = refused(load, str(recipe), ["phase2.steps=1"])
    assert "no such field of the task own_task:TASK on bertjax.models.gpt:KIND" in found


def test_the_lines_say_where_each_value_comes_from():
    loaded = load_with_sources("configs/classify.py", ["train.epochs=5", "seed=0", "init_from=a model"])
    lines = dict(re.fullmatch(r"(\S+) += (.*)", line).groups() for line in loaded.lines())
    assert lines.keys() == dict(fields(loaded.config)).keys()
    assert lines["train.epochs"] == "5.0  # command line"
    assert lines["seed"] == "0  # command line"  # though it is the default's value
    assert lines["init_from"] == "'a model'  # command line"
    assert lines["optim.learning_rate"] == "3e-05  # recipe configs/classify.py"
    assert lines["examples.text_a"] == "'text'  # recipe configs/classify.py"
    assert lines["train.batch_examples"] == "32  # default"
    assert len({line.index("=") for line in loaded.lines()}) == 1


def test_the_command_shows_them_and_trains_nothing(capsys):
    main(["--config", "configs/classify.py", "--config.seed", "7", "--print_config"])
    loaded = load_with_sources("configs/classify.py", ["seed=7"])
    assert capsys.readouterr().out.splitlines() == list(loaded.lines())
