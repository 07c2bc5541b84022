"""The command: exit codes, one-line errors, and a step of every shipped config at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from elmo_fixture import make_elmo, make_word_store
from gpt_fixture import make_gpt, make_gpt_store
from store_fixture import TESTS, VOCAB, arguments, start, write_config
from trained_fixture import make_trained

from bertjax.config import fields
from bertjax.config_files import parse_args
from bertjax.errors import InputError, run_command
from bertjax.logs import read_metrics
from bertjax.main import main, start_processes

CONFIGS = sorted((TESTS.parent / "configs").glob("*.py"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "bertjax.main: error: no config; use --config=FILE, such as --config=configs/pretrain_tiny.py"),
        (["--config=configs/pretrain_tiny.py", "--config.train.step=1"],
         "bertjax.main: error: --config.train.step: no such field; the nearest is --config.train.steps"),
        (["--config=configs/pretrain_tiny.py", "--config.data.store=/nowhere", "--config.workdir=w"],
         "bertjax.main: error: /nowhere: no token store (no store.json); make one with bertjax.prepare"),
    ],
    ids=["no config", "no field", "no store"],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, args, message):
    output = tmp_path / "output"
    assert start(args, output).wait(120) == 2
    assert output.read_text() == message + "\n"


def exits(monkeypatch, capsys, *args):
    """(exit code, stderr) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["bertjax", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workdir=", "--config.workdir is empty; name a folder"),
        ("data.store=", "--config.data.store is empty"),
        ("model.vocab_size=50", "set --config.model.vocab_size=96"),
        ("mesh.data=3", "does not divide the 8 devices"),
        ("train.batch_size=12", "--config.mesh: data x fsdp=8 does not divide train.batch_size"),
        ("init_from=/nowhere", "/nowhere: no such folder"),
        ("task=nothing", "task=nothing"),
    ],
)
def test_what_cannot_run_is_one_line(tmp_path, monkeypatch, capsys, store, override, message):
    args = arguments(write_config(tmp_path), **{"data.store": store, "workdir": tmp_path / "run"})
    code, error = exits(monkeypatch, capsys, *args, f"--config.{override}")
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert ": error: " in error


def test_a_mistake_leaves_no_checkpoint_behind(tmp_path, monkeypatch, capsys, store):
    args = arguments(write_config(tmp_path), **{"data.store": store, "workdir": tmp_path / "run"})
    assert exits(monkeypatch, capsys, *args, "--config.model.vocab_size=50")[0] == 2
    assert not (tmp_path / "run").exists()  # so the right command does not meet a wrong config.json


def test_help_is_short_and_no_error(monkeypatch, capsys):
    main(["--help"])
    output = capsys.readouterr().out
    assert "--config=configs/pretrain_tiny.py" in output
    assert "bertjax/config.py" in output
    assert len(output.splitlines()) < 20


FAILING = """
import sys
from bertjax.errors import run_command

def command(args):
    print("x" * int(args[0]))
    if len(args) > 1:
        open(args[1])

run_command(command)
"""


def failing(args, stdout):
    command = [sys.executable, "-c", FAILING, *args]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("size", [10, 1_000_000])  # what is written at the end, and before
def test_a_reader_that_has_ended_is_no_error(size):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = failing([str(size)], writer)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_file_that_fails_is_one_line(tmp_path):
    for args, output, message in (
        (["1", "/nowhere/x"], "/dev/null", "/nowhere/x: No such file or directory; mend the path"),
        (["1"], "/dev/full", "standard output: No space left on device; make room, then the same command"),
    ):
        with open(output, "w") as file:
            failed = failing(args, file)
        assert failed.returncode == 2
        assert message in failed.stderr
        assert failed.stderr.count("\n") == 1


def test_the_function_does_not_start_its_callers_program_again(tmp_path, monkeypatch, store):
    """In a notebook or a test, execv() would end the session; only `python -m bertjax.main` may do that."""
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr("os.execv", lambda *args: pytest.fail("the program was started again"))
    with pytest.raises(InputError, match=r"data\.store is empty"):
        main(arguments(write_config(tmp_path), workdir=tmp_path / "run"))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BERTJAX_COORDINATOR": "localhost:1", "BERTJAX_PROCESS_COUNT": "two"},
         "set the numbers BERTJAX_PROCESS_COUNT and BERTJAX_PROCESS_ID"),
        ({"SLURM_NTASKS": "two"}, "SLURM_NTASKS=two: not a number"),
    ],
)  # fmt: skip
def test_unclear_processes_are_one_line(monkeypatch, capsys, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["bertjax"])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda args: start_processes())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# What makes a config of each task a toy, besides EVERY; a new task needs a line.
TOY = {
    "pretrain": {
        "model.vocab_size": VOCAB,
        "model.max_position_embeddings": 32,
        "train.max_predictions_per_seq": 3,
        "phase2.max_predictions_per_seq": 5,
    },
    "classify": {"train.epochs": 1.0, "eval.batch_size": 8},
    "tag": {"train.epochs": 1.0, "eval.batch_size": 8},
    "answer": {"train.epochs": 1.0, "eval.batch_size": 8, "examples.max_query_length": 4},
    "choose": {"train.epochs": 1.0, "eval.batch_size": 8},
    "language_model": {"train.epochs": 0.0, "model.vocab_size": VOCAB},
}
TINY_ELMO = {
    "elmo.vocab_size": 40, "elmo.characters": 9, "elmo.filters": ((1, 8), (3, 8)), "elmo.cells": 16,
    "elmo.projection": 8, "elmo.samples": 8, "elmo.head_cells": 8, "elmo.head_hidden": 8,
}  # fmt: skip
TOY |= {
    "elmo": TINY_ELMO,
    "elmo_tag": TINY_ELMO | TOY["tag"],
    "elmo_classify": TINY_ELMO | TOY["classify"],
}
ARGUMENTS = {
    "feature_based": ":ner",
    "glue": ":mrpc",
    "elmo_glue": ":mrpc",
    "gpt_glue": ":mrpc",
    "squad": ":v2.0",
    "gpt_bridge": ":gpt",
}  # of configs whose get_config takes one
EVERY = {
    "model.num_hidden_layers": 1,
    "model.hidden_size": 32,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 64,
    "train.steps": 1,
    "train.batch_size": 8,
    "train.seq_length": 16,
    "train.eval_every": 1,
    "eval.batch_size": 8,
    "log.tensorboard": False,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_step_of_every_shipped_config(tmp_path, store, path):
    path = Path(f"{path}{ARGUMENTS.get(path.stem, '')}")
    config = parse_args([f"--config={path}"])
    assert config.task in TOY, f"{path.name}: say in TOY what makes the task {config.task} a toy"
    toy = EVERY | TOY[config.task]
    two = path.stem == "pretrain_base"  # one config's phase 2 may stand for the others'
    toy |= {"phase2.steps": int(two), "phase2.batch_size": 8, "phase2.seq_length": 32}
    if config.head.lstm_layers:
        toy |= {"head.layers": "sum_all", "head.lstm_size": 8}
    toy["train.accumulation"] = 1  # 8 rows are too few to be divided over 8 devices and parts
    for axis in ("data", "fsdp", "tensor"):
        toy[f"mesh.{axis}"] = -1 if axis == "data" else 1
    if config.task == "pretrain":
        toy["data.store"] = store
    elif config.task == "elmo":
        toy["data.store"] = make_word_store(tmp_path)
    elif config.task == "language_model":
        toy |= {"data.store": make_gpt_store(tmp_path / "store"), "data.weights": (1.0,)}
    else:
        toy |= {"init_from": tmp_path / "model", "examples.folder": tmp_path}
        if config.model.kind == "elmo":
            make_elmo(tmp_path)
        else:
            (make_gpt if config.model.kind == "gpt" else make_trained)(str(tmp_path / "model"))
        write_examples(tmp_path, config)
    main(arguments(path, **toy, workdir=tmp_path / "run"))
    steps = 1 + two
    rows = read_metrics(str(tmp_path / "run" / "metrics.jsonl"))
    trained = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in trained] == list(range(1, steps + 1))
    held_out = [row for row in rows if any(name.startswith("eval/") for name in row)]
    assert [row["step"] for row in held_out] == [row["step"] for row in trained]
    assert (tmp_path / "run" / "checkpoints" / str(steps)).is_dir()
    vocabulary = {"elmo": "words.json", "gpt": "vocab.json", "bert": "vocab.txt"}[config.model.kind]
    assert (tmp_path / "run" / vocabulary).is_file()


def write_examples(folder, config):
    """Eight examples for the config's task under each of its files' names."""
    c = config.examples
    for name in (c.train, *c.dev, *c.test):
        if config.task == "answer":
            answers = [{"text": "w9", "answer_start": 3}]
            asked = [{"id": str(i), "question": "w10", "answers": answers} for i in range(8)]
            if c.unanswerable:
                asked[7]["answers"] = []
                asked = [{**question, "is_impossible": not question["answers"]} for question in asked]
            paragraph = {"context": "w8 w9", "qas": asked}
            lines = [json.dumps({"data": [{"title": "", "paragraphs": [paragraph]}]})]
            if name.endswith(".jsonl"):
                lines = [json.dumps({**question, "context": "w8 w9"}) for question in asked]
        elif config.task in ("tag", "elmo_tag"):
            lines = [f"w{8 + i} {('O', 'B-X')[i % 2]}\n" for i in range(8)]
        else:
            columns = [column for column in (c.text_a, c.text_b, *c.choices, c.label) if column]
            labels = c.labels or (("0", "1") if c.choices else ("no", "yes"))
            rows = [[*("w8 w9" for _ in columns[:-1]), labels[i % 2]] for i in range(8)]
            comma = "," if name.endswith(".csv") else "\t"
            lines = [comma.join(row) for row in [columns, *rows]]
        (folder / name).write_text("\n".join(lines) + "\n")


def test_configs_open_with_their_command():
    assert CONFIGS
    for path in CONFIGS:
        text = path.read_text()
        assert f"python -m bertjax.main --config=configs/{path.name}" in text, path
        assert "Hardware:" in text, path


def test_no_config_holds_a_machines_path():
    for path in CONFIGS:
        for name, value in fields(parse_args([f"--config={path}{ARGUMENTS.get(path.stem, '')}"])):
            assert not (isinstance(value, str) and Path(value).is_absolute()), (path, name)
