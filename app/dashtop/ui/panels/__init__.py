"""The panels, in the order of the page."""

from __future__ import annotations

from typing import Final

from dashtop.ui.panels import (
    alerts,
    charts,
    diagnosis,
    events,
    fleet,
    gauges,
    gpu_grid,
    gpu_status,
    hardware,
    host,
    host_page,
    overview,
    processes,
    runs,
    usage,
)
from dashtop.ui.panels.base import Chart, ChartData, Panel, PanelContext, Section

PANELS: Final[tuple[Panel, ...]] = (
    gpu_status.COMPACT_STATUS,
    *alerts.PANELS,
    overview.PANEL,
    gpu_grid.PANEL,
    gpu_status.NO_GPU,
    gpu_status.HEADING,
    gauges.UTILIZATION,
    gauges.VRAM,
    gauges.TEMPERATURE,
    gauges.POWER,
    gauges.ACTIVITY,
    gauges.PCIE,
    gauges.FAN,
    diagnosis.PANEL,
    processes.PANEL,
    *charts.PANELS,
    hardware.HARDWARE,
    hardware.INFORMATION,
    processes.ALL_GPUS,
    host.SYSTEM,
    host.STORAGE,
    events.TIMELINE,
    events.EVENTS,
    events.MEMORY,
    runs.LIST,
    runs.REPORT,
    usage.SUMMARY,
    usage.USERS,
    usage.GPUS,
    *host_page.PANELS,
    *fleet.PANELS,
)
CHARTS: Final[tuple[Chart, ...]] = tuple(chart for panel in PANELS for chart in panel.charts)

__all__ = ["CHARTS", "PANELS", "Chart", "ChartData", "Panel", "PanelContext", "Section"]
