"""The other library's side of benchmarks.finetune_scores: what it is given, and how its answers come back."""

import json

import jax
import numpy as np
import pytest
from finetune_fixture import open_data, toy_settings
from trained_fixture import make_trained

from benchmarks.finetune_scores import Sequences, outputs_of, parse, table
from bertjax.errors import InputError
from bertjax.sections import batch_size
from bertjax.tasks import task_of


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A function that opens the data of a toy task."""
    folder = tmp_path_factory.mktemp("data")
    make_trained(str(folder / "model"))
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.integers(12, 90, rng.integers(1, 12))) for _ in range(120)]
    rows = [f"{i % 2}\t{texts[i]}\t{texts[i + 40]}\t{texts[i + 80]}" for i in range(40)]
    (folder / "t.tsv").write_text("\n".join(["label\ta\tb\tc", *rows]) + "\n")
    tagged = ["\n".join(f"{w} {('O', 'B-X')[i % 2]}" for i, w in enumerate(t.split())) for t in texts[:40]]
    (folder / "t.conll").write_text("\n\n".join(tagged) + "\n")
    asked = []
    for i, text in enumerate(texts[:40]):
        answers = [{"text": text.split()[0], "answer_start": 0}]
        asked.append({"context": text, "qas": [{"id": str(i), "question": "w10", "answers": answers}]})
    (folder / "t.json").write_text(json.dumps({"version": "1", "data": [{"title": "", "paragraphs": asked}]}))
    examples = {
        "classify": {"train": "t.tsv", "dev": ("t.tsv",), "text_a": "a"},
        "choose": {"train": "t.tsv", "dev": ("t.tsv",), "text_a": "a", "choices": ("b", "c")},
        "tag": {"train": "t.conll", "dev": ("t.conll",)},
        "answer": {"train": "t.json", "dev": ("t.json",), "max_query_length": 4, "doc_stride": 8},
    }

    def open_task(name):
        fields = {"train__seq_length": 32}
        return open_data(toy_settings(name, folder, folder / "model", "", fields, **examples[name]))

    return open_task


@pytest.mark.parametrize("name", ["classify", "choose", "tag", "answer"])
def test_answers_to_single_sequences_score_as_those_to_the_rows(opened, name):
    """bertjax's own answers, taken apart as the other library gives them, and put together again."""
    task, data = task_of(name), opened(name)
    config, evals = data.config, data.rows["train"].evals[0]
    params = task.init_params(config, jax.random.key(0))
    size, parts = config.eval.batch_rows, []
    batches = [evals.rows(i, min(size, evals.num_rows - i)) for i in range(0, evals.num_rows, size)]
    for batch in batches:
        parts.append({k: np.asarray(x) for k, x in task.batch_outputs(config, params, batch).items()})
    expected = {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    sequences = Sequences(batches)
    lengths = sequences.arrays()["lengths"]
    rows, places, starts = np.array(sequences.places).T
    if name == "classify":
        found = {"logits": expected["logits"][rows, places]}
    elif name == "choose":  # of two
        found = {"logits": expected["logits"][rows[::2], places[::2] // 2]}
    elif name == "tag":
        pieces = [expected["tags"][r, s : s + n] for r, s, n in zip(rows, starts, lengths, strict=True)]
        found = {"tags": np.concatenate(pieces), "lengths": lengths}
    else:
        found = expected
    assert evals.score(outputs_of(name, evals, sequences, found)) == evals.score(expected)
    assert evals.score(expected)


@pytest.mark.parametrize("name", ["classify", "choose", "tag", "answer"])
def test_every_example_is_given_with_its_labels(opened, name):
    data = opened(name)
    rows = data.rows["train"]
    batch = rows.train(0, rows.batch_rows)
    arrays = Sequences([batch]).arrays()
    assert arrays["lengths"].sum() == len(arrays["ids"]) == (batch["segment_ids"] > 0).sum()
    size = batch_size(data.config.train)
    counts = {"classify": size, "choose": 2 * size, "answer": size, "tag": size}
    assert len(arrays["lengths"]) == counts[name]
    if name == "tag":
        assert (arrays["labels"] >= 0).sum() == batch["label_weights"].sum()
    elif name == "answer":
        expected = np.stack([batch["start_positions"], batch["end_positions"]], 1)
        np.testing.assert_array_equal(arrays["labels"], expected)
    else:
        ends = np.cumsum(arrays["lengths"])
        assert (arrays["ids"][ends - 1] == data.tokenizer.sep_id).all()
        labels = arrays["labels"][:: counts[name] // size]
        np.testing.assert_array_equal(np.sort(labels), np.sort(batch["labels"][batch["label_weights"] > 0]))


def test_the_table_has_means_over_seeds():
    one = {
        "bertjax": {"eval/f1": 0.5},
        "torch": {"eval/f1": 0.4},
        "seconds": {"bertjax": 1, "torch": 2},
        "steps": 3,
    }
    two = one | {"bertjax": {"eval/f1": 0.7}}
    lines = table([{"config": "c.py", "dropout": 0.1, "seeds": {"0": one, "1": two}}]).splitlines()
    assert lines[2] == "| c.py | 3 | 0.1 | eval/f1 | 60.0 ± 14.1 | 40.0 ± 0.0 | +20.00 | 1, 2 |"


def test_seeds_are_whole_numbers():
    with pytest.raises(InputError, match="--seeds=a: use whole numbers"):
        parse(["--model=m", "--config=c", "--folder=f", "--seeds=a"])
