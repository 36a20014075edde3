"""The four cards of the chosen GPU: how busy, how hot, how hungry, how loud; each with its last minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.metrics import METRICS
from dashtop.ui import ids
from dashtop.ui.components import attributes, bar, fact, facts, metric, ratio, row, value, warning
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card
from dashtop.ui.sparklines import TRAIL_METRICS, TRAIL_MS

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services

_BUSY, _HOT, _POWER, _FAN = TRAIL_METRICS
_SLOWDOWN, _LIMIT = "gpu.temperature_slowdown", "gpu.power.max_watts"


def _gauge(panel: str, title: str, key: str, *rest: Component, of: str = "", limit: bool = False) -> Panel:
    """Return a card: value, bar, sparkline, `rest`. Full is 100 or the metric `of`: a `limit` that is shown as well."""

    def layout(_services: Services) -> Component:
        peak = html.Span(className="number", **attributes(data_peak=key), **_unit(key))
        whole = attributes(data_of=of) if of else {}
        spark = html.Div(className="spark", **attributes(data_spark=key, aria_hidden="true"), **whole)
        shown = html.Div(
            [
                ratio(key, of) if limit else value(key),
                html.Span(className="why", **attributes(data_why=key)),
                warning(key),
            ],
            className="gauge-head",
        )
        aside = html.Span([f"Peak, {TRAIL_MS // 60_000} min ", peak], className="card-aside")
        body = [shown, bar(key, of=of), spark, *rest]
        return card(title, body, id=panel, aside=aside, shape="needs-gpu only-single gauge")

    return Panel(place=Place.CARDS, layout=layout)


def _unit(key: str) -> dict[str, Any]:
    of = metric(key)
    return {name: of[name] for name in ("data-unit", "data-in", "data-digits")}


def _small(*shown: Component) -> Component:
    return html.Dl(list(shown), className="facts")


UTILIZATION: Final = _gauge(
    ids.PANEL_UTILIZATION,
    METRICS[_BUSY].title,
    _BUSY,
    row("Memory", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), fill="gpu.memory.used_percent"),
    _small(fact("gpu.utilization.compute"), fact("gpu.utilization.memory")),
)
TEMPERATURE: Final = _gauge(
    ids.PANEL_TEMPERATURE,
    "Temperature",
    _HOT,
    row("Memory", value("gpu.memory_temperature"), fill="gpu.memory_temperature"),
    _small(
        facts("Slows down, switches off", ratio(_SLOWDOWN, "gpu.temperature_shutdown")),
        fact("gpu.temperature_margin"),
    ),
    of=_SLOWDOWN,
)
POWER: Final = _gauge(
    ids.PANEL_POWER,
    "Power",
    _POWER,
    _small(
        fact("gpu.energy.wh_per_hour"),
        fact("gpu.energy.total_wh", "Since the driver was loaded"),
        fact("gpu.power.average_watts", "Mean of one second"),
        fact("gpu.power.limit_default_watts"),
    ),
    of=_LIMIT,
    limit=True,
)
FAN: Final = _gauge(ids.PANEL_FAN, "Fan", _FAN)
