"""Small parts that show a metric. What is known of it (title, unit, digits) comes from the metric table alone.

The browser paints by data attributes: `data-metric` is replaced by the value, `data-bar` is filled by it,
`data-warning` says what threshold it has reached.
"""

from __future__ import annotations

from typing import Any

from dash import html
from dash.development.base_component import Component

from dashtop.catalog import METRICS

# A figure dash has the width of a digit: nothing moves when the first value replaces it.
PLACEHOLDER = "‒"


def attributes(**values: str) -> dict[str, Any]:
    """Return data- and aria- attributes: `data_metric="…"` becomes `data-metric`."""
    return {name.replace("_", "-"): text for name, text in values.items()}


def number(key: str, *, digits: int | None = None, width: int = 0) -> Component:
    """Return the bare value of a metric; `width` (characters) keeps its neighbours still while it changes."""
    metric = METRICS[key]
    shown = metric.unit.digits if digits is None else digits
    return html.Span(
        PLACEHOLDER,
        className="number",
        style={"minWidth": f"{width}ch"} if width else None,
        **attributes(data_metric=key, data_digits=str(shown)),
    )


def value(key: str, *, digits: int | None = None, width: int = 0) -> Component:
    """Return a metric's value with its unit."""
    return html.Span([number(key, digits=digits, width=width), _unit(key)], className="value", title=METRICS[key].help)


def ratio(part: str, whole: str, *, digits: int | None = None) -> Component:
    """Return `part / whole unit`: memory in use of all there is, watts drawn of the limit."""
    return html.Span(
        [number(part, digits=digits), html.Span("/", className="of"), number(whole, digits=digits), _unit(whole)],
        className="value",
        title=METRICS[part].help,
    )


def metrics_in(part: object) -> frozenset[str]:
    """Return the keys of all metrics that are shown within a component, or within a list of them."""
    if isinstance(part, (list, tuple)):
        return frozenset().union(*map(metrics_in, part))
    if not isinstance(part, Component):
        return frozenset()
    own = vars(part)
    names = ("data-metric", "data-bar", "data-warning")
    return metrics_in(own.get("children")) | {own[name] for name in names if name in own}


def bar(key: str) -> Component:
    """Return a bar that the value of a metric (0 to 100) fills and colours."""
    return html.Div(
        html.Div(className="fill"),
        className="bar",
        role="meter",
        **attributes(data_bar=key, aria_label=METRICS[key].title, aria_valuemin="0", aria_valuemax="100"),
    )


def row(label: str, shown: Component, *, fill: str) -> Component:
    """Return a line of a card: label, warning if there is one, value, and the bar beneath."""
    head = html.Div(
        [
            html.Span(label, className="label", title=METRICS[fill].help),
            html.Span(className="warning", **attributes(data_warning=fill)),
            shown,
        ],
        className="row-head",
    )
    return html.Div([head, bar(fill)], className="metric-row")


def stat(label: str, *shown: Component, hint: str = "") -> Component:
    """Return a small fact: its name above, its value below."""
    return html.Div([html.Dt(label, title=hint), html.Dd(list(shown))], className="stat")


def _unit(key: str) -> Component:
    return html.Span(METRICS[key].unit.symbol, className="unit")
