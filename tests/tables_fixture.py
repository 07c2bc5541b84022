"""For the tests of tables: data in every benchmark's layout, the command's flags, runs that take no time."""

import hashlib
import json
from pathlib import Path

from glue_fixture import write_glue
from runs_fixture import Ended

from bertjax.tables.rows import FEATURES, MNLI, Column, Table, TableRow

SQUAD = {
    "data": [
        {
            "title": f"t{i}",
            "paragraphs": [
                {
                    "context": f"w{20 + i} w21 w22 .",
                    "qas": [
                        {"id": f"{i}-{j}", "question": "w30 w31 ?",
                         "answers": [{"text": "w21", "answer_start": 4}]}
                        for j in range(3)
                    ],
                }
            ],
        }
        for i in range(8)
    ]
}  # fmt: skip
SENTENCES = "".join(f"w{20 + i} O\nw40 B-{kind}\nw41 I-{kind}\n\n" for i, kind in enumerate(["X", "Y"] * 30))
TWO_ROWS = Table(
    "Two rows",
    (Column("perplexity", "", "eval/perplexity"), MNLI),
    (TableRow("BERT", paper={"MNLI-m": 84.4}), TableRow("frozen", fine_tuning=FEATURES, share=0.4)),
)


def write_data(folder):
    """Writes GLUE, squad and ner into a folder and returns it."""
    write_glue(folder / "GLUE")
    for name in ("squad", "ner"):
        (folder / name).mkdir()
    for name, mark in ("train", ""), ("dev", "-DOCSTART- O\n\n"):
        (folder / "squad" / f"{name}-v1.1.json").write_text(json.dumps(SQUAD))
        (folder / "ner" / f"{name}.conll").write_text(mark + SENTENCES)
    return folder


def arguments(store, data, out, *more, table="pretraining_tasks,training_steps", scale="ci"):
    return [f"--table={table}", f"--scale={scale}", f"--store={store}", f"--out={out}",
            *(f"--{name.lower()}={data / name}" for name in ("GLUE", "squad", "ner")), *more]  # fmt: skip


def fields_of(args):
    return dict(arg.removeprefix("--config.").split("=", 1) for arg in args if arg.startswith("--config."))


class Pieces:
    """bertjax.main as a computer with no time writes it: figures follow from the config alone.

    Args:
      polls: of each process until it ends.
      fails: text that is in the arguments of those that fail.
    """

    def __init__(self, polls=0, fails=None):
        self.polls, self.fails, self.begun, self.running = polls, fails, [], set()

    def __call__(self, args, environment, output):
        fields = fields_of(args)
        workdir = Path(fields["workdir"])
        self.begun.append(fields)
        if self.fails and self.fails in " ".join(args):
            Path(output).write_text("bertjax.main: error: it is broken\n")
            return Ended(2)
        if "init_from" in fields:
            source = Path(fields["init_from"])
            assert (source if source.parent.name == "checkpoints" else source / "checkpoints").is_dir()
            assert all((Path(fields["examples.folder"]) / name).is_file()
                       for name in (fields["examples.train"], eval(fields["examples.dev"])[0]))  # fmt: skip
            figures = dict.fromkeys(
                ("eval/accuracy", "eval/f1", "eval/matthews_correlation", "eval/spearman"),
                self.figure(fields),
            )
        else:
            figures = {"eval/mlm_loss": 2.0, "eval/perplexity": 7.5}
        every = int(fields.get("train.keep_every", 0))
        steps = int(fields.get("train.steps", 1))
        for step in {steps, *(range(every, steps, every) if every else ())}:
            (workdir / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
        (workdir / "metrics.jsonl").write_text(json.dumps({"step": steps, **figures}) + "\n")
        Path(output).write_text(
            "1.2M parameters on 1 Toy device (data=1 x fsdp=1 x tensor=1), step 0 of 40\n"
        )
        return Ended(0, self.polls)

    @staticmethod
    def figure(fields):
        own = {name: value for name, value in fields.items() if name not in ("workdir", "examples.folder")}
        own["init_from"] = own["init_from"].rpartition("runs/")[2]
        own["task"] = Path(fields["workdir"]).parent.name
        return int(hashlib.sha256(json.dumps(own).encode()).hexdigest()[:6], 16) / 16**6


def content(out, name="pretraining_tasks"):
    """NAME.json but for what may differ between two runs of the same."""
    found = json.loads((out / f"{name}.json").read_text())
    return {key: value for key, value in found.items() if key not in ("seconds", "command")}
