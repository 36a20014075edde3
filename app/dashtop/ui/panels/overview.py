"""The overview: health, totals, a table of the GPUs, one chart of all of them, and the newest events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dash import html

from dashtop.metrics import METRICS
from dashtop.ui import ids
from dashtop.ui.charts import all_gpus
from dashtop.ui.components import attributes, bar, build_view_switch, card, ratio, scroll_region, value
from dashtop.ui.overview_data import build_overview
from dashtop.ui.panels.base import Chart, Panel, Section
from dashtop.ui.panels.charts import graph
from dashtop.ui.panels.gpu_grid import LAST_HOUR, build_part

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.charts.base_figure import ChartStyle, Figure
    from dashtop.ui.panels.base import ChartData, PanelContext
    from dashtop.ui.parts import Part


class Column(NamedTuple):
    """A column of the table of GPUs; assets/gpu-table.js fills it. `descending`: the first click on it sorts so."""

    name: str
    title: str
    help: str
    is_numeric: bool = False
    descending: bool = False


COLUMNS: Final = (
    Column("gpu", "GPU", "Index, and model"),
    Column("state", "State", "Free, held but idle, busy, or what is wrong"),
    Column("utilization", "Utilization", "GPU utilization now, and in the last hour", is_numeric=True, descending=True),
    Column("memory", "VRAM", "Device memory in use, and in total", is_numeric=True, descending=True),
    Column("temperature", "Temp.", METRICS["gpu.temperature"].help, is_numeric=True, descending=True),
    Column("power", "Power", METRICS["gpu.power.current_watts"].help, is_numeric=True, descending=True),
    Column("users", "Users", "Owners of the processes, those with most memory first"),
    Column("process", "Top process", "The process with most memory, and how many there are besides it"),
    Column(
        "since", "Since", "Since when the GPU is in its state, such as idle or throttled; busy: since its first process"
    ),
)

_METRIC_NAMES: Final = {
    "utilization": "Utilization",
    "sm": "SM activity",
    "vram": "VRAM used",
    "temperature": "Temperature",
    "power": "Power",
    "clock": "SM clock",
    "pcie-rx": "PCIe RX",
    "nvlink-rx": "NVLink RX",
}


def layout(_services: Services) -> Component:
    """Return the whole page."""
    return html.Section(
        [
            _build_health(),
            _build_tiles(),
            _build_table(),
            html.Div([_build_chart(), _build_events()], className="overview-bottom"),
        ],
        id=ids.OVERVIEW,
        className="overview",
        **attributes(aria_label="Overview"),
    )


def _build_health() -> Component:
    """Return the card of the problems; the browser fills it."""
    return html.Div(
        [
            html.Div(
                [
                    html.Span(className="health-mark", **attributes(aria_hidden="true")),
                    html.Strong("‒", **attributes(data_health_title="")),
                    html.Span(**attributes(data_health_detail="")),
                ],
                className="health-summary",
            ),
            html.Ul(className="problems", **attributes(data_problems="")),
        ],
        id=ids.PANEL_PROBLEMS,
        className="panel health",
        role="status",
        **attributes(aria_label="Health"),
    )


def _build_tiles() -> Component:
    counts = (
        ("free", "Free", "GPUs without processes, load and memory in use"),
        ("idle_held", "Idle, held", "Processes hold memory, but have not computed for two minutes or longer"),
        ("busy", "Busy", "GPUs that compute"),
        ("unavailable", "Unavailable", "GPUs that are lost, asleep, not responding, or unhealthy and empty"),
    )
    states = [_build_tile(name, title, help_text, class_name="needs-gpu count") for name, title, help_text in counts]
    totals = [
        _build_tile("vram", "VRAM", "Memory in use on all GPUs", class_name="needs-gpu", has_bar=True),
        _build_tile("power", "Power", "Power of all GPUs, and the sum of their limits", "needs-gpu", has_bar=True),
        _build_tile("hottest", "Hottest", "The GPU nearest to its temperature limit", "needs-gpu", has_bar=True),
        _build_host_tile("CPU", value("system.cpu.usage_percent"), "system.cpu.usage_percent"),
        _build_host_tile("RAM", ratio("system.memory.used_gb", "system.memory.total_gb"), "system.memory.used_percent"),
        _build_tile("disk", "Disk", "The fullest file system", has_bar=True),
    ]
    # Two groups: on a phone the second one is below the table (assets/overview.css).
    groups = [html.Div(states, className="tile-group counts needs-gpu"), html.Div(totals, className="tile-group")]
    return html.Div(
        groups, id=ids.PANEL_SUMMARY, className="panel tiles", role="group", **attributes(aria_label="Totals")
    )


def _build_tile(name: str, title: str, help_text: str, class_name: str = "", *, has_bar: bool = False) -> Component:
    lines: list[Component] = [
        html.Span(title, className="tile-title"),
        html.Span([html.Span("‒", className="number"), html.Span(className="tile-rest")], className="tile-value"),
    ]
    if has_bar:
        meter = attributes(aria_label=help_text)
        lines.append(html.Div(className="bar", role="meter", **meter))
    return html.Div(lines, className=f"tile {class_name}".strip(), **attributes(data_tip=help_text, data_tile=name))


def _build_host_tile(title: str, shown: Component, fill: str) -> Component:
    return html.Div(
        [html.Span(title, className="tile-title"), html.Span(shown, className="tile-value"), bar(fill)],
        className="tile",
        **attributes(data_tip=METRICS[fill].help),
    )


def _build_table() -> Component:
    header = html.Tr([_build_column_header(column) for column in COLUMNS], role="row")
    # Roles, because on a phone the rows are no table rows for the browser (assets/gpu-table.css).
    table = html.Table(
        [
            html.Caption("GPUs", className="visually-hidden"),
            html.Thead(header, role="rowgroup"),
            html.Tbody(role="rowgroup", **attributes(data_gpu_table="")),
        ],
        className="gpu-table",
        role="table",
    )
    scroller = scroll_region(table, "GPUs", "gpu-table-scroll")
    return card(
        "GPUs",
        [scroller],
        id=ids.PANEL_GPUS,
        aside=html.Div(
            [html.Span(className="free-count", **attributes(data_free_count="")), build_view_switch("table")],
            className="card-controls",
        ),
        class_name="needs-gpu",
    )


def _build_column_header(column: Column) -> Component:
    button = html.Button(
        column.title,
        className="sort-button",
        type="button",
        **attributes(
            data_tip=column.help, data_gpu_column=column.name, data_descending="true" if column.descending else ""
        ),
    )
    return html.Th(
        button,
        scope="col",
        role="columnheader",
        className=f"column-{column.name}{' numeric' if column.is_numeric else ''}",
        **attributes(aria_sort="none"),
    )


def _build_events() -> Component:
    link = html.A("All events", href="?page=events", className="card-aside", **attributes(data_page_link="events"))
    empty = html.P(
        "No events in the last 7 days.", className="table-empty", hidden=True, **attributes(data_no_events="")
    )
    return card(
        "Recent events",
        [html.Ul(className="recent-events", **attributes(data_recent_events="")), empty],
        id=ids.PANEL_RECENT_EVENTS,
        aside=link,
    )


# --- chart ------------------------------------------------------------------------------------------------------------


def _build_chart() -> Component:
    options = [html.Option(title, value=name) for name, title in _METRIC_NAMES.items()]
    chooser = html.Select(
        options,
        id=ids.OVERVIEW_METRIC,
        className="form-select",
        **attributes(data_setting=all_gpus.METRIC_OPTION, aria_label="Metric of the chart"),
    )
    body = graph(CHART.id, "History of all GPUs", density=0.5)
    return card("History of all GPUs", [body], id=f"panel-{CHART.id}", aside=chooser, class_name="needs-gpu")


def _draw(data: ChartData, sample: Sample, _gpu: Gpu | None, style: ChartStyle) -> Figure | None:
    if not sample.gpus:
        return None
    return all_gpus.figure(data.series, sample.gpus, all_gpus.choose_metric(style.options), style)


CHART: Final = Chart(
    id=ids.CHART_ALL_GPUS,
    metrics=tuple(all_gpus.CHOICES.values()),
    choose_metrics=lambda options: (all_gpus.choose_metric(options),),
    draw=_draw,
    all_gpus=True,
)


def live_data(context: PanelContext) -> dict[str, Any]:
    """Add problems, totals, rows of GPUs and newest events."""
    return build_overview(context)


def build_parts(context: PanelContext) -> list[Part]:
    """Return the utilization of the last hour, for the sparklines."""
    return [build_part(context, LAST_HOUR)]


PANEL: Final = Panel(
    section=Section.OVERVIEW, id=ids.OVERVIEW, layout=layout, live_data=live_data, parts=build_parts, charts=(CHART,)
)
