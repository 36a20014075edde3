"""The diagnosis of a GPU: each rule, a load that only resembles it, missing values, and since when a verdict holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.metrics.diagnosis import RULES, Load, Span, diagnose, find_rule, find_start
from dashtop.model.ports import Services
from dashtop.model.sample import GpuProcess, Series, SeriesKey, SeriesSet
from dashtop.model.timerange import HOUR_MS, MINUTE_MS
from dashtop.ui.gpu_state import read_states
from dashtop.ui.panels import diagnosis as panel
from dashtop.ui.panels.diagnosis import Loads, build_parts
from tests.builders import NOON_MS, FixedSample, make_alerts, make_gpu, make_history, make_sample, wait_until_written
from tests.clock import FakeClock
from tests.ui.test_gpu_state import Loads as RecordedLoads
from tests.ui.test_gpu_state import held
from tests.ui.worlds import Recorded, make_context, world

if TYPE_CHECKING:
    from collections.abc import Sequence

# For each rule a load that fulfils it, and a change after which another verdict is right.
CASES: dict[str, tuple[Load, dict[str, Any], str]] = {
    "thermal": (
        Load(utilization=97, thermal_share=0.9, flags=0x20, temperature=91, power_share=0.7),
        {"thermal_share": 0.5},
        "computing",
    ),
    "power_brake": (
        Load(utilization=97, brake_share=1.0, flags=0x80, power_share=0.7),
        {"brake_share": 0.2},
        "computing",
    ),
    "idle_held": (Load(utilization=3, is_idle_held=True, vram_gib=20), {"is_idle_held": False}, "not_busy"),
    "not_busy": (Load(utilization=3, vram_gib=20), {"utilization": 12}, "part_load"),
    "communication": (
        Load(utilization=100, power_share=0.3, tensor=0.0, dram=1.0, sm=30, nvlink_mbps=40_000),
        {"power_share": 0.8, "sm": 70},
        "compute_bound",
    ),
    "waiting": (
        Load(utilization=100, power_share=0.21, tensor=0.0, dram=1.0, sm=30, nvlink_mbps=0.1, rx_mbps=0.2),
        {"tensor": 30.0, "dram": 40.0},
        "compute_bound",
    ),
    "data_starved": (
        Load(utilization=35, low_share=0.4, high_share=0.3, cpu=30, iowait=18, coverage=1.0),
        {"iowait": 2},
        "starved",
    ),
    "input_bound": (
        Load(utilization=97, tensor=9, sm=40, dram=20, rx_mbps=24_000, rx_share=0.85, full_cores=2),
        {"rx_share": 0.1},
        "busy",
    ),
    "cpu_bound": (
        Load(utilization=35, low_share=0.4, high_share=0.3, process_cpu=100, cpu=20),
        {"process_cpu": 30},
        "starved",
    ),
    "starved": (
        Load(utilization=40, low_share=0.5, high_share=0.4, cpu=12),
        {"low_share": 0.05},
        "part_load",
    ),
    "memory_bound": (Load(utilization=98, sm=70, tensor=12, dram=85), {"dram": 30}, "compute_bound"),
    "compute_bound": (Load(utilization=98, sm=92, tensor=60, dram=30), {"sm": 30, "tensor": 2}, "busy"),
    "under_use": (Load(utilization=90, sm=20, tensor=1, dram=5, coverage=0.9), {"sm": 50}, "busy"),
    "computing": (Load(utilization=97, power_share=0.9), {"power_share": 0.5}, "busy"),
    "busy": (Load(utilization=70, power_share=0.4), {"utilization": 30}, "part_load"),
    "part_load": (Load(utilization=30, cpu=10), {"utilization": 2}, "not_busy"),
}


def of_all_times(load: Load) -> dict[Span, Load]:
    return {Span.QUARTER: load, Span.HOUR: load}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_holds_for_its_load_and_not_for_one_that_resembles_it(name: str) -> None:
    load, change, other = CASES[name]
    found, instead = (find_rule(each, of_all_times(each)) for each in (load, replace(load, **change)))
    assert found is not None
    assert instead is not None
    assert (found.name, instead.name) == (name, other)


def test_every_rule_has_a_case() -> None:
    assert [rule.name for rule in RULES] == list(CASES)


def test_evidence_has_values_and_names_its_chart() -> None:
    found = diagnose(CASES["input_bound"][0])
    assert found is not None
    assert [tuple(each) for each in found.evidence] == [
        ("97 % utilization", "chart-utilization"),
        ("9 % tensor activity", "chart-utilization"),
        ("PCIe RX saturated", "chart-pcie"),
        ("two cores at 100 %", "chart-cpu"),
    ]
    assert found.note == ""
    hot = diagnose(CASES["thermal"][0])
    assert hot is not None
    assert hot.rule.severity == "warning"
    assert ("SW Thermal Slowdown", "chart-clock") in hot.evidence


def test_job_with_few_cpus_starves_on_an_idle_machine() -> None:
    bursts = Load(utilization=35, low_share=0.4, high_share=0.3, cpu=4, coverage=1.0)
    few = replace(bursts, tree_share=0.97, tree_cpus=4.0)
    found = diagnose(few, of_all_times(few))
    assert found is not None
    assert found.rule.name == "data_starved"
    assert ("its processes use 97 % of the 4 CPUs they may use", "chart-cpu") in found.evidence
    found = diagnose(few)
    assert found is not None
    assert found.rule.name == "cpu_bound"
    many = replace(few, tree_share=0.3)
    found = diagnose(many, of_all_times(many))
    assert found is not None
    assert found.rule.name == "starved"


def test_missing_values_are_no_evidence_and_are_named() -> None:
    found = diagnose(Load(utilization=97, power_share=0.9))
    assert found is not None
    assert found.rule.text == "computing"
    assert found.note == "The driver does not report SM activity: compute-bound or memory-bound is not known."
    assert all("None" not in text for text, _ in found.evidence)
    assert diagnose(Load()) is None
    assert diagnose(Load(power_share=0.9, sm=80)) is None, "without utilization there is no verdict"


def test_no_rule_holds_because_of_a_missing_value() -> None:
    for name, (load, _, _) in CASES.items():
        known = ("thermal_share", "brake_share", "power_share", "rx_share", "dram", "sm", "tensor")
        nothing: dict[str, Any] = dict.fromkeys(known)
        emptied = replace(load, **nothing)
        found = find_rule(emptied, of_all_times(emptied))
        assert found is not None
        if name in {
            "thermal",
            "power_brake",
            "input_bound",
            "memory_bound",
            "compute_bound",
            "under_use",
            "computing",
        }:
            assert found.name != name


def test_rules_of_longer_times_need_most_of_them() -> None:
    load = CASES["under_use"][0]
    for longer in ({}, {Span.HOUR: replace(load, coverage=0.5)}, {Span.QUARTER: load}):
        found = find_rule(load, longer)
        assert found is not None
        assert found.name == "busy"
    judged = diagnose(replace(load, sm=90), {Span.HOUR: load})
    assert judged is not None
    assert judged.rule.name == "compute_bound", "it computes now"


def test_bursts_of_a_data_loader_are_seen_in_the_stored_samples() -> None:
    host = {"system.cpu.usage_percent": 60.0, "system.cpu.iowait_percent": 25.0}
    history = make_history()
    for second in range(1, 961):
        values = {"gpu.utilization.gpu": 95.0 if second % 20 < 8 else 2.0}
        sample = make_sample(second, gpus=(make_gpu(values=values),), host=host)
        history.append(sample)
    wait_until_written(history)
    services = Services(
        latest=FixedSample(sample), history=history, alerts=make_alerts(), clock=FakeClock(now_ms=sample.time_ms)
    )
    (part,) = build_parts(make_context(sample.gpus[0], sample=sample, services=services))
    answer = part.build()
    history.close()
    assert (answer["name"], answer["verdict"], answer["is_long"]) == ("data_starved", "starved of data", False)
    texts = [text for text, _ in answer["evidence"]]
    assert {"I/O wait 25 %", "60 % CPU", "idle 60 % of the time"} <= set(texts)


def test_since_when_a_verdict_holds() -> None:
    busy, idle, unknown = Load(utilization=97, power_share=0.9), Load(utilization=0), Load()
    rule = find_rule(busy)
    assert rule is not None

    def first_of(*loads: Load) -> int:
        return find_start(len(loads), loads.__getitem__, rule)

    assert first_of(idle, idle, busy, busy, busy) == 2
    assert first_of(idle, busy, idle, busy, busy) == 1, "one minute in between does not interrupt"
    assert first_of(busy, idle, idle, busy) == 3
    assert first_of(busy, unknown, busy, busy) == 2, "a gap does"
    assert first_of(busy, busy) == 0


def test_a_more_exact_verdict_for_some_minutes_does_not_begin_a_new_span() -> None:
    busy, computing = Load(utilization=78, power_share=0.7), Load(utilization=82, power_share=0.7)
    idle, loads = Load(utilization=0), [busy, computing, computing, computing, busy]
    rules = [find_rule(each) for each in loads]
    assert [rule.name for rule in rules if rule is not None] == ["busy", *["computing"] * 3, "busy"]
    assert rules[0] is not None
    assert find_start(5, loads.__getitem__, rules[0]) == 0
    part = find_rule(Load(utilization=30))
    assert part is not None
    loads = [busy, busy, idle, Load(utilization=30), Load(utilization=30)]
    assert find_start(5, loads.__getitem__, part) == 3


def series(**values: float) -> dict[str, Any]:
    names = (*panel._MEANS, *panel._OTHERS)
    return {name: np.full(12, values.get(name, np.nan), dtype=np.float32) for name in names}


def test_loads_come_from_series_and_the_present() -> None:
    found = series(**{"gpu.utilization.gpu": 90.0, "gpu.pcie.rx_mbps": 12_000.0, "gpu.clocks.event_reasons": 0x24})
    found["gpu.utilization.gpu"][6:9] = 5
    found["gpu.power.current_watts"][:] = 175
    worker = GpuProcess(
        pid=1, kind="C", gpu_memory_bytes=2**30, cpu_percent=140.0, tree_cpu_percent=300.0, usable_cpus=4.0
    )
    gpu = make_gpu(values={"gpu.power.max_watts": 350.0, "gpu.pcie.bandwidth_gbps": 16.0}, processes=(worker,))
    loads = Loads(found, gpu, 6, make_sample(gpus=(gpu,)))
    load = loads.load_at(1)
    assert load.utilization == pytest.approx(47.5)
    assert (load.low_share, load.high_share) == (0.5, 0.5)
    assert (load.power_share, load.rx_share) == (0.5, 0.75)
    assert (load.thermal_share, load.cap_share, load.brake_share) == (1.0, 1.0, 0.0)
    assert (load.process_cpu, load.full_cores) == (140.0, 0)
    assert (load.tree_share, load.tree_cpus) == (0.75, 4.0)
    assert (load.sm, load.nvlink_mbps, load.vram_gib) == (None, None, None)
    assert loads.count == 2
    assert loads.load_at(0).utilization == pytest.approx(90)
    assert loads.load_at(0).process_cpu is None, "the past has no processes"


def test_a_gpu_is_idle_but_held_since_the_same_moment_as_on_other_pages() -> None:
    gpu = held()
    services, _, _ = world(gpus=(gpu,))
    services = replace(services, history=RecordedLoads({gpu.device.uuid: 30}))
    context = make_context(gpu, sample=make_sample(gpus=(gpu,), time_ms=NOON_MS), services=services)
    state = read_states(context)[gpu.device.uuid]
    (part,) = build_parts(context)
    answer = part.build()
    assert (answer["name"], answer["since"]) == ("idle_held", state.since_ms)
    busy = replace(gpu, values={**gpu.values, "gpu.utilization.gpu": 40.0})
    (part,) = build_parts(make_context(busy, sample=make_sample(gpus=(busy,), time_ms=NOON_MS), services=services))
    assert part.build()["name"] == "not_busy", "the state is busy now, the last two minutes are not"


class Throttled(Recorded):
    """A history of a GPU at 97 %, which is throttled since 30 minutes before noon."""

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        data = super().query(keys, start_ms, end_ms, step_ms, wait=wait)
        times = start_ms + step_ms * np.arange(data.count)
        flags = np.where(times >= NOON_MS - 30 * MINUTE_MS, 0x20, 0)
        loads = {"gpu.clocks.event_reasons": flags, "gpu.utilization.gpu": np.full(data.count, 97)}
        unknown = np.full(data.count, np.nan)
        means = [loads.get(key.metric, unknown).astype(np.float32) for key in keys]
        series = tuple(
            Series(key=key, mean=each, minimum=each, maximum=each) for key, each in zip(keys, means, strict=True)
        )
        return replace(data, series=series)


def test_a_gpu_is_throttled_since_the_same_moment_as_on_other_pages() -> None:
    gpu = make_gpu(values={"gpu.utilization.gpu": 97.0, "gpu.clocks.event_reasons": float(0x20)})
    services, _, _ = world(gpus=(gpu,))
    services = replace(services, history=Throttled(NOON_MS - HOUR_MS, NOON_MS))
    context = make_context(gpu, sample=make_sample(gpus=(gpu,), time_ms=NOON_MS), services=services)
    (problem,) = read_states(context)[gpu.device.uuid].problems
    (part,) = build_parts(context)
    answer = part.build()
    assert (answer["name"], answer["since"]) == ("thermal", NOON_MS - 30 * MINUTE_MS)
    assert (problem.since_ms, problem.is_since_exact) == (answer["since"], True)


def test_the_part_is_the_same_for_ten_seconds_and_small() -> None:
    context = make_context(make_gpu(values={"gpu.utilization.gpu": 90.0}))
    (part,) = build_parts(context)
    answer = part.build()
    assert set(answer) == {"name", "verdict", "severity", "evidence", "since", "is_long", "note"}
    sample = context.sample
    for seconds, is_same in ((3, True), (12, False)):
        later = replace(context, sample=replace(sample, time_ms=sample.time_ms // 10_000 * 10_000 + 1000 * seconds))
        assert (build_parts(later)[0].version == part.version) is is_same
    assert build_parts(make_context()) == []
