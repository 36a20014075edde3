"""Ids of the elements on the page. The public ones stand in the contract: tests and scripts rely on them."""

from __future__ import annotations

from typing import Final

# Public
COMPACT_STATUS: Final = "compact-status"
LIVE_INDICATOR: Final = "live-indicator"
GPU_SELECTOR: Final = "gpu-selector"
TIME_RANGE: Final = "time-range"
THEME_TOGGLE: Final = "theme-toggle"
ERROR_BANNER: Final = "error-banner"
RETRY_BUTTON: Final = "retry-button"
LOADING_SKELETON: Final = "loading-skeleton"
NO_GPU_NOTICE: Final = "no-gpu-notice"
CHART_UTILIZATION: Final = "chart-utilization"
CHART_MEMORY: Final = "chart-memory"
CHART_TEMPERATURE: Final = "chart-temperature"
CHART_POWER: Final = "chart-power"
ZOOM_RESET: Final = "zoom-reset"
COMPARE: Final = "compare"
COMPARE_ORDER: Final = "compare-order"
PANEL_UTILIZATION: Final = "panel-utilization"
PANEL_TEMPERATURE: Final = "panel-temperature"
PANEL_POWER: Final = "panel-power"
PANEL_FAN: Final = "panel-fan"
PANEL_HARDWARE: Final = "panel-hardware"
PANEL_SYSTEM: Final = "panel-system"
PANEL_STORAGE: Final = "panel-storage"
PANEL_PROCESSES: Final = "panel-processes"
PANEL_INFORMATION: Final = "panel-information"

# Between the page's own parts
TICK: Final = "tick"
ASK: Final = "ask"
LIVE: Final = "live"
GPU_HEADING: Final = "gpu-heading"
PROCESS_FILTER: Final = "process-filter"
