"""How fast a run goes: rates, model FLOPs utilisation (MFU), memory."""

import functools
import resource
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

# device_kind begins with: (peak dense bfloat16 FLOP/s of one JAX device, name). The first that fits counts.
# TPUs: cloud.google.com/tpu/docs, "peak compute per chip" (v2: Jouppi et al. 2020, table 1). A JAX device is
# half a chip (one core of two) for v2, v3 and TPU7x. GPUs: NVIDIA's data sheets, without sparsity.
_PEAKS = {
    "TPU v2": (46e12 / 2, "TPU v2 core"),
    "TPU v3": (123e12 / 2, "TPU v3 core"),
    "TPU v4": (275e12, "TPU v4"),
    "TPU v5 lite": (197e12, "TPU v5e"),
    "TPU v5e": (197e12, "TPU v5e"),
    "TPU v5": (459e12, "TPU v5p"),
    "TPU v6": (918e12, "TPU v6e"),
    "TPU7x": (2307e12 / 2, "half a TPU7x"),
    "NVIDIA A100": (312e12, "NVIDIA A100"),
    "NVIDIA H100 PCIe": (756e12, "NVIDIA H100 PCIe"),
    "NVIDIA H100 NVL": (835e12, "NVIDIA H100 NVL"),
    "NVIDIA H100": (989e12, "NVIDIA H100 SXM"),
    "NVIDIA H200 NVL": (835e12, "NVIDIA H200 NVL"),
    "NVIDIA H200": (989e12, "NVIDIA H200 SXM"),
}
_MEASURE_SECONDS = 0.3


def device_peak_flops(device: jax.Device) -> tuple[float, str]:
    """(FLOP/s, where the figure is from) of one device: its maker's for bfloat16, or a measured matmul's.

    The CPU is measured in float32, and its devices share it; another unknown device in bfloat16.
    """
    for kind, (peak, name) in _PEAKS.items():
        if device.device_kind.startswith(kind):
            return peak, f"{name}, bfloat16"
    if device.platform == "cpu":
        return _measured_matmul(
            device, jnp.float32, 1024
        ) / jax.local_device_count(), "measured matmul, float32"
    return _measured_matmul(device, jnp.bfloat16, 8192), "measured matmul, bfloat16"


@functools.cache
def _measured_matmul(device: jax.Device, dtype: type, size: int) -> float:
    """FLOP/s of the fastest of several [size, size] products."""
    a = jax.device_put(jnp.ones((size, size), dtype), device)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    fastest, end = float("inf"), time.perf_counter() + _MEASURE_SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        multiply(a, a).block_until_ready()
        fastest = min(fastest, time.perf_counter() - begin)
    return 2 * size**3 / fastest


def memory_in_use() -> int:
    """Most bytes ever used on one of this process's devices; on a CPU, by the process."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if each and "peak_bytes_in_use" in each]
    if peaks:
        return int(max(peaks))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Throughput:
    """Rates since the last reading.

    Args:
      peak_flops: FLOP/s of all devices of the run together; None asks `device_peak_flops`.
      clock: seconds that only grow.
    """

    def __init__(self, peak_flops: float | None = None, clock: Callable[[], float] = time.perf_counter):
        if peak_flops is None:
            peak_flops = device_peak_flops(jax.local_devices()[0])[0] * jax.device_count()
        self.peak_flops = peak_flops
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Begins a new interval, after an evaluation or another pause."""
        self._steps = self._sequences = self._tokens = 0
        self._flops = 0.0
        self._begin = self._clock()

    def leave_out(self, seconds: float) -> None:
        """Takes a pause, such as compiling, out of the interval."""
        self._begin += seconds

    def add(self, *, sequences: int, tokens: int, flops: float) -> None:
        """Counts one step over all devices: its sequences, its tokens that are not padding, its FLOPs."""
        self._steps += 1
        self._sequences += sequences
        self._tokens += tokens
        self._flops += flops

    def read(self) -> dict[str, float]:
        """The rates since the last reading or reset, which begin anew; {} if no step was counted.

        Call it when the last step's results have arrived. Keys: steps_per_second, sequences_per_second,
        tokens_per_second, mfu (a share of 1), peak_flops_per_second, memory_bytes.
        """
        seconds = self._clock() - self._begin
        if self._steps == 0 or seconds <= 0:
            return {}
        rates = {
            "steps_per_second": self._steps / seconds,
            "sequences_per_second": self._sequences / seconds,
            "tokens_per_second": self._tokens / seconds,
            "mfu": self._flops / seconds / self.peak_flops,
            "peak_flops_per_second": self.peak_flops,
            "memory_bytes": float(memory_in_use()),
        }
        self.reset()
        return rates
