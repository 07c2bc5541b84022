"""Fine-tuning on sets of tensorflow-datasets, which its own builders make of the benchmarks' toy files."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from finetune_fixture import open_data, refusal, toy_settings
from glue_fixture import write_glue
from store_fixture import TESTS
from trained_fixture import make_trained

import bertjax
from bertjax.config import files
from bertjax.data.finetuning.conll import read_conll
from bertjax.data.finetuning.records import read_table
from bertjax.data.finetuning.squad import DEV, TRAIN, read_questions
from bertjax.errors import InputError
from bertjax.sections import batch_field
from bertjax.sweep import __main__ as sweep
from bertjax.tasks.finetuning import fingerprints

GLUE_FOLDERS = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli+ax": "MNLI",
    "qnli": "QNLI", "rte": "RTE", "wnli": "WNLI",
}  # fmt: skip
CONLL = [
    "Jim NNP B-NP B-PER\nw20 VBD B-VP O\n",
    "w30 NNP B-NP B-ORG\nw31 NNP I-NP I-ORG\nw32 NNP B-NP B-ORG\n",
    "w33 NN B-NP O\n",
    "w34 NNP B-NP B-LOC\nw40 NN B-NP O\nw21 NNP B-NP B-MISC\n",
]


def write_msr(folder):
    """MRPC as Microsoft's package has it, which tfds reads: train and dev in one file, told apart by ids."""
    mixed, ids = [], []
    for name in ("dev", "train"):
        lines = (folder / f"MRPC/{name}.tsv").read_text().splitlines()
        for i, line in enumerate(lines[1:]):
            label, _, _, *texts = line.split("\t")
            mixed.append("\t".join((label, f"{name}{i}", "x", *texts)))
            ids += [f"{name}{i}\tx"] * (name == "dev")
    mixed = [*mixed[::2], *mixed[1::2]]  # the benchmark's files keep this order
    for name in ("dev", "train"):
        (folder / f"MRPC/{name}.tsv").write_text(
            "\n".join([lines[0], *(line for line in mixed if line.split("\t")[1].startswith(name))]) + "\n"
        )
    (folder / "train.txt").write_text("\ufeff" + "\n".join([lines[0], *mixed]) + "\n", encoding="utf-8")
    (folder / "dev_ids.txt").write_text("\n".join(ids) + "\n")
    shutil.copy(folder / "MRPC/test.tsv", folder / "test.txt")


def squad(questions):
    """SQuAD's JSON of questions as dicts, each with a paragraph of its own."""
    paragraphs = [{"context": question["context"], "qas": [question]} for question in questions]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]})


def made_questions(number, answers, impossible):
    for i in range(number):
        found = [{"text": f"w{30 + i}", "answer_start": 4}] * answers
        question = {"id": f"q{i}", "context": f"w20 w{30 + i} w40", "question": f"w{40 + i}"}
        question["answers"] = found
        if impossible:
            none = i % 3 == 0
            question |= {"is_impossible": none} | ({"answers": []} if none else {})
        yield question


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with GLUE, SQUAD, CONLL, the prepared sets in "sets", and a model."""
    folder = tmp_path_factory.mktemp("made")
    write_msr(write_glue(folder / "GLUE"))
    for name in ("SQUAD", "CONLL"):
        (folder / name).mkdir()
    for version in ("v1.1", "v2.0"):
        for name, answers in (("train", 1), ("dev", 2)):
            questions = made_questions(9, answers, version == "v2.0")
            (folder / f"SQUAD/{name}-{version}.json").write_text(squad(questions))
    for name in ("train", "valid", "test"):
        text = "-DOCSTART- -X- -X- O\n\n" + "\n".join(CONLL)
        (folder / f"CONLL/{name}.txt").write_text(text)
    done = subprocess.run(
        [sys.executable, str(TESTS / "tfds_fixture.py"), str(folder), str(folder / "sets")],
        env=os.environ | {"HOME": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    make_trained(str(folder / "model"), **{"model.num_hidden_layers": 1})
    return folder


@pytest.fixture(autouse=True)
def _sets(made, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(made / "sets"))


def opened(made, config, folder, **fields):
    name, is_set = str(folder).removeprefix("tfds:"), str(folder).startswith("tfds:")
    where = f"examples.{'tfds' if is_set else 'folder'}={name}"
    config = files.load(str(TESTS.parent / "configs" / config), [where])
    config.init_from = str(made / "model")
    config.train.seq_length = 32
    config.train[batch_field(config.train)] = 8
    config.mesh.update(data=1, fsdp=8)
    if config.task == "answer":
        config.examples.max_query_length = 8
    config.examples.update(**fields)
    return config.examples, open_data(config, bertjax.load(made / "model"))


def assert_equal_data(one, other, tmp_path, classes=2):
    """The same batches, figures and files of predictions."""
    one, two = one.rows["train"], other.rows["train"]
    assert (one.batch_rows, one.flops) == (two.batch_rows, two.flops)
    assert [e.name for e in one.evals] == [e.name for e in two.evals]
    pairs = [(one.train, two.train, n * one.batch_rows, one.batch_rows) for n in range(5)]
    pairs += [(a.rows, b.rows, 0, a.num_rows) for a, b in zip(one.evals, two.evals, strict=True)]
    for a, b, first, number in pairs:
        left, right = a(first, number), b(first, number)
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    for a, b in zip(one.evals, two.evals, strict=True):
        assert (a.score is None, a.num_rows) == (b.score is None, b.num_rows)
        batch = a.rows(0, a.num_rows)
        shape, rng = batch["input_ids"].shape, np.random.default_rng(0)
        outputs = {name: rng.normal(size=(shape[0], 32)) for name in ("start", "end")}
        outputs["tags"] = rng.integers(0, 2, shape)
        if "class_positions" in batch:
            outputs["logits"] = rng.normal(size=(*batch["class_positions"].shape, classes))
        for name, side in (("a", a), ("b", b)):
            (tmp_path / name).mkdir(exist_ok=True)
            side.write(outputs, str(tmp_path / name))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    return files


@pytest.mark.parametrize("task", GLUE_FOLDERS)
def test_glue_is_as_its_own_files(made, task, tmp_path):
    test = ("test_matched.tsv", "../diagnostic/diagnostic.tsv") if "mnli" in task else ("test.tsv",)
    name = task.partition("+")[0]
    _, files = opened(made, f"glue.py:{task}", made / "GLUE" / GLUE_FOLDERS[task], test=test)
    examples, sets = opened(made, f"glue.py:{task}", f"tfds:glue/{name}", test=test)
    written = assert_equal_data(files, sets, tmp_path, len(files.labels))
    assert len(written) >= len(examples.dev) + len(test)
    assert sets.fingerprints.keys() == files.fingerprints.keys()
    assert sets.fingerprints == fingerprints(examples) != files.fingerprints
    folder = made / "sets/glue" / name / "2.0.0"  # the prepared folder names the set too
    assert read_table(f"tfds:{folder}/train.tsv")[3].fields == read_table(f"tfds:glue/{name}/train")[3].fields


@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
def test_squad_is_as_its_own_files(made, version, tmp_path):
    for name, use in (("train", TRAIN), ("dev", DEV)):
        of_file, of_set = (
            read_questions(f"{folder}/{name}-{version}.json", use, version == "v2.0")
            for folder in (made / "SQUAD", f"tfds:squad/{version}")
        )
        assert len(of_file) == 9
        order = [question.id for question in of_set]
        assert [dataclasses.replace(question, where="") for question in of_set] == sorted(
            (dataclasses.replace(question, where="") for question in of_file),
            key=lambda question: order.index(question.id),
        )
        # A file in the set's order gives its arrays.
        questions = list(made_questions(9, 1 + (use == DEV), version == "v2.0"))
        questions.sort(key=lambda question: order.index(question["id"]))
        (tmp_path / f"{name}-{version}.json").write_text(squad(questions))
    _, files = opened(made, f"squad.py:{version}", tmp_path)
    _, sets = opened(made, f"squad.py:{version}", f"tfds:squad/{version}")
    assert f"dev-{version}_predictions.json" in assert_equal_data(files, sets, tmp_path)


def test_conll_is_as_its_own_files(made, tmp_path):
    for name in ("train", "dev", "test"):
        sentences = read_conll(f"tfds:conll2003/{name}.txt", tagged=True)
        lines = ["\n".join(map(" ".join, zip(s.words, s.tags, strict=True))) for s in sentences]
        assert sorted(lines) == sorted(
            "\n".join(f"{line.split()[0]} {line.split()[-1]}" for line in text.splitlines()) for text in CONLL
        )
        (tmp_path / f"{name}.txt").write_text("\n\n".join(lines) + "\n")
        assert sentences == read_conll(str(tmp_path / f"{name}.txt"), tagged=True)
    _, files = opened(made, "ner.py", tmp_path)
    _, sets = opened(made, "ner.py", "tfds:conll2003")
    assert "test_predictions.conll" in assert_equal_data(files, sets, tmp_path)
    with pytest.raises(InputError, match="do not mark documents; take the benchmark's own files"):
        opened(made, "ner.py", "tfds:conll2003", document_context=True)


def test_a_set_of_ones_own(made):
    splits = {"train": "train", "dev": ("train",), "test": ("unsupervised",)}
    _, data = opened(made, "classify.py", "tfds:moods", text_a="body", text_b="", label="mood", **splits)
    assert data.labels == ("glad", "sad")
    records = read_table("tfds:moods/train")
    assert records[1].fields == {"body": "w21", "mood": "glad", "stars": "1"}
    assert records[1].where == "tfds:moods/train[1]"


@pytest.mark.parametrize(
    ("config", "folder", "fields", "message"),
    [
        ("glue.py:mrpc", "tfds:glue/mrpc", {"dev": ("test.tsv",)},
         "test.tsv[4], which has no label (-1): no column 'Quality'"),
        ("glue.py:stsb", "tfds:glue/stsb", {"dev": ("test.tsv",)}, "has no label (-1): no column 'score'"),
        ("glue.py:mrpc", "tfds:glue/mrpc", {"dev": ("heldout",)},
         "glue/mrpc: no split 'heldout'; choose from train, validation, test"),
        ("glue.py:mrpc", "tfds:glue/mrpc", {"text_a": "sentence"}, "no column 'sentence'"),
        ("glue.py:mrpc", "tfds:glue/nonesuch", {}, "glue/nonesuch: cannot be opened by tfds"),
        ("ner.py", "tfds:glue/mrpc", {"train": "train.tsv"}, "no features 'tokens' and 'ner', words"),
        ("squad.py:v1.1", "tfds:conll2003", {"train": "train"}, "[0]: 'id' is missing"),
        ("squad.py:v1.1", "tfds:squad/v2.0", {"train": "train"}, "has no answer; for such questions"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(made, config, folder, fields, message):
    with pytest.raises(InputError) as error:
        opened(made, config, folder, **fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_set_is_named_in_its_own_field(made):
    config = toy_settings("classify", "tfds:glue/mrpc", made / "model", "", {})
    assert refusal(config) == ("--config.examples.folder=tfds:glue/mrpc: name a set in examples.tfds instead")
    config = toy_settings("classify", made, made / "model", "", {}, tfds="glue/mrpc")
    assert f"is read instead of files; leave out examples.folder={made}" in refusal(config)


def test_a_sweep_takes_all_of_glue(made, tmp_path):
    """Its tasks' sets, and of their test splits those that are prepared."""
    assert sweep._glue_fields("tfds:glue", "qnli") == [
        "examples.tfds=glue/qnli",
        "examples.test=('test.tsv',)",
    ]
    tests = "('test_matched.tsv', 'test_mismatched.tsv', '../diagnostic/diagnostic.tsv')"
    assert sweep._glue_fields("tfds:glue", "mnli")[1] == f"examples.test={tests}"
    assert sweep._glue_fields(f"tfds:{tmp_path}", "rte")[1] == "examples.test=()"
