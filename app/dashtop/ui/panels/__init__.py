"""The panels, in the order of the page."""

from __future__ import annotations

from typing import Final

from dashtop.ui.panels import (
    charts,
    compact_status,
    gauges,
    gpu_grid,
    gpu_state,
    hardware,
    information,
    process_memory,
    processes,
    storage,
    system,
)
from dashtop.ui.panels.base import Chart, ChartData, Panel, Section

PANELS: Final[tuple[Panel, ...]] = (
    compact_status.PANEL,
    *charts.PANELS,
    process_memory.PANEL,
    gpu_grid.PANEL,
    gpu_state.NO_GPU,
    gpu_state.HEADING,
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

__all__ = ["CHARTS", "PANELS", "Chart", "ChartData", "Panel", "Section"]
