"""GLUE's folders, and the zip of predictions that its server takes."""

import math
import os
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bertjax.errors import InputError, naming, quoted
from bertjax.files import read_small, write_whole

# The benchmark's folder of each task of configs/glue.py, and its files without labels.
FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cola": ("CoLA", ("test.tsv",)),
    "sst2": ("SST-2", ("test.tsv",)),
    "mrpc": ("MRPC", ("test.tsv",)),
    "stsb": ("STS-B", ("test.tsv",)),
    "qqp": ("QQP", ("test.tsv",)),
    "mnli": ("MNLI", ("test_matched.tsv", "test_mismatched.tsv", "../diagnostic/diagnostic.tsv")),
    "qnli": ("QNLI", ("test.tsv",)),
    "rte": ("RTE", ("test.tsv",)),
    "wnli": ("WNLI", ("test.tsv",)),
}
_HEADER = "index\tprediction"
_BINARY, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
_MNLI = ("contradiction", "entailment", "neutral")
_SCORES = (0.0, 5.0)  # lowest and highest of STS-B


class Part(NamedTuple):
    """A file of the zip."""

    task: str  # of configs/glue.py
    predictions: str  # the file of it that a run writes into its workdir
    rows: int  # of the benchmark's test file
    labels: tuple[str, ...]  # that may stand there; (): a number
    constant: str  # the most frequent answer in training, or of those that are equally so; the mean of scores


PARTS = {
    "CoLA.tsv": Part("cola", "test_predictions.tsv", 1063, _BINARY, "1"),
    "SST-2.tsv": Part("sst2", "test_predictions.tsv", 1821, _BINARY, "1"),
    "MRPC.tsv": Part("mrpc", "test_predictions.tsv", 1725, _BINARY, "1"),
    "STS-B.tsv": Part("stsb", "test_predictions.tsv", 1379, (), "2.7"),
    "QQP.tsv": Part("qqp", "test_predictions.tsv", 390_965, _BINARY, "0"),
    "MNLI-m.tsv": Part("mnli", "test_matched_predictions.tsv", 9796, _MNLI, "contradiction"),
    "MNLI-mm.tsv": Part("mnli", "test_mismatched_predictions.tsv", 9847, _MNLI, "contradiction"),
    "QNLI.tsv": Part("qnli", "test_predictions.tsv", 5463, _ENTAILMENT, "entailment"),
    "RTE.tsv": Part("rte", "test_predictions.tsv", 3000, _ENTAILMENT, "entailment"),
    "WNLI.tsv": Part("wnli", "test_predictions.tsv", 146, _BINARY, "0"),
    "AX.tsv": Part("mnli", "diagnostic_predictions.tsv", 1104, _MNLI, "contradiction"),
}


def check_planned(path: str, predictions: Collection[tuple[str, str]], fill: bool) -> None:
    """Raises InputError if the zip could not be written once runs have made their predictions.

    Args:
      predictions: (task, file) as in PARTS.
      path, fill: see `write_submission`.
    """
    missing = [name for name, part in PARTS.items() if (part.task, part.predictions) not in predictions]
    _check(path, missing, fill)


def _check(path: str, missing: Sequence[str], fill: bool) -> None:
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder):
        what = f"{path} is a folder" if os.path.isdir(path) else f"{folder} is not there"
        raise InputError(f"--submission={path}: {what}; name a file in a folder that is there")
    if missing and not fill:
        raise InputError(
            f"{path}: not written: no predictions for {', '.join(missing)}; sweep over all tasks, with the "
            "benchmark's test files, or fill the missing ones with one answer by --fill_missing"
        )


def write_submission(path: str, workdirs: Mapping[str, str], fill: bool) -> list[str]:
    """Writes and checks the zip.

    Args:
      path: of the zip; replaced if it is there.
      workdirs: of the run that answers each task.
      fill: whether a file whose predictions there are not gets the same answer in each row.

    Returns:
      The files that were filled.

    Raises:
      InputError: predictions are missing and `fill` is not set, or a file is not what the server takes, or
        `path` is a folder or in none; it stays as it was.
    """
    sources = {
        name: os.path.join(workdirs.get(part.task, ""), part.predictions) for name, part in PARTS.items()
    }
    missing = [name for name, part in PARTS.items()
               if part.task not in workdirs or not os.path.isfile(sources[name])]  # fmt: skip
    _check(path, missing, fill)
    with write_whole(path) as new:
        with naming(path), zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as file:
            for name, part in PARTS.items():
                if name in missing:
                    lines = [_HEADER, *(f"{i}\t{part.constant}" for i in range(part.rows))]
                else:
                    lines = _lines(sources[name])
                    lines = lines if part.labels else [*lines[:1], *map(_within, lines[1:])]
                file.writestr(name, "\n".join(lines) + "\n")
        check_submission(new)
    return missing


def _lines(path: str) -> list[str]:
    content = read_small(path)
    try:
        return content.decode().splitlines()
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise InputError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8; no run wrote that") from error


def _within(line: str) -> str:
    """A line of STS-B with its number, if it is one, brought into the range of the scores."""
    index, _, answer = line.partition("\t")
    try:
        number = float(answer)
    except ValueError:
        return line
    return f"{index}\t{min(max(number, _SCORES[0]), _SCORES[1]):.4f}"


def check_submission(path: str) -> None:
    """Raises InputError, naming file and line, unless the zip is what GLUE's server takes.

    That is: the files by their names and no other; the header; a line for each row of the test file, in its
    order; in each line a label of the task, or a score.
    """
    try:
        with zipfile.ZipFile(path) as file:
            contents = {name: file.read(name).decode() for name in file.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a zip of text files ({error})") from error
    wrong = [f"{name} is missing" for name in PARTS if name not in contents]
    wrong += [f"{name} does not belong there" for name in contents if name not in PARTS]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)}")
    for name, part in PARTS.items():
        header, *lines = contents[name].removesuffix("\n").split("\n")
        if header != _HEADER:
            raise InputError(f"{name}:1: {quoted(header)}: the header must be {_HEADER!r}")
        if len(lines) != part.rows:
            raise InputError(f"{name}: has {len(lines)} rows; the benchmark's test file has {part.rows}")
        for i, line in enumerate(lines):
            index, _, answer = line.partition("\t")
            if index != str(i):
                raise InputError(f"{name}:{i + 2}: index {quoted(index)}: expected {i}, as in the test file")
            if not (answer in part.labels if part.labels else _is_score(answer)):
                known = ", ".join(part.labels) or "a number from {:g} to {:g}".format(*_SCORES)
                raise InputError(f"{name}:{i + 2}: {quoted(answer)}: expected {known}")


def _is_score(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and _SCORES[0] <= value <= _SCORES[1]
