"""Every row of the metric tables is complete and consistent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import ALL_METRICS, METRICS
from dashtop.metrics.convert import pcie_bandwidth
from dashtop.model.metric import Kind, Severity, Thresholds
from dashtop.model.unavailable import Unavailable
from tests.builders import make_device

if TYPE_CHECKING:
    from dashtop.model.metric import Metric

ORIGINAL_DOCUMENT = {
    "gpu": "utilization.gpu utilization.memory utilization.compute memory.used_gb memory.total_gb memory.used_percent "
    "temperature power.current_watts power.max_watts power.usage_percent fan_speed clocks.gpu_mhz clocks.gpu_max_mhz "
    "clocks.memory_mhz clocks.memory_max_mhz pcie.bandwidth_gbps pcie.generation pcie.width encoder_utilization "
    "decoder_utilization",
    "system": "cpu.usage_percent cpu.core_count cpu.frequency_mhz memory.used_gb memory.total_gb memory.used_percent "
    "memory.available_gb swap.used_gb swap.total_gb swap.used_percent network.upload_mbps network.download_mbps "
    "disk_io.read_mbps disk_io.write_mbps",
}


def test_every_metric_of_the_original_document_is_a_row() -> None:
    for scope, paths in ORIGINAL_DOCUMENT.items():
        assert {f"{scope}.{path}" for path in paths.split()} <= set(METRICS)


def test_keys_and_prometheus_names_are_unique() -> None:
    assert len(METRICS) == len(ALL_METRICS)
    assert len({metric.prometheus for metric in ALL_METRICS}) == len(ALL_METRICS)


@pytest.mark.parametrize("metric", ALL_METRICS, ids=lambda metric: metric.key)
def test_row(metric: Metric[Any]) -> None:
    assert metric.title
    assert metric.help.endswith(".")
    assert metric.prometheus.startswith("dashtop_")
    counter = metric.kind is Kind.COUNTER
    assert metric.prometheus.endswith("_total") == counter
    assert metric.prometheus.removesuffix("_total").endswith(metric.unit.prometheus)
    if metric.thresholds is not None:
        assert metric.thresholds.elevated < metric.thresholds.high
        severities = (metric.thresholds.info, metric.thresholds.warning, metric.thresholds.critical)
        assert bool(metric.thresholds.message) == any(limit is not None for limit in severities)


@pytest.mark.parametrize(
    ("key", "impossible", "extreme"),
    [
        ("gpu.utilization.gpu", 991, 100),
        ("gpu.power.current_watts", (2**32 - 1) / 1000, 15_000),
        ("gpu.temperature", 255, 125),
        ("gpu.clocks.gpu_mhz", 2**32 - 1, 4_000),
        ("gpu.pcie.replays", 2**32 - 1, 10**9),
        ("gpu.memory.used_percent", 101, 100),
        ("gpu.fan_speed", 121, 120),
        ("gpu.power.usage_percent", 1e6, 180),
        ("gpu.pcie.width", 2**32 - 1, 16),
    ],
)
def test_impossible_values_are_outside_the_plausible_range(key: str, impossible: float, extreme: float) -> None:
    lowest, highest = METRICS[key].plausible_range
    assert lowest <= extreme <= highest < impossible


def test_full_load_has_no_colour_and_no_warning() -> None:
    loads = [
        metric for metric in ALL_METRICS if "utilization" in metric.key or metric.key == "system.cpu.usage_percent"
    ]
    assert len(loads) >= 9
    assert [metric.key for metric in loads if metric.thresholds is not None] == []
    power = METRICS["gpu.power.current_watts"].thresholds_for(make_device(power_limit_watts=400.0))
    assert power is not None
    assert power.elevated > 400.0
    assert power.severity(400.0) is Severity.INFO


def test_highest_severity_is_returned() -> None:
    thresholds = Thresholds(elevated=1, high=2, info=3, warning=4, critical=5)
    assert [thresholds.severity(value) for value in (2.9, 3, 4, 5)] == [
        None, Severity.INFO, Severity.WARNING, Severity.CRITICAL,
    ]  # fmt: skip


def test_device_thresholds_take_precedence() -> None:
    temperature = METRICS["gpu.temperature"]
    own = temperature.thresholds_for(make_device(slowdown_celsius=87.0))
    assert own is not None
    assert own.critical == 87.0
    assert temperature.thresholds_for(make_device(slowdown_celsius=None)) is temperature.thresholds
    power = METRICS["gpu.power.current_watts"].thresholds_for(make_device(power_limit_watts=400.0))
    assert power is not None
    assert power.elevated == pytest.approx(420.0)
    assert power.info == pytest.approx(398.0)


@pytest.mark.parametrize(
    ("generation", "width", "expected"), [(1, 16, 4.0), (3, 16, 15.75), (4, 16, 31.5), (4, 8, 15.75), (5, 16, 63.0)]
)
def test_pcie_bandwidth(generation: int, width: int, expected: float) -> None:
    assert pcie_bandwidth(generation, width) == pytest.approx(expected, rel=0.001)


def test_unknown_pcie_generation_has_no_bandwidth() -> None:
    with pytest.raises(Unavailable):
        pcie_bandwidth(9, 16)
