"""The panels, in the order in which they stand on the page."""

from __future__ import annotations

from typing import Final

from dashtop.ui.panels import (
    charts,
    compact,
    gauges,
    hardware,
    heading,
    information,
    notice,
    processes,
    storage,
    system,
)
from dashtop.ui.panels import gpu_grid as compare
from dashtop.ui.panels import process_memory as holders
from dashtop.ui.panels.base import Chart, ChartData, Panel, Place

PANELS: Final[tuple[Panel, ...]] = (
    compact.PANEL,
    *charts.PANELS,
    holders.PANEL,
    compare.PANEL,
    notice.PANEL,
    heading.PANEL,
    gauges.UTILIZATION,
    gauges.TEMPERATURE,
    system.PANEL,
    gauges.POWER,
    gauges.FAN,
    hardware.PANEL,
    information.PANEL,
    processes.PANEL,
    storage.PANEL,
)
CHARTS: Final[tuple[Chart, ...]] = tuple(chart for panel in PANELS for chart in panel.charts)

__all__ = ["CHARTS", "PANELS", "Chart", "ChartData", "Panel", "Place"]
