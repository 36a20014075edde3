"""What there is and in which version: the chosen GPU, its driver, the machine and dashtop."""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Device, Gpu, Sample

_SEEN_OF_SERIAL: Final = 4


def layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since a GPU can come and go."""
    facts = html.Dl(className="lines", **attributes(data_facts=""))
    return card("Information", [facts], id=ids.PANEL_INFORMATION, shape="only-single")


def frame(_sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add `facts`: pairs of a name and what is known; null where the GPU does not tell."""
    return {"facts": [*(_device(gpu.device) if gpu is not None else ()), *_machine()]}


def _device(device: Device) -> list[tuple[str, str | None]]:
    known = [
        ("GPU", device.name),
        ("UUID", device.uuid),
        ("Architecture", device.architecture),
        ("Compute capability", device.compute_capability),
        ("Driver", device.driver_version),
        ("CUDA", device.cuda_version),
        ("VBIOS", device.vbios),
        ("Bus", device.pci_bus_id),
        ("Serial", masked(device.serial)),
    ]
    if device.shares_host_memory:
        known.append(("Memory", "shared with the host"))
    if device.mig_parent_uuid is not None:
        known += [("MIG profile", device.mig_profile), ("Part of", device.mig_parent_uuid)]
    return known


@cache
def _machine() -> tuple[tuple[str, str], ...]:
    return (
        ("Host", platform.node()),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("dashtop", __version__),
    )


def masked(serial: str | None) -> str | None:
    """Return a serial number's end: enough to tell two cards apart, too little to claim a warranty with."""
    if serial is None:
        return None
    return f"\N{BULLET}\N{BULLET}\N{BULLET}{serial[-_SEEN_OF_SERIAL:]}"


PANEL: Final = Panel(place=Place.CARDS, id=ids.PANEL_INFORMATION, layout=layout, frame=frame)
