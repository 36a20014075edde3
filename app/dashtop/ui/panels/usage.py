"""The page of usage: when each GPU was in use, GPU-hours by user, container, job or process and by GPU, energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.usage import NO_PRICES
from dashtop.ui import ids
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, calculate_version
from dashtop.ui.usage_data import build_usage, find_buckets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.ui.panels.base import PanelContext


def usage_parts(context: PanelContext) -> list[Part]:
    """Return the part "usage", which all panels of the page share."""
    buckets = find_buckets(context)
    outages = context.services.history.read_status().version
    gpus = ",".join(gpu.device.uuid for gpu in context.sample.gpus)
    version = calculate_version(f"usage|{buckets}|{outages}|{gpus}")

    def build() -> dict[str, Any]:
        return context.cache.get_or_create(f"usage|{version}", lambda: build_usage(context, buckets))

    return [Part("usage", version, build)]


# --- layout ---------------------------------------------------------------------------------------------------------

_HEAT_KEYS: Final = {
    "active": "active (stronger: higher utilization)",
    "idle": "held, idle",
    "free": "free",
    "held": "held, utilization not reported",
    "unknown": "not recorded",
}
_GROUPS: Final = {"user": "user", "container": "container", "slurm_job": "Slurm job", "process": "process"}
_COST_COLUMN: Final = ("Cost", "Shared time × price of a GPU-hour, and known energy × price of a kWh.", True)
_USER_COLUMNS: Final = (
    ("User", "", False),
    ("GPUs", "", False),
    ("Processes", "Compute processes that held a GPU.", True),
    ("Held (GPU-h)", "Time in which a compute process held a GPU.", True),
    (
        "Shared (GPU-h)",
        "Held time divided by the owners at the time: the sum is the time in which GPUs were held.",
        True,
    ),
    ("Utilized (GPU-h)", "Held time × load: 2 h at 50 % are 1 h.", True),
    ("Idle (GPU-h)", "Held at a load of at most 1 %.", True),
    ("Peak VRAM", "Most memory of all processes at one time.", True),
    ("Active energy (kWh)", "Board energy as the driver reports it, beyond the base power.", True),
    ("Base (kWh)", "Energy that the GPUs take without a process, for the held time.", True),
    (
        "Attribution",
        "Sole: alone on the GPUs. Shared: with others; energy is split by load (estimate), or not if it is not known.",
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
    (
        "Throttled (h)",
        "By temperature (software or hardware), or by a hardware slowdown or power brake; not by the power limit.",
        True,
    ),
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


def _build_table_card(
    title: str,
    name: str,
    id: str,  # noqa: A002 - the name of the DOM property
    columns: Sequence[tuple[str, str, bool]],
    chooser: Component | None = None,
) -> Component:
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
        aside=html.Div(
            [
                *([chooser] if chooser is not None else []),
                html.Button("CSV", className="btn", type="button", **attributes(data_usage_csv=name)),
            ],
            className="usage-actions no-print",
        ),
    )


def users_layout(services: Services) -> Component:
    """Return the card with the table of users, containers, jobs or processes."""
    columns = [*_USER_COLUMNS]
    if services.prices != NO_PRICES:
        columns.insert(-1, _COST_COLUMN)
    options = [html.Option(f"By {text}", value=by) for by, text in _GROUPS.items()]
    chooser = html.Select(options, className="form-select", **attributes(data_usage_by="", aria_label="Group by"))
    return _build_table_card("GPU-hours", "users", ids.PANEL_USAGE_USERS, columns, chooser)


def gpus_layout(_services: Services) -> Component:
    """Return the card with the table of GPUs."""
    return _build_table_card("Hours and energy by GPU", "gpus", ids.PANEL_USAGE_GPUS, _GPU_COLUMNS)


SUMMARY: Final = Panel(section=Section.USAGE, id=ids.PANEL_USAGE, layout=summary_layout, parts=usage_parts)
USERS: Final = Panel(section=Section.USAGE, id=ids.PANEL_USAGE_USERS, layout=users_layout, parts=usage_parts)
GPUS: Final = Panel(section=Section.USAGE, id=ids.PANEL_USAGE_GPUS, layout=gpus_layout, parts=usage_parts)
