"""The examples of tables: fewer of them, and broken files."""

import json
import shutil
from pathlib import Path

import pytest
from tables_fixture import SENTENCES, Pieces, arguments

from bertjax.errors import InputError
from bertjax.tables.__main__ import main
from bertjax.tables.data import find


def test_broken_examples_leave_the_folder_to_be_used_with_whole_ones(store, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    for table, task, name, content, message in (
        ("pretraining_tasks", "squad", "squad/dev-v1.1.json", "{}", "not in SQuAD's format"),
        ("features", "ner", "ner/train.conll", "\n\n", "no examples; take a whole copy"),
        ("systems", "rte", "GLUE/RTE/train.tsv", "", "no examples; take a whole copy"),
    ):
        (tmp_path / "data" / name).write_text(content)
        args = arguments(store, tmp_path / "data", tmp_path / "out", f"--tasks={task}", table=table)
        with pytest.raises(InputError, match=f"{name}: {message}"):
            main(args, lambda *_: pytest.fail("something ran"))
        shutil.copy(data / name, tmp_path / "data" / name)
        main(args, Pieces())


def test_fewer_examples_are_spread_over_the_file(data, tmp_path):
    folders = {"glue": str(data / "GLUE"), "squad": str(data / "squad"), "ner": str(data / "ner")}

    def taken(task, train, dev):
        examples = find(task, folders, (train, dev))
        examples.write(str(tmp_path))
        folder = Path(examples.folder_in(str(tmp_path)))
        return folder / examples.train, folder / examples.dev

    train, dev = taken("mrpc", 4, 0)
    lines = (data / "GLUE/MRPC/train.tsv").read_text().splitlines()
    assert train.read_text().splitlines() == [lines[0], *(lines[1 + i] for i in (0, 4, 8, 12))]
    assert dev.read_text() == (data / "GLUE/MRPC/dev.tsv").read_text()
    train, _ = taken("cola", 3, 3)  # without a header
    assert len(train.read_text().splitlines()) == 3
    train, dev = taken("ner", 0, 6)
    assert train.read_text() == SENTENCES
    assert dev.read_text() == "".join(f"{block}\n\n" for block in SENTENCES.split("\n\n")[0:60:10])[:-1]
    train, _ = taken("squad", 7, 0)
    paragraphs = [each["paragraphs"][0] for each in json.loads(train.read_text())["data"]]
    assert [len(each["qas"]) for each in paragraphs] == [3, 3, 1]
    assert [each["context"].split()[0] for each in paragraphs] == ["w20", "w24", "w27"]
    (tmp_path / "train-v1.1.json").write_text('{"data": [{}]}')
    (tmp_path / "dev-v1.1.json").write_text("{}")
    with pytest.raises(InputError, match=r"train-v1.1.json: not in SQuAD's format"):
        find("squad", folders | {"squad": str(tmp_path)}, (7, 0)).write(str(tmp_path))
    whole = find("mrpc", folders, (0, 0))
    assert whole.folder_in(str(tmp_path)) == str(data / "GLUE/MRPC")
    assert find("mrpc", folders | {"glue": ""}, (0, 0)) == "no --glue=DIR"
    assert find("squad", folders | {"squad": "absent"}, (0, 0)) == "no absent/train-v1.1.json"
