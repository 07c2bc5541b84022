import itertools
import types

import jax
import pytest

from bertjax import throughput
from bertjax.throughput import Throughput, device_peak_flops, memory_in_use


def test_rates_are_per_second_since_the_last_reading():
    now = [10.0]
    meter = Throughput(1000.0, clock=lambda: now[0])
    assert meter.read() == {}
    for _ in range(4):
        meter.add(sequences=8, tokens=100, flops=200.0)
    now[0] = 12.0
    rates = meter.read()
    assert rates["steps_per_second"] == 2
    assert rates["sequences_per_second"] == 16
    assert rates["tokens_per_second"] == 200
    assert rates["mfu"] == pytest.approx(0.4)
    assert rates["memory_bytes"] == pytest.approx(memory_in_use(), rel=0.1)
    meter.add(sequences=1, tokens=1, flops=1.0)
    now[0] = 13.0
    assert meter.read()["sequences_per_second"] == 1
    meter.add(sequences=1, tokens=1, flops=1.0)
    meter.reset()
    now[0] = 14.0
    assert meter.read() == {}
    meter.add(sequences=6, tokens=1, flops=1.0)
    now[0] = 20.0
    meter.leave_out(5.0)  # of the 7 s since the reset
    assert meter.read()["sequences_per_second"] == 3


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v2", 23),
        ("TPU v3", 61.5),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
        ("TPU7x", 1153.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
    ],
)
def test_peak_of_known_devices(kind, tera):
    peak, description = device_peak_flops(types.SimpleNamespace(device_kind=kind, platform="tpu"))
    assert peak == tera * 1e12
    assert description.endswith("bfloat16")


def test_peak_of_the_cpu_is_that_of_its_fastest_product_and_shared_by_its_devices(monkeypatch):
    """A product of 1024 x 1024 matrices, which here takes 5, 4, 3, 2, 2, ... hundredths of a second."""
    ticks = itertools.chain(
        [0.0], itertools.accumulate(itertools.chain((0.05, 0.04, 0.03), itertools.repeat(0.02)))
    )
    monkeypatch.setattr(throughput, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))
    throughput._measured_matmul.cache_clear()
    try:
        peak, description = device_peak_flops(jax.devices("cpu")[0])
        assert description == "measured matmul, float32"
        assert peak * jax.local_device_count() == pytest.approx(2 * 1024**3 / 0.02)
        assert device_peak_flops(jax.devices("cpu")[0])[0] == peak
        assert Throughput().peak_flops == peak * jax.device_count()
    finally:
        throughput._measured_matmul.cache_clear()


def test_memory_of_a_process_is_plausible():
    assert 50e6 < memory_in_use() < 1e12
