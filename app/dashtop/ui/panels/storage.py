"""Storage: each mount with how full it is; one that does not answer is said to be so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.metric import Thresholds
from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card
from dashtop.ui.snapshot import level

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Mount, Sample

_GIB: Final = 2**30
_FILL: Final = Thresholds(elevated=85, high=95)


def layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since mounts come and go."""
    return card(
        "Storage",
        [html.Ul(className="mounts", **attributes(data_mounts=""))],
        id=ids.PANEL_STORAGE,
        shape="row only-single",
    )


def frame(sample: Sample, _gpu: Gpu | None) -> dict[str, Any]:
    """Add every mount: where, of what kind, used and total in GiB, percent as df has it, level; null where unknown."""
    return {"mounts": [_mount(mount) for mount in sample.host.mounts]}


def _mount(mount: Mount) -> tuple[str, str, float | None, float | None, float | None, str]:
    percent = mount.used_percent
    return (
        mount.mount_point,
        mount.filesystem,
        _gib(mount.used_bytes),
        _gib(mount.total_bytes),
        None if percent is None else round(percent, 1),
        level(_FILL, percent),
    )


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / _GIB, 1)


PANEL: Final = Panel(place=Place.CARDS, id=ids.PANEL_STORAGE, layout=layout, frame=frame)
