"""Small parts that show a metric. What is known of it (title, unit, digits) comes from the metric table alone.

The browser paints by data attributes: `data-metric` is replaced by the value, `data-bar` is filled by it,
`data-warning` says what threshold it has reached. Units and fills are CSS: every component of Dash is
asked again at every change of the page's state, so the fewer there are, the less a tick costs.
"""

from __future__ import annotations

from typing import Any, Final

from dash import html
from dash.development.base_component import Component

from dashtop.metrics import METRICS

# A figure dash has the width of a digit: nothing moves when the first value replaces it.
PLACEHOLDER = "‒"

SHARED: Final = "The host's memory, which this GPU shares: what is in use is so by everything that runs on the machine."
_OF_MEMORY: Final = frozenset({"gpu.memory.used_gb", "gpu.memory.total_gb", "gpu.memory.used_percent"})


def attributes(**values: str) -> dict[str, Any]:
    """Return data- and aria- attributes: `data_metric="…"` becomes `data-metric`."""
    return {name.replace("_", "-"): text for name, text in values.items()}


def metric(key: str, *, unit: bool = True) -> dict[str, Any]:
    """Return the attributes that make an element show the value of a metric.

    `data-in` is the unit that it comes in, `data-unit` the one shown behind it (assets/units.js). `data-shared` is
    what the value means where the GPU has no memory of its own.
    """
    of = METRICS[key]
    symbol = of.unit.symbol
    shown = attributes(data_unit=symbol) if unit and symbol else {}
    shared = attributes(data_shared=SHARED) if key in _OF_MEMORY else {}
    told = attributes(data_metric=key, data_digits=str(of.unit.digits), data_help=of.help, data_in=symbol)
    return told | shown | shared


def value(key: str, *, unit: bool = True, shape: str = "") -> Component:
    """Return a metric's value and unit."""
    return html.Span(PLACEHOLDER, className=f"number {shape}".strip(), **metric(key, unit=unit))


def ratio(part: str, whole: str) -> Component:
    """Return `part / whole unit`: memory in use of all there is, watts drawn of the limit."""
    return html.Span([value(part, unit=False), " / ", value(whole, shape="whole")], className="value")


def bar(key: str, *, of: str = "") -> Component:
    """Return a bar that the value of a metric fills and colours.

    It is full at 100, or at the value of metric `of`; where a device does not tell that, where `key` is critical.
    """
    thresholds = METRICS[key].thresholds
    critical = thresholds.critical if thresholds else None
    otherwise = attributes(data_otherwise=f"{critical:g}") if critical is not None else {}
    whole = {**attributes(data_of=of), **otherwise} if of else {}
    return html.Div(
        className="bar",
        role="meter",
        **attributes(data_bar=key, aria_label=METRICS[key].title, aria_valuemin="0", aria_valuemax="100"),
        **whole,
    )


def warning(key: str) -> Component:
    """Return the place where a threshold that a metric has reached is told."""
    return html.Span(className="warning", **attributes(data_warning=key))


def row(label: str, shown: Component, *, fill: str, of: str = "") -> Component:
    """Return a line of a card: label, warning if there is one, value, and the bar beneath."""
    told: list[Component] = [html.Span(label, title=METRICS[fill].help)]
    if fill in _OF_MEMORY:
        told.append(html.Span("shared with host", className="shared-mark", title=SHARED))
    return html.Div(
        [html.Span(told, className="label"), warning(fill), shown, bar(fill, of=of)],
        className="metric-row",
    )


def fact(key: str, label: str = "") -> Component:
    """Return a small fact: its name, its value, and what threshold it has reached, if it has any."""
    of = METRICS[key]
    told = [warning(key)] if of.thresholds is not None else []
    return html.Div(
        [html.Dt([label or of.title, *told]), html.Dd(PLACEHOLDER, className="number", **metric(key))],
        className="fact",
    )


def facts(label: str, *shown: Component | str) -> Component:
    """Return a small fact that is made of several values."""
    return html.Div([html.Dt(label), html.Dd(list(shown))], className="fact")


def metrics_in(part: object) -> frozenset[str]:
    """Return the keys of all metrics that are shown within a component, or within a list of them."""
    if isinstance(part, (list, tuple)):
        return frozenset().union(*map(metrics_in, part))
    if not isinstance(part, Component):
        return frozenset()
    own = vars(part)
    names = ("data-metric", "data-bar", "data-of", "data-warning", "data-spark")
    return metrics_in(own.get("children")) | {own[name] for name in names if name in own}
