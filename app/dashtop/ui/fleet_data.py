"""The data of the fleet page for the browser. Every value is from one reading, which all viewers share.

The grid has four bytes a GPU: 8,000 GPUs are 43 kB, of which 11 kB are sent; rows of JSON would be 405 kB.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.fleet import views
from dashtop.fleet.views import FleetFilter
from dashtop.metrics.gpu_state import UTILIZATION
from dashtop.model.fleet import FleetQuery, NodeState, SeriesKind
from dashtop.model.sample import Occupancy
from dashtop.model.timerange import DAY_MS
from dashtop.ui.parts import Part, calculate_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.fleet import FleetGpu, FleetNode, FleetReading, FleetSeries
    from dashtop.model.ports import Fleet
    from dashtop.ui.panels.base import PanelContext

Json = Any

NODES_PER_PAGE: Final = 50
MAX_ROWS: Final = 50
MAX_GRID_GPUS: Final = 20_000
UNKNOWN: Final = 255
"""A byte of the grid without a value."""
STATES: Final = (Occupancy.FREE, Occupancy.IDLE_HELD, Occupancy.BUSY, Occupancy.UNAVAILABLE)
"""The first byte of a GPU is the position of its state; one that is not among these is not drawn."""
STRIP_QUERY: Final = FleetQuery(kind=SeriesKind.NODES, span_s=DAY_MS // 1000, points=96)
HOURS_QUERY: Final = FleetQuery(kind=SeriesKind.USERS, span_s=30 * DAY_MS // 1000)
_TYPE, _USER, _NODE = "fleet_type", "fleet_user", "fleet_node"
_PAGE, _COUNT, _MEMORY = "fleet_page", "fleet_count", "fleet_memory"
_NUMBER: Final = re.compile(r"\d{1,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a viewer has chosen: a type of GPU, a holder, a node whose details are shown, and a page of nodes.

    `count`, `memory_gb`: how many free GPUs of what size a node must have to be listed.
    """

    wanted: FleetFilter
    node: str
    page: int
    count: int
    memory_gb: int

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Choice:
        """Read the options of a request, which are untrusted: what matches nothing selects nothing."""
        numbers = {name: options.get(name, "") for name in (_PAGE, _COUNT, _MEMORY)}
        page, count, memory = (int(text) if _NUMBER.fullmatch(text) else 0 for text in numbers.values())
        wanted = FleetFilter(name=options.get(_TYPE, ""), user=options.get(_USER, ""))
        return cls(wanted, options.get(_NODE, ""), page, max(count, 1), memory)


def build_fleet_parts(context: PanelContext) -> list[Part]:
    """Return the parts of the page. They are new with each reading."""
    fleet = context.services.fleet
    if fleet is None:
        return []
    reading, choice = fleet.latest(), Choice.parse(context.request.options)
    error = reading.error.sentence if reading.error is not None else ""
    key = f"fleet|{reading.as_of_ms}|{error}|{choice.wanted}|{choice.count}|{choice.memory_gb}"

    def select() -> dict[str, Json]:
        return _build_selection(fleet, reading, choice)

    def get(name: str) -> Json:
        return context.cache.get_or_create(key, select)[name]

    # A key of its own: what is large is encoded once for each reading.
    grid = context.cache.get_or_create(f"{key}|grid", lambda: calculate_version(repr(get("grid"))))
    return [
        Part("fleet", calculate_version(key), lambda: get("fleet")),
        Part("fleet_grid", grid, lambda: get("grid")),
        Part("fleet_cells", calculate_version(f"{key}|cells"), lambda: get("cells")),
        *_build_details(context, fleet, reading, choice, key),
    ]


def _build_details(context: PanelContext, fleet: Fleet, reading: FleetReading, choice: Choice, key: str) -> list[Part]:
    """Return the page of nodes with the last day of each, the details of the chosen node, and hours by user."""
    strips = fleet.peek_history(STRIP_QUERY) if fleet.engine.has_history else None
    hours = fleet.peek_history(HOURS_QUERY) if fleet.engine.has_history else None

    def list_nodes() -> dict[str, Json]:
        return _build_nodes(reading, choice)

    def get_nodes() -> dict[str, Json]:
        return context.cache.get_or_create(f"{key}|{choice.page}|nodes", list_nodes)

    def build_strips() -> Json:
        return _build_strips(strips, [row[0] for row in get_nodes()["rows"]])

    # Not of the reading: the nodes of a page change less often.
    key_of_strips = f"{_identify(strips)}|{choice.wanted}|{choice.page}|{len(reading.nodes)}|strips"
    return [
        Part("fleet_nodes", calculate_version(f"{key}|{choice.page}"), get_nodes),
        Part("fleet_strips", calculate_version(key_of_strips), build_strips),
        Part(
            "fleet_node",
            calculate_version(f"{key}|{choice.node}|node"),
            lambda: _build_node(reading, choice.node),
        ),
        Part("fleet_hours", calculate_version(f"hours|{_identify(hours)}"), lambda: _build_hours(hours)),
    ]


def _identify(series: FleetSeries | None) -> str:
    if series is None:
        return ""
    return f"{series.times_ms[-1] if len(series.times_ms) else 0}|{len(series.rows)}|{series.error}"


def _build_selection(fleet: Fleet, reading: FleetReading, choice: Choice) -> dict[str, Json]:
    """Return what depends on the reading and the filter."""
    wanted = choice.wanted
    gpus = views.filter_gpus(reading.gpus, wanted)
    free = views.find_free(gpus, count=choice.count, memory_gb=choice.memory_gb)
    everyone = views.list_holders(reading.gpus)
    holders = everyone if wanted == views.EVERYTHING else views.list_holders(gpus)
    idle = views.list_idle_held(gpus)
    hot = views.list_hot(gpus)
    down = views.list_down(reading.nodes)
    grid, cells = _build_grid(reading, wanted)
    engine = fleet.engine
    summary = views.summarize(reading, wanted)
    return {
        "fleet": {
            "engine": engine.title,
            "has_history": engine.has_history,
            "is_unencrypted": engine.is_unencrypted,
            "interval": engine.interval_s,
            "as_of": reading.as_of_ms,
            "error": None if reading.error is None else reading.error.sentence,
            "is_starting": reading.as_of_ms is None and reading.error is not None and not reading.gpus,
            "warnings": list(reading.warnings[:3]),
            "notes": list(reading.notes),
            "summary": summary._asdict(),
            "types": views.list_names(reading.gpus),
            "users": [each.name for each in everyone][:MAX_ROWS],
            "free": [_build_free(each) for each in free[:MAX_ROWS]],
            "free_nodes": len(free),
            "holders": [
                [each.name, each.kind.value, each.gpus, each.idle_held, each.nodes, _round(each.memory_gb)]
                for each in holders[:MAX_ROWS]
            ],
            "holder_count": len(holders),
            "idle": [_build_gpu(gpu) for gpu in idle[:MAX_ROWS]],
            "idle_count": len(idle),
            "hot": [_build_gpu(gpu) for gpu in hot],
            "down": [_build_down(node) for node in down[:MAX_ROWS]],
            "down_count": len(down),
        },
        "grid": grid,
        "cells": cells,
    }


def _build_free(node: views.FreeNode) -> Json:
    """Return a node with free GPUs: [node, GPUs, smallest memory, types, CUDA_VISIBLE_DEVICES]."""
    names = sorted({gpu.name for gpu in node.gpus if gpu.name})
    devices = views.format_visible_devices(node.gpus)
    return [node.node, [_label(gpu) for gpu in node.gpus], _round(node.memory_gb), names, devices]


def _build_down(node: FleetNode) -> Json:
    return [node.name, node.state.value, node.reason, node.age_s, node.url]


def _build_gpu(gpu: FleetGpu) -> Json:
    """Return one GPU: [node, label, type, state, utilization, memory used, total, °C, W, holders]."""
    values = gpu.values
    return [
        gpu.node,
        _label(gpu),
        gpu.name,
        gpu.occupancy.value,
        _round(values.get(UTILIZATION)),
        _round(values.get(views.MEMORY_USED_GB)),
        _round(values.get(views.MEMORY_TOTAL_GB)),
        _round(values.get(views.TEMPERATURE)),
        _round(values.get(views.POWER)),
        [holder.name for holder in gpu.holders],
    ]


def _label(gpu: FleetGpu) -> str:
    index = "?" if gpu.index is None else str(gpu.index)
    return f"{index} · MIG {gpu.mig_instance}" if gpu.mig_instance else index


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _build_grid(reading: FleetReading, wanted: FleetFilter) -> tuple[list[Json], str]:
    """Return the nodes with the labels of their GPUs, and the bytes of all GPUs in this order.

    A GPU that the filter leaves out stays in its place, without a state. A machine without GPUs that is up has none.
    """
    groups = views.group_by_node(reading.gpus[:MAX_GRID_GPUS])
    down = {node.name for node in reading.nodes if node.state is not NodeState.UP}
    names = sorted({*groups, *down}, key=views.sort_naturally)
    grid: list[Json] = []
    ordered: list[FleetGpu] = []
    for name in names:
        gpus = groups.get(name, [])
        labels = [_label(gpu) for gpu in gpus]
        plain = [str(number) for number in range(len(gpus))]
        grid.append([name, int(name in down), len(gpus) if labels == plain else labels])
        ordered += gpus
    return grid, base64.b64encode(_encode_cells(ordered, wanted)).decode()


def _encode_cells(gpus: Sequence[FleetGpu], wanted: FleetFilter) -> bytes:
    """Return state, utilization, memory (both percent) and °C of each GPU, a byte each."""
    nan = float("nan")
    values = np.array(
        [
            (
                gpu.values.get(UTILIZATION, nan),
                gpu.values.get(views.MEMORY_USED_GB, nan),
                gpu.values.get(views.MEMORY_TOTAL_GB, nan),
                gpu.values.get(views.TEMPERATURE, nan),
            )
            for gpu in gpus
        ]
    ).reshape(-1, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.column_stack((values[:, 0], 100.0 * values[:, 1] / values[:, 2], values[:, 3]))
    cells = np.full((len(gpus), 4), UNKNOWN, np.uint8)
    cells[:, 1:] = np.where(np.isfinite(shown), np.clip(np.nan_to_num(shown).round(), 0, 254), UNKNOWN)
    states = {state: position for position, state in enumerate(STATES)}
    cells[:, 0] = [states.get(gpu.occupancy, UNKNOWN) if wanted.matches(gpu) else UNKNOWN for gpu in gpus]
    cells[cells[:, 0] == UNKNOWN] = UNKNOWN
    return cells.tobytes()


def _build_nodes(reading: FleetReading, choice: Choice) -> dict[str, Json]:
    """Return a page of nodes, in the order of their names."""
    groups = views.group_by_node(views.filter_gpus(reading.gpus, choice.wanted))
    by_name = {node.name: node for node in reading.nodes}
    has_filter = choice.wanted != views.EVERYTHING
    names = sorted(groups if has_filter else {*groups, *by_name}, key=views.sort_naturally)
    last = max(0, (len(names) - 1) // NODES_PER_PAGE)
    page = min(choice.page, last)
    shown = names[page * NODES_PER_PAGE : (page + 1) * NODES_PER_PAGE]
    return {
        "count": len(names),
        "page": page,
        "pages": last + 1,
        "rows": [_build_node_row(name, by_name.get(name), groups.get(name, [])) for name in shown],
    }


def _build_node_row(name: str, node: FleetNode | None, gpus: Sequence[FleetGpu]) -> Json:
    """Return [name, state, reason, age, url, exporter, GPUs by state, types, mean utilization, memory, °C, W]."""
    summary = [sum(gpu.occupancy is state for gpu in gpus) for state in STATES]
    return [
        name,
        node.state.value if node is not None else "",
        node.reason if node is not None else "",
        _round(node.age_s) if node is not None else None,
        node.url if node is not None else None,
        node.exporter if node is not None else "",
        summary,
        sorted({gpu.name for gpu in gpus if gpu.name}),
        _round(_average([gpu.values[UTILIZATION] for gpu in gpus if UTILIZATION in gpu.values])),
        [_add(gpus, views.MEMORY_USED_GB), _add(gpus, views.MEMORY_TOTAL_GB)],
        _round(max((gpu.values[views.TEMPERATURE] for gpu in gpus if views.TEMPERATURE in gpu.values), default=None)),
        _add(gpus, views.POWER),
    ]


def _average(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _add(gpus: Sequence[FleetGpu], key: str) -> float | None:
    """Return the sum of what is reported; None if nothing is."""
    values = [gpu.values[key] for gpu in gpus if key in gpu.values]
    return _round(sum(values)) if values else None


def _build_strips(series: FleetSeries | None, names: Sequence[str]) -> Json:
    """Return the mean utilization of the last day of these nodes, one byte a step; None while it is not known."""
    if series is None:
        return None
    if series.error is not None:
        return {"error": series.error.sentence, "rows": {}}
    wanted = set(names)
    rows = {
        row.name: base64.b64encode(
            np.where(np.isfinite(row.values), np.clip(np.nan_to_num(row.values), 0, 100), UNKNOWN)
            .round()
            .astype(np.uint8)
            .tobytes()
        ).decode()
        for row in series.rows
        if row.name in wanted
    }
    start_ms = int(series.times_ms[0]) if len(series.times_ms) else 0
    return {"error": None, "start": start_ms, "step": series.step_s * 1000, "rows": rows, "notes": list(series.notes)}


def _build_node(reading: FleetReading, name: str) -> Json:
    """Return the chosen node with its GPUs; None if there is no such node."""
    gpus = [gpu for gpu in reading.gpus if gpu.node == name]
    node = next((each for each in reading.nodes if each.name == name), None)
    if not name or (node is None and not gpus):
        return None
    return {
        "name": name,
        "reason": node.reason if node is not None and node.state is not NodeState.UP else "",
        "row": _build_node_row(name, node, gpus),
        "values": {} if node is None else {key: _round(value) for key, value in node.values.items()},
        "gpus": [_build_gpu(gpu) for gpu in sorted(gpus, key=views.sort_key)],
    }


def _build_hours(series: FleetSeries | None) -> Json:
    """Return GPU-hours of the last 30 days by user; None while they are not known."""
    if series is None:
        return None
    rows = [[row.name, _round(float(row.values[0]))] for row in series.rows[: 4 * MAX_ROWS]]
    return {
        "error": None if series.error is None else series.error.sentence,
        "notes": list(series.notes),
        "days": round(series.step_s * 1000 / DAY_MS) if series.error is None else 30,
        "rows": rows,
    }
