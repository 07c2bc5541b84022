"""How the runs of a sweep share this machine's devices."""

import os

from bertjax.cpu_memory import GPUS, TPU_CHIPS, device_files
from bertjax.errors import InputError

_CHIP_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # how a process's chips are wired
_TPU_PORT = 8476


def device_shares(processes: int, several: bool = False) -> list[dict[str, str]]:
    """What to set in the environment of each of some processes, so that they share this machine's devices.

    Nothing for a single process, which sees all devices, and nothing on a CPU. CUDA_VISIBLE_DEVICES and
    TPU_VISIBLE_CHIPS, where they are set, say which devices there are to share: "" says that there are none.

    Args:
      several: whether processes may have a GPU together if there are more than GPUs. Each then takes memory
        as it needs it, not most of the GPU's at once.

    Raises:
      InputError: the devices cannot be divided so.
    """
    if processes == 1 or os.environ.get("JAX_PLATFORMS") == "cpu":
        return [{}] * processes
    gpus, chips = (
        list(filter(None, os.environ[name].split(","))) if name in os.environ
        else [str(i) for i in range(len(device_files(patterns)))]
        for name, patterns in (("CUDA_VISIBLE_DEVICES", GPUS), ("TPU_VISIBLE_CHIPS", TPU_CHIPS))
    )  # fmt: skip
    if several and gpus and not chips and processes > len(gpus):
        return [
            {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            for i in range(processes)
        ]
    devices = chips or gpus
    each = len(devices) // processes
    if len(devices) % processes or (chips and each not in _CHIP_BOUNDS):
        kind = "TPU chips" if chips else "GPUs"
        raise InputError(f"--parallel={processes}: the {len(devices)} {kind} cannot be shared out so")
    parts = [",".join(devices[i * each : (i + 1) * each]) for i in range(processes)]
    if not chips:
        return [{"CUDA_VISIBLE_DEVICES": part} for part in parts] if gpus else [{}] * processes
    return [
        {
            "TPU_VISIBLE_CHIPS": part,
            "TPU_CHIPS_PER_PROCESS_BOUNDS": _CHIP_BOUNDS[each],
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{_TPU_PORT + i}",
            "TPU_PROCESS_PORT": str(_TPU_PORT + i),
            "CLOUD_TPU_TASK_ID": "0",
        }
        for i, part in enumerate(parts)
    ]
