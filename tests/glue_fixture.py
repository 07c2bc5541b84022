"""A folder like GLUE's with a few made rows in each file, in the benchmark's own layouts."""

from pathlib import Path

ROWS = {"train": 16, "dev": 6, "test": 5}
_LABELS = {
    "CoLA": ("0", "1"), "SST-2": ("0", "1"), "MRPC": ("0", "1"), "STS-B": ("0.5", "2.25", "4.8"),
    "QQP": ("0", "1"), "MNLI": ("contradiction", "entailment", "neutral"),
    "QNLI": ("entailment", "not_entailment"), "RTE": ("entailment", "not_entailment"), "WNLI": ("0", "1"),
}  # fmt: skip
# Columns of the files with labels, which are in the last, and of those without; CoLA's first have no header.
_PAIR = ("index sentence1 sentence2 label", "index sentence1 sentence2")
_MNLI = "index promptID pairID genre parse1 parse2 parse3 parse4 sentence1 sentence2"
_COLUMNS = {
    "CoLA": ("source label mark sentence", "index sentence"),
    "SST-2": ("sentence label", "index sentence"),
    "MRPC": ("Quality,#1 ID,#2 ID,#1 String,#2 String", "index,#1 ID,#2 ID,#1 String,#2 String"),
    "STS-B": (
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        "index genre filename year old_index source1 source2 sentence1 sentence2",
    ),
    "QQP": ("id qid1 qid2 question1 question2 is_duplicate", "id question1 question2"),
    "MNLI": (f"{_MNLI} label1 gold_label", _MNLI),
    "QNLI": ("index question sentence label", "index question sentence"),
    "RTE": _PAIR,
    "WNLI": _PAIR,
}
_LABEL_COLUMNS = ("label", "Quality", "score", "is_duplicate", "gold_label", "label1")


def write_glue(folder):
    """Writes the folder and returns it."""
    for task, (labelled, unlabelled) in _COLUMNS.items():
        _write(Path(folder, task, "train.tsv"), labelled, "train", _LABELS[task], header=task != "CoLA")
        for dev in ("dev_matched", "dev_mismatched") if task == "MNLI" else ("dev",):
            _write(Path(folder, task, f"{dev}.tsv"), labelled, "dev", _LABELS[task], header=task != "CoLA")
        for test in ("test_matched", "test_mismatched") if task == "MNLI" else ("test",):
            _write(Path(folder, task, f"{test}.tsv"), unlabelled, "test", ())
    _write(Path(folder, "diagnostic", "diagnostic.tsv"), "index sentence1 sentence2", "test", ())
    return Path(folder)


def _write(path, columns, kind, labels, header=True):
    names = columns.split("," if "," in columns else " ")
    lines = ["\t".join(names)] if header else []
    for i in range(ROWS[kind]):
        cells = dict.fromkeys(names, f"w{20 + i} w{40 + 2 * i}") | {"index": str(i), "id": str(i)}
        cells |= {name: labels[i % len(labels)] for name in _LABEL_COLUMNS if name in names}
        lines.append("\t".join(cells[name] for name in names))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
