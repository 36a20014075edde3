"""The GPU card: how busy, how full, how hot, and the engine room below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card, halves
from dashtop.ui.value import attributes, fact, facts, ratio, row, value

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.domain.services import Services


def _of(label: str, part: str, whole: str) -> Component:
    return facts(label, value(part, unit=False), " / ", value(whole, shape="whole"))


def layout(_services: Services) -> Component:
    """Return the card of the chosen GPU."""
    rows = [
        row("Utilization", value("gpu.utilization.gpu"), fill="gpu.utilization.gpu"),
        row("Memory", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), fill="gpu.memory.used_percent"),
        row("Temperature", value("gpu.temperature"), fill="gpu.temperature"),
        row("Power", ratio("gpu.power.current_watts", "gpu.power.max_watts"), fill="gpu.power.usage_percent"),
        row("Fan", value("gpu.fan_speed"), fill="gpu.fan_speed"),
    ]
    small = [
        _of("GPU clock", "gpu.clocks.gpu_mhz", "gpu.clocks.gpu_max_mhz"),
        _of("Memory clock", "gpu.clocks.memory_mhz", "gpu.clocks.memory_max_mhz"),
        fact("gpu.utilization.compute"),
        fact("gpu.utilization.memory"),
        fact("gpu.encoder_utilization", "Encoder"),
        fact("gpu.decoder_utilization", "Decoder"),
        facts("PCIe link", "Gen ", value("gpu.pcie.generation"), " ×", value("gpu.pcie.width")),
        fact("gpu.pcie.bandwidth_gbps", "Link ceiling"),
        fact("gpu.pcie.tx_mbps"),
        fact("gpu.pcie.rx_mbps"),
    ]
    aside = html.Span(
        [html.Span(className="old", **attributes(data_text="gpuAge")), html.Span(**attributes(data_text="gpuIndex"))],
        className="card-aside",
    )
    name = html.Span("GPU", **attributes(data_text="gpuName"))
    return card(name, [halves(rows, small)], id=ids.PANEL_UTILIZATION, aside=aside, shape="needs-gpu wide")


PANEL: Final = Panel(place=Place.CARDS, layout=layout)
