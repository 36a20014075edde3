"""The GPU card: how busy, how full, how hot, and the engine room below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dash import html

from dashtop.catalog import METRICS
from dashtop.ui import ids
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card
from dashtop.ui.value import attributes, number, ratio, row, stat, value

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.domain.services import Services


def _fact(key: str, label: str = "", *, of: str = "") -> Component:
    shown = ratio(key, of) if of else value(key)
    return stat(label or METRICS[key].title, shown, hint=METRICS[key].help)


def layout(_services: Services) -> Component:
    """Return the card of the chosen GPU."""
    link = html.Span(
        ["Gen ", number("gpu.pcie.generation"), " ×", number("gpu.pcie.width")],
        className="value",
        title=METRICS["gpu.pcie.generation"].help,
    )
    return card(
        html.Span("GPU", **attributes(data_text="gpuName")),
        [
            html.Div(
                [
                    row("Utilization", value("gpu.utilization.gpu"), fill="gpu.utilization.gpu"),
                    row("Memory", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), fill="gpu.memory.used_percent"),
                    row("Temperature", value("gpu.temperature"), fill="gpu.temperature"),
                    row(
                        "Power", ratio("gpu.power.current_watts", "gpu.power.max_watts"), fill="gpu.power.usage_percent"
                    ),
                    row("Fan", value("gpu.fan_speed"), fill="gpu.fan_speed"),
                ],
                className="rows",
            ),
            html.Dl(
                [
                    _fact("gpu.clocks.gpu_mhz", of="gpu.clocks.gpu_max_mhz"),
                    _fact("gpu.clocks.memory_mhz", of="gpu.clocks.memory_max_mhz"),
                    _fact("gpu.utilization.compute"),
                    _fact("gpu.utilization.memory"),
                    _fact("gpu.encoder_utilization", "Encoder"),
                    _fact("gpu.decoder_utilization", "Decoder"),
                    stat("PCIe link", link, hint=METRICS["gpu.pcie.bandwidth_gbps"].help),
                    _fact("gpu.pcie.bandwidth_gbps", "Link ceiling"),
                    _fact("gpu.pcie.tx_mbps"),
                    _fact("gpu.pcie.rx_mbps"),
                ],
                className="stats",
            ),
        ],
        id=ids.PANEL_UTILIZATION,
        aside=html.Span(
            [
                html.Span(className="old", **attributes(data_text="gpuAge")),
                html.Span(**attributes(data_text="gpuIndex")),
            ],
            className="card-aside",
        ),
        shape="needs-gpu wide",
    )


PANEL: Final = Panel(place=Place.CARDS, layout=layout)
