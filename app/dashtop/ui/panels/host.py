"""The host: CPU with every core, memory, swap, network and disks; and the fill level of each mount point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.metric import GIB, Thresholds
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
    cores = html.Div(className="cores", role="img", **attributes(data_cores="", aria_label="CPU utilization by core"))
    rows = [
        html.Div([metric_row("CPU", value(_CPU), fill=_CPU), cores]),
        metric_row("RAM", ratio(f"{_RAM}.used_gb", f"{_RAM}.total_gb"), fill=f"{_RAM}.used_percent"),
        metric_row("Swap", ratio(f"{_SWAP}.used_gb", f"{_SWAP}.total_gb"), fill=f"{_SWAP}.used_percent"),
    ]
    facts = [
        fact("system.cpu.frequency_mhz"),
        _load_average(),
        fact("system.network.download_mbps"),
        fact("system.network.upload_mbps"),
        fact("system.disk_io.read_mbps"),
        fact("system.disk_io.write_mbps"),
        combined_fact("ZFS cache (ARC)", value("system.memory.zfs_arc_gb"), optional=True),
        combined_fact("Container CPU limit", value("system.cpu.limit_cores"), optional=True),
        combined_fact("Container memory", ratio(f"{_RAM}.container_used_gb", f"{_RAM}.limit_gb"), optional=True),
    ]
    core_count = html.Span([value("system.cpu.core_count"), " cores"], className="card-aside")
    return card(
        "System", [two_columns(rows, facts)], id=ids.PANEL_SYSTEM, aside=core_count, class_name="tall only-single"
    )


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
    """Add `cores`: the utilization of each core in whole percent; `core_ids`: their numbers if some are offline."""
    host = context.sample.host
    data: dict[str, Any] = {"cores": [round(core) for core in host.per_core]}
    if host.core_ids != tuple(range(len(host.core_ids))):
        data["core_ids"] = host.core_ids
    return data


SYSTEM: Final = Panel(section=Section.CURRENT, id=ids.PANEL_SYSTEM, layout=system_layout, live_data=system_data)


# --- storage ----------------------------------------------------------------------------------------------------------

_USED_PERCENT: Final = Thresholds(elevated=85, high=95)


def storage_layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since mounts come and go."""
    return card(
        "Storage",
        [html.Ul(className="mounts", **attributes(data_mounts=""))],
        id=ids.PANEL_STORAGE,
        class_name="full-width only-single",
    )


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
        "level": find_level(_USED_PERCENT, percent),
    }


def _to_gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 1)


STORAGE: Final = Panel(section=Section.CURRENT, id=ids.PANEL_STORAGE, layout=storage_layout, live_data=storage_data)
