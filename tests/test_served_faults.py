"""The real command while its driver fails: it answers all the while, misses no tick, and recovers by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.faults import FAULTS, GPUS, Fault, Watch, well
from tests.processes import Running, eventually, running

if TYPE_CHECKING:
    from tests.fake_nvml.fixtures import WorldFactory

RECOVERY_S = 10.0
INTERVAL_S = 1.0
SKIPPED = "dashtop_skipped_ticks_total"


def told(dashtop: Running, metric: str) -> float:
    """Return the value of a family of /metrics with one series."""
    found = re.search(rf"^{re.escape(metric)} (\S+)$", dashtop.get("/metrics").decode(), re.MULTILINE)
    assert found is not None, metric
    return float(found.group(1))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_silences_what_it_hits_and_nothing_else(nvml_world: WorldFactory, fault: Fault) -> None:
    world = nvml_world("h100x8").save()
    options = ("--no-persist", "--interval", str(INTERVAL_S), "--rate-limit", "1000/second")
    with running(*options, env=world.env()) as dashtop, Watch(dashtop.url, rate=10) as watch:
        watch.begin()
        skipped = told(dashtop, SKIPPED)  # a machine that is busy may miss one while dashtop starts
        fault.begin(world)
        eventually(lambda: fault.shows(watch.last()), 15)
        if fault.name == "driver crashes its callers":
            failures = 'dashtop_collector_failures_total{collector="gpu"}'
            eventually(lambda: told(dashtop, failures) >= 3, 15)
        found = watch.last()
        everyone = dashtop.json("/api/v1/system/gpu-metrics/all") if fault.known else []
        world.clear_faults().save()
        eventually(lambda: well(watch.last()), RECOVERY_S)
        skipped = told(dashtop, SKIPPED) - skipped
        assert dashtop.process.poll() is None

    if fault.known:
        gpu_reasons = {reason for key, reason in found["unavailable"].items() if key.startswith("gpu.")}
        assert gpu_reasons == {fault.reason.text}
        assert [gpu["temperature"] is not None for gpu in everyone] == [False] + [fault.others] * (GPUS - 1)
    assert {answer.status for answer in watch.answers} == {200}
    assert all(answer.body["system_metrics"]["memory"]["used_gb"] > 0 for answer in watch.answers)
    assert all(answer.body["system_metrics"]["cpu"]["usage_percent"] is not None for answer in watch.answers)
    assert skipped == 0
    assert watch.longest_gap_s() < 1.9 * INTERVAL_S  # a tick missed is a gap of two intervals
