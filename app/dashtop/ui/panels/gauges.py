"""The cards of the selected GPU: utilization, temperature, power and fan, each with a sparkline of the last minutes.

The sparklines are sent once; the page then adds the value of each snapshot (assets/sparklines.js).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.metrics import METRICS
from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import MINUTE_MS
from dashtop.ui import ids
from dashtop.ui.charts.resolution import build_window
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
from dashtop.ui.parts import Part

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Sample
    from dashtop.ui.panels.base import PanelContext

SPARKLINE_SPAN_MS: Final = 5 * MINUTE_MS
SPARKLINE_METRICS: Final = ("gpu.utilization.gpu", "gpu.temperature", "gpu.power.current_watts", "gpu.fan_speed")
_SPARKLINE_WIDTH_PX: Final = 225

_UTILIZATION, _TEMPERATURE, _POWER, _FAN = SPARKLINE_METRICS
_MEMORY_USED, _MEMORY_TEMPERATURE = "gpu.memory.used_percent", "gpu.memory_temperature"
_SLOWDOWN, _POWER_LIMIT = "gpu.temperature_slowdown", "gpu.power.max_watts"


# --- sparklines -------------------------------------------------------------------------------------------------------


def build_parts(context: PanelContext) -> list[Part]:
    """Return the sparklines of the GPU.

    A page needs them again for another GPU, another past moment, and after an outage of the history.
    """
    if context.gpu is None:
        return []
    uuid, outages = context.gpu.device.uuid, context.services.history.read_status().version
    moment = context.sample.time_ms if context.is_past else "now"
    build = partial(_read_sparklines, context.services, context.sample, uuid)
    return [Part("sparklines", f"{uuid}|{moment}|{outages}", build)]


def _read_sparklines(services: Services, sample: Sample, uuid: str) -> dict[str, Any]:
    """Return the highest reading of each bucket by metric, null where there is none, and the buckets' times."""
    window = build_window(
        sample.time_ms, SPARKLINE_SPAN_MS, _SPARKLINE_WIDTH_PX, round(services.latest.interval_s * 1000)
    )
    keys = [SeriesKey(metric, uuid) for metric in SPARKLINE_METRICS]
    data = services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)
    return {
        "start_ms": window.start_ms,
        "step_ms": window.step_ms,
        "span_ms": SPARKLINE_SPAN_MS,
        "maximum": {
            series.key.metric: [round(float(value), 1) if np.isfinite(value) else None for value in series.maximum]
            for series in data.series
        },
    }


# --- cards ------------------------------------------------------------------------------------------------------------


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

    return Panel(section=Section.CURRENT, id=panel, layout=layout, parts=build_parts)


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
