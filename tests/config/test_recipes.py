"""Every shipped config: a step at toy size, and what its file says."""

import json
from pathlib import Path

import pytest
from elmo_fixture import make_elmo, make_word_store
from gpt_fixture import make_gpt, make_gpt_store
from store_fixture import TESTS, VOCAB, arguments, make_store
from trained_fixture import make_trained

from bertjax.config.files import parse_args
from bertjax.logs import read_metrics
from bertjax.main import main
from bertjax.sections import fields
from bertjax.tasks import task_of

pytestmark = pytest.mark.usefixtures("one_device")

CONFIGS = sorted((TESTS.parent / "configs").glob("*.py"))
ARGUMENTS = {
    "feature_based": ":ner",
    "glue": ":mrpc",
    "elmo_glue": ":mrpc",
    "gpt_glue": ":mrpc",
    "squad": ":v2.0",
    "gpt_bridge": ":gpt",
}  # of configs whose get_config takes one
# What makes a config a toy: of these, the fields that it has.
TOY = {
    "model.num_hidden_layers": 1, "model.hidden_size": 32,
    "model.num_attention_heads": 2, "model.intermediate_size": 64, "model.max_position_embeddings": 32,
    "model.characters": 9, "model.filters": ((1, 8), (3, 8)), "model.cells": 16, "model.projection": 8,
    "head.lstm_size": 8, "head.hidden_size": 8, "examples.max_query_length": 4, "data.weights": (1.0,),
    "train.epochs": 0.0, "train.steps": 1, "train.batch_rows": 8, "train.batch_examples": 8,
    "train.batch_windows": 8, "train.accumulation": 1, "train.seq_length": 16, "train.eval_every": 1,
    "train.max_predictions_per_seq": 3, "train.samples": 8,
    "phase2.steps": 0, "phase2.batch_rows": 8, "phase2.accumulation": 1, "phase2.seq_length": 32,
    "phase2.max_predictions_per_seq": 5, "eval.batch_rows": 8, "log.tensorboard": False,
    "mesh.data": -1, "mesh.fsdp": 1, "mesh.tensor": 1,
}  # fmt: skip
# By kind of model: what makes a store that it can read, in a folder; tokens that it predicts; what makes the
# workdir of a model; the name of the vocabulary's file in a run's.
KINDS = {
    "bert": (make_store, VOCAB, make_trained, "vocab.txt"),
    "gpt": (make_gpt_store, VOCAB, make_gpt, "vocab.json"),
    "elmo": (make_word_store, 40, lambda folder: make_elmo(folder.parent), "words.json"),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_step_of_every_shipped_config(tmp_path, path):
    path = Path(f"{path}{ARGUMENTS.get(path.stem, '')}")
    config = parse_args([f"--config={path}"])
    known = dict(fields(config))
    toy = {name: value for name, value in TOY.items() if name in known}
    two = path.stem == "pretrain_base"  # one config's phase 2 may stand for the others'
    if two:
        toy["phase2.steps"] = 1
    if path.stem.startswith("feature_based"):
        toy["head.layers"] = "sum_all"
    store_of, tokens, model_of, vocabulary = KINDS[config.model.kind]
    if task_of(config.task).fine_tunes:
        model_of(tmp_path / "model")
        toy |= {"init_from": tmp_path / "model", "examples.folder": tmp_path}
        write_examples(tmp_path, config)
    else:
        (tmp_path / "text").mkdir()
        toy |= {"data.store": store_of(tmp_path / "text"), "model.vocab_size": tokens}
    main(arguments(path, **toy, workdir=tmp_path / "run"))
    steps = 1 + two
    rows = read_metrics(str(tmp_path / "run" / "metrics.jsonl"))
    trained = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in trained] == list(range(1, steps + 1))
    held_out = [row for row in rows if any(name.startswith("eval/") for name in row)]
    assert [row["step"] for row in held_out] == [row["step"] for row in trained]
    assert (tmp_path / "run" / "checkpoints" / str(steps)).is_dir()
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
        elif config.task == "tag":
            lines = [f"w{8 + i} {('O', 'B-X')[i % 2]}\n" for i in range(8)]
        else:
            choices = c.choices if config.task == "choose" else ()
            columns = [column for column in (c.text_a, c.text_b, *choices, c.label) if column]
            labels = c.labels or (("0", "1") if choices else ("no", "yes"))
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
