"""The loop round the step: which rows it asks for, what it logs, how far it runs ahead, when it stops."""

import contextlib
import math
import types

import jax
import jax.numpy as jnp
import pytest
from store_fixture import toy_config

from bertjax import train as train_lib
from bertjax.checkpoint import load_params
from bertjax.config import default
from bertjax.data.pretraining.bert_examples import Examples
from bertjax.errors import Interrupted
from bertjax.logs import read_metrics
from bertjax.metering import Meter
from bertjax.sections import phases
from bertjax.tasks.pretrain import TASK as pretrain
from bertjax.throughput import Throughput
from bertjax.train import train, train_step
from bertjax.train_state import init_state

PHASES = {"train.steps": 4, "phase2.steps": 2, "model.num_hidden_layers": 1, "train.log_every": 2,
          "train.eval_every": 5, "eval.enabled": True, "eval.batch_rows": 16}  # fmt: skip


@contextlib.contextmanager
def stopped_at(*steps):
    """Runs are asked to stop after these steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_lib, "_stop_signal", lambda: contextlib.nullcontext(lambda step: step in steps))
        yield


@pytest.fixture(scope="module")
def run(store, tmp_path_factory, one_device):
    """The workdir of a run of two phases that was asked to stop after its fifth step, went on, and was asked
    again after its last; and {sequence length: first rows of batches} of its first part and of its second."""
    workdir, asked, rows = tmp_path_factory.mktemp("run"), {}, Examples.rows

    def recorded(self, position, count):
        if count == 8:  # of a training step
            asked.setdefault(self.seq_length, []).append(position)
        return rows(self, position, count)

    with pytest.MonkeyPatch.context() as patch, stopped_at(5, 6):
        patch.setattr(Examples, "rows", recorded)
        with pytest.raises(Interrupted, match="step 5 of 6 is saved"):
            train(toy_config(store, workdir, **PHASES))
        before = dict(asked)
        asked.clear()
        train(toy_config(store, workdir, **PHASES))
    return workdir, before, asked


def test_each_phase_begins_with_its_own_first_row(run):
    assert run[1] == {16: [0, 8, 16, 24], 32: [0, 8]}


def test_a_run_goes_on_with_the_row_after_the_last_one(run):
    assert run[2] == {32: [8]}


def test_a_signal_at_the_last_step_does_not_interrupt_a_run_that_is_complete(run):
    assert load_params(str(run[0]))[2] == 6
    assert read_metrics(str(run[0] / "metrics.jsonl"))[-1]["step"] == 6


def lines_with(run, name):
    return [row["step"] for row in read_metrics(str(run[0] / "metrics.jsonl")) if name in row]


def test_lines_are_logged_at_multiples_and_before_a_save(run):
    """Of log_every=2, a phase's end, a stop and the end."""
    assert lines_with(run, "loss") == [2, 4, 5, 6]


def test_a_run_is_evaluated_when_it_is_due_but_not_when_it_is_to_stop(run):
    """At each phase's end, and not at step 5, at which it stops: whoever stops it does not wait for that."""
    assert lines_with(run, "eval/loss") == [4, 6]


def root_task(parameter):
    """A task of one parameter x whose loss, sqrt(x), is finite at 0, where its gradient is not."""
    return types.SimpleNamespace(
        init_params=lambda config, key: {"bias": jnp.full(1, parameter)},
        batch_weights=lambda batch: {"weight": jnp.ones(())},
        batch_sums=lambda config, params, batch, keys, remat: {"loss": jnp.sqrt(params["bias"]).sum()},
        batch_loss=lambda sums, weights: sums["loss"],
    )


@pytest.mark.parametrize(("parameter", "bad"), [(0.0, 1), (4.0, 0)])
def test_an_update_of_a_finite_loss_with_an_infinite_gradient_is_skipped(parameter, bad):
    config, task = default(), root_task(parameter)
    batch = {name: jnp.ones((2, 4), jnp.int32) for name in ("input_ids", "segment_ids")}
    before = init_state(config, task, 0)
    given = {"seed": 0, "learning_rate": jnp.float32(0.1)}
    after, measured = train_step(config, task, config.train, before, batch, given)
    assert math.isfinite(measured["loss"])
    assert math.isfinite(measured["grad_norm"]) == (not bad)
    assert after["bad_steps"] == after["bad_in_a_row"] == bad
    assert after["step"] == 1
    assert after["optimizer"]["count"] == 1 - bad
    for name in ("params", "optimizer"):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after[name], before[name])
        assert all(jax.tree.leaves(same)) == bool(bad)


def measured(mlm_loss, bad_in_a_row=0.0, **more):
    """What a step measures, every weight 1 and every rate 0."""
    zero = dict.fromkeys(("nsp_loss", "nsp_correct", "nsp", "mlm_correct", "learning_rate", "grad_norm"), 0.0)
    counts = {"sequences": 8.0, "tokens": 64.0, "bad_steps": 0.0, "bad_in_a_row": bad_in_a_row}
    return {**zero, **counts, "mlm_loss": mlm_loss, "mlm": 1.0, **more}


def make_meter(**fields):
    """(meter, the (step, figures) of the lines that it logs); a step of phase 2 is worth three of phase 1."""
    lines = []
    log = types.SimpleNamespace(metrics=lambda step, figures: lines.append((step, figures)))
    flops = {"train": 1.0, "phase2": 3.0}
    rows = {name: types.SimpleNamespace(flops=x) for name, x in flops.items()}
    config = toy_config(**fields)
    return Meter(config, pretrain, {name: rows[name] for name in phases(config)}, "train", log), lines


def test_logged_means_are_over_the_steps_that_were_not_skipped():
    """The loss of a skipped step may be finite, and is of no update."""
    meter, lines = make_meter()
    meter.add(1, measured(2.0))
    meter.add(2, measured(1000.0, bad_in_a_row=1.0, bad_steps=1.0))
    meter.add(3, measured(4.0, bad_steps=1.0, learning_rate=0.5, grad_norm=7.0))
    meter.log()
    [(step, figures)] = lines
    assert step == 3
    assert figures["mlm_loss"] == figures["loss"] == 3.0
    assert (figures["bad_steps"], figures["learning_rate"], figures["grad_norm"]) == (1.0, 0.5, 7.0)


def test_a_line_is_over_the_steps_since_the_line_before_and_may_leave_out_the_newest():
    meter, lines = make_meter()
    for step in (1, 2, 3):
        meter.add(step, measured(float(step)))
    meter.log(newest=False)
    meter.add(4, measured(5.0))
    meter.log()
    meter.log()  # nothing new
    assert [(step, figures["mlm_loss"]) for step, figures in lines] == [(2, 1.5), (4, 4.0)]


def test_the_host_waits_for_the_step_before_the_newest_two():
    """So it never prepares more than two steps that the devices have not done."""
    waited = []

    class Result:
        def __init__(self, step):
            self.step = step

        def block_until_ready(self):
            waited.append(self.step)

    meter, _ = make_meter()
    for step in range(1, 6):
        meter.add(step, {"loss": Result(step)})
        assert waited == list(range(1, step - 1))


def test_the_time_left_is_that_of_the_steps_left_in_each_phase():
    """A step of phase 2 is worth three of phase 1, of which one is done in a second."""
    meter, lines = make_meter(**{"train.steps": 10, "phase2.steps": 5})
    now = [0.0]
    meter.throughput = Throughput(100.0, clock=lambda: now[0])
    for step, seconds_left in ((4, 6 + 15), (10, 15), (12, 9)):
        now[0] += 1
        meter.add(step, measured(1.0))
        meter.log()
        assert lines[-1][1]["seconds_left"] == pytest.approx(seconds_left)
