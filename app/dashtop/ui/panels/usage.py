"""The page of usage: when each GPU was in use, GPU-hours by user and by GPU, energy. Calculated from the history."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.model.metric import GIB
from dashtop.model.sample import PROCESSES, SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids
from dashtop.ui.charts.resolution import RANGES_MS, build_window, build_zoom_window
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.gpu_series import read_gpu_series
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, calculate_version
from dashtop.usage.calculation import Buckets, GpuRecord, calculate_usage, fill_distances, find_covering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Series
    from dashtop.ui.panels.base import PanelContext
    from dashtop.usage.calculation import GpuUsage, Usage, UserUsage

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


def usage_parts(context: PanelContext) -> list[Part]:
    """Return the part "usage", which all panels of the page share."""
    buckets = find_buckets(context)
    outages = context.services.history.read_status().version
    gpus = ",".join(gpu.device.uuid for gpu in context.sample.gpus)
    version = calculate_version(f"usage|{buckets}|{outages}|{gpus}")

    def build() -> dict[str, Any]:
        return context.cache.get_or_create(f"usage|{version}", lambda: _build_usage(context, buckets))

    return [Part("usage", version, build)]


def _build_usage(context: PanelContext, buckets: Buckets) -> dict[str, Any]:
    history = context.services.history
    interval_ms = round(context.services.latest.interval_s * 1000)
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
    usage = calculate_usage(records, buckets, interval_ms)
    labels = {uuid: _label(uuid, present.get(uuid), *stored.get(uuid, (None, None))) for uuid in (*present, *stored)}
    return {
        "start": buckets.start_ms,
        "end": buckets.end_ms,
        "coverage": round(float(is_recorded.mean()), 4),
        "users": [_encode_user(user, labels) for user in usage.users],
        "gpus": [_encode_gpu(gpu, labels, present.get(gpu.uuid), buckets) for gpu in usage.gpus],
        "heat": _encode_heat(usage, records, labels, buckets),
        "is_cut": any(len(record.processes or ()) >= _MAX_SPANS for record in records),
        "error": history.read_status().error,
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


def _encode_user(user: UserUsage, labels: dict[str, tuple[str, str]]) -> dict[str, Any]:
    return {
        "user": user.user,
        "gpus": [labels[uuid][0] for uuid in user.gpus],
        "processes": len(user.processes),
        "held": _round(user.held_h),
        "utilized": _round(user.utilized_h),
        "idle": _round(user.idle_h),
        "known": round(user.known_h / user.held_h, 3) if user.held_h else 0.0,
        "peak_gib": None if user.peak_bytes is None else round(user.peak_bytes / GIB, 2),
        "is_estimated": user.is_estimated,
    }


def _encode_gpu(
    gpu: GpuUsage, labels: dict[str, tuple[str, str]], present: Gpu | None, buckets: Buckets
) -> dict[str, Any]:
    label, name = labels[gpu.uuid]
    note = ""
    if present is not None and _is_split(present):
        note = UnavailableReason.MIG_PARENT.text
    elif present is not None and (reason := present.unavailable.get(PROCESSES)) is not None:
        note = f"processes: {reason.text}"
    return {
        "gpu": label,
        "name": name,
        "held": _round(gpu.held_h),
        "utilized": _round(gpu.utilized_h),
        "idle": _round(gpu.idle_h),
        "free": _round(gpu.free_h),
        "coverage": round(gpu.recorded_h * HOUR_MS / (buckets.end_ms - buckets.start_ms), 4),
        "kwh": None if gpu.energy is None else round(gpu.energy.watt_hours / 1000, 4),
        "is_counted": gpu.energy is not None and gpu.energy.is_counted,
        "note": note,
    }


def _round(hours: float | None) -> float | None:
    return None if hours is None else round(hours, 4)


# --- heat map -------------------------------------------------------------------------------------------------------


def _encode_heat(
    usage: Usage, records: Sequence[GpuRecord], labels: dict[str, tuple[str, str]], buckets: Buckets
) -> dict[str, Any]:
    """Return a row of cells for each GPU: five bytes each, as base64.

    Percent of the cell in which the GPU was active, held but idle, free, and held at an unknown utilization; and the
    mean utilization.
    """
    span_ms = buckets.end_ms - buckets.start_ms
    width_ms = next(width for width in _CELLS_MS if width >= buckets.step_ms and span_ms <= _MAX_CELLS * width)
    first = buckets.start_ms // width_ms
    count = (buckets.end_ms - 1) // width_ms - first + 1
    starts = buckets.start_ms + buckets.step_ms * np.arange(buckets.count, dtype=np.int64)
    positions = starts // width_ms - first
    rows = []
    for gpu, record in zip(usage.gpus, records, strict=True):
        if record.processes is None:
            continue
        shares = [
            np.bincount(positions, weights=each, minlength=count) * buckets.step_ms / width_ms
            for each in (gpu.active, gpu.idle, gpu.free, gpu.held)
        ]
        is_known = np.isfinite(record.utilization)
        sums = np.bincount(positions, weights=np.where(is_known, record.utilization, 0.0), minlength=count)
        load = sums / np.maximum(np.bincount(positions, weights=is_known, minlength=count), 1) / 100
        cells = np.clip(np.round(100 * np.stack([*shares, load], axis=1)), 0, 100).astype(np.uint8)
        rows.append([*labels[gpu.uuid], base64.b64encode(cells.tobytes()).decode()])
    return {"start": first * width_ms, "step": width_ms, "count": count, "rows": rows}


# --- layout ---------------------------------------------------------------------------------------------------------

_HEAT_KEYS: Final = {
    "active": "active (stronger: higher utilization)",
    "idle": "held, idle",
    "free": "free",
    "held": "held, utilization not reported",
    "unknown": "not recorded",
}
_USER_COLUMNS: Final = (
    ("User", "", False),
    ("GPUs", "", False),
    ("Processes", "Compute processes that held a GPU.", True),
    ("Held (GPU-h)", "Time in which a compute process of the user held a GPU.", True),
    ("Utilized (GPU-h)", "Held time × utilization of the GPU: 2 h at 50 % are 1 h.", True),
    ("Idle (GPU-h)", "Held at a utilization of at most 1 %.", True),
    ("Peak VRAM", "Most memory of all processes of the user at one time.", True),
    (
        "Attribution",
        "Sole user: alone on the GPUs. Shared (estimate): with others, split by the time that each held the GPU.",
        False,
    ),
)
_GPU_COLUMNS: Final = (
    ("GPU", "", False),
    ("Held (h)", "Time with a compute process.", True),
    ("Utilized (h)", "Time × utilization of the GPU: 2 h at 50 % are 1 h.", True),
    ("Idle, held (h)", "Held at a utilization of at most 1 %.", True),
    ("Free (h)", "Time without a compute process.", True),
    ("Measured", "Share of the window with readings of this GPU.", True),
    ("Energy (kWh)", "Board energy as the driver reports it; from power where there is no energy counter.", True),
)


def summary_layout(_services: Services) -> Component:
    """Return the card with the totals and the heat map; the browser fills it (assets/usage.js)."""
    legend = [
        html.Span(
            [html.I(className=f"heat-key heat-{name}"), html.Span(text)],
            className="timeline-key",
            **attributes(data_heat_key=name),
        )
        for name, text in _HEAT_KEYS.items()
    ]
    return card(
        "GPU usage",
        [
            html.P(className="usage-period", **attributes(data_usage_period="")),
            html.Dl(className="usage-totals", **attributes(data_usage_totals="")),
            html.Div(className="timeline heat", **attributes(data_heat="")),
            html.Div(legend, className="timeline-legend", **attributes(aria_hidden="true")),
            html.P(className="table-empty", role="status", **attributes(data_usage_empty="")),
            html.P(className="table-note", **attributes(data_usage_note="")),
        ],
        id=ids.PANEL_USAGE,
        aside=html.Button("Print", className="btn no-print", type="button", **attributes(data_print="")),
        class_name="timeline-card",
    )


def _build_table_card(title: str, name: str, id: str, columns: Sequence[tuple[str, str, bool]]) -> Component:  # noqa: A002 - the name of the DOM property
    head = [
        html.Th(
            text,
            scope="col",
            className="numeric" if is_numeric else "",
            **(attributes(data_tip=explanation) if explanation else {}),
        )
        for text, explanation, is_numeric in columns
    ]
    table = html.Table(
        [html.Thead(html.Tr(head)), html.Tbody(), html.Tfoot()],
        className="usage-table",
        **attributes(data_usage_table=name),
    )
    return card(
        title,
        [
            scroll_region(table, title),
            html.P(className="table-empty", role="status", **attributes(data_usage_table_empty=name)),
            html.P(className="table-note", **attributes(data_usage_table_note=name)),
        ],
        id=id,
        aside=html.Button("CSV", className="btn no-print", type="button", **attributes(data_usage_csv=name)),
    )


def users_layout(_services: Services) -> Component:
    """Return the card with the table of users."""
    return _build_table_card("GPU-hours by user", "users", ids.PANEL_USAGE_USERS, _USER_COLUMNS)


def gpus_layout(_services: Services) -> Component:
    """Return the card with the table of GPUs."""
    return _build_table_card("Hours and energy by GPU", "gpus", ids.PANEL_USAGE_GPUS, _GPU_COLUMNS)


SUMMARY: Final = Panel(section=Section.USAGE, id=ids.PANEL_USAGE, layout=summary_layout, parts=usage_parts)
USERS: Final = Panel(section=Section.USAGE, id=ids.PANEL_USAGE_USERS, layout=users_layout, parts=usage_parts)
GPUS: Final = Panel(section=Section.USAGE, id=ids.PANEL_USAGE_GPUS, layout=gpus_layout, parts=usage_parts)
