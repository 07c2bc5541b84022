"""Tables: planned, stopped and killed at every kind of piece, continued, written."""

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from elmo_fixture import make_word_store
from glue_fixture import write_glue
from gpt_fixture import make_gpt_store
from runs_fixture import Ended, in_this_process
from store_fixture import TESTS, start

from bertjax.config.recipes import shipped
from bertjax.errors import InputError, Interrupted, run_command
from bertjax.sweep.runs import start_process
from bertjax.tables import rows as table_rows
from bertjax.tables.__main__ import main
from bertjax.tables.data import find
from bertjax.tables.rows import COURSES, FEATURES, MNLI, SCALES, SYSTEMS, TABLES, Column, Row, Table

pytestmark = pytest.mark.usefixtures("one_device")

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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with GLUE, squad and ner."""
    folder = tmp_path_factory.mktemp("data")
    write_glue(folder / "GLUE")
    for name in ("squad", "ner"):
        (folder / name).mkdir()
    for name, mark in ("train", ""), ("dev", "-DOCSTART- O\n\n"):
        (folder / "squad" / f"{name}-v1.1.json").write_text(json.dumps(SQUAD))
        (folder / "ner" / f"{name}.conll").write_text(mark + SENTENCES)
    return folder


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    monkeypatch.chdir(TESTS.parent)


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


@pytest.fixture(scope="module")
def whole(store, data, tmp_path_factory):
    """An undisturbed run of two tables with made-up figures: (folder, the pieces)."""
    out, pieces = tmp_path_factory.mktemp("whole"), Pieces()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TESTS.parent)
        main(arguments(store, data, out, "--seeds=2"), pieces)
    return out, pieces


def test_each_run_is_run_once_for_all_tables_and_after_what_it_needs(whole):
    out, pieces = whole
    workdirs = [fields["workdir"] for fields in pieces.begun]
    assert len(workdirs) == len(set(workdirs))
    pretraining = [fields for fields in pieces.begun if "init_from" not in fields]
    # BERT, No NSP, LTR: "+ BiLSTM" and the table of steps begin from those.
    assert len(pretraining) == 3
    # 5 rows of 5 tasks, and 2 x 4 checkpoints on the way on MNLI, with two seeds.
    assert len(workdirs) == 3 + 2 * (5 * 5 + 2 * 4)
    kept = {fields.get("data.next_sentence", ""): fields["train.keep_every"]
            for fields in pretraining if fields.get("model.causal") != "True"}  # fmt: skip
    assert kept == {"": "8", "False": "0"}
    # The checkpoints of fine-tunings go, those of pre-training stay.
    assert {path.parent.name.partition("-")[0] for path in out.glob("runs/**/checkpoints")} == {"bert"}


def test_a_table_has_means_deviations_and_the_papers_figures(whole, store):
    out, pieces = whole
    found = content(out)
    names = ["BERT", "No NSP", "LTR & No NSP", "+ BiLSTM", "not pre-trained"]
    assert [row["name"] for row in found["rows"]] == names
    cell = found["rows"][3]["cells"]["SQuAD F1"]
    values = [100 * Pieces.figure(fields) for fields in pieces.begun
              if fields["workdir"] in {str(out / run) for run in cell["runs"]}]  # fmt: skip
    assert cell["values"] == pytest.approx(values)
    assert cell["mean"] == pytest.approx(sum(values) / 2)
    assert cell["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert (cell["paper"], cell["wanted"]) == (84.9, 2)
    assert found["hardware"] == "1 Toy"
    text = (out / "pretraining_tasks.md").read_text()
    assert f"| {cell['mean']:.1f} ± {cell['std']:.1f} | 84.9 |" in text
    assert "bert: 4 layers, hidden 64, 4 heads; 40 steps of 16 x 32 tokens" in text
    about = json.loads(Path(store, "store.json").read_text())
    size = f"{about['summary']['tokens']:,} tokens, {about['tokenizer']['vocab_size']} in the vocabulary"
    assert f"; a text of {size}\n" in text
    assert "- mrpc: 16 training and 6 dev examples; 10 steps of 8, rate 0.001, dropout 0.1\n" in text
    assert "python -m bertjax.tables --table=pretraining_tasks,training_steps --scale=ci" in text
    for name in ("pretraining_tasks", "training_steps"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    steps = content(out, "training_steps")["rows"]
    # The last checkpoint of the course is the row of the other table.
    assert steps[4]["cells"]["MNLI-m"] == found["rows"][0]["cells"]["MNLI-m"]
    assert {run.rpartition("/")[0] for row in steps[:4] for run in row["cells"]["MNLI-m"]["runs"]}.isdisjoint(
        run.rpartition("/")[0] for run in found["rows"][0]["cells"]["MNLI-m"]["runs"]
    )


def test_a_finished_table_is_written_again_without_a_run(whole, store, data, capsys):
    out, _ = whole
    before = content(out)
    main(arguments(store, data, out, "--seeds=2"), lambda *_: pytest.fail("a finished run was run again"))
    assert "69 runs, 69 of them finished" in capsys.readouterr().out
    assert content(out) == before


def test_more_tables_and_seeds_add_runs(whole, store, data, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    pieces = Pieces()
    main(arguments(store, data, whole[0], "--seeds=2", table="masking"), pieces)
    # Five other splits with MNLI and NER in two ways; of 80/10/10 MNLI is there.
    assert len(pieces.begun) == 5 + 2 * (5 * 3 + 2)
    features = [fields for fields in pieces.begun if "train.freeze_encoder" in fields]
    assert len(features) == 12
    assert {(f["head.layers"], f["head.lstm_size"]) for f in features} == {("concat_last_four", "64")}
    training = "10 steps of 8, rate 0.001, dropout 0.1"
    features_line = f"a 2 x 64 BiLSTM on a frozen encoder, {training}"
    line = f"- ner: 60 training and 40 dev examples; {training}; {features_line}\n"
    assert line in (whole[0] / "masking.md").read_text()


def test_the_three_systems_are_told_beside_each_other(store, data, tmp_path):
    make_gpt_store(tmp_path / "gpt")
    more = (f"--gpt_store={tmp_path / 'gpt'}", f"--elmo_store={make_word_store(tmp_path)}", "--tasks=rte,ner")
    main(arguments(store, data, tmp_path / "out", *more, table="systems"), Pieces())
    text = (tmp_path / "out" / "systems.md").read_text()
    line = "examples; 10 steps of 8, rate 0.001, dropout 0.1; a 2 x 16 BiLSTM on a frozen encoder, "
    assert line + "10 steps of 8, rate 0.001, dropout 0.2\n" in text
    assert "- elmo: 1 layers, 32 cells, projection 16; 40 steps" in text
    gpt = next(row for row in text.split("\n") if row.startswith("| OpenAI GPT"))
    assert gpt.endswith("| 56.0 | - | - |")  # it has no tagger


class Killed(BaseException):
    """As SIGKILL, this passes every handler of errors."""


FEWER = ("--tasks=mnli", "--seeds=1")  # 3 pre-trainings and 13 fine-tunings


@pytest.fixture(scope="module")
def fewer(store, data, tmp_path_factory):
    """An undisturbed run with FEWER."""
    out = tmp_path_factory.mktemp("fewer")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TESTS.parent)
        main(arguments(store, data, out, *FEWER), Pieces())
    return out


def same(out, other):
    """Whether two folders have the same tables, and plots."""
    names = ("pretraining_tasks", "training_steps")
    plots = [(folder / f"{name}.png").read_bytes()[:4] for folder in (out, other) for name in names]
    return [content(out, n) for n in names] == [content(other, n) for n in names] and set(plots) == {
        b"\x89PNG"
    }


@pytest.mark.parametrize("at", [1, 3, 15])
@pytest.mark.parametrize("place", ["before", "after"])
def test_killed_in_a_run_it_continues_to_the_same_table(fewer, store, data, tmp_path, at, place):
    """Before a run has written anything, or when it has ended and its result is not noted yet."""
    args, pieces = arguments(store, data, tmp_path, *FEWER), Pieces()

    def killed(*given):
        if len(pieces.begun) == at and place == "before":
            raise Killed
        process = pieces(*given)
        if len(pieces.begun) == at + 1:
            raise Killed
        return process

    with pytest.raises(Killed):
        main(args, killed)
    main(args, pieces)
    assert same(tmp_path, fewer)
    assert len(pieces.begun) == 16 + (place == "after")


@pytest.mark.parametrize(
    ("name", "count"),
    [("settings.json", 0), ("result.json", 0), ("result.json", 5), ("seconds.txt", 5), ("tasks.json", 5),
     ("steps.md", 5), ("tasks.png", 0)],
)  # fmt: skip
def test_killed_in_writing_it_continues_to_the_same_table(
    fewer, store, data, tmp_path, monkeypatch, name, count
):
    """The kill comes when the new file is there, but has not taken the old one's place."""
    args, seen, replace = arguments(store, data, tmp_path, *FEWER), itertools.count(), os.replace

    def killed(source, target):
        if str(target).endswith(name) and next(seen) == count:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        main(args, Pieces())
    main(args, Pieces())
    assert same(tmp_path, fewer)


def test_side_by_side_nothing_begins_before_its_pretraining_has_ended(fewer, store, data, tmp_path):
    """Pieces asserts that there is a model to begin from; here all take some time, five at once."""
    main(arguments(store, data, tmp_path, *FEWER, "--parallel=5"), Pieces(polls=1))
    assert same(tmp_path, fewer)


def test_sigterm_ends_it_with_what_is_there(store, data, tmp_path, capsys):
    pieces = Pieces()

    def stopping(*given):
        process = pieces(*given)
        if len(pieces.begun) == 5:
            signal.raise_signal(signal.SIGTERM)
        return process

    args = arguments(store, data, tmp_path, "--tasks=mnli", "--seeds=2")
    with pytest.raises(Interrupted, match="5 of 29 runs are finished; the same command continues"):
        main(args, stopping)
    assert len(pieces.begun) == 5
    assert "(1 of 2)" in (tmp_path / "pretraining_tasks.md").read_text()
    main(args, pieces)
    assert len(pieces.begun) == 29


def test_the_time_of_an_interrupted_run_counts(store, data, tmp_path):
    def stopping(*given):
        signal.raise_signal(signal.SIGTERM)
        return Ended(75)

    with pytest.raises(Interrupted):
        main(arguments(store, data, tmp_path, "--tasks=mnli"), stopping)
    [seconds] = tmp_path.glob("runs/*/seconds.txt")
    assert float(seconds.read_text()) >= 0


def test_a_pretraining_by_epochs_is_told_in_epochs(store, data, tmp_path):
    make_gpt_store(tmp_path / "gpt")
    more = (f"--gpt_store={tmp_path / 'gpt'}", "--tasks=mnli", "--seeds=1")
    out = tmp_path / "out"
    main(arguments(store, data, out, *more, table="systems", scale="paper"), Pieces())
    text = (out / "systems.md").read_text()
    assert "100 epochs of 64 x 512 tokens" in text
    assert "900,000 steps of 256 x 128 tokens and 100,000 of 256 x 512" in text


def test_what_fails_does_not_stop_the_others(fewer, store, data, tmp_path, capsys):
    args = arguments(store, data, tmp_path, *FEWER)
    with pytest.raises(InputError, match=r"1 of 16 failed: pretrain LTR & No NSP seed=0; see"):
        main(args, Pieces(fails="--config.data.masking=next_token"))
    output = capsys.readouterr().out
    assert "failed: pretrain LTR & No NSP seed=0: bertjax.main: error: it is broken" in output
    cells = {row["name"]: row["cells"]["MNLI-m"] for row in content(tmp_path)["rows"]}
    assert (cells["No NSP"]["mean"] is None, cells["+ BiLSTM"]["values"]) == (False, [])
    main(args, Pieces())
    assert same(tmp_path, fewer)


def test_a_run_without_an_evaluation_has_failed(store, data, tmp_path, capsys):
    """As where the few held-out documents give no row."""
    pieces = Pieces()

    def unmeasured(args, environment, output):
        process = pieces(args, environment, output)
        Path(output).with_name("metrics.jsonl").write_text('{"step": 40, "loss": 1.0}\n')
        return process

    with pytest.raises(InputError, match="3 of 16 failed"):
        main(arguments(store, data, tmp_path, *FEWER), unmeasured)
    reason = "metrics.jsonl: the run ended without an evaluation; give it held"
    assert capsys.readouterr().out.count(reason) == 3


def test_columns_without_data_and_systems_without_text_are_left_out(store, data, tmp_path, capsys):
    args = [arg for arg in arguments(store, data, tmp_path, table="pretraining_tasks,systems")
            if not arg.startswith("--squad")]  # fmt: skip
    main([*args, "--tasks=mrpc,sst2,squad"], Pieces())
    output = capsys.readouterr().out
    assert "pretraining_tasks: left out: SQuAD F1: no --squad=DIR" in output
    assert "pretraining_tasks: left out: MNLI-m: mnli is not in --tasks" in output
    assert "systems: left out: ELMo: no --elmo_store=DIR" in output
    assert content(tmp_path)["columns"] == ["MRPC", "SST-2"]
    text = (tmp_path / "systems.md").read_text()
    assert "OpenAI GPT: no --gpt_store=DIR" in text


def test_dry_run_prints_the_commands_and_writes_nothing(store, data, tmp_path, capsys):
    out = tmp_path / "out"
    main(arguments(store, data, out, "--dry-run", "--seeds=1"), lambda *_: pytest.fail("something ran"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 5 * 5 + 2 * 4
    assert all(line.startswith("python -m bertjax.main --config=") for line in lines)
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--table=pretraining"], "--table=pretraining: no such table; there are pretraining_tasks"),
        (["--scale=tpu"], "--scale=tpu: no such scale; there are paper, gpu, cpu, ci"),
        (["--store="], "no --store=DIR; name a folder written by python -m bertjax.prepare"),
        (["--store=configs"], "--store=configs: no token store (no store.json)"),
        (["--glue=absent"], "--glue=absent: no such folder"),
        (["--squad=absent"], "--squad=absent: no such folder"),
        (["--glue=configs", "--squad="], "pretraining_tasks: no examples for any column (MNLI-m: no conf"),
        (["--tasks=mrpg"], "--tasks=mrpg: no such task; there are cola, sst2"),
        (["--seeds=0"], "--seeds=0: must be positive"),
        (["--parallel=0"], "--parallel=0: must be positive"),
        (["--seed=1"], "--seed=1: not understood; see --help"),
        (["--config.seed=1"], "--config.seed=1: the tables set it themselves"),
        (["--config.model.dtpe=float32"], "dtpe: no such field of the task pretrain on bert; the nearest is"),
        (["--config.eval.enabled=False"], "--config.eval.enabled=False: tables have held-out figures"),
        (["--config.train.save_every=7"], "--config.train.save_every=7: must divide 8, the steps from one"),
        (["--config.train.steps=42"], "train.steps=42: 42 steps of pre-training are not a multiple of 5"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(
    store, data, tmp_path, monkeypatch, capsys, flags, message
):
    monkeypatch.setattr(sys, "argv", ["tables", *arguments(store, data, tmp_path / "out"), *flags])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda args: main(args, lambda *_: pytest.fail("something ran")))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(whole, store, data, tmp_path):
    out, _ = whole
    for more, message in (
        (["--scale=cpu"], "scale was 'ci', now 'cpu'; use another --out"),
        (
            ["--config.model.hidden_dropout_prob=0.2"],
            r"fields was \[\], now \['model.hidden_dropout_prob=0.2'\]",
        ),
    ):
        with pytest.raises(InputError, match=message):
            main([*arguments(store, data, out, "--seeds=2"), *more], lambda *_: pytest.fail("something ran"))
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/GLUE/MRPC/dev.tsv").write_bytes((data / "GLUE/MRPC/train.tsv").read_bytes())
    with pytest.raises(InputError, match=r"mrpc dev.tsv sha256 was '\w+', now '\w+'; use another --out"):
        main(arguments(store, tmp_path / "data", out, "--seeds=2"), lambda *_: pytest.fail("something ran"))


def test_a_store_without_held_out_documents_is_refused(store, data, tmp_path):
    manifest = json.loads(Path(store, "store.json").read_text())
    for change, message in (
        ({"heldout": 0.0}, "no held-out documents"),
        ({"tokenizer": None}, "no finished"),
    ):
        (tmp_path / "store.json").write_text(json.dumps(manifest | change))
        with pytest.raises(InputError, match=message):
            main(arguments(tmp_path, data, tmp_path / "out"), lambda *_: pytest.fail("something ran"))


def test_a_store_that_a_system_cannot_read_is_refused(store, data, tmp_path):
    make_gpt_store(tmp_path / "gpt")
    for flag, given, message in (
        ("store", tmp_path / "gpt", "kind gpt_bpe; prepare it with --tokenizer=wordpiece"),
        ("gpt_store", store, "kind wordpiece; prepare it with --tokenizer=gpt_bpe"),
        ("elmo_store", store, "kind wordpiece; prepare it with --tokenizer=words"),
    ):
        args = [*arguments(store, data, tmp_path / "out", "--dry-run"), f"--{flag}={given}"]
        with pytest.raises(InputError, match=f"--{flag}={given}: has tokens of the {message}"):
            main(args)


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


def test_a_pretraining_whose_checkpoint_has_gone_is_named(store, data, tmp_path):
    args = arguments(store, data, tmp_path, *FEWER)
    main(args, Pieces())
    for path in tmp_path.glob("runs/bert-*/checkpoints"):
        shutil.rmtree(path)
    with pytest.raises(InputError, match=r"runs/bert-\w+: its checkpoints are gone; remove the folder"):
        main([*args[:-1], "--seeds=2"], lambda *_: pytest.fail("something ran"))


@pytest.mark.parametrize("scale", SCALES)
def test_every_row_of_every_scale_is_a_config_that_passes_the_checks(store, data, tmp_path, capsys, scale):
    """Of the systems there is a text for BERT alone here; see the next one."""
    main(arguments(store, data, tmp_path, "--dry-run", table="all", scale=scale), lambda *_: None)
    commands = [line for line in capsys.readouterr().out.splitlines() if "bertjax.main" in line]
    assert len({line.rpartition("--config.workdir=")[2] for line in commands}) == len(commands)
    seeds = SCALES[scale].seeds
    rows = {"pretraining_tasks": 25, "model_size": 15, "training_steps": 8, "features": 7, "masking": 15,
            "systems": 4}  # fmt: skip
    # MNLI, QNLI, SST-2 and MRPC of BERT are in several tables, and so are both NERs of 80/10/10.
    assert len(commands) == 3 + 5 + 5 + seeds * (sum(rows.values()))


def test_the_systems_have_configs():
    of_tasks = (system.fine_tuning for system in SYSTEMS.values())
    for configs in (*of_tasks, *(dict(scale.pretraining) for scale in SCALES.values())):
        for path in configs.values():
            assert (path if isinstance(path, str) else path[0]).partition(":")[0] in shipped()


def test_the_definitions_hang_together():
    assert () in COURSES
    for name, table in TABLES.items():
        columns = [column.name for column in table.columns]
        assert len(set(columns)) == len(columns), name
        assert len({row.name for row in table.rows}) == len(table.rows), name
        for row in table.rows:
            assert set(row.paper) <= set(columns), (name, row.name)
            untrained = "train.from_scratch=True" in row.fine_tuning  # not a row of the paper
            assert table.curve or bool(row.paper) != untrained, (name, row.name)
    for name, scale in SCALES.items():
        assert {column.task for table in TABLES.values() for column in table.columns} - {""} <= set(
            scale.tasks
        )
        paper = SCALES["paper"].sizes
        for (layers, hidden, heads), (all_layers, all_hidden, all_heads) in zip(
            scale.sizes, paper, strict=True
        ):
            assert layers / scale.sizes[3][0] == all_layers / paper[3][0], name
            assert abs(hidden / scale.sizes[3][1] - all_hidden / paper[3][1]) < 0.1, name
            assert abs(heads / scale.sizes[3][2] - all_heads / paper[3][2]) < 0.1, name


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


def test_a_process_left_by_a_killed_command_ends_before_another_begins(tmp_path, capsys):
    with open(tmp_path / ".started", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(100)"], pass_fds=(lock.fileno(),)
        )
    try:
        process = start_process(["--help"], {}, str(tmp_path / "output.txt"))
        assert "waits for the process that is left there" in capsys.readouterr().out
        stopped = start_process(["--help"], {}, str(tmp_path / "output.txt"))
        stopped.terminate()
        assert stopped.poll() == 75
        assert process.poll() is None
    finally:
        left.kill()
        left.wait(10)
    end = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.poll() == 0
    assert "usage: python -m bertjax.main" in (tmp_path / "output.txt").read_text()


TWO_ROWS = Table(
    "Two rows",
    (Column("perplexity", "", "eval/perplexity"), MNLI),
    (Row("BERT", paper={"MNLI-m": 84.4}), Row("frozen", fine_tuning=FEATURES, share=0.4)),
)
COMMAND = "import test_tables as t; t.table_rows.TABLES['two'] = t.TWO_ROWS; t.run_command(t.main)"


@pytest.mark.slow
def test_the_real_thing_killed_in_pretraining_and_in_fine_tuning(store, data, tmp_path, monkeypatch):
    """Two rows of one pre-training: the command is killed twice, what it began is left behind."""
    monkeypatch.setitem(table_rows.TABLES, "two", TWO_ROWS)
    out, log = tmp_path / "out", tmp_path / "log"
    args = arguments(store, data, out, "--seeds=1", "--parallel=2", table="two")
    for pattern in ("runs/bert-*/metrics.jsonl", "runs/mnli-*/seed0/output.txt"):
        process = start(args, log, program=("-c", COMMAND))
        end = time.monotonic() + 300
        while not list(out.glob(pattern)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
        process.wait(10)
        assert not (out / "two.png").exists()
    process = start(args, log, program=("-c", COMMAND))
    assert process.wait(300) == 0, log.read_text()
    alone = tmp_path / "alone"
    main(arguments(store, data, alone, "--seeds=1", table="two"), in_this_process)
    assert [row["cells"] for row in content(out, "two")["rows"]] == [
        row["cells"] for row in content(alone, "two")["rows"]
    ]
    found = content(out, "two")
    assert found["finished"] == [3, 3]
    assert found["hardware"] == f"{os.cpu_count()} CPU cores"
    frozen = out / found["rows"][1]["cells"]["MNLI-m"]["runs"][0] / "config.json"
    assert json.loads(frozen.read_text())["init_from"].endswith("/checkpoints/16")
