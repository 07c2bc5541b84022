import dataclasses
import importlib.util
import json

import jax
import pytest

from bertjax import plan
from bertjax.config import default
from bertjax.config.checks import check
from bertjax.errors import InputError
from bertjax.mesh import make_mesh
from bertjax.tasks.pretrain import TASK as pretrain

GIB = 2**30


def small_config(**fields):
    c = default()
    c.model.update(vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    c.model.update(intermediate_size=64, max_position_embeddings=64)
    c.train.update(batch_rows=16, seq_length=32, max_predictions_per_seq=4)
    c.phase2.update(batch_rows=16, seq_length=64, max_predictions_per_seq=8)
    c.eval.batch_rows = 16
    c.update_from_flattened_dict(fields)
    check(c)
    return c


def figures(config, phase="train", memory=GIB):
    return plan.plan_phase(config, make_mesh(config), phase, memory)


@pytest.fixture(scope="module")
def replicated():
    return figures(small_config())


def test_figures_add_up(replicated):
    config = small_config()
    state = 12 * _parameters(config) + 16  # three float32 arrays of parameters, four int32 scalars
    batch = 16 // 8 * (4 * 32 + 3 * 4 + 3) * 4
    assert replicated.arguments == state + batch + 8  # the seed and the rate
    assert replicated.parameters == 4 * _parameters(config)
    assert replicated.optimizer == 8 * _parameters(config) + 4  # with the count
    assert replicated.aliased == state
    assert replicated.temporaries > 0
    assert replicated.total >= replicated.arguments + replicated.temporaries
    assert replicated.fits
    assert replicated.compile_seconds > 0
    assert (replicated.rows, replicated.seq_length) == (16, 32)


def _parameters(config):
    d, f, layers, vocab = 32, 64, 2, 256
    layer = 4 * (d * d + d) + 2 * d * f + f + d + 4 * d
    embeddings = (vocab + config.model.max_position_embeddings + 2 + 2) * d
    heads = 2 * (d * d + d) + 2 * d + vocab + 2 * d + 2
    return layers * layer + embeddings + heads


def test_fsdp_splits_the_state(replicated):
    split = figures(small_config(**{"mesh.data": 1, "mesh.fsdp": 8}))
    assert split.arguments < replicated.arguments / 4
    assert split.model_flops == replicated.model_flops


@pytest.mark.parametrize(
    ("name", "bytes_a_parameter"),
    [("optax.sgd", 0), ("optax.lion", 4), ("optax.contrib.schedule_free_adamw", 8), ("optax.adan", 16)],
)
def test_the_state_of_the_optimizer_is_part_of_the_arguments(replicated, name, bytes_a_parameter):
    mesh = make_mesh(small_config())
    parameters, optimizer = plan.state_sizes(small_config(**{"optim.name": name}), pretrain, mesh)
    assert parameters == replicated.parameters
    assert 0 <= optimizer - bytes_a_parameter * parameters // 4 <= 24  # and scalars
    if name == "optax.lion":
        found = figures(small_config(**{"optim.name": name}))
        assert found.arguments == replicated.arguments - replicated.optimizer + optimizer


def test_second_phase_needs_more(replicated):
    second = figures(small_config(), "phase2")
    assert (second.phase, second.seq_length) == ("phase2", 64)
    assert second.temporaries > replicated.temporaries
    assert second.model_flops > 2 * replicated.model_flops


def test_too_big_names_what_to_change(replicated):
    config = small_config()
    mesh = make_mesh(config)
    plan.require_fit(config, mesh, [replicated])
    with pytest.raises(InputError) as error:
        plan.require_fit(config, mesh, [replicated, too_big(replicated)])
    assert str(error.value) == (
        "train (16 x 32) needs 3.00 GiB on each device and may use 1.00; "
        "try --config.train.accumulation=2, or --config.train.remat=dots, or --config.mesh.fsdp=2"
    )


def test_advice_leaves_out_what_is_used_up(replicated):
    fields = {"train.accumulation": 2, "train.remat": "full", "mesh.data": 1, "mesh.fsdp": 8}
    config = small_config(**fields)
    with pytest.raises(InputError, match=r"try more devices$"):
        plan.require_fit(config, make_mesh(config), [too_big(replicated)])


def too_big(figures):
    return dataclasses.replace(figures, total=3 * GIB, memory=GIB, fits=False)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory on HBM, the total memory required for HLO temporaries (32.44G) exceeds available "
        "HBM (15.75G).",
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 32.44G of 15.75G hbm. "
        "Exceeded hbm capacity by 16.69G.",
    ],
)
def test_refusal_of_the_tpu_compiler(message, monkeypatch):
    def refuse(*args):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")

    monkeypatch.setattr(plan, "compile_step", refuse)
    config = small_config()
    step = figures(config)
    assert (step.arguments, step.fits) == (None, False)
    assert (step.total, step.memory) == (int(32.44 * GIB), int(15.75 * GIB))
    with pytest.raises(InputError, match=r"needs 32\.44 GiB on each device and may use 15\.75; try --config"):
        plan.require_fit(config, make_mesh(config), [step])


def test_what_the_compiler_refused_by_a_hair_does_not_fit(monkeypatch):
    def refuse(*args):
        raise jax.errors.JaxRuntimeError("Used 15.75G of 15.75G hbm. Exceeded hbm capacity by 3.5M.")

    monkeypatch.setattr(plan, "compile_step", refuse)
    assert not figures(small_config()).fits


def test_another_error_of_the_compiler_is_not_hidden(monkeypatch):
    def fail(*args):
        raise jax.errors.JaxRuntimeError("INTERNAL: another error")

    monkeypatch.setattr(plan, "compile_step", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        figures(small_config())


def write_config(folder):
    path = folder / "config.py"
    path.write_text(
        "from bertjax.config import default\n"
        "def get_config():\n"
        "    c = default()\n"
        "    c.model.update(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)\n"
        "    c.model.update(intermediate_size=64, max_position_embeddings=32)\n"
        "    c.train.update(batch_rows=16, seq_length=16, max_predictions_per_seq=2)\n"
        "    c.phase2.update(batch_rows=16, seq_length=32, max_predictions_per_seq=4)\n"
        "    return c\n"
    )
    return f"--config={path}"


def test_command_prints_a_line_for_each_phase(tmp_path, monkeypatch, capsys, replicated):
    monkeypatch.setattr(plan, "find_devices", lambda name: (jax.devices(), GIB))

    def planned(config, mesh, phase, memory):
        return dataclasses.replace(replicated, phase=phase, memory=memory)

    monkeypatch.setattr(plan, "plan_phase", planned)
    plan.main([write_config(tmp_path), "--devices=v5e:2x4", "--config.mesh.fsdp=2"])
    first, head, train, phase2, optimizer = capsys.readouterr().out.splitlines()
    assert first.startswith("8 cpu (data=4 x fsdp=2 x tensor=1)")
    assert head.split()[:3] == ["phase", "rows", "x"]
    assert train.split()[:4] == ["train", "16", "x", "32"]
    assert phase2.split()[-4:-2] == ["1.00", "yes"]
    assert optimizer.endswith("the state of bert_adamw 0.00, 8.0 bytes a parameter")
    plan.main([write_config(tmp_path), "--devices=v5e:2x4", "--config.phase2.steps=0"])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_command_prints_json_before_it_fails(tmp_path, monkeypatch, capsys, replicated):
    monkeypatch.setattr(plan, "find_devices", lambda name: (jax.devices(), GIB))
    planned = {"train": replicated, "phase2": dataclasses.replace(too_big(replicated), phase="phase2")}
    monkeypatch.setattr(plan, "plan_phase", lambda config, mesh, phase, memory: planned[phase])
    with pytest.raises(InputError, match="phase2"):
        plan.main([write_config(tmp_path), "--devices=v5e:2x4", "--json"])
    train, phase2 = json.loads(capsys.readouterr().out)
    assert train == dataclasses.asdict(replicated)
    assert (phase2["phase"], phase2["fits"], phase2["memory"]) == ("phase2", False, GIB)


def test_a_head_has_as_many_outputs_as_the_data_would_have_labels(monkeypatch, replicated):
    planned = []
    monkeypatch.setattr(plan, "find_devices", lambda name: (jax.devices(), GIB))
    monkeypatch.setattr(plan, "plan_phase", lambda config, *_: planned.append(config) or replicated)
    for config in ("ner.py", "elmo_ner.py", "classify.py"):
        with pytest.raises(InputError, match=r"config.examples.labels=\(\): no data is read here.*; give"):
            plan.main([f"--config=configs/{config}", "--devices=v5e:2x4"])
    assert not planned
    for config in ("glue.py:stsb", "elmo_glue.py:stsb", "glue.py:rte", "swag.py"):
        plan.main([f"--config=configs/{config}", "--devices=v5e:2x4"])
    assert [len(config.examples.labels) for config in planned] == [1, 1, 2, 0]
    assert [config.model.kind for config in planned] == ["bert", "elmo", "bert", "bert"]


@pytest.mark.parametrize("name", ["", "v5e", "v5e:", "v5e:4x", "v9:4x4", "h100:0", "h100:2x2", "cpu"])
def test_unknown_devices(name):
    with pytest.raises(InputError, match=f"--devices={name}: use a TPU slice"):
        plan.find_devices(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:4x4", "tpu"), ("h100", "cuda13")])
def test_missing_compiler_names_the_extra(name, extra, monkeypatch):
    monkeypatch.setattr(plan, "_installed", lambda package: False)
    with pytest.raises(InputError, match=rf'is not installed; run pip install "bertjax\[{extra}\]"'):
        plan.find_devices(name)


def test_no_devices_asked_for(tmp_path):
    with pytest.raises(InputError, match="--devices"):
        plan.main([write_config(tmp_path)])


@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed")
def test_compiles_for_a_tpu_slice():
    devices, memory = plan.find_devices("v5e:2x2")
    assert (len(devices), memory) == (4, 16 * GIB)
    assert len(plan.find_devices("v4:2x2x1")[0]) == 4  # chips, not cores
    assert len(plan.find_devices("v6e:1x1")[0]) == 1
    config = small_config()
    step = plan.plan_phase(config, make_mesh(config, devices), "train", memory)
    assert step.fits
    assert step.aliased > 12 * _parameters(config)
    with pytest.raises(InputError, match="--devices=v5e:3x3: no such slice"):
        plan.find_devices("v5e:3x3")
