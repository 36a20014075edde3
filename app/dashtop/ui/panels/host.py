"""The host: CPU with every core, memory, swap, network and disks; and the fill level of each mount point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.metrics.thresholds import DISK_USAGE
from dashtop.model.metric import GIB
from dashtop.ui import ids
from dashtop.ui.components import attributes, card, combined_fact, fact, metric_row, ratio, two_columns, value
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.snapshot import find_level

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Mount
    from dashtop.ui.panels.base import PanelContext

_CPU: Final = "system.cpu.usage_percent"
_RAM: Final = "system.memory"
_SWAP: Final = "system.swap"


def system_layout(_services: Services) -> Component:
    """Return the card."""
    rows = [html.Div([cpu_row(), cores()]), ram_row(), swap_row()]
    facts = [*cpu_facts(), *io_facts(), zfs_fact(), *limit_facts()]
    return card(
        "System",
        [two_columns(rows, facts)],
        id=ids.PANEL_SYSTEM,
        aside=core_count(),
        class_name="full-width only-single",
    )


def core_count() -> Component:
    """Return the number of cores, for the header of a card."""
    return html.Span([value("system.cpu.core_count"), " cores"], className="card-aside")


def cores(*, with_numbers: bool = False) -> Component:
    """Return the utilization of each core; the browser draws it (assets/panels.js)."""
    form = "numbers" if with_numbers else ""
    return html.Div(className="cores", role="img", **attributes(data_cores=form, aria_label="CPU utilization by core"))


def cpu_row() -> Component:
    """Return the utilization of all cores together."""
    return metric_row("CPU", value(_CPU), fill=_CPU)


def ram_row() -> Component:
    """Return how much memory is in use."""
    return metric_row("RAM", ratio(f"{_RAM}.used_gb", f"{_RAM}.total_gb"), fill=f"{_RAM}.used_percent")


def swap_row() -> Component:
    """Return how much swap space is in use."""
    return metric_row("Swap", ratio(f"{_SWAP}.used_gb", f"{_SWAP}.total_gb"), fill=f"{_SWAP}.used_percent")


def cpu_facts() -> list[Component]:
    """Return clock and load average."""
    return [fact("system.cpu.frequency_mhz"), _load_average()]


def io_facts() -> list[Component]:
    """Return the traffic of network and disks."""
    return [
        fact("system.network.download_mbps"),
        fact("system.network.upload_mbps"),
        fact("system.disk_io.read_mbps"),
        fact("system.disk_io.write_mbps"),
    ]


def zfs_fact() -> Component:
    """Return the size of the read cache of ZFS; hidden without ZFS."""
    return combined_fact("ZFS cache (ARC)", value("system.memory.zfs_arc_gb"), optional=True)


def limit_facts() -> list[Component]:
    """Return the limits of the container; hidden without one."""
    return [
        combined_fact("Container CPU limit", value("system.cpu.limit_cores"), optional=True),
        combined_fact("Container memory", ratio(f"{_RAM}.container_used_gb", f"{_RAM}.limit_gb"), optional=True),
    ]


def _load_average() -> Component:
    one, five, fifteen = (f"system.cpu.load_{minutes}m" for minutes in (1, 5, 15))
    return combined_fact(
        "Load average (1, 5, 15 min)",
        value(one),
        " ",
        value(five, class_name="secondary"),
        " ",
        value(fifteen, class_name="secondary"),
    )


def system_data(context: PanelContext) -> dict[str, Any]:
    """Add `cores`: the utilization of each core in whole percent.

    If some are offline, also `core_ids`: the numbers of the others, and `offline_cores`: those that the kernel lists.
    """
    host = context.sample.host
    data: dict[str, Any] = {"cores": [round(core) for core in host.per_core]}
    if host.core_ids and (host.offline_cores or host.core_ids != tuple(range(len(host.core_ids)))):
        data |= {"core_ids": host.core_ids, "offline_cores": host.offline_cores}
    return data


SYSTEM: Final = Panel(section=Section.DETAILS, id=ids.PANEL_SYSTEM, layout=system_layout, live_data=system_data)


# --- storage ----------------------------------------------------------------------------------------------------------


def storage_layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since mounts come and go."""
    return build_storage_card(ids.PANEL_STORAGE, "full-width only-single")


def build_storage_card(id: str, class_name: str) -> Component:  # noqa: A002 - the name of the DOM property
    """Return a card with the fill level of each mount point."""
    mounts = html.Ul(className="mounts", **attributes(data_mounts=""))
    return card("Storage", [mounts], id=id, class_name=class_name)


def storage_data(context: PanelContext) -> dict[str, Any]:
    """Add `mounts`; the percentage is that of `df`. Values are null for a mount that does not respond."""
    return {"mounts": [_encode_mount(mount) for mount in context.sample.host.mounts]}


def _encode_mount(mount: Mount) -> dict[str, Any]:
    percent = mount.used_percent
    return {
        "mount_point": mount.mount_point,
        "filesystem": mount.filesystem,
        "used_gib": _to_gib(mount.used_bytes),
        "total_gib": _to_gib(mount.total_bytes),
        "used_percent": None if percent is None else round(percent, 1),
        "level": find_level(DISK_USAGE, percent),
    }


def _to_gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 1)


STORAGE: Final = Panel(section=Section.DETAILS, id=ids.PANEL_STORAGE, layout=storage_layout, live_data=storage_data)
