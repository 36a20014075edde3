"""The compact status in the header bar: the GPU in three numbers, or CPU and RAM where there is no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.value import attributes, ratio, value

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.domain.services import Services


def _item(label: str, shown: Component, visibility: str) -> Component:
    return html.Span([f"{label} ", shown], className=f"compact-item {visibility}")


def layout(_services: Services) -> Component:
    """Return the status line."""
    return html.Div(
        [
            _item("GPU", value("gpu.utilization.gpu", shape="percent"), "needs-gpu"),
            _item("VRAM", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), "needs-gpu"),
            _item("Temp", value("gpu.temperature", shape="percent"), "needs-gpu"),
            _item("CPU", value("system.cpu.usage_percent", shape="percent"), "no-gpu"),
            _item("RAM", ratio("system.memory.used_gb", "system.memory.total_gb"), "no-gpu"),
        ],
        id=ids.COMPACT_STATUS,
        className="compact",
        role="group",
        **attributes(aria_label="Status at a glance"),
    )


PANEL: Final = Panel(place=Place.HEADER, layout=layout)
