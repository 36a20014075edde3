"""The value row of the selected GPU: a card for each load, with its bar and a sparkline of the last hour.

The sparklines are sent once; the page then adds the value of each snapshot (assets/sparklines.js).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.metrics import METRICS
from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import HOUR_MS
from dashtop.ui import ids
from dashtop.ui.charts.resolution import build_window
from dashtop.ui.components import (
    attributes,
    bar,
    card,
    combined_fact,
    fact,
    metric_attributes,
    ratio,
    shared_mark,
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

SPARKLINE_SPAN_MS: Final = HOUR_MS
SPARKLINE_METRICS: Final = (
    "gpu.utilization.gpu",
    "gpu.memory.used_gb",
    "gpu.temperature",
    "gpu.power.current_watts",
    "gpu.utilization.compute",
    "gpu.pcie.rx_mbps",
    "gpu.fan_speed",
)
_SPARKLINE_WIDTH_PX: Final = 180

_UTILIZATION, _VRAM, _TEMPERATURE, _POWER, _ACTIVITY, _PCIE, _FAN = SPARKLINE_METRICS
_VRAM_TOTAL, _VRAM_PERCENT = "gpu.memory.total_gb", "gpu.memory.used_percent"
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


def _gauge(
    panel: str,
    title: str,
    key: str,
    *facts: Component,
    of: str = "",
    fill: str = "",
    show_total: bool = False,
    has_bar: bool = True,
) -> Panel:
    """Return a panel with the value, a sparkline, a bar and facts.

    The bar is filled by metric `fill`, else by `key`; it is full at 100, or at the value of metric `of`, which is part
    of the shown value with `show_total`.
    """

    def layout(_services: Services) -> Component:
        peak = html.Span(className="number", **attributes(data_peak=key), **_unit_attributes(key))
        full = attributes(data_of=of) if of else {}
        spark = html.Div(className="sparkline", **attributes(data_spark=key, aria_hidden="true"), **full)
        head = html.Div(
            [
                ratio(key, of) if show_total else value(key),
                html.Span(className="missing-reason", **attributes(data_missing_reason=key)),
                *([shared_mark()] if fill == _VRAM_PERCENT else []),
                warning(fill or key),
            ],
            className="gauge-header",
        )
        aside = html.Span(
            ["max ", peak], className="card-aside", **attributes(data_tip="Highest value of the last hour")
        )
        bars = [bar(fill or key, of="" if fill else of)] if has_bar else [html.Div(className="bar-space")]
        body = [head, spark, *bars, html.Dl(list(facts), className="facts")]
        return card(title, body, id=panel, aside=aside, class_name="needs-gpu only-single gauge")

    return Panel(section=Section.CURRENT, id=panel, layout=layout, parts=build_parts)


def _unit_attributes(key: str) -> dict[str, Any]:
    metric = metric_attributes(key)
    return {name: metric[name] for name in ("data-unit", "data-in", "data-digits")}


UTILIZATION: Final = _gauge(
    ids.PANEL_UTILIZATION,
    "Utilization",
    _UTILIZATION,
    fact("gpu.utilization.memory", "Memory R/W time"),
)
VRAM: Final = _gauge(
    ids.PANEL_VRAM,
    "VRAM",
    _VRAM,
    fact(_VRAM_PERCENT, "Used"),
    fact("gpu.memory.reserved_gb", "Reserved"),
    of=_VRAM_TOTAL,
    fill=_VRAM_PERCENT,
    show_total=True,
)
TEMPERATURE: Final = _gauge(
    ids.PANEL_TEMPERATURE,
    "Temperature",
    _TEMPERATURE,
    combined_fact("Slowdown / shutdown", ratio(_SLOWDOWN, "gpu.temperature_shutdown")),
    fact("gpu.temperature_margin"),
    fact("gpu.memory_temperature", "Memory"),
    of=_SLOWDOWN,
)
POWER: Final = _gauge(
    ids.PANEL_POWER,
    METRICS[_POWER].title,
    _POWER,
    fact("gpu.power.average_watts", "Average (1 s)"),
    fact("gpu.power.limit_default_watts", "Default limit"),
    fact("gpu.energy.total_wh", "Energy since driver load"),
    of=_POWER_LIMIT,
    show_total=True,
)
ACTIVITY: Final = _gauge(
    ids.PANEL_ACTIVITY,
    METRICS[_ACTIVITY].title,
    _ACTIVITY,
    fact("gpu.utilization.tensor", "Tensor"),
    fact("gpu.utilization.dram"),
    fact("gpu.utilization.sm_occupancy"),
)
PCIE: Final = _gauge(
    ids.PANEL_PCIE,
    METRICS[_PCIE].title,
    _PCIE,
    fact("gpu.pcie.tx_mbps"),
    combined_fact("Link", "Gen ", value("gpu.pcie.generation"), " ×", value("gpu.pcie.width")),
    fact("gpu.pcie.bandwidth_gbps", "Link (max)"),
    has_bar=False,
)
FAN: Final = _gauge(ids.PANEL_FAN, METRICS[_FAN].title, _FAN)
