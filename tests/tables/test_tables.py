"""Tables: what is planned, what is written, what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from gpt_fixture import make_gpt_store
from runs_fixture import refusal
from store_fixture import TESTS
from tables_fixture import Pieces, arguments, content

from bertjax.config.recipes import shipped
from bertjax.errors import InputError
from bertjax.tables.__main__ import main
from bertjax.tables.rows import COURSES, SCALES, SYSTEMS, TABLES

pytestmark = pytest.mark.usefixtures("one_device")


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


def test_the_three_systems_are_told_beside_each_other(store, other_stores, data, tmp_path):
    more = (*other_stores, "--tasks=rte,ner")
    main(arguments(store, data, tmp_path / "out", *more, table="systems"), Pieces())
    text = (tmp_path / "out" / "systems.md").read_text()
    line = "examples; 10 steps of 8, rate 0.001, dropout 0.1; a 2 x 16 BiLSTM on a frozen encoder, "
    assert line + "10 steps of 8, rate 0.001, dropout 0.2\n" in text
    assert "- elmo: 1 layer, 32 cells, projection 16; 40 steps" in text
    gpt = next(row for row in text.split("\n") if row.startswith("| OpenAI GPT"))
    assert gpt.endswith("| 56.0 | - | - |")  # it has no tagger


def test_a_pretraining_by_epochs_is_told_in_epochs(store, data, tmp_path):
    make_gpt_store(tmp_path / "gpt")
    more = (f"--gpt_store={tmp_path / 'gpt'}", "--tasks=mnli", "--seeds=1")
    out = tmp_path / "out"
    main(arguments(store, data, out, *more, table="systems", scale="paper"), Pieces())
    text = (out / "systems.md").read_text()
    assert "100 epochs of 64 x 512 tokens" in text
    assert "900,000 steps of 256 x 128 tokens and 100,000 of 256 x 512" in text


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
    args = [*arguments(store, data, tmp_path / "out"), *flags]
    assert message in refusal(main, args, monkeypatch, capsys)
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


@pytest.mark.parametrize("scale", SCALES)
def test_every_row_of_every_scale_is_a_config_that_passes_the_checks(
    store, other_stores, data, tmp_path, capsys, scale
):
    # As if ELMo's text had so many words that there are some to be sampled.
    words = Path(other_stores[1].partition("=")[2], "store.json")
    manifest = json.loads(words.read_text())
    manifest["tokenizer"]["vocab_size"] = 800_000
    (tmp_path / "store.json").write_text(json.dumps(manifest))
    more = (other_stores[0], f"--elmo_store={tmp_path}")
    main(arguments(store, data, tmp_path, "--dry-run", *more, table="all", scale=scale), lambda *_: None)
    commands = [line for line in capsys.readouterr().out.splitlines() if "bertjax.main" in line]
    assert len({line.rpartition("--config.workdir=")[2] for line in commands}) == len(commands)
    seeds = SCALES[scale].seeds
    rows = {"pretraining_tasks": 25, "model_size": 15, "training_steps": 8, "features": 7, "masking": 15,
            "systems": 4 + 8 + 9}  # fmt: skip
    # MNLI, QNLI, SST-2 and MRPC of BERT are in several tables, and so are both NERs of 80/10/10.
    assert len(commands) == 3 + 5 + 5 + 2 + seeds * (sum(rows.values()))


def test_a_field_of_the_command_line_is_set_in_the_runs_that_have_it(store, other_stores, data, tmp_path):
    pieces = Pieces()
    more = (
        *other_stores,
        "--tasks=rte",
        "--config.model.scan_layers=False",
        "--config.phase2.accumulation=2",
    )
    main(arguments(store, data, tmp_path, *more, table="systems"), pieces)
    set_in = {Path(fields["workdir"]).relative_to(tmp_path / "runs").parts[0].partition("-")[0]:
              [name for name in ("model.scan_layers", "phase2.accumulation") if name in fields]
              for fields in pieces.begun if "init_from" not in fields}  # fmt: skip
    both = ["model.scan_layers", "phase2.accumulation"]
    assert set_in == {"bert": both, "gpt": both, "elmo": ["phase2.accumulation"]}
    assert not any("phase2.accumulation" in fields for fields in pieces.begun if "init_from" in fields)


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
