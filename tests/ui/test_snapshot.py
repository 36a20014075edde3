"""Snapshots: values, reasons, levels, warnings and errors, as the browser gets them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.model.metric import Thresholds
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.snapshot import (
    build_devices,
    build_notice,
    build_snapshot,
    find_gpu,
    find_level,
    select_metrics,
)
from tests.builders import make_device, make_gpu, make_sample
from tests.ui.worlds import HOST_VALUES, gpu

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.parts import Table

KEYS = {
    "gpu.utilization.gpu",
    "gpu.temperature",
    "gpu.fan_speed",
    "gpu.memory.used_percent",
    "system.cpu.usage_percent",
    "system.swap.used_percent",
}


def snapshot_of(sample: Sample, shown: Gpu | None, *, alive: bool = True) -> dict[str, Any]:
    return build_snapshot(sample, shown, select_metrics(KEYS), age_s=0.2, interval_s=1.0, alive=alive)


def values_of(snapshot: dict[str, Any]) -> dict[str, float | None]:
    table: Table = snapshot["values"]
    return dict(zip(table.columns, table.rows[0], strict=True))


def test_values_reasons_levels_and_warnings() -> None:
    hot = gpu()
    snapshot = snapshot_of(make_sample(gpus=(hot,), host=HOST_VALUES), hot)
    assert values_of(snapshot) == {
        "gpu.utilization.gpu": 97.5,
        "gpu.memory.used_percent": 83.3,
        "gpu.temperature": 91.0,
        "gpu.fan_speed": None,
        "system.cpu.usage_percent": 12.346,
        "system.swap.used_percent": None,
    }
    assert snapshot["missing"] == {
        "gpu.fan_speed": UnavailableReason.NOT_SUPPORTED.text,
        "system.swap.used_percent": UnavailableReason.FIRST_READING.text,
    }
    assert snapshot["levels"] == {
        "gpu.temperature": "elevated",
    }
    # Warm for most cards, but this one slows down at 95 °C: its own limits count.
    assert snapshot["warnings"] == {"gpu.temperature": {"severity": "warning", "message": "Running hot"}}
    json.dumps({**snapshot, "values": values_of(snapshot)}, allow_nan=False)


def test_zero_is_a_value() -> None:
    idle = make_gpu(values={"gpu.utilization.gpu": 0.0})
    snapshot = snapshot_of(make_sample(gpus=(idle,)), idle)
    assert values_of(snapshot)["gpu.utilization.gpu"] == 0.0
    assert "gpu.utilization.gpu" not in snapshot["missing"]


def test_without_a_gpu_only_the_host_has_values() -> None:
    snapshot = snapshot_of(make_sample(host=HOST_VALUES, error=UnavailableReason.NO_LIBRARY), None)
    assert snapshot["gpu"] is None
    assert snapshot["devices"] == []
    assert snapshot["error"] is None
    assert snapshot["notice"] == {
        "title": "No GPU detected",
        "reason": "The NVIDIA driver library (libnvidia-ml.so.1) was not found.",
        "outlook": "CPU and memory monitoring goes on, and a GPU that appears is shown by itself.",
    }
    assert set(values_of(snapshot)) == {"system.cpu.usage_percent", "system.swap.used_percent"}


@pytest.mark.parametrize("reason", UnavailableReason)
def test_every_reason_has_a_notice(reason: UnavailableReason) -> None:
    notice = build_notice(reason)
    assert all(notice.values())
    assert (notice["title"] == "GPUs cannot be read") == (reason.is_failure)
    error = snapshot_of(make_sample(error=reason), None)["error"]
    assert (error is not None) == (reason.is_failure)
    if error is not None:
        assert error["type"] == "gpu"


def test_notice_of_disabled_monitoring_promises_no_gpu() -> None:
    assert "appears" not in build_notice(UnavailableReason.DISABLED)["outlook"]
    assert build_notice(UnavailableReason.DISABLED)["title"] == "GPU monitoring off"
    assert build_notice(None)["title"] == "No GPU detected"
    assert build_notice(UnavailableReason.STARTING)["title"] == "Looking for GPUs"


def test_a_gpu_without_values_is_an_error_only_if_its_reason_is_a_failure() -> None:
    def error_of(reason: UnavailableReason, *others: Gpu) -> object:
        empty = make_gpu()
        failed = replace(empty, unavailable=dict.fromkeys(empty.values, reason))
        return snapshot_of(make_sample(gpus=(failed, *others)), failed)["error"]

    assert error_of(UnavailableReason.ASLEEP) is None
    lost = {"type": "gpu", "message": "The GPU has fallen off the bus. CPU and memory monitoring goes on."}
    assert error_of(UnavailableReason.GPU_LOST) == {**lost, "scope": "driver"}
    assert error_of(UnavailableReason.GPU_LOST, gpu(1)) == {**lost, "scope": "gpu"}
    assert snapshot_of(make_sample(), gpu())["error"] is None


def test_a_dead_collector_is_an_error() -> None:
    error = snapshot_of(make_sample(), None, alive=False)["error"]
    assert error["type"] == "general"


def test_a_gpu_is_found_by_index_or_uuid_else_the_first() -> None:
    sample = make_sample(gpus=(gpu(0), gpu(3)))
    uuid = gpu(3).device.uuid
    names = ("0", "3", "7", "", "GPU-", uuid[:11], uuid[:12], uuid, uuid + "0")
    assert [found.device.index for name in names if (found := find_gpu(sample, name))] == [0, 3, 0, 0, 0, 0, 3, 3, 0]
    assert find_gpu(make_sample(), "0") is None


def uuids_of(*gpus: Gpu) -> list[str]:
    return [device["uuid"] for device in build_devices(make_sample(gpus=gpus))]


def test_uuids_are_short_while_they_differ() -> None:
    assert uuids_of(gpu(0), gpu(3)) == ["GPU-00000000", "GPU-00000003"]
    twins = [replace(gpu(index), device=make_device(index, uuid=f"GPU-00000000-{index}")) for index in (0, 1)]
    assert uuids_of(*twins) == ["GPU-00000000-0", "GPU-00000000-1"]


def test_names_are_sent_unchanged() -> None:
    named = replace(gpu(), device=make_device(name="<img src=x onerror=alert(1)>"))
    assert snapshot_of(make_sample(gpus=(named,)), named)["devices"] == [
        {
            "index": 0,
            "name": "<img src=x onerror=alert(1)>",
            "uuid": named.device.uuid[:12],
            "shares_host_memory": False,
        }
    ]


@pytest.mark.parametrize(("value", "expected"), [(None, ""), (0, ""), (69.9, ""), (70, "elevated"), (85, "high")])
def test_levels(value: float | None, expected: str) -> None:
    assert find_level(Thresholds(elevated=70, high=85), value) == expected
    assert find_level(None, value) == ""
