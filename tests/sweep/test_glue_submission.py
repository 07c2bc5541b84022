"""The zip for GLUE's server: what is refused, and what is filled."""

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from bertjax.data.finetuning.records import read_table
from bertjax.errors import InputError
from bertjax.sweep import glue_submission
from bertjax.sweep.glue_submission import FOLDERS, PARTS, check_submission, write_submission

DATA = Path(__file__).parents[3] / "shared" / "data" / "glue"


@pytest.fixture
def short(monkeypatch):
    """Test files of three rows."""
    monkeypatch.setattr(
        glue_submission, "PARTS", {name: part._replace(rows=3) for name, part in PARTS.items()}
    )


def answers(part):
    return part.labels or ("0.0000", "2.5000", "5.0000")


@pytest.fixture
def workdirs(tmp_path):
    """Runs of every task, with three predictions in each file."""
    for part in PARTS.values():
        folder = tmp_path / part.task
        folder.mkdir(exist_ok=True)
        lines = [f"{i}\t{answers(part)[i % len(answers(part))]}" for i in range(3)]
        (folder / part.predictions).write_text("\n".join(["index\tprediction", *lines]) + "\n")
    return {task: str(tmp_path / task) for task in FOLDERS}


def test_all_files_under_their_official_names(tmp_path, short, workdirs):
    path = tmp_path / "glue.zip"
    assert write_submission(str(path), workdirs, fill=False) == []
    with zipfile.ZipFile(path) as file:
        assert set(file.namelist()) == {
            "CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "QNLI.tsv",
            "QQP.tsv", "RTE.tsv", "WNLI.tsv", "AX.tsv",
        }  # fmt: skip
        assert file.read("AX.tsv") == b"index\tprediction\n0\tcontradiction\n1\tentailment\n2\tneutral\n"
        assert file.read("CoLA.tsv") == b"index\tprediction\n0\t0\n1\t1\n2\t0\n"
    check_submission(str(path))


def test_scores_are_brought_into_their_range(tmp_path, short, workdirs):
    Path(workdirs["stsb"], "test_predictions.tsv").write_text("index\tprediction\n0\t-0.1\n1\t5.2\n2\t3\n")
    write_submission(str(tmp_path / "glue.zip"), workdirs, fill=False)
    with zipfile.ZipFile(tmp_path / "glue.zip") as file:
        assert file.read("STS-B.tsv") == b"index\tprediction\n0\t0.0000\n1\t5.0000\n2\t3.0000\n"


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("stsb", b"index\tprediction\n0\t1\n1\tx\n2\t1\n", "STS-B.tsv:3: 'x': expected a number from 0 to 5"),
        ("stsb", b"index\tprediction\n0\t1\nx\n2\t1\n", "STS-B.tsv:3: index 'x': expected 1"),
        ("stsb", b"", "STS-B.tsv:1: '': the header must be"),
        ("rte", b"index\tprediction\n0\tentailment\n1\t\xff\n", "predictions.tsv:3: byte 0xff is not UTF-8"),
    ],
)  # fmt: skip
def test_broken_predictions_leave_nothing_behind(tmp_path, short, workdirs, task, content, message):
    Path(workdirs[task], "test_predictions.tsv").write_bytes(content)
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        write_submission(str(tmp_path / "glue.zip"), workdirs, fill=False)
    assert set(tmp_path.iterdir()) == before


def test_a_folder_in_the_place_of_the_zip_is_refused(tmp_path, short, workdirs):
    (tmp_path / "glue.zip").mkdir()
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"glue.zip is a folder; name a file"):
        write_submission(str(tmp_path / "glue.zip"), workdirs, fill=False)
    assert set(tmp_path.iterdir()) == before


def test_what_is_missing_is_named_or_filled(tmp_path, short, workdirs):
    path = str(tmp_path / "glue.zip")
    del workdirs["wnli"]
    Path(workdirs["mnli"], "diagnostic_predictions.tsv").unlink()
    with pytest.raises(InputError, match=r"not written: no predictions for WNLI.tsv, AX.tsv; .*fill_missing"):
        write_submission(path, workdirs, fill=False)
    assert not Path(path).exists()
    assert write_submission(path, workdirs, fill=True) == ["WNLI.tsv", "AX.tsv"]
    with zipfile.ZipFile(path) as file:
        assert file.read("WNLI.tsv") == b"index\tprediction\n0\t0\n1\t0\n2\t0\n"


def test_a_zip_filled_through_and_through_is_valid(tmp_path):
    """With the benchmark's own numbers of rows."""
    assert write_submission(str(tmp_path / "glue.zip"), {}, fill=True) == list(PARTS)
    check_submission(str(tmp_path / "glue.zip"))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("RTE.tsv", None, "RTE.tsv is missing"),
        ("readme.txt", "x", "readme.txt does not belong there"),
        ("RTE.tsv", "id\tlabel\n", "RTE.tsv:1: 'id.tlabel': the header must be"),
        ("RTE.tsv", "index\tprediction\n0\tentailment\n", "RTE.tsv: has 1 rows; .* has 3"),
        ("CoLA.tsv", "index\tprediction\n0\t0\n1\t0\n3\t0\n", "CoLA.tsv:4: index '3': expected 2"),
        ("CoLA.tsv", "index\tprediction\n0\t0\n1\tyes\n2\t0\n", "CoLA.tsv:3: 'yes': expected 0, 1"),
        ("CoLA.tsv", "index\tprediction\n0\n1\t0\n2\t0\n", "CoLA.tsv:2: '': expected 0, 1"),
        ("STS-B.tsv", "index\tprediction\n0\tnan\n1\t0\n2\t0\n", "STS-B.tsv:2: 'nan': .*from 0 to 5"),
        ("STS-B.tsv", "index\tprediction\n0\t1\n1\t5.1\n2\t0\n", "STS-B.tsv:3: '5.1': .*from 0 to 5"),
    ],
)
def test_what_the_server_would_not_take(tmp_path, short, workdirs, file, text, message):
    write_submission(str(tmp_path / "good.zip"), workdirs, fill=False)
    with zipfile.ZipFile(tmp_path / "good.zip") as good, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        contents = {name: good.read(name).decode() for name in good.namelist()} | {file: text}
        for name, content in contents.items():
            if content is not None:
                bad.writestr(name, content)
    with pytest.raises(InputError, match=message):
        check_submission(str(tmp_path / "bad.zip"))


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "x.zip").write_text("text")
    for name in ("x.zip", "absent.zip"):
        with pytest.raises(InputError, match=f"{name}: not a zip"):
            check_submission(str(tmp_path / name))


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark's files are not there")
@pytest.mark.parametrize("name", ["CoLA", "SST-2", "MRPC", "STS-B", "QNLI", "RTE", "WNLI"])
def test_rows_and_labels_of_the_benchmarks_files(name):
    part = PARTS[f"{name}.tsv"]
    assert len(read_table(str(DATA / name / "test.tsv"))) == part.rows
    if name in ("QNLI", "MRPC"):  # not all of train.tsv is there, or in another layout
        return
    columns = ("source", "label", "mark", "sentence") if name == "CoLA" else ()
    records = read_table(str(DATA / name / "train.tsv"), columns)
    if name == "STS-B":
        mean = sum(float(record["score"]) for record in records) / len(records)
        assert round(mean, 1) == float(part.constant)
    else:
        counts = Counter(record["label"] for record in records)
        assert set(counts) == set(part.labels)
        assert counts.most_common(1)[0][0] == part.constant
