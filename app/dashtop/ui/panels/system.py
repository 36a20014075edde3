"""The machine itself: CPU with every core, memory, swap, network and disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.components import attributes, fact, facts, ratio, row, value
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card, halves

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

_CPU: Final = "system.cpu.usage_percent"
_RAM: Final = "system.memory"
_SWAP: Final = "system.swap"


def _load() -> Component:
    one, five, fifteen = (f"system.cpu.load_{minutes}m" for minutes in (1, 5, 15))
    return facts("Load 1, 5, 15 min", value(one), " ", value(five, shape="more"), " ", value(fifteen, shape="more"))


def layout(_services: Services) -> Component:
    """Return the card of the host."""
    cores = html.Div(className="cores", role="img", **attributes(data_cores="", aria_label="Use of each core"))
    rows = [
        html.Div([row("CPU", value(_CPU), fill=_CPU), cores]),
        row("RAM", ratio(f"{_RAM}.used_gb", f"{_RAM}.total_gb"), fill=f"{_RAM}.used_percent"),
        row("Swap", ratio(f"{_SWAP}.used_gb", f"{_SWAP}.total_gb"), fill=f"{_SWAP}.used_percent"),
    ]
    small = [
        fact("system.cpu.frequency_mhz", "Frequency"),
        _load(),
        fact("system.network.download_mbps"),
        fact("system.network.upload_mbps"),
        fact("system.disk_io.read_mbps"),
        fact("system.disk_io.write_mbps"),
    ]
    count = html.Span([value("system.cpu.core_count"), " cores"], className="card-aside")
    return card("System", [halves(rows, small)], id=ids.PANEL_SYSTEM, aside=count, shape="tall only-single")


def frame(sample: Sample, _gpu: Gpu | None) -> dict[str, Any]:
    """Add each core's use in whole percent."""
    return {"cores": [round(core) for core in sample.host.per_core]}


PANEL: Final = Panel(place=Place.CARDS, id=ids.PANEL_SYSTEM, layout=layout, frame=frame)
