"""The page of usage: what is sent of users, GPUs and the heat map, and when it is calculated anew."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.model.ports import Services
from dashtop.model.sample import PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.model.usage import NO_USAGE, Prices
from dashtop.ui.panels import usage
from dashtop.usage.ledger import UsageLedger
from tests.builders import NOON_MS, FixedSample, make_alerts, make_device, make_gpu, make_history, make_sample
from tests.clock import FakeClock
from tests.ui.worlds import make_context

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.panels import PanelContext

SECONDS = 300
VALUES = {"gpu.utilization.gpu": 80.0, "gpu.memory.used_percent": 50.0, "gpu.power.current_watts": 360.0}


def make_process(pid: int, user: str | None = "ada", kind: str = "C") -> GpuProcess:
    info = ProcessInfo(name="<b>train</b>", username=user, started_ms=NOON_MS - 1000 * pid)
    return GpuProcess(pid=pid, kind=kind, gpu_memory_bytes=2**30, info=info)


def make_world(*gpus: Gpu, first_s: int = 0, step_s: int = 1) -> tuple[Services, Sample]:
    """Five minutes of these GPUs; they are recorded from `first_s` on, every `step_s`."""
    history = make_history()
    sample = make_sample()
    for second in range(first_s, SECONDS, step_s):
        time_ms = NOON_MS + 1000 * second
        sample = make_sample(second, time_ms=time_ms, gpus=gpus, host={"system.cpu.usage_percent": 1.0})
        history.append(sample)
    sample = replace(sample, time_ms=NOON_MS + 1000 * SECONDS)
    clock = FakeClock(now_ms=sample.time_ms)
    return Services(latest=FixedSample(sample), history=history, alerts=make_alerts(), clock=clock), sample


def make_measured_world(*gpus: Gpu, minutes: int = 70, ledger_from: int = 0) -> tuple[Services, Sample]:
    """So many minutes of these GPUs, a sample every ten seconds; the ledger measures from minute `ledger_from` on."""
    history, ledger = make_history(), UsageLedger(interval_s=10.0)
    sample = make_sample()
    for step in range(6 * minutes):
        time_ms = NOON_MS + 10_000 * step
        sample = make_sample(step, time_ms=time_ms, gpus=gpus, host={"system.cpu.usage_percent": 1.0})
        sample = replace(sample, monotonic_s=10.0 * step)
        records = ledger.update(sample) if step >= 6 * ledger_from else NO_USAGE
        history.append(replace(sample, usage=records))
    sample = replace(sample, time_ms=NOON_MS + 60_000 * minutes)
    services = Services(
        latest=FixedSample(sample),
        history=history,
        alerts=make_alerts(),
        clock=FakeClock(now_ms=sample.time_ms),
        prices=Prices(kwh=0.5),
    )
    return services, sample


def test_hours_and_energy_of_an_hour_are_those_of_the_ledger() -> None:
    loads = (replace(make_process(1), sm_percent=60.0), replace(make_process(2, "grace"), sm_percent=20.0))
    gpu = make_gpu(0, values=VALUES, processes=loads)
    body = build(make(make_measured_world(gpu), range="1h"))
    assert (body["has_ledger"], body["began"]) == (True, NOON_MS)
    assert (body["start"], body["end"]) == (NOON_MS + 600_000, NOON_MS + 70 * 60_000), "whole buckets"
    ada, grace = body["rows"]["user"]
    hour = pytest.approx(1.0, rel=0.02)
    assert (ada["held"], ada["shared"], ada["utilized"]) == (
        hour,
        pytest.approx(0.5, rel=0.02),
        pytest.approx(0.6, rel=0.02),
    )
    assert (ada["active_kwh"], grace["active_kwh"]) == pytest.approx((0.27, 0.09), rel=0.02)
    assert (ada["base_kwh"], ada["energy_kind"], ada["is_estimated"]) == (None, "estimated_share", True)
    assert ada["cost"] == pytest.approx(0.5 * ada["active_kwh"], rel=0.01)
    assert ada["peak_gib"] == 1.0, "of the history"
    (row,) = body["gpus"]
    assert (row["held"], row["free"], row["kwh"], row["coverage"]) == (hour, 0.0, pytest.approx(0.36, rel=0.02), hour)
    assert [each["name"] for each in body["rows"]["process"]] == ["<b>train</b> 1", "<b>train</b> 2"]
    assert [each["name"] for each in body["rows"]["container"]] == ["(none)"]


def test_a_cell_of_the_heat_map_that_is_not_over_shows_what_is_recorded_of_it() -> None:
    gpu = make_gpu(0, values=VALUES, processes=(make_process(1),))
    heat = build(make(make_measured_world(gpu, minutes=65), range="24h"))["heat"]
    assert heat["step"] == 15 * 60_000
    cells = decode(heat["rows"][0][2])
    assert len(cells) == 97, "the window begins and ends within a cell"
    assert cells[-5:] == [[100, 0, 0, 0, 80]] * 5


def test_rows_beyond_the_limit_are_counted() -> None:
    crowd = tuple(make_process(pid, f"user{pid}") for pid in range(1, 54))
    body = build(make(make_measured_world(make_gpu(0, values=VALUES, processes=crowd)), range="1h"))
    assert len(body["rows"]["user"]) == 50
    assert body["left_out"] == {"user": 4, "container": 0, "slurm_job": 0, "process": 4}, "one row is (shared)"


def test_times_before_the_ledger_are_calculated() -> None:
    gpu = make_gpu(0, values=VALUES, processes=(make_process(1),))
    world = make_measured_world(gpu, ledger_from=30)
    body = build(make(world, range="1h"))
    assert body["has_ledger"] is False
    assert body["began"] == NOON_MS + 30 * 60_000
    (ada,) = body["rows"]["user"]
    assert (ada["held"], ada["shared"]) == (pytest.approx(1.0, rel=0.02), None)
    assert [each["name"] for each in body["rows"]["process"]] == ["<b>train</b> 1"]


def make(world: tuple[Services, Sample], **request: Any) -> PanelContext:
    services, sample = world
    return make_context(sample=sample, services=services, **{"range": "5m", **request})


def build(context: PanelContext) -> dict[str, Any]:
    (part,) = usage.usage_parts(context)
    body: dict[str, Any] = part.build()
    return body


def decode(text: str) -> list[list[int]]:
    data = base64.b64decode(text)
    return [list(data[at : at + 5]) for at in range(0, len(data), 5)]


def test_users_gpus_energy_and_coverage_of_a_range() -> None:
    busy = make_gpu(0, values=VALUES, processes=(make_process(1), make_process(2, "grace")))
    free = make_gpu(1, values={**VALUES, "gpu.utilization.gpu": 0.0, "gpu.energy.total_wh": 5.0})
    body = build(make(make_world(busy, free)))
    assert (body["start"], body["end"]) == (NOON_MS, NOON_MS + 300_000)
    assert (body["coverage"], body["error"], body["is_cut"]) == (1.0, None, False)
    hours = pytest.approx(300 / 3600, abs=1e-3)
    assert [(user["name"], user["gpus"], user["is_estimated"]) for user in body["rows"]["user"]] == [
        ("ada", ["GPU 0"], True),
        ("grace", ["GPU 0"], True),
    ]
    assert body["rows"]["user"][0]["held"] == hours
    assert body["rows"]["user"][0]["peak_gib"] == 1.0
    first, second = body["gpus"]
    assert (first["held"], first["free"], second["held"], second["free"]) == (hours, 0.0, 0.0, hours)
    assert (first["kwh"], first["energy_kind"]) == (pytest.approx(0.03), "integrated")
    assert (second["kwh"], second["energy_kind"]) == (0.0, "counter")


def test_what_was_recorded_at_a_longer_interval_is_measured() -> None:
    gpu = make_gpu(0, values=VALUES, processes=(make_process(1),))
    body = build(make(make_world(gpu, step_s=20)))
    (row,) = body["gpus"]
    assert (body["coverage"], row["coverage"], row["kwh"]) == (1.0, 1.0, pytest.approx(0.03))
    assert row["held"] == pytest.approx(300 / 3600, abs=1e-3)
    assert decode(body["heat"]["rows"][0][2]) == [[100, 0, 0, 0, 80]] * 5


def test_the_heat_map_has_a_cell_for_each_minute() -> None:
    world = make_world(
        make_gpu(0, values=VALUES, processes=(make_process(1),)),
        make_gpu(1, values={**VALUES, "gpu.utilization.gpu": 0.0}, processes=(make_process(3),)),
        make_gpu(2, values={**VALUES, "gpu.utilization.gpu": 0.0}),
        first_s=60,
    )
    heat = build(make(world))["heat"]
    assert (heat["start"], heat["step"], heat["count"]) == (NOON_MS, 60_000, 5)
    labels = [row[0] for row in heat["rows"]]
    assert labels == ["GPU 0", "GPU 1", "GPU 2"]
    active, idle, free = (decode(row[2]) for row in heat["rows"])
    assert active == [[0, 0, 0, 0, 0], *[[100, 0, 0, 0, 80]] * 4]
    assert idle[1:] == [[0, 100, 0, 0, 0]] * 4
    assert free[1:] == [[0, 0, 100, 0, 0]] * 4
    assert build(make(world))["coverage"] == 0.8


def test_a_split_gpu_leaves_hours_to_its_instances() -> None:
    parent = make_gpu(0, values={"gpu.power.current_watts": 100.0})
    parent = replace(parent, unavailable={**parent.unavailable, "gpu.utilization.gpu": UnavailableReason.MIG_PARENT})
    device = make_device(1, mig_parent_uuid=parent.device.uuid, mig_profile="3g.40gb")
    instance = make_gpu(1, device=device, values={"gpu.memory.used_percent": 9.0}, processes=(make_process(1),))
    body = build(make(make_world(parent, instance)))
    whole, part = body["gpus"]
    assert (whole["held"], whole["note"]) == (None, UnavailableReason.MIG_PARENT.text)
    assert whole["kwh"] is not None
    assert (part["gpu"], part["utilized"], part["kwh"]) == ("GPU 1 · MIG 3g.40gb", None, None)
    assert part["held"] == pytest.approx(300 / 3600, abs=1e-3)
    assert [row[0] for row in body["heat"]["rows"]] == ["GPU 1 · MIG 3g.40gb"]
    assert decode(body["heat"]["rows"][0][2]) == [[0, 0, 0, 100, 0]] * 5


def test_processes_that_cannot_be_listed_have_their_reason() -> None:
    gpu = make_gpu(0, values=VALUES)
    gpu = replace(gpu, unavailable={**gpu.unavailable, PROCESSES: UnavailableReason.WDDM})
    (row,) = build(make(make_world(gpu)))["gpus"]
    assert (row["held"], row["free"], row["note"]) == (None, None, f"processes: {UnavailableReason.WDDM.text}")


def test_a_gpu_that_was_removed_is_listed_while_it_was_read() -> None:
    world = make_world(make_gpu(0, values=VALUES), make_gpu(1, values=VALUES, processes=(make_process(1),)))
    services, sample = world
    body = build(make((services, replace(sample, gpus=sample.gpus[:1]))))
    assert [row["gpu"] for row in body["gpus"]] == ["GPU 0", "GPU 1"]
    later = replace(sample, gpus=sample.gpus[:1], time_ms=sample.time_ms + 3_600_000)
    assert [row["gpu"] for row in build(make((services, later)))["gpus"]] == ["GPU 0"]


def test_usage_is_calculated_anew_after_a_part_of_the_range() -> None:
    world = make_world(make_gpu(0, values=VALUES))
    services, sample = world
    (first,) = usage.usage_parts(make(world))
    (same,) = usage.usage_parts(make((services, replace(sample, time_ms=sample.time_ms + 5_000))))
    (new,) = usage.usage_parts(make((services, replace(sample, time_ms=sample.time_ms + 20_000))))
    assert same.version == first.version != new.version
    zoom = [NOON_MS + 60_000, NOON_MS + 120_000]
    body = build(make(world, zoom=zoom))
    assert [body["start"], body["end"]] == zoom


def test_without_a_gpu_there_is_nothing_to_list() -> None:
    body = build(make(make_world()))
    assert (body["rows"]["user"], body["gpus"], body["heat"]["rows"], body["coverage"]) == ([], [], [], 1.0)
