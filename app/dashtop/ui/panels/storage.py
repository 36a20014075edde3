"""Storage: the fill level of each mount point; one that does not respond is marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.metric import GIB, Thresholds
from dashtop.ui import ids
from dashtop.ui.components import attributes, card
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.snapshot import find_level

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Mount, Sample

_USED_PERCENT: Final = Thresholds(elevated=85, high=95)


def layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since mounts come and go."""
    return card(
        "Storage",
        [html.Ul(className="mounts", **attributes(data_mounts=""))],
        id=ids.PANEL_STORAGE,
        class_name="full-width only-single",
    )


def live_data(sample: Sample, _gpu: Gpu | None) -> dict[str, Any]:
    """Add `mounts`; the percentage is that of `df`. Values are null for a mount that does not respond."""
    return {"mounts": [_encode_mount(mount) for mount in sample.host.mounts]}


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


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_STORAGE, layout=layout, live_data=live_data)
