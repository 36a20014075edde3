"""The cards of the selected GPU: utilization, temperature, power and fan, each with a sparkline of the last minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.metrics import METRICS
from dashtop.ui import ids
from dashtop.ui.components import (
    attributes,
    bar,
    card,
    combined_fact,
    fact,
    metric_attributes,
    metric_row,
    ratio,
    value,
    warning,
)
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.sparklines import SPARKLINE_METRICS, SPARKLINE_SPAN_MS

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services

_UTILIZATION, _TEMPERATURE, _POWER, _FAN = SPARKLINE_METRICS
_MEMORY_USED, _MEMORY_TEMPERATURE = "gpu.memory.used_percent", "gpu.memory_temperature"
_SLOWDOWN, _POWER_LIMIT = "gpu.temperature_slowdown", "gpu.power.max_watts"


def _gauge(panel: str, title: str, key: str, *rest: Component, of: str = "", show_total: bool = False) -> Panel:
    """Return a panel with the value, a bar, a sparkline and `rest`.

    The bar is full at 100, or at the value of metric `of`, which is part of the shown value with `show_total`.
    """

    def layout(_services: Services) -> Component:
        peak = html.Span(className="number", **attributes(data_peak=key), **_unit_attributes(key))
        full = attributes(data_of=of) if of else {}
        spark = html.Div(className="sparkline", **attributes(data_spark=key, aria_hidden="true"), **full)
        head = html.Div(
            [
                ratio(key, of) if show_total else value(key),
                html.Span(className="missing-reason", **attributes(data_missing_reason=key)),
                warning(key),
            ],
            className="gauge-header",
        )
        aside = html.Span([f"Peak, {SPARKLINE_SPAN_MS // 60_000} min ", peak], className="card-aside")
        body = [head, bar(key, of=of), spark, *rest]
        return card(title, body, id=panel, aside=aside, class_name="needs-gpu only-single gauge")

    return Panel(section=Section.CURRENT, layout=layout)


def _unit_attributes(key: str) -> dict[str, Any]:
    metric = metric_attributes(key)
    return {name: metric[name] for name in ("data-unit", "data-in", "data-digits")}


def _facts(*facts: Component) -> Component:
    return html.Dl(list(facts), className="facts")


UTILIZATION: Final = _gauge(
    ids.PANEL_UTILIZATION,
    METRICS[_UTILIZATION].title,
    _UTILIZATION,
    metric_row(METRICS[_MEMORY_USED].title, ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), fill=_MEMORY_USED),
    _facts(fact("gpu.utilization.compute"), fact("gpu.utilization.memory")),
)
TEMPERATURE: Final = _gauge(
    ids.PANEL_TEMPERATURE,
    METRICS[_TEMPERATURE].title,
    _TEMPERATURE,
    metric_row(METRICS[_MEMORY_TEMPERATURE].title, value(_MEMORY_TEMPERATURE), fill=_MEMORY_TEMPERATURE),
    _facts(
        combined_fact("Slowdown / shutdown", ratio(_SLOWDOWN, "gpu.temperature_shutdown")),
        fact("gpu.temperature_margin"),
    ),
    of=_SLOWDOWN,
)
POWER: Final = _gauge(
    ids.PANEL_POWER,
    METRICS[_POWER].title,
    _POWER,
    _facts(
        fact("gpu.power.average_watts"),
        fact("gpu.power.limit_default_watts"),
        fact("gpu.energy.total_wh", "Energy since driver load"),
    ),
    of=_POWER_LIMIT,
    show_total=True,
)
FAN: Final = _gauge(ids.PANEL_FAN, METRICS[_FAN].title, _FAN)
