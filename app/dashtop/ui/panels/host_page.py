"""The page of the host: every core, memory, network and disks, mount points, and their history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.components import attributes, card, fact
from dashtop.ui.panels import host
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.panels.chart_topics import Topic
from dashtop.ui.panels.charts import build_panel

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.ui.panels.base import PanelContext

_TOPICS: Final = (
    Topic(id=ids.CHART_HOST_CPU, title="CPU over time", lines={"system.cpu.usage_percent": "CPU"}),
    Topic(
        id=ids.CHART_HOST_LOAD,
        title="Load over time",
        lines={"system.cpu.load_1m": "1 min", "system.cpu.load_15m": "15 min"},
        limit="system.cpu.core_count",
        limit_name="cores",
    ),
    Topic(id=ids.CHART_HOST_RAM, title="RAM over time", lines={"system.memory.used_gb": "RAM"}),
    Topic(id=ids.CHART_HOST_SWAP, title="Swap over time", lines={"system.swap.used_gb": "Swap"}),
    Topic(
        id=ids.CHART_HOST_NETWORK,
        title="Network over time",
        lines={"system.network.download_mbps": "Received", "system.network.upload_mbps": "Sent"},
    ),
    Topic(
        id=ids.CHART_HOST_DISK,
        title="Disks over time",
        lines={"system.disk_io.read_mbps": "Read", "system.disk_io.write_mbps": "Written"},
    ),
)


def cpu_layout(_services: Services) -> Component:
    """Return the card of the cores."""
    return card(
        "CPU",
        [
            host.cpu_row(),
            host.cores(with_numbers=True),
            html.P(className="table-note", **attributes(data_text="cores.offline")),
            html.Dl(host.cpu_facts(), className="facts"),
        ],
        id=ids.PANEL_HOST_CPU,
        aside=host.core_count(),
        class_name="full-width",
    )


def memory_layout(_services: Services) -> Component:
    """Return the card of RAM, swap and the limits of the container."""
    facts = [fact("system.memory.available_gb"), fact("system.swap.available_gb"), host.zfs_fact()]
    return card(
        "Memory",
        [
            html.Div([host.ram_row(), host.swap_row()], className="rows"),
            html.Dl([*facts, *host.limit_facts()], className="facts"),
        ],
        id=ids.PANEL_HOST_MEMORY,
    )


def io_layout(_services: Services) -> Component:
    """Return the card of the present traffic."""
    return card("Network and disks", [html.Dl(host.io_facts(), className="facts")], id=ids.PANEL_HOST_IO)


def storage_layout(_services: Services) -> Component:
    """Return the card of the mount points."""
    return host.build_storage_card(ids.PANEL_HOST_STORAGE, "full-width")


def cpu_data(context: PanelContext) -> dict[str, Any]:
    """Add the cores, and a text that names those that are offline."""
    numbers = context.sample.host.core_ids
    gaps = set(range(max(numbers, default=-1) + 1)) - set(numbers)
    offline = sorted(gaps.union(context.sample.host.offline_cores if numbers else ()))
    text = f"Offline: {format_ranges(offline)}" if offline else ""
    return {**host.system_data(context), "texts": {"cores.offline": text}}


def format_ranges(numbers: list[int]) -> str:
    """Return ascending numbers in the form of the kernel: "1, 4-7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


PANELS: Final[tuple[Panel, ...]] = (
    Panel(section=Section.HOST, id=ids.PANEL_HOST_CPU, layout=cpu_layout, live_data=cpu_data),
    Panel(section=Section.HOST, id=ids.PANEL_HOST_MEMORY, layout=memory_layout),
    Panel(section=Section.HOST, id=ids.PANEL_HOST_IO, layout=io_layout),
    Panel(section=Section.HOST, id=ids.PANEL_HOST_STORAGE, layout=storage_layout, live_data=host.storage_data),
    *(build_panel(topic, Section.HOST) for topic in _TOPICS),
)
