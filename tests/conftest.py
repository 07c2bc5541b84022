import atexit
import gc
import os
import shutil
import tempfile

# Set before JAX starts, and inherited by the tests' subprocesses: devices for meshes; code for toy models
# that is made soon rather than fast (a step compiles in a quarter of the time); and no program compiled twice
# in a session.
os.environ["XLA_FLAGS"] = " ".join((
    "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1",
))  # fmt: skip
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA takes as many threads as there are devices. Collectives of one program that do not wait for each other
# can hold them all, each short of one device, until XLA aborts after 40 seconds.
os.environ["NPROC"] = "64"
os.environ["GLIBC_TUNABLES"] = ""  # bertjax.cpu_memory starts no program again where this is set
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # xdist's workers have what this sets
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bertjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
gc.set_threshold(50_000, 20, 100)  # tracing makes many objects, which are not garbage

import jax  # noqa: E402
import pytest  # noqa: E402
from store_fixture import arguments, make_store, write_config  # noqa: E402

from bertjax import mesh as mesh_module  # noqa: E402


@pytest.fixture(scope="module")
def one_device():
    """Gives runs one device, in processes of their own too: they are compiled and end in half of the time."""
    devices = jax.devices()[:1]  # of this process's eight, which it has from here on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh_module, "all_devices", lambda: devices)
        patch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"))
        yield


@pytest.fixture
def eight_devices(one_device, monkeypatch):
    """Gives the runs of a test all devices."""
    monkeypatch.setattr(mesh_module, "all_devices", jax.devices)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A token store of 48 short documents, 4 or 5 of them held out; nobody changes it."""
    return str(make_store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session")
def reference(store, tmp_path_factory):
    """An undisturbed run of two phases, to compare others with: (its flags but the workdir, its workdir)."""
    from bertjax.main import main

    folder = tmp_path_factory.mktemp("reference")
    args = arguments(
        write_config(folder),
        **{"data.store": store, "train.steps": 40, "phase2.steps": 40, "train.save_every": 10,
           "train.eval_every": 40, "eval.enabled": True, "train.keep_last": 20, "optim.learning_rate": 1e-3},
    )  # fmt: skip
    main([*args, f"--config.workdir={folder / 'run'}"])
    return args, folder / "run"
