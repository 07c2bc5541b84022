"""Training: the state, the step, the loop.

`train` finds all that can be wrong (`prepare_run`), then trains phase after phase (`run_phase`).
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from bertjax import optim, sharding
from bertjax.checkpoint import FOLDER, Checkpoints
from bertjax.data.loader import prefetch
from bertjax.distributed import any_process, together
from bertjax.errors import InputError, Interrupted, naming, stop_signals
from bertjax.evaluate import evaluate, make_eval_step, make_predict_step, predict
from bertjax.init_from import initial_params, load_source
from bertjax.logs import Log
from bertjax.mesh import make_mesh
from bertjax.metering import Meter
from bertjax.models import kind_of
from bertjax.models.layers import dropout_keys
from bertjax.optimizer_names import OWN
from bertjax.sections import fields, phases, total_steps
from bertjax.tasks import task_of
from bertjax.tasks.interface import Data, EvalSet, Outputs, Rows, Task
from bertjax.train_state import (
    State,
    abstract_state,
    from_saved,
    init_state,
    make_eval_params,
    make_optimizer_init,
    to_saved,
    trained_params,
)
from bertjax.trained_model import Trained, checkpoint_meta
from bertjax.workdir import check_config, lock_workdir

Batch = dict[str, jax.Array]
_AGREE_EVERY = 20  # steps between the processes' agreements on whether to stop


def scalars(config: ConfigDict, step: int) -> dict[str, np.generic]:
    """What update number `step` (from 0) needs besides state and batch: the run's seed, its learning rate.

    They are given to the step, not compiled into it, so runs that differ in no more than seeds, rates and
    numbers of steps share a compiled program.
    """
    return {
        "seed": np.uint32(config.seed),
        "learning_rate": np.float32(optim.learning_rate(config, step)),
    }


def train_step(
    config: ConfigDict,
    task: Task,
    phase: ConfigDict,
    state: State,
    batch: Batch,
    given: Mapping[str, jax.Array],
) -> tuple[State, Batch]:
    """One update. A pure function of its arguments: dropout's keys follow from the seed and the state's step.

    An update whose loss or gradient is not finite is skipped and counted.

    Args:
      phase: config.train or config.phase2.
      given: see `scalars`.

    Returns:
      The new state, and sums over the batch with their weights as float32 scalars.
    """
    key = jax.random.fold_in(jax.random.key(given["seed"] + 1), state["step"])
    seed = jax.random.bits(key, (2,), jnp.uint32)
    weights = task.batch_weights(batch)
    trained = trained_params(config, state["params"])
    rows = jnp.arange(batch["input_ids"].shape[0])
    remat = phase.remat if "remat" in phase else "none"

    def loss_fn(params: Any, part: Batch, rows: jax.Array) -> tuple[jax.Array, Batch]:
        sums = task.batch_sums(config, state["params"] | params, part, dropout_keys(seed, rows), remat)
        return task.batch_loss(sums, weights), sums

    grad_fn = jax.grad(loss_fn, has_aux=True)
    parts = phase.accumulation
    if parts == 1:
        grads, sums = grad_fn(trained, batch, rows)
    else:
        # Part i takes every parts-th row from row i on, so that each device keeps the rows that it has.
        def split(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

        def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, grad_fn(trained, *part)), None

        split_batch = jax.tree.map(split, (batch, rows))
        first = jax.eval_shape(lambda: grad_fn(trained, *jax.tree.map(lambda x: x[0], split_batch)))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        (grads, sums), _ = jax.lax.scan(add, zeros, split_batch)

    loss, norm = task.batch_loss(sums, weights), optim.global_norm(grads)
    rate = given["learning_rate"]
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    new = optim.update(config.optim, trained, grads, state["optimizer"], rate, loss)
    old = (trained, state["optimizer"])
    params, optimizer = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    bad = (~finite).astype(jnp.int32)
    state = {
        "params": state["params"] | params,
        "optimizer": optimizer,
        "step": state["step"] + 1,
        "bad_steps": state["bad_steps"] + bad,
        "bad_in_a_row": (state["bad_in_a_row"] + bad) * bad,
    }
    measured = {
        "learning_rate": rate,
        "grad_norm": norm,
        "bad_steps": state["bad_steps"],
        "bad_in_a_row": state["bad_in_a_row"],
        "sequences": batch["segment_ids"].max(-1).sum(),
        "tokens": (batch["segment_ids"] > 0).sum(),
    }
    return state, jax.tree.map(lambda x: x.astype(jnp.float32), sums | weights | measured)


def make_train_step(config: ConfigDict, task: Task, mesh: Mesh, phase: str = "train") -> tuple[Any, Any, Any]:
    """(jitted step of a phase, jitted init, state shardings), with shardings of every input and output.

    step: (state, batch, scalars) -> (state, measured); the state given is consumed.
    init: () -> state.
    """

    def step(state: State, batch: Batch, given: Mapping[str, jax.Array]) -> tuple[State, Batch]:
        with sharding.tracing(mesh, config.model.dtype):
            return train_step(config, task, config[phase], state, batch, given)

    def init(seed: jax.Array) -> State:
        return init_state(config, task, seed)

    params = jax.eval_shape(lambda: task.init_params(config, jax.random.key(0)))
    optim.check_optimizer(config.optim, trained_params(config, params))
    table = kind_of(config.model.kind).sharding
    shardings = sharding.state_shardings(table, jax.eval_shape(init, np.uint32(0)), mesh)
    on_batch, replicated = NamedSharding(mesh, sharding.BATCH), NamedSharding(mesh, sharding.REPLICATED)
    step_fn = jax.jit(
        step,
        in_shardings=(shardings, on_batch, replicated),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )
    init_fn = jax.jit(init, in_shardings=replicated, out_shardings=shardings)
    return step_fn, functools.partial(init_fn, np.uint32(config.seed)), shardings


def abstract_batch(config: ConfigDict, task: Task, mesh: Mesh, phase: ConfigDict) -> Any:
    """A batch of config.train or config.phase2 as jax.ShapeDtypeStruct with shardings."""
    on_batch = NamedSharding(mesh, sharding.BATCH)
    shapes = task.batch_shapes(config, phase)
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_batch) for name, x in shapes.items()}


@dataclass(frozen=True)
class Prepared:
    """A run in which all that a look at its inputs can find wrong has been looked for."""

    config: ConfigDict  # resolved
    task: Task
    mesh: Mesh
    source: Trained | None  # what it begins from
    data: Data


@dataclass(frozen=True)
class Run:
    """What stays the same through a run."""

    prepared: Prepared
    eval_step: Any  # jitted (params, batch) -> sums, or outputs if the task evaluates by those
    eval_params: Callable[[State], State]  # see make_eval_params
    checkpoints: Checkpoints
    log: Log
    stop_asked: Callable[[int], bool]  # whether the run is to stop after this step


def prepare_run(config: ConfigDict) -> Prepared:
    """Reads a run's inputs. Writes nothing. Raises InputError for whatever does not fit."""
    if not config.workdir:
        raise InputError("--config.workdir is empty; name a folder for checkpoints and metrics")
    task = task_of(config.task)
    source = load_source(config, task)
    config = task.resolve(config, source)
    mesh = make_mesh(config)  # before files are read, which may take long
    data = task.open_data(config, source)
    return Prepared(data.config, task, mesh, source, data)


def train(config: ConfigDict) -> dict[str, float]:
    """Trains until the last step of config, from the newest checkpoint in config.workdir if there is one.

    Returns:
      The last held-out metrics, their names beginning with "eval/"; {} if the run was complete already.

    Raises:
      InputError: see its message. Nothing that the workdir holds is lost.
      NotFiniteError: config.train.max_bad_steps updates in a row were skipped.
      Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    prepared = prepare_run(config)
    config, task, mesh, data = prepared.config, prepared.task, prepared.mesh, prepared.data
    _, init_fn, shardings = make_train_step(config, task, mesh)

    with contextlib.ExitStack() as stack:
        # The workdir: one writer, one config, the newest good checkpoint.
        def enter_workdir() -> Checkpoints:
            stack.enter_context(lock_workdir(config.workdir))
            check_config(config.workdir, config, data.fingerprints)
            keep = {"keep_last": config.train.keep_last, "keep_every": config.train.keep_every}
            folder = os.path.join(config.workdir, FOLDER)
            return stack.enter_context(contextlib.closing(Checkpoints(folder, **keep)))

        checkpoints = together(enter_workdir)
        expected = abstract_state(config, task, shardings)
        restored = checkpoints.restore(to_saved(config, expected, expected["params"]))
        notes = list(data.notes)
        if restored:
            state, step = from_saved(restored[0]), restored[2]
        else:
            state, step = init_fn(), 0
            if prepared.source:
                state["params"], line = initial_params(
                    config, task, prepared.source, data, state["params"], shardings["params"]
                )
                notes.append(line)
                if config.optim.name not in OWN:
                    # Some of optax's begin with a copy of the parameters.
                    del state["optimizer"]
                    state["optimizer"] = make_optimizer_init(config, shardings)(state["params"])
        total = total_steps(config)

        def open_log() -> Log:
            if jax.process_index() == 0:
                with naming(config.workdir):
                    data.tokenizer.save(config.workdir)
            log = Log(
                config.workdir,
                total_steps=total,
                start_step=step,
                tensorboard=config.log.tensorboard,
                wandb_project=config.log.wandb_project,
                config=dict(fields(config)),
            )
            return stack.enter_context(contextlib.closing(log))

        log = together(open_log)
        log.note(_headline(mesh, state, step, total))
        for note in notes:
            log.note(note)

        # The phases, one after the other: each has its own batch shape, and so its own compiled step.
        make_eval = make_predict_step if task.evaluates == "outputs" else make_eval_step
        eval_step = make_eval(config, task, mesh, shardings["params"])
        run = Run(prepared, eval_step, make_eval_params(config, shardings), checkpoints, log,
                  stack.enter_context(_stop_signal()))  # fmt: skip
        last: dict[str, float] = {}
        begin = 0
        for phase in phases(config):
            end = begin + config[phase].steps
            if step < end:
                state, last = run_phase(run, phase, state, begin, max(begin, step), end)
            begin = end
        return last


def run_phase(
    run: Run, phase: str, state: State, begin: int, step: int, end: int
) -> tuple[State, dict[str, float]]:
    """Trains from `step` to `end`, in a phase that began at step `begin`.

    Returns:
      The state and the last held-out metrics.
    """
    config, task, mesh, log = run.prepared.config, run.prepared.task, run.prepared.mesh, run.log
    rows, total = run.prepared.data.rows[phase], total_steps(config)
    step_fn, _, _ = make_train_step(config, task, mesh, phase)
    compiled: dict[tuple[int, ...], Any] = {}  # by the shape of input_ids
    meter = Meter(config, task, run.prepared.data.rows, phase, log)

    def step_for(batch: Batch) -> Any:
        shape = batch["input_ids"].shape
        if shape not in compiled:
            jax.block_until_ready(state)  # so that no step is at work while the clock leaves this time out
            started = time.perf_counter()
            compiled[shape] = step_fn.lower(state, batch, scalars(config, step)).compile()
            seconds = time.perf_counter() - started
            meter.throughput.leave_out(seconds)
            log.note(f"compiled for {' x '.join(map(str, shape))} in {seconds:.1f} s")
        return compiled[shape]

    held_out: dict[str, float] = {}
    batches = prefetch(_batch_maker(mesh, rows, begin), step, end)
    with contextlib.closing(batches):  # type: ignore[type-var]
        for batch in batches:
            state, measured = step_for(batch)(state, batch, scalars(config, step))
            step += 1
            meter.add(step, measured)
            stopping = step < total and run.stop_asked(step)
            due = bool(rows.evals) and _due(step, config.train.eval_every, end)
            evaluating = due and not (stopping and step < end)
            saving = stopping or _due(step, config.train.save_every, end)

            if evaluating or saving:
                meter.log()
                eval_params = run.eval_params(state)
            elif step > 1 and (step - 1) % config.train.log_every == 0:
                # Not the newest step, so that the device has work while the host reads.
                meter.log(newest=False)
            if evaluating:
                held_out = evaluate_all(run, rows, eval_params, last=step == total)
                log.metrics(step, held_out)
            if saving:
                data = run.prepared.data
                meta = checkpoint_meta(dict(fields(config)), task.head, data.labels, data.tokenizer,
                                       held_out if evaluating else {})  # fmt: skip
                saved = to_saved(config, state, eval_params)
                run.checkpoints.save(step, saved, meta, wait=bool(stopping or step == total))
                del saved
            if evaluating or saving:
                del eval_params  # its memory
                meter.throughput.reset()
            if stopping:
                raise Interrupted(f"step {step} of {total} is saved; the same command continues")
    return state, held_out


def evaluate_all(run: Run, rows: Rows, params: Any, last: bool) -> dict[str, float]:
    """The figures of every evaluation set; after the last step its files of predictions are written too."""
    config, task, mesh = run.prepared.config, run.prepared.task, run.prepared.mesh
    figures: dict[str, float] = {}
    for rows_of_set in rows.evals:
        if task.evaluates == "outputs":
            if not (rows_of_set.score or last):
                continue
            outputs = predict(config, mesh, run.eval_step, params, rows_of_set)
            values = rows_of_set.score(outputs) if rows_of_set.score else {}
            if last and rows_of_set.write:
                lines = together(functools.partial(_write_predictions, run, rows_of_set, outputs))
                if lines:
                    run.log.note(lines)
        else:
            values = evaluate(config, task, mesh, run.eval_step, params, rows_of_set)
        figures |= {f"{rows_of_set.name}/{name}": value for name, value in values.items()}
    return figures | {f"eval/{name}": value for name, value in run.prepared.data.constants.items()}


def _write_predictions(run: Run, evals: EvalSet, outputs: Outputs) -> str | None:
    """Writes them on the first process; the lines that say so."""
    workdir = run.prepared.config.workdir
    if jax.process_index() or not evals.write:
        return None
    with naming(workdir):
        return evals.write(outputs, workdir)


def _due(step: int, every: int, end: int) -> bool:
    return step == end or (every > 0 and step % every == 0)


def _headline(mesh: Mesh, state: State, step: int, total: int) -> str:
    parameters = sum(x.size for x in jax.tree.leaves(state["params"])) / 1e6
    devices = f"{mesh.size} {jax.devices()[0].device_kind} device{'s' if mesh.size > 1 else ''}"
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    where = f"complete: step {step} of {total}" if step == total else f"step {step} of {total}"
    return f"{parameters:.1f}M parameters on {devices} ({axes}), {where}"


def _batch_maker(mesh: Mesh, rows: Rows, begin: int) -> Callable[[int], Batch]:
    """step -> its global batch, of which this process makes the rows that its devices need."""

    def make(step: int) -> Batch:
        return sharding.make_global(mesh, rows.train, (step - begin) * rows.batch_rows, rows.batch_rows)

    return make


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[int], bool]]:
    """A function that tells whether SIGTERM or SIGINT has come, in any process of the run, by this step.

    With several processes all must stop at the same step, so they agree on it every few steps.
    """
    with stop_signals() as came:

        def asked(step: int) -> bool:
            if jax.process_count() == 1:
                return bool(came)
            return step % _AGREE_EVERY == 0 and any_process(bool(came))

        yield asked
