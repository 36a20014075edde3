"""The page of the fleet: totals, a cell for each GPU, what is free, who holds what, nodes, and the last day."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import UTILIZATION
from dashtop.model.fleet import FleetQuery, SeriesKind
from dashtop.model.sample import Series, SeriesKey, SeriesSet
from dashtop.model.timerange import HOUR_MS
from dashtop.ui import ids
from dashtop.ui.charts import figures
from dashtop.ui.charts.base_figure import ChartStyle, message_figure
from dashtop.ui.charts.figures import Line
from dashtop.ui.charts.resolution import RANGES_MS
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.fleet_data import Choice, build_fleet_parts
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.panels.charts import graph
from dashtop.ui.parts import Part, calculate_version
from dashtop.ui.theme import ACCENT, chart_theme, gpu_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash.development.base_component import Component

    from dashtop.model.fleet import FleetSeries
    from dashtop.model.ports import Services
    from dashtop.ui.charts.base_figure import Figure
    from dashtop.ui.panels.base import PanelContext

MAX_LINES: Final = 16
"""A chart of 100 lines takes the browser 0.4 s."""
_TILES: Final = (
    ("gpus", "GPUs", "All GPUs of the fleet; MIG instances instead of the GPUs that are split"),
    ("free", "Free", "GPUs without processes, load and memory in use"),
    ("idle_held", "Idle, held", "Memory is held, but nothing has been computed for an hour"),
    ("busy", "Busy", "GPUs that compute"),
    ("unavailable", "Unavailable", "GPUs whose state is not known, or that are lost"),
    ("nodes", "Nodes up", "Machines that answer, of all that are known"),
    ("power", "Power", "Power of all GPUs that report it"),
)
_KEYS: Final = {
    "free": "free",
    "idle": "idle, held",
    "busy": "busy, by utilization",
    "unavailable": "unavailable",
}
_COUNTS: Final = ("2", "4", "8")
_SIZES: Final = ("16", "24", "40", "80", "140")
_NODE_COLUMNS: Final = ("Node", "State", "GPUs", "#Utilization", "#VRAM", "#Hottest", "#Power", "Last 24 h")
"""Titles of columns; those of numbers begin with #, "" has none."""
_GPU_COLUMNS: Final = ("GPU", "Model", "State", "#Utilization", "#VRAM", "#Temp.", "#Power", "Holders")


# --- layout -----------------------------------------------------------------------------------------------------------


def summary_layout(services: Services) -> Component:
    """Return where the values come from, filters, and totals. The browser fills them (assets/fleet.js)."""
    title = services.fleet.engine.title if services.fleet is not None else ""
    tiles = [
        html.Div(
            [
                html.Span(name, className="tile-title"),
                html.Span(
                    [html.Span("‒", className="number"), html.Span(className="tile-rest")], className="tile-value"
                ),
            ],
            className="fleet-tile",
            **attributes(data_fleet_tile=key, data_tip=help_text),
        )
        for key, name, help_text in _TILES
    ]
    filters = [
        _build_filter("fleet_type", "Model", "All models"),
        _build_filter("fleet_user", "Holder", "All holders"),
    ]
    source = html.P([html.Span(title), html.Span(**attributes(data_fleet_age=""))], className="fleet-source")
    return html.Section(
        [
            html.Div([source, html.Div(filters, className="fleet-filters")], className="fleet-head"),
            html.P(className="notice-line", role="status", **attributes(data_fleet_notice="")),
            html.Div(tiles, className="fleet-tiles", role="group", **attributes(aria_label="Totals")),
        ],
        id=ids.FLEET_SUMMARY,
        className="panel full-width fleet-summary",
        **attributes(aria_label="Fleet"),
    )


def _build_filter(setting: str, label: str, everything: str, choices: Sequence[tuple[str, str]] = ()) -> Component:
    """Return a choice whose first option selects everything. The browser adds the names of a fleet."""
    options = [html.Option(text, value=value) for value, text in (("", everything), *choices)]
    names = {} if choices else attributes(data_fleet_filter=setting)
    select = html.Select(options, className="form-select", **attributes(data_setting=setting), **names)
    return html.Label([html.Span(label, className="visually-hidden"), select])


def grid_layout(_services: Services) -> Component:
    """Return the canvas with a cell for each GPU."""
    legend = [
        html.Span(
            [html.Span(className=f"fleet-key fleet-{name}", **attributes(aria_hidden="true")), text],
            className="fleet-legend-item",
        )
        for name, text in _KEYS.items()
    ]
    body = [
        html.Div(
            html.Canvas(className="fleet-canvas", role="img", **attributes(data_fleet_canvas="")),
            className="fleet-canvas-box",
        ),
        html.P(className="table-empty", **attributes(data_fleet_empty="")),
    ]
    return card(
        "GPUs by node",
        body,
        id=ids.FLEET_GRID,
        aside=html.Div(legend, className="fleet-legend"),
        class_name="full-width",
    )


def free_layout(_services: Services) -> Component:
    """Return the nodes with free GPUs."""
    filters = [
        _build_filter(
            "fleet_count", "Free GPUs of a node", "Any number", [(each, f"≥ {each} GPUs") for each in _COUNTS]
        ),
        _build_filter("fleet_memory", "Memory of each", "Any memory", [(each, f"≥ {each} GB") for each in _SIZES]),
    ]
    aside = html.Div(filters, className="fleet-filters")
    columns = ("Node", "#Free", "#Memory each", "Model", "")
    return _build_table_card("Free now", ids.FLEET_FREE, "free", columns, aside=aside)


def holders_layout(_services: Services) -> Component:
    """Return who holds GPUs now, and had them in the last month."""
    columns = ("Holder", "#GPUs", "#Idle", "#VRAM", "#Nodes", "#GPU-hours, 30 d")
    return _build_table_card("Holders", ids.FLEET_HOLDERS, "holders", columns)


def attention_layout(_services: Services) -> Component:
    """Return what is down, hot, or held without use."""
    body = [
        html.Ul(className="fleet-list", **attributes(data_fleet_attention="")),
        html.P(className="table-empty", **attributes(data_fleet_attention_empty="")),
    ]
    return card("Down, hot, idle", body, id=ids.FLEET_ATTENTION)


def nodes_layout(_services: Services) -> Component:
    """Return the table of nodes, page by page: the text of the grid."""
    pager = html.Div(
        [
            html.Button("Previous", type="button", className="btn btn-sm", **attributes(data_fleet_step="-1")),
            html.Span(className="fleet-page", role="status", **attributes(data_fleet_page="")),
            html.Button("Next", type="button", className="btn btn-sm", **attributes(data_fleet_step="1")),
        ],
        className="fleet-pager",
        **attributes(data_fleet_pager=""),
    )
    return _build_table_card("Nodes", ids.FLEET_NODES, "nodes", _NODE_COLUMNS, aside=pager, is_wide=True)


def node_layout(_services: Services) -> Component:
    """Return the chosen node: its GPUs, and their utilization in the chosen range. Hidden until a node is chosen."""
    open_link = html.A(
        "Open its dashtop", className="card-aside", target="_blank", rel="noopener", **attributes(data_fleet_open="")
    )
    close = html.Button("Close", type="button", className="btn btn-sm", **attributes(data_fleet_close=""))
    chart = [
        html.Div(className="legend", **attributes(data_legend=ids.CHART_FLEET_NODE)),
        graph(ids.CHART_FLEET_NODE, "Utilization of the GPUs of the node"),
    ]
    panel = _build_table_card(
        "Node",
        ids.FLEET_NODE,
        "node",
        _GPU_COLUMNS,
        aside=html.Div([open_link, close], className="card-controls"),
        more=chart,
        is_wide=True,
    )
    return html.Div(panel, hidden=True, className="full-width", **attributes(data_fleet_node=""))


def trend_layout(_services: Services) -> Component:
    """Return the chart of the fleet's utilization."""
    return card(
        "Utilization of the fleet",
        [graph(ids.CHART_FLEET_TREND, "Mean utilization of all GPUs")],
        id=ids.FLEET_TREND,
        class_name="full-width",
    )


def _build_table_card(
    title: str,
    name: str,
    table: str,
    columns: Sequence[str],
    *,
    aside: Component | None = None,
    more: Sequence[Component] = (),
    is_wide: bool = False,
) -> Component:
    head = [
        html.Th(column.removeprefix("#"), scope="col", className="numeric" if column.startswith("#") else "")
        if column
        else html.Td(className="fleet-action")
        for column in columns
    ]
    body = html.Table(
        [
            html.Caption(title, className="visually-hidden"),
            html.Thead(html.Tr(head)),
            html.Tbody(**attributes(data_fleet_table=table)),
        ],
        className="fleet-table",
    )
    empty = html.P(className="table-empty", **attributes(data_fleet_table_empty=table))
    note = html.P(className="table-note", **attributes(data_fleet_table_note=table))
    content = [scroll_region(body, title), empty, note, *more]
    return card(title, content, id=name, aside=aside, class_name="full-width" if is_wide else "")


# --- charts -----------------------------------------------------------------------------------------------------------


def build_trend(context: PanelContext) -> list[Part]:
    """Return the chart of the whole fleet, new with each step of the engine's answer."""
    return _build_chart(context, ids.CHART_FLEET_TREND, FleetQuery(kind=SeriesKind.TREND, span_s=_find_span_s(context)))


def build_node_chart(context: PanelContext) -> list[Part]:
    """Return the chart of the chosen node."""
    node = Choice.parse(context.request.options).node
    if not node:
        return []
    query = FleetQuery(kind=SeriesKind.METRIC, span_s=_find_span_s(context), node=node)
    return _build_chart(context, ids.CHART_FLEET_NODE, query)


def _find_span_s(context: PanelContext) -> int:
    return max(RANGES_MS[context.request.range], HOUR_MS) // 1000


def _build_chart(context: PanelContext, name: str, query: FleetQuery) -> list[Part]:
    fleet, request = context.services.fleet, context.request
    if fleet is None:
        return []
    series = fleet.peek_history(query) if fleet.engine.has_history else None
    newest = int(series.times_ms[-1]) if series is not None and len(series.times_ms) else 0
    state = "" if series is None else f"{newest}|{len(series.rows)}|{series.error}"
    version = calculate_version(f"{name}|{query}|{request.dark}|{request.width_px}|{state}|{fleet.engine.has_history}")
    style = ChartStyle(
        theme=chart_theme(dark=request.dark), width_px=request.width_px, revision=f"{query.span_s}|{query.node}"
    )

    def draw() -> Figure:
        if not fleet.engine.has_history:
            return message_figure("Other dashtops are read live: they keep their own history.", style)
        if series is None:
            return message_figure("Reading the history of the engine …", style)
        if series.error is not None:
            return message_figure(series.error.sentence, style)
        return _draw_lines(series, style)

    return [Part(name, version, lambda: context.cache.get_or_create(f"fleet-chart|{version}", draw))]


def _draw_lines(series: FleetSeries, style: ChartStyle) -> Figure:
    if not series.rows or not len(series.times_ms):
        return message_figure("The engine has no values for this time.", style)
    metric = METRICS[UTILIZATION]
    rows = series.rows[:MAX_LINES]
    found = []
    for row in rows:
        values = row.values.astype(np.float32)
        found.append(Series(SeriesKey(metric.key, row.name), values, values, values))
    data = SeriesSet(
        start_ms=int(series.times_ms[0]),
        step_ms=series.step_s * 1000,
        count=len(series.times_ms),
        series=tuple(found),
    )
    lines = [
        Line(
            series=each,
            metric=replace(metric, key=row.name),
            name=row.name,
            colour=gpu_colour(at) if len(rows) > 1 else ACCENT,
        )
        for at, (each, row) in enumerate(zip(found, rows, strict=True))
    ]
    return figures.percent(data, lines, style)


def _build_age(context: PanelContext) -> dict[str, Any]:
    """Add `fleet_age`: seconds since the newest values arrived."""
    fleet = context.services.fleet
    received_s = None if fleet is None else fleet.latest().received_s
    return {"fleet_age": None if received_s is None else round(context.services.clock.monotonic() - received_s)}


_SECTION: Final[Any] = {"section": Section.FLEET, "parts": build_fleet_parts}
PANELS: Final = (
    Panel(id=ids.FLEET_SUMMARY, layout=summary_layout, live_data=_build_age, **_SECTION),
    Panel(id=ids.FLEET_GRID, layout=grid_layout, **_SECTION),
    Panel(id=ids.FLEET_NODE, layout=node_layout, figures=build_node_chart, **_SECTION),
    Panel(id=ids.FLEET_FREE, layout=free_layout, **_SECTION),
    Panel(id=ids.FLEET_HOLDERS, layout=holders_layout, **_SECTION),
    Panel(id=ids.FLEET_ATTENTION, layout=attention_layout, **_SECTION),
    Panel(id=ids.FLEET_NODES, layout=nodes_layout, **_SECTION),
    Panel(id=ids.FLEET_TREND, layout=trend_layout, figures=build_trend, **_SECTION),
)
