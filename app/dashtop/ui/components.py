"""Building blocks of the page: cards, controls, and elements that show a metric.

Title, unit and digits of a metric come from the metric table. The browser paints by data attributes: `data-metric`
receives the value, `data-bar` is filled by it, `data-warning` shows the threshold it has reached
(assets/live-values.js). Units and fills are CSS, because every Dash component costs time at every tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
from dash import html
from dash.development.base_component import Component

from dashtop.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A figure dash is as wide as a digit: nothing moves when the first value replaces it.
PLACEHOLDER: Final = "‒"
ICON_BUTTON: Final = "btn btn-link icon-button"
SHARED_MEMORY_HELP: Final = "Host memory, which this GPU shares: the value includes everything that runs on the host."

_MEMORY_KEYS: Final = frozenset({"gpu.memory.used_gb", "gpu.memory.total_gb", "gpu.memory.used_percent"})
_METRIC_ATTRIBUTES: Final = ("data-metric", "data-bar", "data-of", "data-warning", "data-spark")


def attributes(**values: str) -> dict[str, Any]:
    """Return data- and aria- attributes: `data_metric="…"` becomes `data-metric`."""
    return {name.replace("_", "-"): text for name, text in values.items()}


# --- cards and controls ---------------------------------------------------------------------------------------------


def card(
    title: Component | str,
    body: Sequence[Component],
    *,
    id: str,  # noqa: A002 - the name of the DOM property
    aside: Component | None = None,
    class_name: str = "",
) -> Component:
    """Return a card: a title, `aside` to the right of it, and a body."""
    header = html.Div(
        [html.H3(title, className="card-title"), *([] if aside is None else [aside])], className="card-header"
    )
    return html.Div([header, *body], className=f"card panel {class_name}".strip(), id=id)


def scroll_region(table: Component, label: str, class_name: str = "table-scroll") -> Component:
    """Return a table that scrolls sideways where it is too wide. The keyboard scrolls what has the focus."""
    return html.Div(table, className=class_name, tabIndex=0, role="region", **attributes(aria_label=label))


def two_columns(rows: Sequence[Component], facts: Sequence[Component]) -> Component:
    """Return bars and small facts, side by side in a card that is wide enough, else stacked."""
    return html.Div(
        [html.Div(list(rows), className="rows"), html.Dl(list(facts), className="facts")], className="two-columns"
    )


def segmented_control(name: str, options: Mapping[str, str], value: str | None, label: str) -> Component:
    """Return a choice of one among a few options, side by side. `options` maps values to labels."""
    radio_items: Component = dbc.RadioItems(
        id=name,
        name=name,  # one tab stop; arrow keys choose
        options=[{"label": shown, "value": each} for each, shown in options.items()],
        value=value,
        inline=True,
        class_name="segments",
        input_class_name="btn-check",
        label_class_name="segment",
    )
    return html.Div(radio_items, role="group", className="control", **attributes(aria_label=label))


def build_view_switch(current: str) -> Component:
    """Return the choice between the table of the overview and the cards of the GPUs page. `current`: table or cards."""
    views = {"table": ("Table", "?page=overview"), "cards": ("Cards", "?page=gpus&view=compare")}
    links = [
        html.A(
            title,
            href=address,
            className="segment",
            **attributes(data_go=address, **({"aria_current": "true"} if name == current else {})),
        )
        for name, (title, address) in views.items()
    ]
    return html.Div(links, className="segments view-switch", role="group", **attributes(aria_label="View of all GPUs"))


def icon(name: str, label: str) -> list[Component]:
    """Return an icon and its name for screen readers."""
    return [
        html.Span(className=f"icon icon-{name}", **attributes(aria_hidden="true")),
        html.Span(label, className="visually-hidden"),
    ]


# --- metrics --------------------------------------------------------------------------------------------------------


def metric_attributes(key: str, *, unit: bool = True) -> dict[str, Any]:
    """Return the attributes that make an element show the value of a metric.

    `data-in` is the unit of the value as it is sent ("Δ°C": a difference of temperatures), `data-unit` the unit shown
    after it (assets/units.js).
    `data-shared` is the help text for a GPU that has no memory of its own.
    """
    metric = METRICS[key]
    symbol = metric.unit.symbol
    sent = f"Δ{symbol}" if metric.unit.is_difference else symbol
    base = attributes(data_metric=key, data_digits=str(metric.unit.digits), data_help=metric.help, data_in=sent)
    shown_unit = attributes(data_unit=symbol) if unit and symbol else {}
    shared = attributes(data_shared=SHARED_MEMORY_HELP) if key in _MEMORY_KEYS else {}
    return base | shown_unit | shared


def value(key: str, *, unit: bool = True, class_name: str = "") -> Component:
    """Return the value of a metric with its unit."""
    return html.Span(PLACEHOLDER, className=f"number {class_name}".strip(), **metric_attributes(key, unit=unit))


def ratio(part: str, total: str) -> Component:
    """Return `part / total unit`, as in memory used of total, or power of the power limit."""
    return html.Span([value(part, unit=False), " / ", value(total, class_name="total")], className="value")


def bar(key: str, *, of: str = "") -> Component:
    """Return a bar that is filled by a metric and coloured by its thresholds.

    It is full at 100, or at the value of metric `of`. Where the device does not report that metric, it is full at the
    critical threshold of `key`.
    """
    thresholds = METRICS[key].thresholds
    critical = thresholds.critical if thresholds else None
    fallback = attributes(data_fallback=f"{critical:g}") if critical is not None else {}
    full = {**attributes(data_of=of), **fallback} if of else {}
    return html.Div(
        className="bar",
        role="meter",
        **attributes(data_bar=key, aria_label=METRICS[key].title),
        **full,
    )


def warning(key: str) -> Component:
    """Return the element that shows the message of the threshold that a metric has reached."""
    return html.Span(className="warning", **attributes(data_warning=key))


def shared_mark() -> Component:
    """Return the mark of memory that the GPU shares with the host; hidden for a GPU with memory of its own."""
    return html.Span("shared with host", className="shared-mark", **attributes(data_tip=SHARED_MEMORY_HELP))


def metric_row(label: str, shown: Component, *, fill: str, of: str = "") -> Component:
    """Return a row of a card: label, warning, value, and a bar filled by metric `fill` below them."""
    labels: list[Component] = [html.Span(label, **attributes(data_tip=METRICS[fill].help))]
    return html.Div(
        [html.Span(labels, className="label"), warning(fill), shown, bar(fill, of=of)],
        className="metric-row",
    )


def fact(key: str, label: str = "") -> Component:
    """Return a label (by default the title of the metric), the value, and a warning if the metric has thresholds."""
    metric = METRICS[key]
    warnings = [warning(key)] if metric.thresholds is not None else []
    return html.Div(
        [
            html.Dt([label or metric.title, *warnings]),
            html.Dd(PLACEHOLDER, className="number", **metric_attributes(key)),
        ],
        className="fact",
    )


def combined_fact(label: str, *shown: Component | str, optional: bool = False) -> Component:
    """Return a label and several values. `optional`: hidden unless they are available."""
    class_name = "fact optional" if optional else "fact"
    return html.Div([html.Dt(label), html.Dd(list(shown))], className=class_name, hidden=optional)


def find_metrics(part: object) -> frozenset[str]:
    """Return the keys of all metrics that are shown in a component or in a list of components."""
    if isinstance(part, (list, tuple)):
        return frozenset().union(*map(find_metrics, part))
    if not isinstance(part, Component):
        return frozenset()
    properties = vars(part)
    own = {properties[name] for name in _METRIC_ATTRIBUTES if name in properties}
    return find_metrics(properties.get("children")) | own
