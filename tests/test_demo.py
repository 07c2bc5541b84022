import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from bertjax import demo
from bertjax.errors import InputError, Interrupted

CONFIG = """
from bertjax.config import default, set_size

def get_config():
    c = set_size(default(), "tiny")
    c.model.update(vocab_size=56, hidden_size=32, intermediate_size=64, dtype="float32")
    c.train.update(steps=6, batch_rows=8, seq_length=32, max_predictions_per_seq=5, log_every=2, eval_every=3)
    c.phase2.steps = 0
    c.eval.batch_rows = 8
    c.log.tensorboard = False
    return c
"""


def write_python(folder):
    """Modules with documentation of made-up sentences."""
    rng = np.random.default_rng(0)
    words = ["return", "the", "list", "of", "a", "value", "file", "name", "must", "be", "not", "is", "set"]
    for i in range(60):
        sentences = [f"{' '.join(rng.choice(words, 9)).capitalize()}." for _ in range(8)]
        paragraphs = "\n\n".join(f"{a} {b}" for a, b in zip(sentences[::2], sentences[1::2], strict=True))
        (folder / f"m{i}.py").write_text(f'"""{paragraphs}"""\n')


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("mlm_loss"), row.get("eval/mlm_loss")) for row in rows]


@pytest.mark.slow
def test_the_whole_demo_and_again(tmp_path, monkeypatch, capfd):
    (tmp_path / "source").mkdir()
    write_python(tmp_path / "source")
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.setattr(demo, "CONFIG", str(tmp_path / "config.py"))
    monkeypatch.setattr(demo, "INPUT", str(tmp_path / "source"))
    monkeypatch.setattr(demo, "HELDOUT", 0.1)
    out = tmp_path / "demo"

    demo.main([f"--out={out}"])
    text = capfd.readouterr().out
    shown = [line for line in text.splitlines() if line.startswith("$ ")]
    commands = ["prepare", "main", "predict", "report", "convert"]
    assert [line.partition("-m bertjax.")[2].split()[0] for line in shown] == commands
    assert text.count("It can [MASK] used as a decorator.\n    ") == 2  # before and after
    first = losses(out / "tiny")
    assert first[-1][0] == 6
    assert f"masked-LM loss           {first[-1][2]:.2f} nats" in text
    assert (out / "tiny/report.png").stat().st_size > 10_000
    assert (out / "huggingface/model.safetensors").exists()

    demo.main([f"--out={out}"])
    again = capfd.readouterr().out
    assert f"{out / 'store'} is complete." in again
    assert "complete: step 6 of 6" in again
    assert losses(out / "tiny") == first


def test_the_summary(tmp_path):
    rows = [
        {"step": 1, "mlm_loss": 7.0},
        {"step": 1, "eval/mlm_loss": 9.0, "eval/mlm_accuracy": 0.1, "eval/nsp_accuracy": 0.5,
         "eval/unigram_entropy": 6.0},
        {"step": 2, "eval/mlm_loss": 4.321, "eval/mlm_accuracy": 0.25, "eval/nsp_accuracy": 0.625,
         "eval/unigram_entropy": 6.0},
        {"step": 3, "mlm_loss": 4.0},
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = demo.summary("out", str(tmp_path), "out/store", "out/huggingface")
    for figure in ("4.32 nats", "costs 6.00", "25.0%", "62.5%"):
        assert figure in text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "mlm_loss": 7.0}\n')
    with pytest.raises(InputError, match="not evaluated"):
        demo.summary("out", str(tmp_path), "out/store", "out/huggingface")


def test_a_failing_command_stops_the_demo(capfd):
    with pytest.raises(InputError, match=r"bertjax.prepare ended with exit code 2"):
        demo._run("bertjax.prepare", "--nonsense")
    out, err = capfd.readouterr()
    assert out.startswith("$ ")
    assert out.endswith("-m bertjax.prepare --nonsense\n")
    assert "error" in err


@pytest.mark.parametrize("how", ["exit 75", "SIGTERM", "SIGINT"])
def test_an_interrupted_command_interrupts_the_demo(how, monkeypatch):
    code = {
        "exit 75": "raise SystemExit(75)",
        "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "SIGINT": "import os, signal; signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)",
    }[how]
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *_: real([sys.executable, "-c", code]))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="continues from here"):
        demo._run("bertjax.main")
    assert signal.getsignal(signal.SIGINT) is handler
