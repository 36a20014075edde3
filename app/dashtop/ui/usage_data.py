"""What the page of usage shows: hours and energy of the ledger, the heat map and peaks of memory of the history.

For times before the ledger began, and windows that are shorter than its buckets allow, hours and energy are calculated
from the history, too.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.model.metric import GIB
from dashtop.model.run import START_TOLERANCE_MS
from dashtop.model.sample import PROCESSES, SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.charts.resolution import RANGES_MS, build_window, build_zoom_window
from dashtop.ui.gpu_series import read_gpu_series
from dashtop.usage.calculation import (
    Buckets,
    GpuRecord,
    calculate_usage,
    choose_key,
    fill_distances,
    find_covering,
    find_peaks,
)
from dashtop.usage.summary import COUNTER, GROUPINGS, INTEGRATED, summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.sample import Gpu, Series
    from dashtop.model.usage import StoredUsage
    from dashtop.ui.panels.base import PanelContext
    from dashtop.usage.calculation import GpuUsage, GroupKey, GroupUsage, Usage
    from dashtop.usage.summary import UsageRow

_UTILIZATION: Final = "gpu.utilization.gpu"
_MEMORY: Final = "gpu.memory.used_percent"
_POWER: Final = "gpu.power.current_watts"
_ENERGY: Final = "gpu.energy.total_wh"
_METRICS: Final = (_UTILIZATION, _MEMORY, _POWER, _ENERGY)
_HOST: Final = (SeriesKey("system.cpu.usage_percent"), SeriesKey("system.memory.used_percent"))

# Buckets of the calculation: as many as a chart of this width has.
_WIDTH_PX: Final = 3000
# A range is calculated anew after this share of it.
_REFRESHES: Final = 240
_MIN_REFRESH_MS, _MAX_REFRESH_MS = 15 * SECOND_MS, 5 * MINUTE_MS
_CELLS_MS: Final = (MINUTE_MS, 5 * MINUTE_MS, 15 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS, 7 * DAY_MS)
_MAX_CELLS: Final = 170
# History.processes returns the newest 10 000.
_MAX_SPANS: Final = 10_000


# A shorter window is too few buckets of the ledger; that of an hour can lack some seconds.
_MIN_LEDGER_MS: Final = 50 * MINUTE_MS
# Rows of each grouping that are sent to the page.
_MAX_ROWS: Final = 50
_GROUPINGS: Final = tuple(by for by in GROUPINGS if by != "gpu")
Labels = dict[str, tuple[str, str]]


def find_buckets(context: PanelContext) -> Buckets:
    """Return the buckets of the chosen range or zoom. Those of a range move on a few times a minute or an hour."""
    request, now_ms = context.request, context.sample.time_ms
    interval_ms = round(context.services.latest.interval_s * 1000)
    if request.zoom is not None:
        # The sample is that of the end of the zoom; what the history still keeps depends on the present.
        window = build_zoom_window(request.zoom, context.services.clock.now_ms(), _WIDTH_PX, interval_ms)
    else:
        span_ms = RANGES_MS[request.range]
        refresh_ms = min(max(span_ms // _REFRESHES, _MIN_REFRESH_MS), _MAX_REFRESH_MS)
        window = build_window(now_ms // refresh_ms * refresh_ms, span_ms, _WIDTH_PX, interval_ms)
    return Buckets(window.start_ms, window.step_ms, window.count)


def build_usage(context: PanelContext, buckets: Buckets) -> dict[str, Any]:
    """Return the usage of the buckets as JSON values."""
    history = context.services.history
    present = {gpu.device.uuid: gpu for gpu in context.sample.gpus}
    stored = {gpu.uuid: (gpu.index, gpu.name) for gpu in history.gpus()}
    host = history.query(_HOST, buckets.start_ms, buckets.end_ms, buckets.step_ms).series
    has_reading = np.isfinite(np.array([series.mean for series in host])).any(axis=0)
    is_recorded = find_covering(has_reading, buckets.step_ms) >= 0
    uuids = list(dict.fromkeys([*present, *stored]))
    bounds = buckets.start_ms, buckets.end_ms, buckets.step_ms
    found = [
        _build_record(context, uuid, present.get(uuid), buckets, series)
        for uuid, series in read_gpu_series(history, uuids, _METRICS, bounds)
    ]
    records = [record for record in found if record.is_recorded.any() or record.uuid in present]
    for record in records:
        is_recorded |= record.is_recorded
    interval_ms = round(context.services.latest.interval_s * 1000)
    usage = calculate_usage(records, buckets, interval_ms)
    labels = {uuid: _label(uuid, present.get(uuid), *stored.get(uuid, (None, None))) for uuid in (*present, *stored)}
    ledger = history.usage(buckets.start_ms, buckets.end_ms)
    has_ledger = _covers(ledger, records, buckets)
    hours = (
        _read_ledger(context, ledger, records, labels, buckets)
        if has_ledger
        else _calculate(usage, records, labels, buckets, interval_ms, coverage=float(is_recorded.mean()))
    )
    for row in hours["gpus"]:
        row["note"] = _describe_missing(present.get(row.pop("uuid")))
    return {
        **hours,
        "began": ledger.began_ms,
        "has_ledger": has_ledger,
        "heat": _encode_heat(usage, records, labels, buckets),
        "is_cut": any(len(record.processes or ()) >= _MAX_SPANS for record in records) or ledger.is_cut,
        "error": history.read_status().error,
    }


def _covers(ledger: StoredUsage, records: Sequence[GpuRecord], buckets: Buckets) -> bool:
    """Return whether the ledger has the window: since before the first reading in it."""
    if ledger.began_ms is None or buckets.end_ms - buckets.start_ms < _MIN_LEDGER_MS:
        return False
    firsts = [int(np.argmax(record.is_recorded)) for record in records if record.is_recorded.any()]
    first_ms = buckets.start_ms + buckets.step_ms * min(firsts, default=0)
    return ledger.began_ms <= max(first_ms, ledger.start_ms)


# --- from the ledger ------------------------------------------------------------------------------------------------


def _read_ledger(
    context: PanelContext,
    ledger: StoredUsage,
    records: Sequence[GpuRecord],
    labels: Labels,
    buckets: Buckets,
) -> dict[str, Any]:
    services, now_ms = context.services, context.sample.time_ms
    interval_ms = round(services.latest.interval_s * 1000)
    summaries = {by: summarize(ledger, by, now_ms=now_ms, prices=services.prices) for by in GROUPINGS}
    rows = {}
    for by in _GROUPINGS:
        peaks = find_peaks(records, buckets, interval_ms, choose_key(by))
        rows[by] = [_encode_row(row, _find_peak(peaks, row), labels) for row in summaries[by].rows[:_MAX_ROWS]]
    gpus = {row.key: row for row in summaries["gpu"].rows}
    listed = list(dict.fromkeys([*(record.uuid for record in records), *gpus]))
    whole = summaries["user"]
    return {
        "start": whole.start_ms,
        "end": whole.end_ms,
        "coverage": round(whole.coverage, 4),
        "rows": rows,
        "left_out": {by: max(0, len(summaries[by].rows) - _MAX_ROWS) for by in _GROUPINGS},
        "unattributed_kwh": _round(whole.unattributed_kwh),
        "gpus": [_encode_gpu_row(uuid, gpus.get(uuid), labels) for uuid in listed],
    }


def _find_peak(peaks: Mapping[GroupKey, int | None], row: UsageRow) -> int | None:
    """Return the peak of a row. The spans of one process can have starts that differ a little, as in the ledger."""
    if row.started_ms is None:
        return peaks.get((row.key, 0))
    found = [
        peak
        for (name, start_ms), peak in peaks.items()
        if peak is not None and name == row.key and abs(start_ms - row.started_ms) <= START_TOLERANCE_MS
    ]
    return max(found, default=None)


def _encode_row(row: UsageRow, peak_bytes: int | None, labels: Labels) -> dict[str, Any]:
    return {
        "name": row.key,
        "user": row.user,
        "gpus": [label for uuid, (label, _) in labels.items() if uuid in row.gpus],
        "processes": row.processes,
        "held": _round(row.held_h),
        "shared": _round(row.shared_h),
        "utilized": _round(row.busy_h),
        "idle": _round(row.idle_h),
        "known": round(row.known, 3),
        "peak_gib": None if peak_bytes is None else round(peak_bytes / GIB, 2),
        "active_kwh": _round(row.active_kwh),
        "base_kwh": _round(row.base_kwh),
        "cost": _round(row.cost),
        "energy_kind": row.energy_kind,
        "is_estimated": row.is_shared,
    }


def _encode_gpu_row(uuid: str, row: UsageRow | None, labels: Labels) -> dict[str, Any]:
    """Return a row of the table of GPUs; without processes that could be listed, hours are null."""
    label, name = labels.get(uuid, (uuid, ""))
    return {
        "uuid": uuid,
        "gpu": label,
        "name": name,
        "held": _round(row.held_h) if row is not None else None,
        "utilized": _round(row.busy_h) if row is not None else None,
        "idle": _round(row.idle_h) if row is not None else None,
        "free": _round(row.free_h) if row is not None else None,
        "coverage": round(row.coverage or 0.0, 4) if row is not None else 0.0,
        "kwh": _round(row.energy_kwh) if row is not None else None,
        "energy_kind": row.energy_kind if row is not None else None,
        "throttled": _round((row.thermal_h or 0.0) + (row.hw_h or 0.0)) if row is not None else None,
    }


# --- calculated from the history ------------------------------------------------------------------------------------


def _calculate(
    usage: Usage, records: Sequence[GpuRecord], labels: Labels, buckets: Buckets, interval_ms: int, *, coverage: float
) -> dict[str, Any]:
    groups = {by: calculate_usage(records, buckets, interval_ms, choose_key(by)).groups for by in _GROUPINGS}
    return {
        "start": buckets.start_ms,
        "end": buckets.end_ms,
        "coverage": round(coverage, 4),
        "rows": {by: [_encode_group(group, labels, by) for group in found[:_MAX_ROWS]] for by, found in groups.items()},
        "left_out": {by: max(0, len(found) - _MAX_ROWS) for by, found in groups.items()},
        "unattributed_kwh": None,
        "gpus": [_encode_gpu(gpu, labels, buckets) for gpu in usage.gpus],
    }


def _build_record(
    context: PanelContext, uuid: str, gpu: Gpu | None, buckets: Buckets, series: Mapping[str, Series]
) -> GpuRecord:
    utilization, memory, power, energy = (series[metric].mean.astype(np.float64) for metric in _METRICS)
    lists_processes = gpu is None or (PROCESSES not in gpu.unavailable and not _is_split(gpu))
    record = GpuRecord(
        uuid=uuid,
        is_recorded=np.isfinite(utilization) | np.isfinite(memory) | np.isfinite(power),
        utilization=utilization,
        power=power,
        energy=energy,
        processes=context.services.history.processes(uuid, buckets.start_ms, buckets.end_ms)
        if lists_processes
        else None,
        running=gpu.processes if gpu is not None else (),
    )
    return fill_distances(record, buckets.step_ms)


def _is_split(gpu: Gpu) -> bool:
    """Return whether a GPU is split into MIG instances, which list its processes."""
    return gpu.unavailable.get(_UTILIZATION) is UnavailableReason.MIG_PARENT


def _label(uuid: str, gpu: Gpu | None, index: int | None, name: str | None) -> tuple[str, str]:
    """Return the short label and the name of a GPU or MIG instance."""
    if gpu is not None:
        index, name = gpu.device.index, gpu.device.name
    label = f"GPU {index}" if index is not None else uuid[: len("GPU-12345678")]
    profile = gpu.device.mig_profile if gpu is not None else None
    return f"{label} · MIG {profile}" if profile else label, name or ""


def _encode_group(user: GroupUsage, labels: Labels, by: str) -> dict[str, Any]:
    return {
        "name": user.key[0],
        "user": ", ".join(sorted(user.owners)) if by == "process" else None,
        "gpus": [labels[uuid][0] for uuid in user.gpus],
        "processes": len(user.processes),
        "held": _round(user.held_h),
        "shared": None,
        "utilized": _round(user.utilized_h),
        "idle": _round(user.idle_h),
        "known": round(user.known_h / user.held_h, 3) if user.held_h else 0.0,
        "peak_gib": None if user.peak_bytes is None else round(user.peak_bytes / GIB, 2),
        "active_kwh": None,
        "base_kwh": None,
        "cost": None,
        "energy_kind": None,
        "is_estimated": user.is_estimated,
    }


def _encode_gpu(gpu: GpuUsage, labels: Labels, buckets: Buckets) -> dict[str, Any]:
    label, name = labels[gpu.uuid]
    return {
        "uuid": gpu.uuid,
        "gpu": label,
        "name": name,
        "held": _round(gpu.held_h),
        "utilized": _round(gpu.utilized_h),
        "idle": _round(gpu.idle_h),
        "free": _round(gpu.free_h),
        "coverage": round(gpu.recorded_h * HOUR_MS / (buckets.end_ms - buckets.start_ms), 4),
        "kwh": None if gpu.energy is None else round(gpu.energy.watt_hours / 1000, 4),
        "energy_kind": None if gpu.energy is None else COUNTER if gpu.energy.is_counted else INTEGRATED,
        "throttled": None,
    }


def _describe_missing(present: Gpu | None) -> str:
    """Return why the hours of a GPU are not known; empty if they are."""
    if present is not None and _is_split(present):
        return UnavailableReason.MIG_PARENT.text
    if present is not None and (reason := present.unavailable.get(PROCESSES)) is not None:
        return f"processes: {reason.text}"
    return ""


def _round(hours: float | None) -> float | None:
    return None if hours is None else round(hours, 4)


# --- heat map -------------------------------------------------------------------------------------------------------


def _encode_heat(usage: Usage, records: Sequence[GpuRecord], labels: Labels, buckets: Buckets) -> dict[str, Any]:
    """Return a row of cells for each GPU: five bytes each, as base64.

    Percent of the cell in which the GPU was active, held but idle, free, and held at an unknown utilization; and the
    mean utilization. Of a cell that begins before the window or is not over, this is its part within the window.
    """
    span_ms = buckets.end_ms - buckets.start_ms
    width_ms = next(width for width in _CELLS_MS if width >= buckets.step_ms and span_ms <= _MAX_CELLS * width)
    first = buckets.start_ms // width_ms
    count = (buckets.end_ms - 1) // width_ms - first + 1
    starts = buckets.start_ms + buckets.step_ms * np.arange(buckets.count, dtype=np.int64)
    positions = starts // width_ms - first
    sizes = np.maximum(np.bincount(positions, minlength=count), 1)
    rows = []
    for gpu, record in zip(usage.gpus, records, strict=True):
        if record.processes is None:
            continue
        shares = [
            np.bincount(positions, weights=each, minlength=count) / sizes
            for each in (gpu.active, gpu.idle, gpu.free, gpu.held)
        ]
        is_known = np.isfinite(record.utilization)
        sums = np.bincount(positions, weights=np.where(is_known, record.utilization, 0.0), minlength=count)
        load = sums / np.maximum(np.bincount(positions, weights=is_known, minlength=count), 1) / 100
        cells = np.clip(np.round(100 * np.stack([*shares, load], axis=1)), 0, 100).astype(np.uint8)
        rows.append([*labels[gpu.uuid], base64.b64encode(cells.tobytes()).decode()])
    return {"start": first * width_ms, "step": width_ms, "count": count, "rows": rows}
