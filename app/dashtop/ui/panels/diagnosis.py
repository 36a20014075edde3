"""The diagnosis of the chosen GPU: one sentence from the last minutes, whose parts link to charts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.metrics.diagnosis import Diagnosis, Load, Span, diagnose, find_start
from dashtop.metrics.gpu_state import MIN_IDLE_MS, Condition
from dashtop.model.metric import GIB
from dashtop.model.sample import PROCESSES, Occupancy
from dashtop.model.timerange import HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.gpu_state import read_state
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.panels.charts import series_key
from dashtop.ui.parts import Part, calculate_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash.development.base_component import Component
    from numpy.typing import NDArray

    from dashtop.metrics.gpu_state import GpuState
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.panels.base import PanelContext

    Floats = NDArray[np.float32]

_STEP_MS: Final = 10 * SECOND_MS
_FINE_STEP_MS: Final = 2 * SECOND_MS
_SPAN_MS: Final = HOUR_MS
_QUARTER_MS: Final = 15 * MINUTE_MS
_NOW_MS: Final = MIN_IDLE_MS
"""What counts as now: the time after which a GPU without load is idle."""
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
    "system.cpu.iowait_percent": "iowait",
    "system.disk_io.read_mbps": "disk_read_mbps",
}
_FLAG_SHARES: Final = {"thermal_share": 0x060, "brake_share": 0x080, "cap_share": 0x004}
# A GPU is in this condition since the same moment on all pages.
_STATE_RULES: Final = {
    "idle_held": Condition.IDLE_HELD,
    "thermal": Condition.THROTTLED,
    "power_brake": Condition.THROTTLED,
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
    state = read_state(context, gpu)
    key = f"diagnosis|{gpu.device.uuid}|{end_ms}|{gpu.state}|{state.condition}|{state.occupancy}|{state.since_ms}"

    def build() -> dict[str, Any] | None:
        return context.cache.get_or_create(key, lambda: _build(context, gpu, state, end_ms))

    return [Part("diagnosis", calculate_version(key), build)]


def _build(context: PanelContext, gpu: Gpu, state: GpuState, end_ms: int) -> dict[str, Any]:
    """Return the verdict, its evidence, and since when it holds: null if for longer than what was looked at."""
    if gpu.state is not None:
        return {}
    recent = _read_loads(context, gpu, end_ms - _NOW_MS, end_ms, _NOW_MS)
    minute_ms = end_ms // MINUTE_MS * MINUTE_MS
    longer = context.cache.get_or_create(
        f"diagnosis-longer|{gpu.device.uuid}|{minute_ms}", lambda: _read_longer_loads(context, gpu, minute_ms)
    )
    load = replace(recent.load_at(0), is_idle_held=state.occupancy is Occupancy.IDLE_HELD)
    found = diagnose(load, longer)
    if found is None:
        return {}
    if _STATE_RULES.get(found.rule.name) is state.condition and state.since_ms is not None:
        is_long = not state.is_since_exact and end_ms - state.since_ms >= HOUR_MS
        return _encode(found, state.since_ms if state.is_since_exact else None, is_long=is_long)
    if found.rule.span is not Span.NOW:
        return _encode(found, None, is_long=found.rule.span is Span.HOUR)
    # The start is known to the minute, and looking for it is most of the work.
    first, count = context.cache.get_or_create(
        f"diagnosis-start|{gpu.device.uuid}|{minute_ms}|{found.rule.name}",
        lambda: _find_first_minute(context, gpu, minute_ms, found),
    )
    since = minute_ms - (count - first) * MINUTE_MS if 0 < first < count - 1 else None
    return _encode(found, since, is_long=first == 0)


def _encode(found: Diagnosis, since: int | None, *, is_long: bool) -> dict[str, Any]:
    return {
        "name": found.rule.name,
        "verdict": found.rule.text,
        "severity": found.rule.severity,
        "evidence": [list(each) for each in found.evidence],
        "since": since,
        "is_long": is_long,
        "note": found.note,
    }


def _read_longer_loads(context: PanelContext, gpu: Gpu, end_ms: int) -> dict[Span, Load]:
    """Return the loads of a quarter of an hour, in which bursts of seconds are seen, and of an hour."""
    step_ms = _FINE_STEP_MS if 1000 * context.services.latest.interval_s <= _FINE_STEP_MS else _STEP_MS
    quarter = _read_loads(context, gpu, end_ms - _QUARTER_MS, end_ms, _QUARTER_MS, step_ms=step_ms)
    hour = _read_loads(context, gpu, end_ms - _SPAN_MS, end_ms, _SPAN_MS)
    return {Span.QUARTER: quarter.load_at(0), Span.HOUR: hour.load_at(0)}


def _find_first_minute(context: PanelContext, gpu: Gpu, end_ms: int, found: Diagnosis) -> tuple[int, int]:
    """Return the first minute of the hour before `end_ms` in which the verdict holds, and the number of minutes."""
    minutes = _read_loads(context, gpu, end_ms - _SPAN_MS, end_ms, MINUTE_MS)
    return find_start(minutes.count, minutes.load_at, found.rule), minutes.count


def _read_loads(
    context: PanelContext, gpu: Gpu, start_ms: int, end_ms: int, part_ms: int, *, step_ms: int = _STEP_MS
) -> Loads:
    keys = [series_key(metric, gpu) for metric in (*_MEANS, *_OTHERS)]
    data = context.services.history.query(keys, start_ms, end_ms, step_ms)
    series = {each.key.metric: each.mean for each in data.series}
    return Loads(series, gpu, part_ms // step_ms, context.sample)


class Loads:
    """The loads in equal parts of the buckets, the last of which is the present of `sample`.

    All parts are averaged at once, since an hour of minutes would take 10 ms one by one.
    """

    def __init__(self, series: Mapping[str, Floats], gpu: Gpu, part: int, sample: Sample) -> None:
        self._gpu = gpu
        self._sample = sample
        parts = {metric: values.reshape(-1, part) for metric, values in series.items()}
        self.count = len(parts[_FLAGS])
        self._means = {metric: _mean(values) for metric, values in parts.items()}
        utilization = parts["gpu.utilization.gpu"]
        self._low = _share(utilization, utilization <= _LOW_PERCENT)
        self._high = _share(utilization, utilization >= _HIGH_PERCENT)
        self._coverage = np.isfinite(utilization).mean(axis=1)
        flags = np.nan_to_num(parts[_FLAGS]).astype(np.int64)
        self._flags = np.bitwise_or.reduce(flags, axis=1)
        self._shares = {name: _share(parts[_FLAGS], (flags & bits) != 0) for name, bits in _FLAG_SHARES.items()}

    def load_at(self, index: int) -> Load:
        """Return the loads in one part. Processes and cores are those of the present, which is the last part."""
        gpu = self._gpu
        values: dict[str, Any] = {name: _at(self._means[metric], index) for metric, name in _MEANS.items()}
        values |= {name: _at(share, index) for name, share in self._shares.items()}
        values |= {"low_share": _at(self._low, index), "high_share": _at(self._high, index)}
        values["coverage"] = _at(self._coverage, index)
        values["flags"] = int(self._flags[index])
        watts = _at(self._means["gpu.power.current_watts"], index)
        limit, link = gpu.values.get("gpu.power.max_watts"), gpu.values.get("gpu.pcie.bandwidth_gbps")
        if watts is not None and limit:
            values["power_share"] = watts / limit
        if values["rx_mbps"] is not None and link:
            values["rx_share"] = values["rx_mbps"] / (1000 * link)
        directions = [_at(self._means[f"gpu.nvlink.{each}_mbps"], index) for each in ("rx", "tx")]
        if any(each is not None for each in directions):
            values["nvlink_mbps"] = sum(each or 0.0 for each in directions)
        if index == self.count - 1:
            values["full_cores"] = sum(core >= _FULL_CORE_PERCENT for core in self._sample.host.per_core)
            if PROCESSES not in gpu.unavailable:
                values |= _measure_processes(gpu)
        if gpu.device.shares_host_memory:
            sizes = [each.gpu_memory_bytes for each in gpu.processes if each.gpu_memory_bytes is not None]
            values["vram_gib"] = sum(sizes) / GIB if sizes else None
        return Load(**values)


def _measure_processes(gpu: Gpu) -> dict[str, float | None]:
    """Return the highest CPU use of a process, and of a process with its workers in relation to what it may use."""
    trees = [
        (each.tree_cpu_percent / (100 * each.usable_cpus), each.usable_cpus)
        for each in gpu.processes
        if each.tree_cpu_percent is not None and each.usable_cpus
    ]
    share, cpus = max(trees, default=(None, None))
    cpu = max((each.cpu_percent or 0.0 for each in gpu.processes), default=None)
    return {"process_cpu": cpu, "tree_share": share, "tree_cpus": cpus}


def _mean(parts: Floats) -> Floats:
    """Return the mean of the known values of each part; NaN without any."""
    known = np.isfinite(parts)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, parts, 0).sum(axis=1) / known.sum(axis=1)
    return mean


def _share(parts: Floats, matches: NDArray[np.bool_]) -> Floats:
    """Return the share of the known values of each part that match; NaN without any."""
    known = np.isfinite(parts)
    with np.errstate(invalid="ignore"):
        share: Floats = (matches & known).sum(axis=1) / known.sum(axis=1)
    return share


def _at(values: Floats, index: int) -> float | None:
    value = float(values[index])
    return value if np.isfinite(value) else None


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_DIAGNOSIS, layout=layout, parts=build_parts)
