"""The benchmarks' parts: the batch that peers share, the counts, the talk with a peer, the error lines."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import environments, prepare, pretrain_step, workload
from benchmarks.peer import Peer, figures, measure
from bertjax.errors import InputError
from bertjax.tasks.pretrain import TASK as pretrain

BASE = SimpleNamespace(
    layers=12, hidden=768, heads=12, vocab_size=30522, batch=8, seq_length=128, predictions=20,
    dropout=0.1, dtype="float32", device="cpu", learning_rate=1e-4, override=[], keep_memory=False,
)  # fmt: skip


def settings(**changes):
    return SimpleNamespace(**{**vars(BASE), "real_lengths": False, **changes})


@pytest.mark.parametrize("real_lengths", [False, True])
def test_batch_hides_words_only_and_tells_them(real_lengths):
    batch = workload.make_batch(settings(batch=64, real_lengths=real_lengths))
    lengths = batch["segment_ids"].sum(1)
    assert (lengths.min() < 128) == real_lengths
    for b, length in enumerate(lengths):
        ids = batch["input_ids"][b]
        shown = batch["masked_lm_weights"][b] > 0
        positions = batch["masked_lm_positions"][b, shown]
        assert np.array_equal(np.flatnonzero(ids == workload.MASK), positions)
        assert (batch["masked_lm_ids"][b, shown] >= workload.FIRST_WORD).all()
        assert ids[0] == workload.CLS
        assert ids[length - 1] == workload.SEP
        assert (ids == workload.SEP).sum() == 2
        assert not ids[length:].any()
        first_sep = np.flatnonzero(ids == workload.SEP)[0]
        assert batch["token_type_ids"][b].sum() == length - 1 - first_sep


def test_bert_base_has_the_published_number_of_parameters():
    # 109,482,240 in the encoder with its pooler; the MLM transform, output bias and NSP head come on top.
    heads = (768 * 768 + 768 + 2 * 768 + 30522) + (2 * 768 + 2)
    assert workload.parameter_count(BASE) == 109_482_240 + heads


def test_step_flops_are_three_times_the_forward_products():
    B, S, P, H, L, V = 8, 128, 20, 768, 12, 30522
    key_value, other = 2 * 2 * H * H, 2 * 2 * H * H + 2 * 2 * H * 4 * H + 2 * 2 * S * H  # of a token
    layers = (L - 1) * B * S * (key_value + other) + B * S * key_value + B * (P + 1) * other
    heads = 2 * B * P * (H * H + H * V) + 2 * B * H * H
    assert workload.step_flops(BASE) == pytest.approx(3 * (layers + heads))


def test_batch_has_the_shapes_and_types_of_a_training_batch():
    c = workload.bertjax_config(settings())
    batch = workload.make_batch(settings())
    expected = pretrain.batch_shapes(c, c.train)
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (x.shape, x.dtype) for name, x in expected.items()
    }


def test_gpu_requirements_include_the_others():
    cpu = environments.requirements_of("hf_flax", "cpu")
    assert environments.requirements_of("hf_flax", "gpu") == [*cpu, "jax[cuda13]==0.10.2"]
    assert environments.requirements_of("torch", "gpu") == environments.requirements_of("torch", "cpu")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--peers=tourch", "--peers=tourch: no such peer; there are bertjax, torch,"),
        ("--peers=torch,torch", "--peers=torch,torch: a peer is named twice"),
        ("--layers=0", "argument --layers: 0: must be a positive whole number; see --help"),
        ("--heads=3", "--heads=3: must divide --hidden=256"),
        ("--predictions=126", "--predictions=126: must be at most seq_length - 3"),
        ("--dropout=1", "--dropout=1.0: must be at least 0 and below 1"),
        ("--layer=4", "unrecognized arguments: --layer=4; see --help"),
        (
            "--override=model.scan=False",
            "--config.model.scan: no such field of the task pretrain on bert; the",
        ),
        ("--python=torch", "--python=torch: use --python=ENV=FILE with an interpreter that exists"),
    ],
)
def test_step_refuses_bad_flags(flag, message):
    with pytest.raises(InputError) as error:
        pretrain_step.main(["--peers=bertjax", flag])  # needs no environment of a peer
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_prepare_refuses_a_missing_file():
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        prepare.main(["--input=none.txt"])


STAND_IN = """
from protocol import serve

def setup(settings, batch):
    print("not an answer")
    weights = float(batch["masked_lm_weights"].sum())
    if settings.dropout > 0.5:
        raise ValueError("dropout is high")
    return lambda steps: weights + steps, settings.layers, {"stand-in": "1"}

serve(setup)
"""


@pytest.fixture
def start_peer(tmp_path, monkeypatch):
    """Starts a peer that computes nothing."""
    folder = tmp_path / "benchmarks" / "peers"
    folder.mkdir(parents=True)
    (folder / "protocol.py").write_text((environments.REQUIREMENTS / "protocol.py").read_text())
    (folder / "stand_in.py").write_text(STAND_IN)
    np.savez(tmp_path / "batch.npz", masked_lm_weights=np.ones((2, 3), np.float32))
    monkeypatch.setattr(environments, "REPOSITORY", tmp_path)

    def start(**changes):
        sent = {**vars(settings()), **changes}
        peer = Peer("stand_in", sys.executable, "stand_in.py", sent, tmp_path / "batch.npz")
        peer.wait()
        return peer

    return start


def test_peer_answers_and_its_prints_go_to_the_log(start_peer):
    peer = start_peer()
    assert peer.about == {"loss": 7.0, "parameters": 12, "versions": {"stand-in": "1"}}
    answers = measure([peer], rounds=2, steps=5)["stand_in"]
    peer.close()
    assert [answer["loss"] for answer in answers] == [11.0, 11.0]
    assert all(answer["seconds"] > 0 for answer in answers)
    assert peer.process.returncode == 0
    assert peer.log.read_text() == "not an answer\n"


def test_peer_that_fails_is_one_line(start_peer):
    with pytest.raises(InputError, match=r"stand_in ended with code 1: ValueError: dropout is high"):
        start_peer(dropout=0.6)


def test_peer_that_ends_between_rounds_is_one_line(start_peer):
    peer = start_peer()
    peer.process.kill()
    peer.process.wait()
    with pytest.raises(InputError, match="stand_in ended with code -9"):
        peer.run(5)


def test_another_model_is_refused(start_peer):
    peer = start_peer()
    with pytest.raises(InputError, match="stand_in trains 12 parameters, BERT of this size has 110106428"):
        pretrain_step.check_same_work(peer, settings())
    peer.close()


def test_report_is_json_and_ratios_are_to_the_first(start_peer, monkeypatch):
    monkeypatch.setattr(workload, "peak_flops", lambda device: (1e12, "made up"))
    flags = pretrain_step.parse(["--peers=torch", "--rounds=1", "--steps=2"])
    peer = start_peer()
    rows = figures([peer, peer], {"stand_in": [{"seconds": 0.5, "loss": 9.0}]}, batch=32, steps=2)
    result = json.loads(json.dumps(pretrain_step.report(flags, rows)))
    peer.close()
    row, _ = result["peers"]
    assert row["per_second"] == 32 / 0.25
    assert [each["ratio"] for each in rows] == [1, 1]
    assert row["mfu"] == pytest.approx(result["step_flops"] / 0.25 / 1e12)
    assert "stand_in" in pretrain_step.table(result)
