"""Names and versions: the selected GPU, its driver, the host and dashtop."""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.components import attributes, card
from dashtop.ui.panels.base import Panel, Section
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Device, Gpu, Sample

_SERIAL_CHARS_SHOWN: Final = 4


def layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since a GPU can come and go."""
    facts = html.Dl(className="fact-list", **attributes(data_facts=""))
    return card("Information", [facts], id=ids.PANEL_INFORMATION, class_name="only-single")


def live_data(_sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add `facts`: pairs of a label and a text, null if the GPU does not report it."""
    return {"facts": [*(_device_facts(gpu.device) if gpu is not None else ()), *_host_facts()]}


def _device_facts(device: Device) -> list[tuple[str, str | None]]:
    facts = [
        ("GPU", device.name),
        ("UUID", device.uuid),
        ("Architecture", device.architecture),
        ("Compute capability", device.compute_capability),
        ("Driver", device.driver_version),
        ("CUDA", device.cuda_version),
        ("VBIOS", device.vbios),
        ("PCI bus ID", device.pci_bus_id),
        ("Serial number", mask_serial(device.serial)),
    ]
    if device.shares_host_memory:
        facts.append(("Memory", "shared with the host"))
    if device.mig_parent_uuid is not None:
        facts += [("MIG profile", device.mig_profile), ("MIG parent", device.mig_parent_uuid)]
    return facts


@cache
def _host_facts() -> tuple[tuple[str, str], ...]:
    return (
        ("Host", platform.node()),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Python", platform.python_version()),
        ("dashtop", __version__),
    )


def mask_serial(serial: str | None) -> str | None:
    """Return the last characters of a serial number: enough to tell cards apart, too few for a warranty claim."""
    if serial is None:
        return None
    return f"\N{BULLET}\N{BULLET}\N{BULLET}{serial[-_SERIAL_CHARS_SHOWN:]}"


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_INFORMATION, layout=layout, live_data=live_data)
