"""Which GPU the cards below speak of, and what state it is in where that is not the usual one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Panel, Place

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample


def layout(_services: Services) -> Component:
    """Return the line above the cards."""
    return html.Div(
        [
            html.H3("GPU", className="card-name", **attributes(data_text="gpuName")),
            html.Span(className="card-aside", **attributes(data_text="gpuIndex")),
            html.Span(className="gpu-part", **attributes(data_text="gpu.part")),
            html.Span(className="old", **attributes(data_text="gpuAge")),
            html.P(className="gpu-state", role="status", **attributes(data_text="gpu.state")),
        ],
        id=ids.GPU_HEADING,
        className="heading row needs-gpu only-single",
    )


def frame(sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add what the GPU is a part of, and its state in words; both empty for a GPU that is well and whole."""
    if gpu is None:
        return {"words": {"gpu.part": "", "gpu.state": ""}}
    return {"words": {"gpu.part": part(sample, gpu), "gpu.state": state(gpu)}}


def part(sample: Sample, gpu: Gpu) -> str:
    """Say which MIG instance of which GPU this is."""
    device = gpu.device
    if device.mig_parent_uuid is None:
        return ""
    parent = next((each.device for each in sample.gpus if each.device.uuid == device.mig_parent_uuid), None)
    whole = f"GPU {parent.index}" if parent is not None else device.mig_parent_uuid
    return f"MIG instance {device.mig_profile or ''} of {whole}".replace("  ", " ")


def state(gpu: Gpu) -> str:
    """Say why the GPU as a whole tells nothing, or that its instances tell what it does not."""
    reason = gpu.state
    if reason is None and UnavailableReason.MIG_PARENT in gpu.unavailable.values():
        reason = UnavailableReason.MIG_PARENT
    return f"{reason.value[:1].upper()}{reason.value[1:]}." if reason is not None else ""


PANEL: Final = Panel(place=Place.CARDS, layout=layout, frame=frame)
