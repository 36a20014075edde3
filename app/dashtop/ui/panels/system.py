"""The machine itself: CPU with every core, memory, swap, network and disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.catalog import METRICS
from dashtop.ui import ids
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card
from dashtop.ui.value import attributes, number, ratio, row, stat, value

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.domain.sample import Sample
    from dashtop.domain.services import Services

_CPU: Final = "system.cpu.usage_percent"
_RAM: Final = "system.memory"
_SWAP: Final = "system.swap"


def _load() -> Component:
    keys = ("system.cpu.load_1m", "system.cpu.load_5m", "system.cpu.load_15m")
    return html.Span([number(key) for key in keys], className="value triple")


def layout(_services: Services) -> Component:
    """Return the card of the host."""
    cores = html.Div(className="cores", role="img", **attributes(data_cores="", aria_label="Use of each core"))
    return card(
        "System",
        [
            html.Div(
                [
                    html.Div([row("CPU", value(_CPU), fill=_CPU), cores]),
                    row("RAM", ratio(f"{_RAM}.used_gb", f"{_RAM}.total_gb"), fill=f"{_RAM}.used_percent"),
                    row("Swap", ratio(f"{_SWAP}.used_gb", f"{_SWAP}.total_gb"), fill=f"{_SWAP}.used_percent"),
                ],
                className="rows",
            ),
            html.Dl(
                [
                    _fact("system.cpu.frequency_mhz", "Frequency"),
                    stat("Load 1, 5, 15 min", _load(), hint=METRICS["system.cpu.load_1m"].help),
                    _fact("system.network.download_mbps"),
                    _fact("system.network.upload_mbps"),
                    _fact("system.disk_io.read_mbps"),
                    _fact("system.disk_io.write_mbps"),
                ],
                className="stats",
            ),
        ],
        id=ids.PANEL_SYSTEM,
        aside=html.Span([number("system.cpu.core_count"), " cores"], className="card-aside"),
        shape="tall",
    )


def _fact(key: str, label: str = "") -> Component:
    return stat(label or METRICS[key].title, value(key), hint=METRICS[key].help)


def frame(sample: Sample) -> dict[str, Any]:
    """Add each core's use in whole percent."""
    return {"cores": [round(core) for core in sample.host.per_core]}


PANEL: Final = Panel(place=Place.CARDS, layout=layout, frame=frame)
