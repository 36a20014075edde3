"""The view of all GPUs: a row of numbers for each, and the utilization of the last hour and minutes as bytes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
import numpy as np
from dash import html

from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import MEMORY_USED, UTILIZATION, describe_state
from dashtop.model.metric import MIB
from dashtop.model.sample import PROCESSES, Occupancy, SeriesKey
from dashtop.model.timerange import MINUTE_MS, SECOND_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids
from dashtop.ui.components import SHARED_MEMORY_HELP, attributes, build_view_switch
from dashtop.ui.gpu_state import read_states
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, Table, calculate_version
from dashtop.ui.snapshot import find_level

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dash.development.base_component import Component
    from numpy.typing import NDArray

    from dashtop.metrics.gpu_state import GpuState
    from dashtop.model.ports import History, Services
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.panels.base import PanelContext

_TEMPERATURE: Final = "gpu.temperature"

GRID_METRICS: Final = (
    UTILIZATION,
    "gpu.memory.used_gb",
    "gpu.memory.total_gb",
    MEMORY_USED,
    "gpu.temperature",
    "gpu.power.current_watts",
    "gpu.power.max_watts",
    "gpu.fan_speed",
)
COLUMNS: Final = (
    "index",
    *GRID_METRICS,
    "memory_level",
    "temperature_level",
    "state",
    "condition",
    "label",
    "severity",
    "processes_error",
    "process_count",
    "process_name",
    "process_user",
    "process_memory_mib",
    "is_free",
    "is_counted",
)
GAP: Final = 255
"""The byte of a bucket without a reading."""


@dataclass(frozen=True, slots=True)
class HistoryStrip:
    """`count` buckets of `step_ms` of every GPU's utilization, as the part `name` of the page."""

    name: str
    step_ms: int
    count: int


LAST_HOUR: Final = HistoryStrip("last_hour", MINUTE_MS, 60)
LAST_MINUTES: Final = HistoryStrip("last_minutes", 5 * SECOND_MS, 60)


def live_data(context: PanelContext) -> dict[str, Table]:
    """Add `gpus`, a row for each GPU, built once for all viewers."""
    sample = context.sample
    return {
        "gpus": context.cache.get_or_create_for_sample(
            sample, "grid", lambda: build_table(sample, read_states(context))
        )
    }


def build_parts(context: PanelContext) -> list[Part]:
    """Return the utilization of the last hour and minutes; each is new when a bucket is complete."""
    return [build_part(context, strip) for strip in (LAST_HOUR, LAST_MINUTES)]


def build_part(context: PanelContext, strip: HistoryStrip) -> Part:
    """Return the utilization of every GPU over `strip`, new when a bucket is complete."""
    gpus = context.sample.gpus
    end_ms = context.sample.time_ms // strip.step_ms * strip.step_ms
    uuids = ",".join(gpu.device.uuid for gpu in gpus)
    outages = context.services.history.read_status().version  # what was read during one lacks a part
    version = calculate_version(f"{strip.name}|{end_ms}|{uuids}|{outages}")

    def build() -> dict[str, str]:
        return context.cache.get_or_create(
            f"{strip.name}|{version}", lambda: _read_utilization(context.services.history, gpus, strip, end_ms)
        )

    return Part(strip.name, version, build)


def _read_utilization(history: History, gpus: Sequence[Gpu], strip: HistoryStrip, end_ms: int) -> dict[str, str]:
    """Return by GPU index a byte per bucket, as base64: utilization in percent, `GAP` where there is none.

    The driver reports no utilization of MIG instances: memory in use stands in for it.
    """
    if not gpus:
        return {}
    keys = [SeriesKey(MEMORY_USED if gpu.device.mig_profile else UTILIZATION, gpu.device.uuid) for gpu in gpus]
    data = history.query(keys, end_ms - strip.count * strip.step_ms, end_ms, strip.step_ms)
    return {str(gpu.device.index): _encode(series.mean) for gpu, series in zip(gpus, data.series, strict=True)}


def build_table(sample: Sample, states: Mapping[str, GpuState]) -> Table:
    """Return `COLUMNS` for each GPU. A metric without a value has the reason, as text, in its column."""
    return Table(COLUMNS, [_build_row(gpu, states[gpu.device.uuid]) for gpu in sample.gpus])


def _encode(values: NDArray[np.float32]) -> str:
    known = np.isfinite(values)
    percent = np.where(known, np.clip(np.round(np.where(known, values, 0)), 0, 100), GAP)
    return base64.b64encode(percent.astype(np.uint8).tobytes()).decode()


def _build_row(gpu: Gpu, state: GpuState) -> list[Any]:
    error = gpu.unavailable.get(PROCESSES)
    return [
        gpu.device.index,
        *(_value_or_reason(gpu, key) for key in GRID_METRICS),
        find_level(METRICS[MEMORY_USED].thresholds_for(gpu.device), gpu.values.get(MEMORY_USED)),
        find_level(METRICS[_TEMPERATURE].thresholds_for(gpu.device), gpu.values.get(_TEMPERATURE)),
        describe_state(gpu),
        state.condition.name.lower(),
        state.label,
        state.severity.value if state.severity is not None else "",
        error.text if error is not None else None,
        len(gpu.processes),
        *_describe_largest_process(gpu),
        state.occupancy is Occupancy.FREE,
        state.is_counted,
    ]


def _value_or_reason(gpu: Gpu, key: str) -> float | str:
    value = gpu.values.get(key)
    if value is None:
        return gpu.unavailable.get(key, UnavailableReason.NOT_SUPPORTED).text
    digits = METRICS[key].unit.digits
    return round(value, digits) if digits else round(value)


def _describe_largest_process(gpu: Gpu) -> tuple[str | None, str | None, int | None]:
    """Return name (else pid), user and MiB of the process that holds most memory; None for what is not known."""
    process = max(gpu.processes, key=lambda each: each.gpu_memory_bytes or 0, default=None)
    if process is None or PROCESSES in gpu.unavailable:
        return None, None, None
    user = process.info.username
    size = process.gpu_memory_bytes
    return process.info.name or f"pid {process.pid}", user, None if size is None else round(size / MIB)


# --- layout --------------------------------------------------------------------------------------------------------

_SORT_ORDERS: Final = {
    "index": "Index",
    "state": "Free first",
    "free": "Free memory",
    "load": "Utilization (1 min mean)",
}


def layout(_services: Services) -> Component:
    """Return the panel without cards; the browser adds one for each GPU, since GPUs can come and go."""
    sort_order = dbc.RadioItems(
        id=ids.COMPARE_ORDER,
        name=ids.COMPARE_ORDER,
        options=[{"label": label, "value": name} for name, label in _SORT_ORDERS.items()],
        value="index",
        inline=True,
        className="segments",
        input_class_name="btn-check",
        label_class_name="segment",
        persistence=True,
        persistence_type="local",
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("GPUs"),
                    html.Span(className="free-count", role="status", **attributes(data_free="")),
                    build_view_switch("cards"),
                    html.Span("Sort by", className="sort-label", **attributes(aria_hidden="true")),
                    sort_order,
                ],
                className="section-header",
            ),
            html.Div(className="gpu-grid", **attributes(data_gpu_grid="", data_shared=SHARED_MEMORY_HELP)),
        ],
        id=ids.COMPARE,
        className="only-compare needs-gpu",
        **attributes(aria_label="All GPUs"),
    )


PANEL: Final = Panel(section=Section.ALL_GPUS, id=ids.COMPARE, layout=layout, live_data=live_data, parts=build_parts)
