"""Every shipped config: a step at toy size, and what its file says."""

import json
from pathlib import Path

import pytest
from elmo_fixture import make_elmo, make_word_store
from gpt_fixture import make_gpt, make_gpt_store
from store_fixture import TESTS, VOCAB, arguments
from trained_fixture import make_trained

from bertjax.config import fields
from bertjax.config.files import parse_args
from bertjax.logs import read_metrics
from bertjax.main import main

pytestmark = pytest.mark.usefixtures("one_device")

CONFIGS = sorted((TESTS.parent / "configs").glob("*.py"))
# What makes a config of each task a toy, besides EVERY; a new task needs a line.
TOY = {
    "pretrain": {
        "model.vocab_size": VOCAB,
        "model.max_position_embeddings": 32,
        "train.max_predictions_per_seq": 3,
        "phase2.max_predictions_per_seq": 5,
    },
    "classify": {},
    "tag": {},
    "answer": {"examples.max_query_length": 4},
    "choose": {},
    "language_model": {"model.vocab_size": VOCAB},
}
TINY_ELMO = {
    "elmo.vocab_size": 40, "elmo.characters": 9, "elmo.filters": ((1, 8), (3, 8)), "elmo.cells": 16,
    "elmo.projection": 8, "elmo.samples": 8, "elmo.head_cells": 8, "elmo.head_hidden": 8,
}  # fmt: skip
TOY |= {
    "elmo": TINY_ELMO,
    "elmo_tag": TINY_ELMO,
    "elmo_classify": TINY_ELMO,
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
    "train.epochs": 0.0,
    "train.steps": 1,
    "train.batch_rows": 8,
    "train.seq_length": 16,
    "train.eval_every": 1,
    "eval.batch_rows": 8,
    "log.tensorboard": False,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_one_step_of_every_shipped_config(tmp_path, store, path):
    path = Path(f"{path}{ARGUMENTS.get(path.stem, '')}")
    config = parse_args([f"--config={path}"])
    assert config.task in TOY, f"{path.name}: say in TOY what makes the task {config.task} a toy"
    toy = EVERY | TOY[config.task]
    two = path.stem == "pretrain_base"  # one config's phase 2 may stand for the others'
    toy |= {"phase2.steps": int(two), "phase2.batch_rows": 8, "phase2.seq_length": 32}
    if config.head.lstm_layers:
        toy |= {"head.layers": "sum_all", "head.lstm_size": 8}
    toy["train.accumulation"] = 1
    toy |= {"mesh.data": -1, "mesh.fsdp": 1, "mesh.tensor": 1}
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
