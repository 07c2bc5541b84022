import json
import math

import pytest

from bertjax import config as config_lib
from bertjax import report
from bertjax.errors import InputError
from bertjax.sections import fields


def write(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of_a_run():
    for step in range(10, 100, 10):
        yield {"step": step, "loss": 9.0, "mlm_loss": 8 - step / 20, "mlm_accuracy": step / 200,
               "nsp_loss": 0.6, "nsp_accuracy": 0.6, "learning_rate": 1e-4, "grad_norm": 1.0}  # fmt: skip
        if step % 50 == 0:
            yield {"step": step, "eval/mlm_loss": 5.0, "eval/mlm_accuracy": 0.2, "eval/unigram_entropy": 6.5}


def lines(axis):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_a_pretraining_run(tmp_path):
    write(tmp_path, rows_of_a_run())
    config = config_lib.set_size(config_lib.default(), "tiny")
    (tmp_path / "config.json").write_text(json.dumps(dict(fields(config))))
    figure = report.draw(str(tmp_path))
    assert [axis.get_title() for axis in figure.axes] == [
        "Masked-LM loss",
        "Masked-LM accuracy",
        "Next-sentence accuracy",
        "Learning rate",
    ]
    loss = lines(figure.axes[0])
    assert loss["training"][0] == list(range(10, 100, 10))
    assert loss["training"][1][0] == 7.5
    assert loss["held-out"] == ([50], [5.0])
    assert loss["unigram entropy, 6.50"][1] == [6.5, 6.5]
    assert all(axis.get_xlabel() == "step" and axis.get_ylabel() for axis in figure.axes)
    title = figure.get_suptitle()
    assert (
        title
        == f"{tmp_path.name}: pretrain, 2 layers, hidden 128, 2 heads, batch 256 × 128, then 256 × 512 tokens"
    )


def test_the_command_writes_a_png_and_prints_its_name(tmp_path, capsys):
    write(tmp_path, rows_of_a_run())
    report.main([f"--workdir={tmp_path}"])
    assert capsys.readouterr().out == f"{tmp_path}/report.png\n"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    report.main([f"--workdir={tmp_path}", f"--out={tmp_path}/other.png"])
    assert (tmp_path / "other.png").exists()


def test_another_task_gets_a_panel_for_each_of_its_metrics(tmp_path):
    write(tmp_path, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None}, {"step": 2, "eval/f1": 0.5}])
    figure = report.draw(str(tmp_path))
    assert [axis.get_title() for axis in figure.axes] == ["Loss", "Held-out f1"]
    values = lines(figure.axes[0])["training"][1]
    assert values[0] == 1.0
    assert math.isnan(values[1])


def test_bad_input_is_one_line(tmp_path):
    for args, message in (
        ([], "the following arguments are required: --workdir"),
        (["--workdir"], "--workdir: expected one argument"),
        ([f"--workdir={tmp_path}", "--color=red"], "unrecognized arguments: --color=red"),
        ([f"--workdir={tmp_path}"], "metrics.jsonl: not readable"),
    ):
        with pytest.raises(InputError, match=message):
            report.main(args)
    write(tmp_path, [])
    with pytest.raises(InputError, match="holds no metrics yet"):
        report.main([f"--workdir={tmp_path}"])
    write(tmp_path, [{"step": 1, "loss": 1.0}])
    with pytest.raises(InputError, match=r"not written .*; use another --out"):
        report.main([f"--workdir={tmp_path}", f"--out={tmp_path}/absent/x.png"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"/folder: is a folder; use --out=FILE\.png"):
        report.main([f"--workdir={tmp_path}", f"--out={tmp_path}/folder"])
    assert not (tmp_path / "folder.png").exists()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not a run's config"):
        report.main([f"--workdir={tmp_path}"])
