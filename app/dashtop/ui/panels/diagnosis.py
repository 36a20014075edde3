"""The diagnosis of the chosen GPU: one sentence from the last minutes, whose parts link to charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.model.metric import GIB
from dashtop.model.sample import PROCESSES
from dashtop.model.timerange import HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.ui import ids
from dashtop.ui.charts.resolution import Window
from dashtop.ui.components import attributes
from dashtop.ui.diagnosis import Diagnosis, Load, diagnose, find_start
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.panels.charts import series_key
from dashtop.ui.parts import Part, calculate_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash.development.base_component import Component
    from numpy.typing import NDArray

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample, SeriesSet
    from dashtop.ui.panels.base import PanelContext

    Floats = NDArray[np.float32]

_STEP_MS: Final = 10 * SECOND_MS
_SPAN_MS: Final = HOUR_MS
_NOW_MS: Final = 2 * MINUTE_MS
"""What counts as now: the last minutes."""
_FULL_CORE_PERCENT: Final = 95
_LOW_PERCENT, _HIGH_PERCENT = 10, 80

_FLAGS: Final = "gpu.clocks.event_reasons"
_MEANS: Final = {
    "gpu.utilization.gpu": "utilization",
    "gpu.utilization.compute": "sm",
    "gpu.utilization.tensor": "tensor",
    "gpu.utilization.dram": "dram",
    "gpu.pcie.rx_mbps": "rx_mbps",
    "gpu.pcie.tx_mbps": "tx_mbps",
    "gpu.temperature": "temperature",
    "gpu.memory.used_gb": "vram_gib",
    "system.cpu.usage_percent": "cpu",
    "system.disk_io.read_mbps": "disk_read_mbps",
}
_OTHERS: Final = ("gpu.power.current_watts", "gpu.nvlink.rx_mbps", "gpu.nvlink.tx_mbps", _FLAGS)


def layout(_services: Services) -> Component:
    """Return the line; the browser fills it (assets/panels-gpu.js)."""
    return html.Section(
        [html.H3("Diagnosis", className="card-title"), html.P(**attributes(data_diagnosis=""))],
        id=ids.PANEL_DIAGNOSIS,
        className="panel diagnosis full-width needs-gpu only-single",
        **attributes(aria_label="Diagnosis"),
    )


def build_parts(context: PanelContext) -> list[Part]:
    """Return the diagnosis, new every ten seconds; the same for all viewers."""
    gpu, sample = context.gpu, context.sample
    if gpu is None:
        return []
    end_ms = sample.time_ms // _STEP_MS * _STEP_MS
    state = gpu.state.name if gpu.state is not None else ""
    key = f"diagnosis|{gpu.device.uuid}|{end_ms}|{state}"

    def build() -> dict[str, Any] | None:
        return context.cache.get_or_create(key, lambda: _build(context.services, sample, gpu, end_ms))

    return [Part("diagnosis", calculate_version(key), build)]


def _build(services: Services, sample: Sample, gpu: Gpu, end_ms: int) -> dict[str, Any]:
    """Return the verdict, its evidence, and since when it holds: null if for longer than what was looked at."""
    if gpu.state is not None:
        return {}
    window = Window(end_ms - _SPAN_MS, end_ms, _STEP_MS)
    keys = [series_key(metric, gpu) for metric in (*_MEANS, *_OTHERS)]
    data = services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)
    series = {each.key.metric: each.mean for each in data.series}
    per_minute = MINUTE_MS // _STEP_MS
    minutes = [
        build_load(series, gpu, slice(at, at + per_minute), sample if at + per_minute >= data.count else None)
        for at in range(0, data.count, per_minute)
    ]
    now = build_load(series, gpu, slice(data.count - _NOW_MS // _STEP_MS, data.count), sample)
    found = diagnose(now)
    return {} if found is None else _encode(found, minutes, data)


def _encode(found: Diagnosis, minutes: list[Load], data: SeriesSet) -> dict[str, Any]:
    first = find_start(minutes, found.rule)
    since_ms = data.start_ms + first * MINUTE_MS if 0 < first < len(minutes) - 1 else None
    return {
        "name": found.rule.name,
        "verdict": found.rule.text,
        "severity": found.rule.severity,
        "evidence": [list(each) for each in found.evidence],
        "since": since_ms,
        "is_long": first == 0,
        "note": found.note,
    }


def build_load(series: Mapping[str, Floats], gpu: Gpu, part: slice, sample: Sample | None) -> Load:
    """Return the loads in a part of the buckets. `sample`: what only the present knows, such as processes and cores."""
    values: dict[str, Any] = {name: _mean(series[metric][part]) for metric, name in _MEANS.items()}
    utilization = _known(series["gpu.utilization.gpu"][part])
    if len(utilization):
        values["low_share"] = float(np.mean(utilization <= _LOW_PERCENT))
        values["high_share"] = float(np.mean(utilization >= _HIGH_PERCENT))
    watts, limit = _mean(series["gpu.power.current_watts"][part]), gpu.values.get("gpu.power.max_watts")
    if watts is not None and limit:
        values["power_share"] = watts / limit
    link = gpu.values.get("gpu.pcie.bandwidth_gbps")
    if values["rx_mbps"] is not None and link:
        values["rx_share"] = values["rx_mbps"] / (1000 * link)
    directions = [_mean(series[f"gpu.nvlink.{each}_mbps"][part]) for each in ("rx", "tx")]
    if any(each is not None for each in directions):
        values["nvlink_mbps"] = sum(each or 0.0 for each in directions)
    flags = _known(series[_FLAGS][part]).astype(np.int64)
    if len(flags):
        values |= {
            "thermal_share": float(np.mean((flags & 0x060) != 0)),
            "brake_share": float(np.mean((flags & 0x080) != 0)),
            "cap_share": float(np.mean((flags & 0x004) != 0)),
            "flags": int(np.bitwise_or.reduce(flags)),
        }
    if sample is not None:
        values["full_cores"] = sum(core >= _FULL_CORE_PERCENT for core in sample.host.per_core)
        if PROCESSES not in gpu.unavailable:
            values["process_count"] = len(gpu.processes)
            values["process_cpu"] = max((each.cpu_percent or 0.0 for each in gpu.processes), default=None)
    if gpu.device.shares_host_memory:
        sizes = [each.gpu_memory_bytes for each in gpu.processes if each.gpu_memory_bytes is not None]
        values["vram_gib"] = sum(sizes) / GIB if sizes else None
    return Load(**values)


def _known(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def _mean(values: Floats) -> float | None:
    known = _known(values)
    return float(known.mean()) if len(known) else None


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_DIAGNOSIS, layout=layout, parts=build_parts)
