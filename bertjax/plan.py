"""Compiles a config's train step for devices that need not be there, and prints what it needs of each:

    python -m bertjax.plan --config=pretrain_large --devices=v5e:4x4 [--config.FIELD=VALUE ...]

Devices: a TPU slice (v4:2x2x4, v5e:4x4, v5p:2x2x4, v6e:4x4; v5e:1x1 is one chip), or h100, or h100:8 for the
GPUs of one host. TPUs need libtpu (pip install "bertjax[tpu]"), the H100 its plugin (pip install
"bertjax[cuda13]"); neither needs the hardware.
"""

import importlib.util
import json
import math
import os
import re
import resource
import sys
import time
from argparse import RawTextHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import sharding
from bertjax.config import files, set_size
from bertjax.convert.load import load
from bertjax.errors import InputError, run_command
from bertjax.flags import Parser
from bertjax.mesh import make_mesh
from bertjax.models import kind_of
from bertjax.models.interface import LABELLED, NUMBER
from bertjax.sections import batch_size, phases
from bertjax.tasks import task_of
from bertjax.tasks.interface import Task
from bertjax.train import abstract_batch, make_train_step, scalars
from bertjax.train_state import abstract_state

GIB = 2**30
# Memory of a chip: cloud.google.com/tpu/docs. The compiler keeps some of it for itself and refuses what does
# not fit in the rest.
_TPU_BYTES = {"v4": 32 * GIB, "v5e": 16 * GIB, "v5p": 95 * GIB, "v6e": 32 * GIB}
# What XLA asks the driver about an H100 SXM (NVIDIA's data sheet; CUDA programming guide, capability 9.0).
_H100_BYTES = 84_978_434_048
_H100 = f"""
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info {{ major: 9 minor: 8 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 minor: 0 }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  l2_cache_size: 52428800 memory_bandwidth: 3352320000000 device_memory_size: {_H100_BYTES}
}}
"""


@dataclass(frozen=True)
class PhaseCost:
    """What one phase's train step needs of each device. Sizes are bytes; None where it did not compile: then
    the total is what the compiler names, which may leave out the arguments."""

    phase: str  # section of the config
    rows: int  # over all devices
    seq_length: int
    compile_seconds: float
    parameters: int  # of the arguments, the model's parameters
    optimizer: int  # of the arguments, the optimizer's state
    arguments: int | None  # train state and batch
    outputs: int | None
    aliased: int | None  # of the outputs, what takes the place of arguments
    temporaries: int
    total: int  # the most that is in use at once: arguments + outputs - aliased + temporaries + code
    memory: int  # what a job may use
    model_flops: float  # a step's matrix products on one device, without what remat repeats
    fits: bool


def main(args: Sequence[str]) -> None:
    """The command. Raises InputError, also where a phase does not fit; the figures are printed first."""
    parser = Parser(command="plan", description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--devices", required=True, metavar="NAME")
    parser.add_argument(
        "--model_size", default="", metavar="NAME",
        help="in fine-tuning without --config.init_from, the size of the model, such as large",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, in bytes")
    flags, rest = parser.parse_known_args(files.joined(args))
    config = _complete(files.parse_args(rest), flags.model_size)
    devices, memory = find_devices(flags.devices)
    mesh = make_mesh(config, devices)
    figures = []
    for phase in phases(config):
        figures.append(plan_phase(config, mesh, phase, memory))
        if not flags.json:
            print(_line(figures[-1], len(figures) == 1, mesh), flush=True)
    if flags.json:
        print(json.dumps([asdict(each) for each in figures], indent=1))
    else:
        print(_optimizer_line(config, figures[0]), flush=True)
    require_fit(config, mesh, figures)


def _complete(config: ConfigDict, model_size: str) -> ConfigDict:
    """The config of a fine-tuning run with the architecture of its model and the labels of its data, as
    far as they are known without reading examples. Raises InputError."""
    task = task_of(config.task)
    if not task.fine_tunes:
        if model_size:
            raise InputError(f"--model_size={model_size}: is of fine-tuning; set --config.model's fields")
        return config
    kind = kind_of(config.model.kind)
    if config.init_from:
        source = load(config.init_from, model_kind=config.model.kind)
        config = task.resolve(config, source)
    else:
        config.model.update(kind.architecture())
        if model_size or kind.sizes:
            set_size(config, model_size or "base")
            print(
                f"the model: {model_size or 'base'}; --model_size or --config.init_from names another",
                file=sys.stderr,
            )
    labels = config.examples.labels if "labels" in config.examples else ()
    if task.head in LABELLED and not labels:
        if "number" in config.examples and config.examples.number:
            config.examples.labels = NUMBER
        else:
            raise InputError(
                "--config.examples.labels=(): no data is read here, where a run finds its labels; give as "
                "many as it has, such as --config.examples.labels=\"('O', 'B-PER', 'I-PER')\""
            )
    return config


def find_devices(name: str) -> tuple[list[Any], int]:
    """(devices to compile for, bytes of memory that a job may use on each) of "v5e:4x4", "h100" and the like.

    Raises:
      InputError: no such devices, or the package that compiles for them is not installed.
    """
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no TPU machine's metadata server to ask
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # the lock is for the hardware, which is not touched here
    # Without these two libtpu complains on stderr that it does not know where it runs.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    jax.config.update("jax_platforms", "cpu")  # leaves the accelerators of this machine alone
    kind, _, size = name.partition(":")
    tpu = kind in _TPU_BYTES and re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", size)
    if not tpu and not (kind == "h100" and re.fullmatch(r"([1-9]\d*)?", size)):
        kinds = ", ".join(_TPU_BYTES)
        raise InputError(f"--devices={name}: use a TPU slice ({kinds}) such as v5e:4x4, or h100, or h100:8")
    package, extra = ("libtpu", "tpu") if tpu else ("jax_plugins.xla_cuda13", "cuda13")
    if not _installed(package):
        raise InputError(f'--devices={name}: {package} is not installed; run pip install "bertjax[{extra}]"')
    if not tpu:
        # JAX's documentation, "GPU memory allocation": three quarters, unless this variable says otherwise.
        share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"))
        return _h100(int(size or 1)), int(share * _H100_BYTES)
    return _tpu(name, kind, size), _TPU_BYTES[kind]


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


def _tpu(name: str, kind: str, size: str) -> list[Any]:
    options: dict[str, Any] = {}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as JAX runs them
    if math.prod(map(int, size.split("x"))) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if not reason.startswith("INVALID_ARGUMENT"):
            raise
        raise InputError(f"--devices={name}: no such slice ({reason}); use one such as v5e:4x4") from error


def _h100(count: int) -> list[Any]:
    return topologies.get_topology_desc(
        platform="cuda", topology_name="h100", target_config=_H100, topology=f"1x1x{count}"
    ).devices


def compile_step(config: ConfigDict, task: Task, mesh: Mesh, phase: str) -> Any:
    """The compiled train step of a phase ("train" or "phase2"), which no data was needed for."""
    step_fn, _, shardings = make_train_step(config, task, mesh, phase)
    batch = abstract_batch(config, task, mesh, config[phase])
    return step_fn.lower(abstract_state(config, task, shardings), batch, scalars(config, 0)).compile()


def state_sizes(config: ConfigDict, task: Task, mesh: Mesh) -> tuple[int, int]:
    """Bytes on each device of the parameters and of the optimizer's state."""
    state = abstract_state(config, task, make_train_step(config, task, mesh)[2])
    return sharding.bytes_on_a_device(state["params"]), sharding.bytes_on_a_device(state["optimizer"])


def plan_phase(config: ConfigDict, mesh: Mesh, phase: str, memory: int) -> PhaseCost:
    """Compiles the train step of a phase for the mesh and says what it needs.

    Args:
      memory: bytes that a job may use on each device.
    """
    task, section = task_of(config.task), config[phase]
    parameters, optimizer = state_sizes(config, task, mesh)
    begin = time.perf_counter()
    try:
        stats = compile_step(config, task, mesh, phase).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        arguments, outputs, aliased, code = None, None, None, 0
        temporaries, memory = _refused(error)
    else:
        arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes
        aliased, temporaries = stats.alias_size_in_bytes, stats.temp_size_in_bytes
        code = stats.generated_code_size_in_bytes
    total = (arguments or 0) + (outputs or 0) - (aliased or 0) + temporaries + code
    return PhaseCost(
        phase=phase,
        rows=batch_size(section),
        seq_length=section.seq_length,
        compile_seconds=time.perf_counter() - begin,
        parameters=parameters,
        optimizer=optimizer,
        arguments=arguments,
        outputs=outputs,
        aliased=aliased,
        temporaries=temporaries,
        total=total,
        memory=memory,
        model_flops=task.flops_per_step(config, section) / mesh.size,
        fits=arguments is not None and total <= memory,
    )


def _refused(error: jax.errors.JaxRuntimeError) -> tuple[int, int]:
    """(bytes of temporaries, bytes there are) of the TPU compiler's refusal. Raises another error again."""
    sizes = re.search(r"temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", str(error))
    sizes = sizes or re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", str(error))
    if not sizes:
        raise error
    return int(float(sizes[1]) * GIB), int(float(sizes[2]) * GIB)


def require_fit(config: ConfigDict, mesh: Mesh, figures: Sequence[PhaseCost]) -> None:
    """Raises InputError, with what to change, for the phase that lacks the most memory."""
    worst = max(figures, key=lambda each: each.total / each.memory)
    if worst.fits:
        return
    advice = []
    phase = config[worst.phase]
    parts, rows = phase.accumulation, worst.rows // phase.accumulation
    split = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % (2 * split) == 0:
        advice.append(f"--config.{worst.phase}.accumulation={2 * parts}")
    if "remat" in phase and phase.remat != "full":
        advice.append(f"--config.{worst.phase}.remat={'dots' if phase.remat == 'none' else 'full'}")
    if mesh.shape["data"] > 1:
        advice.append(f"--config.mesh.fsdp={mesh.shape['fsdp'] * _least_factor(mesh.shape['data'])}")
    raise InputError(
        f"{worst.phase} ({worst.rows} x {worst.seq_length}) needs {worst.total / GIB:.2f} GiB on each device "
        f"and may use {worst.memory / GIB:.2f}; try {', or '.join(advice) or 'more devices'}"
    )


def _least_factor(n: int) -> int:
    return next(k for k in range(2, n + 1) if n % k == 0)


def _line(figures: PhaseCost, first: bool, mesh: Mesh) -> str:
    device = mesh.devices.flat[0].device_kind
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    head = f"{mesh.size} {device} ({axes}), GiB on each device:\n"
    head += "phase   rows x tokens  arguments  outputs  aliased  temporaries   total  usable  fits  "
    head += "model TFLOP  compile s\n"
    sizes = [figures.arguments, figures.outputs, figures.aliased, figures.temporaries]
    cells = ["-" if size is None else f"{size / GIB:.2f}" for size in sizes]
    line = (
        f"{figures.phase:8}{figures.rows:6} x {figures.seq_length:<6}"
        f"{cells[0]:>9}{cells[1]:>9}{cells[2]:>9}{cells[3]:>13}"
        f"{figures.total / GIB:8.2f}{figures.memory / GIB:8.2f}{'yes' if figures.fits else 'no':>6}"
        f"{figures.model_flops / 1e12:13.3f}{figures.compile_seconds:11.1f}"
    )
    return (head if first else "") + line


def _optimizer_line(config: ConfigDict, figures: PhaseCost) -> str:
    each = 4 * figures.optimizer / figures.parameters  # a parameter has 4 bytes
    return (
        f"of the arguments: parameters {figures.parameters / GIB:.2f}, the state of {config.optim.name} "
        f"{figures.optimizer / GIB:.2f}, {each:.1f} bytes a parameter"
    )


def _lift_stack_limit() -> None:
    """Starts this program again with the largest stack it may have. The TPU compiler's threads get theirs
    by the limit at the start, and under the usual 8 MiB some programs overflow it (libtpu 0.0.42)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    _lift_stack_limit()
    run_command(main)
