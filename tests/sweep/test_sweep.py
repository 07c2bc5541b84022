"""Sweeps: a grid times seeds over several configs, stopped and continued, to results and a submission."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from glue_fixture import ROWS, write_glue
from runs_fixture import Ended, in_this_process, refusal
from store_fixture import TESTS, start
from trained_fixture import make_trained

from bertjax.errors import InputError, Interrupted
from bertjax.logs import read_metrics
from bertjax.sweep import devices, glue_submission
from bertjax.sweep.__main__ import main
from bertjax.sweep.devices import device_shares
from bertjax.sweep.glue_submission import PARTS, check_submission

pytestmark = pytest.mark.usefixtures("one_device")

GLUE = TESTS.parent / "configs" / "glue.py"


def made_up(runs):
    """Runs that are not computed: {(learning rate, seed): (eval/accuracy, polls until the run ends)}."""

    def start(arguments, environment, output):
        fields = dict(argument.removeprefix("--config.").split("=", 1) for argument in arguments)
        accuracy, polls = runs[float(fields["optim.learning_rate"]), int(fields["seed"])]
        folder = Path(fields["workdir"])
        (folder / "checkpoints").mkdir()
        row = {"step": 1, "eval/accuracy": accuracy}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return Ended(0, polls)

    return start


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of the benchmark, a model)"""
    folder = tmp_path_factory.mktemp("made")
    make_trained(str(folder / "model"), **{"model.num_hidden_layers": 1})
    return write_glue(folder / "GLUE"), folder / "model"


def arguments(made, out, *more, configs=(f"{GLUE}:rte",)):
    """A step or two of 8 examples."""
    toy = {"train.epochs": 1.0, "train.batch_examples": 8, "train.seq_length": 16, "eval.batch_rows": 8,
           "train.log_every": 1, "log.tensorboard": False, "model.dtype": "float32"}  # fmt: skip
    return [*(f"--config={config}" for config in configs), f"--glue={made[0]}", f"--out={out}",
            f"--config.init_from={made[1]}", *(f"--config.{name}={value}" for name, value in toy.items()),
            *more]  # fmt: skip


def results(out):
    """results.json with workdirs relative to the folder."""
    return json.loads((out / "results.json").read_text().replace(f"{out}{os.sep}", ""))


GRID = ("--grid=optim.learning_rate=1e-3,1e-2", "--seeds=2")


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """An undisturbed sweep of two settings and two seeds, all checkpoints kept."""
    out = tmp_path_factory.mktemp("whole")
    main(arguments(made, out, *GRID, "--keep_all"), in_this_process)
    return out


def test_all_of_glue_ends_in_a_submission(made, tmp_path, monkeypatch, capsys):
    toy = {name: part._replace(rows=ROWS["test"]) for name, part in PARTS.items()}
    monkeypatch.setattr(glue_submission, "PARTS", toy)
    zip_file = tmp_path / "glue.zip"
    args = arguments(made, tmp_path / "out", f"--submission={zip_file}", configs=(f"{GLUE}:all",))
    main(args, in_this_process)
    check_submission(str(zip_file))
    output = capsys.readouterr().out
    assert "GLUE average, without WNLI" in output
    found = results(tmp_path / "out")
    assert set(found["tasks"]) == set(glue_submission.FOLDERS)
    assert found["tasks"]["stsb"]["metric"] == "eval/spearman"
    assert 0 < found["glue_average"]["mean"] < 1
    main(args, lambda *_: pytest.fail("a finished run was run again"))
    assert "9 runs, 9 of them finished" in capsys.readouterr().out


def test_the_best_setting_and_its_files(whole, made, tmp_path):
    found = results(whole)["tasks"]["rte"]
    assert {s["setting"] for s in found["settings"]} == {
        "optim.learning_rate=0.001",
        "optim.learning_rate=0.01",
    }
    assert [len(s["runs"]) for s in found["settings"]] == [2, 2]
    assert "optim.learning_rate=0.001" in (whole / "results.md").read_text()
    assert len(list(whole.glob("**/checkpoints"))) == 4
    # Of the runs themselves: the figures are those that bertjax.main logged for these settings.
    run = found["settings"][0]["runs"][0]
    config = json.loads((whole / run["workdir"] / "config.json").read_text())
    assert f"optim.learning_rate={config['optim.learning_rate']}" == found["settings"][0]["setting"]
    assert config["seed"] == run["seed"]


def test_checkpoints_of_all_but_the_best_run_go(whole, made, tmp_path):
    main(arguments(made, tmp_path, *GRID), in_this_process)
    assert results(tmp_path) == results(whole)
    best = results(tmp_path)["tasks"]["rte"]["settings"][0]["best_run"]
    assert [path.parent for path in tmp_path.glob("**/checkpoints")] == [tmp_path / best]


def test_of_equal_runs_the_first_in_the_plan_keeps_its_checkpoint(made, tmp_path):
    args = arguments(made, tmp_path, "--grid=optim.learning_rate=1e-3", "--seeds=3", "--parallel=3")
    main(args, made_up({(1e-3, 0): (0.5, 4), (1e-3, 1): (0.5, 0), (1e-3, 2): (0.25, 2)}))
    task = results(tmp_path)["tasks"]["rte"]
    assert task["settings"][0]["best_run"] == "rte/optim.learning_rate=0.001/seed0"
    assert [str(path.parent.relative_to(tmp_path)) for path in tmp_path.glob("**/checkpoints")] == [
        "rte/optim.learning_rate=0.001/seed0"
    ]
    assert task["has_checkpoint"]


def test_a_best_run_whose_checkpoint_has_gone_is_named(made, tmp_path, capsys):
    """It was not the best one before there were more seeds."""
    runs = made_up({(1e-3, 0): (0.8, 0), (1e-3, 1): (0.7, 0), (1e-2, 0): (0.9, 0), (1e-2, 1): (0.1, 0)})
    main(arguments(made, tmp_path, GRID[0], "--seeds=1"), runs)
    assert "no checkpoint" not in capsys.readouterr().out
    main(arguments(made, tmp_path, *GRID), runs)
    best = tmp_path / "rte/optim.learning_rate=0.001/seed0"
    output = capsys.readouterr().out
    assert f"the best run of rte has no checkpoint any more; remove {best} to train it again" in output
    assert results(tmp_path)["tasks"]["rte"]["has_checkpoint"] is False
    shutil.rmtree(best)
    main(arguments(made, tmp_path, *GRID), runs)
    assert "no checkpoint" not in capsys.readouterr().out
    assert (best / "checkpoints").exists()


@pytest.mark.parametrize("place", [None, "elsewhere"])
def test_runs_have_each_others_programs(made, tmp_path, monkeypatch, place):
    environments, run = [], made_up({(1e-3, seed): (0.5, 0) for seed in (0, 1)})
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if place:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", place)

    def start(args, environment, output):
        environments.append(environment)
        return run(args, environment, output)

    main(arguments(made, tmp_path, "--grid=optim.learning_rate=1e-3", "--seeds=2"), start)
    programs = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    assert environments == [{} if place else programs] * 2


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"figures": {"eval/accuracy": 0.5}}', '{"asked": {}, "figures": {"eval/f1": "1"}}']
)
def test_a_broken_result_is_named(made, tmp_path, text):
    path = tmp_path / "rte/default/seed0/result.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(InputError, match=r"result.json: .*; remove the file to run again"):
        main(arguments(made, tmp_path), lambda *_: pytest.fail("something ran"))


def test_stopped_between_runs_and_continued(whole, made, tmp_path, capsys):
    begun = []

    def stopping(*args):
        begun.append(args)
        process = in_this_process(*args)
        if len(begun) == 2:
            signal.raise_signal(signal.SIGTERM)
        return process

    with pytest.raises(Interrupted, match="2 of 4 runs are finished; the same command continues"):
        main(arguments(made, tmp_path, *GRID, "--keep_all"), stopping)
    assert len(begun) == 2
    main(arguments(made, tmp_path, *GRID, "--keep_all"), stopping)
    assert len(begun) == 4
    assert "4 runs, 2 of them finished" in capsys.readouterr().out
    assert results(tmp_path) == results(whole)


def test_a_run_that_fails_does_not_stop_the_others(whole, made, tmp_path, capsys):
    def failing(args, environment, output):
        if "--config.seed=0" in args and "--config.optim.learning_rate=1e-3" in args:
            args = [*args, "--config.examples.label=lable"]
        return in_this_process(args, environment, output)

    with pytest.raises(InputError, match=r"1 of 4 failed: rte optim.learning_rate=0.001 seed=0; see"):
        main(arguments(made, tmp_path, *GRID, "--keep_all"), failing)
    output = capsys.readouterr().out
    assert "failed: rte optim.learning_rate=0.001 seed=0: bertjax.main: error: " in output
    assert "no column 'lable'; the nearest is 'label'" in output
    assert "1 of 2" in (tmp_path / "results.md").read_text()
    main(arguments(made, tmp_path, *GRID, "--keep_all"), in_this_process)
    assert results(tmp_path) == results(whole)


def test_finished_runs_of_another_config_or_other_files_are_refused(whole, made, tmp_path):
    with pytest.raises(InputError, match=r"train.epochs was 1.0, now 2.0; use another --out"):
        main(arguments(made, whole, *GRID, "--config.train.epochs=2.0"), in_this_process)
    shutil.copytree(made[0], tmp_path / "GLUE")
    shutil.copytree(whole, tmp_path / "out")
    text = (made[0] / "RTE" / "dev.tsv").read_text()
    (tmp_path / "GLUE/RTE/dev.tsv").write_text(text.replace("w20", "w21"))
    with pytest.raises(InputError, match=r"dev.tsv sha256 was"):
        main(arguments((tmp_path / "GLUE", made[1]), tmp_path / "out", *GRID), in_this_process)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid=optim.learning_rte=1e-3"], "learning_rte: no such field of the task classify on bert; the"),
        (["--grid=optim.learning_rate=fast"], "--config.optim.learning_rate=fast: expected float"),
        (["--grid=optim.learning_rate=1e-3,-1.0"], "--config.optim.learning_rate=-1.0: must be positive"),
        (["--grid=optim.learning_rate"], "--grid=optim.learning_rate: use --grid=FIELD=VALUE,VALUE"),
        (["--grid=optim.learning_rate=1e-3,0.001"], "rte optim.learning_rate=0.001: asked for twice"),
        (
            ["--grid=train.epochs=1.0", "--grid=train.epochs=2.0"],
            "--grid=train.epochs=2.0: train.epochs has values already; give all of them in one --grid",
        ),
        (["--grid=seed=1,2"], "--grid=seed=1,2: the sweep sets seed itself; use --seeds=N"),
        (["--config.seed=1"], "--config.seed=1: the sweep sets it itself; use --seeds=N"),
        (["--seeds=0"], "--seeds=0: must be positive"),
        (["--parallel=0"], "--parallel=0: must be positive"),
        (["--seed=1"], "--seed=1: not understood; see --help"),
        (["--config.train.epoch=1.0"], "--config.train.epoch: no such field of"),
        (["--config", "pretrain_tiny"], "pretrain_tiny: a sweep is over fine-tuning tasks"),
        (["--config.seed", "1"], "--config.seed=1: the sweep sets it itself"),
        (["--config.train.epoch", "1.0"], "--config.train.epoch: no such field of"),
        (["--config.seed"], "--config.seed: no value; use --config.seed=VALUE"),
        (["--config.init_from="], "--config.init_from is empty"),
        (["--config.examples.dev=()"], "--config.examples.dev=()"),
        (["--config=configs/glue.py:nothing"], "nothing: no such task"),
        (["--config=configs/glue.py:all", "--glue="], "glue.py:all: name the benchmark's folder with --glue"),
        (["--config=configs/glue.py:rte"], "error: rte: asked for twice by --config and --grid"),
        (["--config=glue:rte"], "error: rte: asked for twice by --config and --grid"),
        (["--config.init_from=absent"], "absent: no such folder"),
        (["--config.init_from=configs"], "configs: no model; expected a workdir"),
        (["--metric=eval/bogus"], "--metric=eval/bogus: rte has no such figure; it has eval/accuracy"),
        (["--metric=eval/f1", "--config.examples.metric=bleu"], "--config.examples.metric=bleu: must be one"),
        (["--submission=rte.zip"], "rte.zip: not written: no predictions for CoLA.tsv, SST-2.tsv"),
        (["--submission=absent/glue.zip", "--fill_missing"], "absent is not there; name a file"),
        (["--submission=configs", "--fill_missing"], "configs is a folder; name a file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(made, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(TESTS.parent)
    args = arguments(made, tmp_path / "out", *flags)
    assert message in refusal(main, args, monkeypatch, capsys)
    assert not (tmp_path / "out").exists()


def test_a_benchmark_that_no_config_reads_is_an_error(made, tmp_path):
    config = str(GLUE.with_name("feature_based.py")) + ":glue:rte"
    with pytest.raises(InputError, match=r"is read by glue\.py, gpt_glue\.py, elmo_glue\.py; for oth"):
        main(arguments(made, tmp_path / "out", configs=[config]), lambda *_: pytest.fail("something ran"))


@pytest.fixture
def begin():
    """Starts the command as a process, which is stopped at the end of the test if it still runs."""
    processes = []

    def begin(args, output):
        processes.append(start(args, output, program=("-m", "bertjax.sweep")))
        return processes[-1]

    yield begin
    for process in processes:
        process.terminate()
        process.wait(100)


def test_processes_side_by_side_are_stopped_in_a_run_and_continued(made, begin, tmp_path):
    """The command itself and its runs, each a process, stopped when one has made some of its steps."""
    out = tmp_path / "out"
    args = arguments(made, out, "--seeds=2", "--parallel=2", "--keep_all", "--config.train.epochs=100.0",
                     "--config.optim.learning_rate=1e-2")  # fmt: skip
    process = begin(args, tmp_path / "output")
    logs = [out / f"rte/default/seed{seed}/metrics.jsonl" for seed in (0, 1)]
    end = time.monotonic() + 200
    while not any(log.exists() and log.read_text().count("\n") > 3 for log in logs):
        assert process.poll() is None, (tmp_path / "output").read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 75, (tmp_path / "output").read_text()
    assert "0 of 2 runs are finished; the same command continues" in (tmp_path / "output").read_text()
    steps = [int(path.name) for path in out.glob("**/checkpoints/[0-9]*")]
    assert steps
    assert max(steps) < 200
    assert begin(args, tmp_path / "output").wait(200) == 0

    alone = tmp_path / "alone"
    main([f"--out={alone}" if arg.startswith("--out=") else arg for arg in args], in_this_process)
    assert results(alone) == results(out)
    for log in logs:
        ends = [read_metrics(str(path))[-2] for path in (log, alone / log.relative_to(out))]
        assert ends[0]["step"] == 200
        assert ends[0]["loss"] == ends[1]["loss"]


def test_devices_are_shared_out(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert device_shares(1) == [{}]
    assert device_shares(3) == [{}] * 3  # there is nothing to share on a CPU
    monkeypatch.setattr(
        devices, "device_files", lambda patterns: ["/dev/nvidia0"] if patterns == devices.GPUS else []
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device_shares(2) == [{}, {}]  # the GPU is not to be used
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert device_shares(2) == [{"CUDA_VISIBLE_DEVICES": "2,3"}, {"CUDA_VISIBLE_DEVICES": "5,7"}]
    with pytest.raises(InputError, match=r"--parallel=3: the 4 GPUs cannot be shared out so"):
        device_shares(3)
    shared = device_shares(6, several=True)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shared] == ["2", "3", "5", "7", "2", "3"]
    assert {share["XLA_PYTHON_CLIENT_PREALLOCATE"] for share in shared} == {"false"}
    assert device_shares(2, several=True) == device_shares(2)
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,1,2,3")
    one, two = device_shares(2)
    assert one == {
        "TPU_VISIBLE_CHIPS": "0,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,2,1", "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": "localhost:8476", "TPU_PROCESS_PORT": "8476", "CLOUD_TPU_TASK_ID": "0",
    }  # fmt: skip
    assert (two["TPU_VISIBLE_CHIPS"], two["TPU_PROCESS_PORT"]) == ("2,3", "8477")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert device_shares(2) == [{}, {}]
