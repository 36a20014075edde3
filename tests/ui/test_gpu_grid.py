"""The view of all GPUs: a row for each, its state in words, which are free, and utilization sent once per bucket."""

from __future__ import annotations

import base64
import dataclasses
import math
import os
import subprocess
import sys
from typing import Any

import pytest

from dashtop.metrics.gpu_state import classify_gpus
from dashtop.model.sample import PROCESSES, Gpu, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.panels.gpu_grid import GAP, build_parts, build_table, live_data
from dashtop.ui.theme import GPUS, HOST, SERIES
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.ui.test_gpu_state import Loads
from tests.ui.test_layout import contrast, tokens
from tests.ui.worlds import make_context, world

IDLE = {
    "gpu.utilization.gpu": 0.0,
    "gpu.memory.used_gb": 0.4,
    "gpu.memory.total_gb": 24.0,
    "gpu.memory.used_percent": 1.7,
    "gpu.temperature": 31.0,
}
PROCESS = GpuProcess(
    pid=77, kind="C", gpu_memory_bytes=3 * 2**30, info=ProcessInfo(name="<b>python</b>", username="alice")
)


def idle(**changes: float | None) -> Gpu:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return make_gpu(values={key: value for key, value in {**IDLE, **values}.items() if value is not None})


def rows_of(*gpus: Gpu) -> list[dict[str, Any]]:
    sample = make_sample(gpus=gpus)
    table = build_table(sample, classify_gpus(sample))
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_a_row_has_values_or_reasons() -> None:
    busy = make_gpu(
        3,
        values={**IDLE, "gpu.utilization.gpu": 97.5},
        processes=(PROCESS, dataclasses.replace(PROCESS, gpu_memory_bytes=None)),
    )
    (row,) = rows_of(busy)
    assert row == {
        "index": 3,
        "gpu.utilization.gpu": 98,
        "gpu.memory.used_gb": 0.4,
        "gpu.memory.total_gb": 24.0,
        "gpu.memory.used_percent": 2,
        "gpu.temperature": 31,
        "gpu.power.current_watts": "not supported by this device",
        "gpu.power.max_watts": "not supported by this device",
        "gpu.fan_speed": "not supported by this device",
        "memory_level": "",
        "temperature_level": "",
        "state": "",
        "condition": "busy",
        "label": "Busy",
        "severity": "",
        "processes_error": None,
        "process_count": 2,
        "process_name": "<b>python</b>",
        "process_user": "alice",
        "process_memory_mib": 3072,
        "is_free": False,
        "is_counted": True,
    }


def test_a_card_has_the_state_that_the_overview_shows() -> None:
    gpu = dataclasses.replace(idle(gpu__utilization__gpu=8.0), processes=(PROCESS,))
    services, _, _ = world(gpus=(gpu,))
    services = dataclasses.replace(services, history=Loads({gpu.device.uuid: 30}))
    context = make_context(sample=make_sample(gpus=(gpu,), time_ms=NOON_MS), services=services)
    table = live_data(context)["gpus"]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["condition"], row["label"]) == ("idle_held", "Idle, held")


def test_a_card_marks_problems_and_a_temperature_at_its_limit() -> None:
    hot = make_gpu(values={**IDLE, "gpu.temperature": 94.0, "gpu.clocks.event_reasons": float(0x20)})
    (row,) = rows_of(hot)
    assert (row["label"], row["severity"], row["temperature_level"]) == ("Throttled", "warning", "elevated")
    assert row["state"] == "SW Thermal Slowdown"
    (row,) = rows_of(make_gpu(values={**IDLE, "gpu.retired_pages.pending": 1.0}))
    assert (row["label"], row["is_free"], row["is_counted"]) == ("Unhealthy", False, False)


def test_a_gpu_with_unknown_processes_is_not_free_and_has_the_reason() -> None:
    unknown = idle()
    reasons = {**unknown.unavailable, PROCESSES: UnavailableReason.NO_PERMISSION}
    unknown = dataclasses.replace(unknown, unavailable=reasons, processes=(PROCESS,))
    (row,) = rows_of(unknown)
    assert (row["processes_error"], row["process_name"]) == ("no permission", None)


def test_utilization_is_new_when_a_bucket_is_complete_and_is_read_once_for_all() -> None:
    services, latest, history = world(gpus=(make_gpu(0, values=IDLE), make_gpu(1, values=IDLE)), recorded_s=600)
    sample = latest.sample
    assert sample is not None
    context = make_context(sample=sample, services=services)
    built = [{part.name: part.build() for part in build_parts(context)} for _ in range(5)]
    assert history.queries == 2
    assert all(each == built[0] for each in built)
    hour = {index: base64.b64decode(text) for index, text in built[0]["last_hour"].items()}
    assert {index: len(each) for index, each in hour.items()} == {"0": 60, "1": 60}
    assert hour["0"].count(GAP) == 50

    def newer_than_first(**changes: Any) -> set[str]:
        first = {part.name: part.version for part in build_parts(context)}
        later_sample = dataclasses.replace(sample, sequence=sample.sequence + 1, **changes)
        later = build_parts(dataclasses.replace(context, sample=later_sample))
        return {part.name for part in later if part.version != first[part.name]}

    assert newer_than_first() == set()
    assert newer_than_first(time_ms=sample.time_ms + 6000) == {"last_minutes"}
    assert newer_than_first(gpus=sample.gpus[:1]) == {"last_hour", "last_minutes"}


PRINT_VERSIONS = """
from dashtop.ui.panels.gpu_grid import build_parts
from tests.builders import make_gpu
from tests.ui.worlds import make_context, world
services, latest, _ = world(gpus=(make_gpu(0), make_gpu(1)))
print([part.version for part in build_parts(make_context(sample=latest.sample, services=services))])
"""


def test_versions_are_the_same_in_every_process() -> None:
    def versions(seed: str) -> str:
        command = [sys.executable, "-c", PRINT_VERSIONS]
        return subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": seed}, text=True)

    assert versions("1") == versions("2")


# How colours look to people without one kind of cone, in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
CONES = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def seen(colour: str, cones: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    """CIELAB (D65) of a #rrggbb colour as it is seen with those cones."""
    raw = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in raw]
    rgb = [min(max(sum(a * b for a, b in zip(row, linear, strict=True)), 0), 1) for row in cones]
    to_xyz = ((0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0178, 0.1095, 0.8728))  # white is 1, 1, 1
    x, y, z = (sum(a * b for a, b in zip(row, rgb, strict=True)) for row in to_xyz)
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("cones", CONES)
def test_colours_of_gpus_and_host_differ_with_every_kind_of_colour_vision(cones: str) -> None:
    shades = [seen(colour, CONES[cones]) for colour in (HOST, *GPUS)]
    for at, one in enumerate(shades):
        for other in shades[at + 1 :]:
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 > 14.5


def test_no_gpu_looks_like_a_status() -> None:
    for colour in (HOST, *GPUS, *SERIES):
        _, green_red, blue_yellow = seen(colour, CONES["all"])
        hue = math.degrees(math.atan2(blue_yellow, green_red)) % 360
        is_red_amber_or_green = 8 < hue < 185
        assert not is_red_amber_or_green or math.hypot(green_red, blue_yellow) < 24, colour


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_and_cards_have_the_same_colours(theme: str) -> None:
    colours = tokens()[theme]
    assert colours["cpu"] == HOST
    assert [colours[f"gpu-{index}"] for index in range(len(GPUS))] == list(GPUS)
    assert all(contrast(colour, colours["surface"]) >= 3 for colour in (HOST, *GPUS))
