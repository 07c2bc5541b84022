import contextlib
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_fixture import (
    assert_same,
    files_of,
    flip_bit,
    make_state,
    opened,
    save_steps,
    sharding,
    target_of,
)
from trained_fixture import make_trained

import bertjax.checkpoint
from bertjax.checkpoint import Checkpoints, load_params
from bertjax.config import default
from bertjax.errors import InputError, NotFiniteError
from bertjax.files import write_atomically
from bertjax.sections import fields
from bertjax.tasks import TASKS
from bertjax.trained_model import checkpoint_meta, load_trained
from bertjax.workdir import check_config, lock_workdir, may_change


def test_restores_onto_the_same_and_onto_other_meshes(tmp_path):
    state = make_state(3)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(target_of(state)) is None
        checkpoints.save(7, state, {"why": "test"}, wait=True)
        assert checkpoints.steps() == [7]
    for devices in (8, 4, 2):
        with opened(tmp_path) as checkpoints:
            restored, meta, step = checkpoints.restore(target_of(state, devices))
        assert (meta, step) == ({"why": "test"}, 7)
        assert_same(restored, state)
        kernel = restored["params"]["dense"]["kernel"]
        assert kernel.sharding == sharding(devices, "data", "fsdp")
        assert (restored["step"].dtype, restored["key"].dtype) == (jnp.int32, jnp.uint32)


def test_a_donated_state_may_change_while_it_is_being_saved(tmp_path):
    add = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = {"params": {"kernel": jnp.zeros((1024, 1024))}}
    with opened(tmp_path) as checkpoints:
        for step in range(3):
            checkpoints.save(step, state, {})
            state = add(state)
    for step in range(3):
        assert (load_params(str(tmp_path), step)[0]["kernel"] == step).all()


def test_a_bit_flip_in_any_file_is_seen_and_the_step_before_is_taken(tmp_path, capsys):
    save_steps(tmp_path, 1, 2)
    paths = [*files_of(tmp_path, 2), tmp_path / "digests" / "2.json"]
    assert len(paths) > 8
    for path in paths:
        good = path.read_bytes()
        flip_bit(path)
        with opened(tmp_path) as checkpoints:
            restored, meta, step = checkpoints.restore(target_of(make_state()))
        assert (step, meta) == (1, {"loss": 0.5}), path
        assert_same(restored, make_state(1))
        message = capsys.readouterr().err
        assert str(path) in message
        assert message.count("\n") == 1
        path.write_bytes(good)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore(target_of(make_state()))[2] == 2


@pytest.mark.parametrize("damage", ["truncate", "remove file", "remove manifest"])
def test_a_damaged_step_is_skipped_and_replaced(tmp_path, capsys, damage):
    save_steps(tmp_path, 1, 2)
    largest = max(files_of(tmp_path, 2), key=lambda path: path.stat().st_size)
    manifest = tmp_path / "digests" / "2.json"
    if damage == "truncate":
        largest.write_bytes(largest.read_bytes()[:-1])
    else:
        (manifest if damage == "remove manifest" else largest).unlink()
    with opened(tmp_path, keep_last=1) as checkpoints:
        assert checkpoints.restore(target_of(make_state()))[2] == 1
        assert str(manifest if damage == "remove manifest" else largest) in capsys.readouterr().err
        checkpoints.save(2, make_state(20), {}, wait=True)
        assert checkpoints.steps() == [2]
        assert checkpoints.restore(target_of(make_state()))[0]["step"] == 20


def test_a_step_damaged_after_this_object_saved_it_is_written_again(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {}, wait=True)
        checkpoints.save(2, make_state(2), {}, wait=True)
        flip_bit(tmp_path / "2" / "_METADATA")
        assert checkpoints.restore(target_of(make_state()))[2] == 1
        checkpoints.save(2, make_state(2), {}, wait=True)
        assert checkpoints.restore(target_of(make_state()))[2] == 2


def test_all_damaged_is_an_error_and_nothing_is_deleted(tmp_path, capsys):
    save_steps(tmp_path, 1, 2)
    for step in (1, 2):
        flip_bit(tmp_path / str(step) / "_METADATA")
    with opened(tmp_path) as checkpoints:
        with pytest.raises(InputError, match="no whole checkpoint") as caught:
            checkpoints.restore(target_of(make_state()))
        faults = [f"step {step}: {tmp_path}/{step}/_METADATA: its content changed" for step in (2, 1)]
        assert [fault for fault in faults if fault in str(caught.value)] == faults
        assert "\n" not in str(caught.value)
        assert capsys.readouterr().err == ""  # the error says it all
    with pytest.raises(InputError, match="no checkpoint of step 9; there are: 1, 2"):
        load_params(str(tmp_path), 9)
    assert {"1", "2"} < set(os.listdir(tmp_path))


def test_a_saved_or_restored_step_is_not_written_again(tmp_path):
    save_steps(tmp_path, 1)
    before = [path.stat().st_mtime_ns for path in files_of(tmp_path, 1)]
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(target_of(make_state()))
        checkpoints.save(1, make_state(1), {}, wait=True)
    assert [path.stat().st_mtime_ns for path in files_of(tmp_path, 1)] == before


def test_non_finite_states_are_refused(tmp_path):
    state = make_state()
    state["mu"]["dense"]["bias"] = state["mu"]["dense"]["bias"].at[3].set(jnp.nan)
    state["params"]["dense"]["kernel"] = state["params"]["dense"]["kernel"].at[1, 1].set(jnp.inf)
    with opened(tmp_path) as checkpoints:
        with pytest.raises(NotFiniteError, match=r"step 4 .* mu/dense/bias, params/dense/kernel$"):
            checkpoints.save(4, state, {})
        assert checkpoints.steps() == []


def test_every_difference_from_the_target_is_listed(tmp_path):
    save_steps(tmp_path, 1)
    target = target_of(make_state())
    target["params"]["dense"]["kernel"] = jax.ShapeDtypeStruct((4, 8), jnp.float32, sharding=sharding(8))
    target["step"] = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding(8))
    target["more"] = jax.ShapeDtypeStruct((2,), jnp.float32, sharding=sharding(8))
    del target["key"]
    with opened(tmp_path) as checkpoints, pytest.raises(InputError) as caught:
        checkpoints.restore(target)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "key: expected none, found uint32[2]",
        "more: expected float32[2], found none",
        "params/dense/kernel: expected float32[4, 8], found float32[16, 8]",
        "step: expected float32[], found int32[]",
    ):
        assert part in message


def test_load_params(tmp_path, capsys):
    save_steps(tmp_path / "checkpoints", 1, 2)
    for folder in (tmp_path, tmp_path / "checkpoints"):
        params, meta, step = load_params(str(folder))
        assert (meta, step) == ({"loss": 1.0}, 2)
        assert isinstance(params["dense"]["kernel"], np.ndarray)
        assert_same(params, make_state(2)["params"])
    assert load_params(str(tmp_path), 1)[2] == 1
    flip_bit(max(files_of(tmp_path / "checkpoints", 2), key=lambda path: path.stat().st_size))
    assert load_params(str(tmp_path))[2] == 1
    assert "step 2 is damaged" in capsys.readouterr().err
    with pytest.raises(InputError, match="no checkpoint"):
        load_params(str(tmp_path / "absent"))


def test_an_error_while_the_manifest_is_written_keeps_the_good_steps(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    save_steps(tmp_path, 1)
    with opened(tmp_path, keep_last=1) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(bertjax.checkpoint, "write_manifest", full)
            checkpoints.save(2, make_state(2), {})
            with pytest.raises(InputError, match=f"{tmp_path}: saving step 2 failed .*No space left"):
                checkpoints.save(3, make_state(3), {})
        assert sorted(os.listdir(tmp_path)) == ["1", "digests"]
        checkpoints.save(2, make_state(2), {}, wait=True)
        assert checkpoints.steps() == [2]


# Orbax closes its event loop under writes that still fail. bertjax.checkpoint keeps what Python says of them
# off the terminal by a hook, in whose place pytest puts its own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [100, 1500])  # bytes
def test_files_that_cannot_grow_keep_the_good_steps(tmp_path, capfd, size):
    save_steps(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path, keep_last=1) as checkpoints:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            with pytest.raises(InputError, match=f"{tmp_path}: saving step 2 failed"):
                checkpoints.save(2, make_state(2), {}, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "Traceback" not in capfd.readouterr().err
        assert checkpoints.restore(target_of(make_state()))[2] == 1
        checkpoints.save(2, make_state(2), {}, wait=True)
    assert sorted(os.listdir(tmp_path)) == ["2", "digests"]


KILLED = """
import sys, jax.numpy as jnp
from bertjax.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep_last=1, keep_every=0)
for step in range(1, 10_000):
    params = {str(i): jnp.full(100_000, float(step)) for i in range(10)}
    checkpoints.save(step, {"params": params}, {"step": step})
    print(step, flush=True)
"""


def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    rng = np.random.default_rng(0)
    for trial in range(2):
        folder = str(tmp_path / str(trial))
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True
        ) as child:
            while int(child.stdout.readline()) < 3:
                pass
            time.sleep(rng.uniform(0, 0.1))
            child.send_signal(signal.SIGKILL)
            last = max([3, *(int(line) for line in child.stdout.read().split("\n")[:-1])])
        params, meta, step = load_params(folder)
        assert step == meta["step"] >= last - 2
        assert all((x == step).all() for x in params.values())
        with opened(folder) as checkpoints:
            assert not [name for name in os.listdir(folder) if not name.isdigit() and name != "digests"]
            assert len(os.listdir(os.path.join(folder, "digests"))) == len(checkpoints.steps())


TWO = """
import sys
import jax, jax.numpy as jnp, numpy as np
folder, index, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize("localhost:" + port, 2, index)
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from bertjax.checkpoint import Checkpoints
from bertjax.workdir import lock_workdir
from bertjax.errors import InputError

rows = NamedSharding(Mesh(np.array(jax.devices()), "d"), PartitionSpec("d"))
full = lambda x: np.full((16, 4), x, np.float32)
state = lambda x: {"k": jax.make_array_from_callback((16, 4), rows, lambda index: full(x)[index])}
target = {"k": jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=rows)}
with lock_workdir(folder):
    checkpoints = Checkpoints(folder, keep_last=2, keep_every=0)
    assert checkpoints.restore(target) is None
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"at": step})
    checkpoints.wait()
    sync_global_devices("saved")
    if index == 0:
        with open(folder + "/3/_METADATA", "ab") as file:
            file.write(b" ")
    sync_global_devices("damaged")
    restored, meta, step = checkpoints.restore(target)
    assert (meta, step) == ({"at": 2}, 2)
    assert all((np.asarray(shard.data) == 2).all() for shard in restored["k"].addressable_shards)
    if index == 0:
        with open(folder + "/2/_METADATA", "ab") as file:
            file.write(b" ")
    sync_global_devices("all damaged")
    try:
        checkpoints.restore(target)
    except InputError:
        print("refused", flush=True)
    checkpoints.close()
"""


def test_two_processes_agree_on_the_step(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", TWO, str(tmp_path / "run")]
    logs = [tmp_path / "0.txt", tmp_path / "1.txt"]
    children = []
    with contextlib.ExitStack() as stack:
        for i in range(2):
            log = stack.enter_context(open(logs[i], "w"))
            child = subprocess.Popen([*command, str(i), port], stdout=log, stderr=subprocess.STDOUT)
            children.append(stack.enter_context(child))
    for child, log in zip(children, logs, strict=True):
        assert "refused" in log.read_text(), log.read_text()
        assert child.returncode == 0, log.read_text()


HOLDER = """
import signal, sys
from bertjax.workdir import lock_workdir
with lock_workdir(sys.argv[1]):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    workdir = str(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, workdir], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by pid {child.pid} on {os.uname().nodename}"):  # noqa: SIM117
            with lock_workdir(workdir):
                raise AssertionError
        child.kill()
    with lock_workdir(workdir):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"pid {os.getpid()} ")
    with lock_workdir(workdir):  # released
        pass


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match="run: No locks available; use another workdir"):  # noqa: SIM117
        with lock_workdir(str(tmp_path / "run")):
            raise AssertionError


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="use another workdir"), lock_workdir(str(tmp_path / "file" / "run")):
        raise AssertionError
    with pytest.raises(InputError, match="use another workdir"):
        Checkpoints(str(tmp_path / "file" / "run"), keep_last=1, keep_every=0)
    with pytest.raises(InputError, match="mount the bucket"):
        Checkpoints("gs://bucket/run", keep_last=1, keep_every=0)


def test_config_of_a_workdir(tmp_path):
    config = default()
    workdir, store = str(tmp_path / "run"), {"data.store sha256": "abc"}
    check_config(workdir, config, store)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train.steps"] == 900_000
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    config.mesh.fsdp, config.train.save_every, config.phase2.remat, config.log.tensorboard = (
        4,
        1,
        "full",
        False,
    )
    config.data.store = config.data.tfrecord = config.data.tfrecord_heldout = config.data.vocab = "/moved"
    check_config(workdir, config, store)
    config.train.steps, config.data.mask_split = 10, (0.5, 0.25, 0.25)
    with pytest.raises(InputError) as caught:
        check_config(workdir, config, {"data.store sha256": "def"})
    message = str(caught.value)
    assert "data.store sha256 was 'abc', now 'def'" in message
    assert "/moved" not in message
    assert "train.steps was 900000, now 10" in message
    assert "data.mask_split was [0.8, 0.1, 0.1], now [0.5, 0.25, 0.25]" in message
    assert "mesh" not in message
    assert "another workdir" in message
    for text, fault in (("{", "not JSON"), ("[1]", "not a JSON object")):
        (tmp_path / "run" / "config.json").write_text(text)
        with pytest.raises(InputError, match=f"config.json: {fault}"):
            check_config(workdir, config, store)


@pytest.mark.parametrize(
    "name",
    ["seed", "task", "data.dupe_factor", "data.weights", "model.hidden_dropout_prob", "model.dtype",
     "model.hidden_act", "optim.name", "optim.weight_decay", "optim.layer_decay", "train.batch_rows",
     "train.batch_examples", "train.batch_windows", "train.seq_length", "train.freeze_encoder",
     "phase2.steps", "phase2.batch_rows", "head.layers", "train.samples", "examples.doc_stride"],
)  # fmt: skip
def test_what_decides_the_numbers_of_a_run_may_not_change(name):
    assert any(name in dict(fields(default(task))) for task in TASKS)
    assert not may_change(name)


def test_a_workdir_without_a_checkpoint_takes_any_config(tmp_path):
    config, path = default(), tmp_path / "config.json"
    check_config(str(tmp_path), config, {})
    (tmp_path / "checkpoints" / "digests").mkdir(parents=True)
    config.train.steps = 10
    check_config(str(tmp_path), config, {})
    assert json.loads(path.read_text())["train.steps"] == 10
    path.write_text("{")
    check_config(str(tmp_path), config, {})
    assert json.loads(path.read_text())["train.steps"] == 10


def test_a_model_with_another_vocabulary_of_the_same_size_is_refused(tmp_path):
    make_trained(str(tmp_path), **{"model.num_hidden_layers": 1})
    load_trained(str(tmp_path))
    path = tmp_path / "vocab.txt"
    tokens = path.read_text().split("\n")
    tokens[10], tokens[11] = tokens[11], tokens[10]
    path.write_text("\n".join(tokens))
    with pytest.raises(InputError, match=r"its vocabulary has as many tokens as .*, and is another, or"):
        load_trained(str(tmp_path))


def test_a_checkpoint_that_does_not_say_what_its_head_reads_is_refused(tmp_path):
    make_trained(str(tmp_path), **{"model.num_hidden_layers": 1})
    source = load_trained(str(tmp_path))
    fields = source.meta["resolved_config"] | {
        "head.lstm_layers": 0,
        "head.lstm_size": 8,
        "head.dropout_prob": 0,
    }
    meta = checkpoint_meta(fields, source.head, source.labels, source.tokenizer, {})
    with contextlib.closing(Checkpoints(str(tmp_path / "checkpoints"), keep_last=1, keep_every=0)) as files:
        files.save(8, {"params": jax.device_put(source.params)}, meta, wait=True)
    with pytest.raises(
        InputError, match=r"step 8 does not say head\.layers; it was saved by another version"
    ):
        load_trained(str(tmp_path))


def test_a_full_disk_has_the_name_of_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(str(tmp_path / "file"), "text")
    assert caught.value.filename == str(tmp_path / "file")
