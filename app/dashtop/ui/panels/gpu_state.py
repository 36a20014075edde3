"""The name and state of the selected GPU, and the notice shown instead of GPU panels where there is no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample


def heading_layout(_services: Services) -> Component:
    """Return the line above the cards of the selected GPU."""
    return html.Div(
        [
            html.H3("GPU", className="card-title", **attributes(data_text="gpuName")),
            html.Span(className="card-aside", **attributes(data_text="gpuIndex")),
            html.Span(className="gpu-part", **attributes(data_text="gpu.part")),
            html.Span(className="gpu-age", **attributes(data_text="gpuAge")),
            html.P(className="gpu-state", role="status", **attributes(data_text="gpu.state")),
        ],
        id=ids.GPU_HEADING,
        className="gpu-heading full-width needs-gpu only-single",
    )


def heading_data(sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add the MIG parent and the state of the GPU; both are empty for a whole GPU that works."""
    if gpu is None:
        return {"words": {"gpu.part": "", "gpu.state": ""}}
    return {"words": {"gpu.part": describe_mig_instance(sample, gpu), "gpu.state": describe_state(gpu)}}


def describe_mig_instance(sample: Sample, gpu: Gpu) -> str:
    """Return which MIG instance of which GPU this is, "" for a whole GPU."""
    device = gpu.device
    if device.mig_parent_uuid is None:
        return ""
    parent = next((each.device for each in sample.gpus if each.device.uuid == device.mig_parent_uuid), None)
    whole = f"GPU {parent.index}" if parent is not None else device.mig_parent_uuid
    return f"MIG instance {device.mig_profile or ''} of {whole}".replace("  ", " ")


def describe_state(gpu: Gpu) -> str:
    """Return why the GPU reports no values, or that its MIG instances report them."""
    reason = gpu.state
    if reason is None and UnavailableReason.MIG_PARENT in gpu.unavailable.values():
        reason = UnavailableReason.MIG_PARENT
    return f"{reason.text[:1].upper()}{reason.text[1:]}." if reason is not None else ""


def no_gpu_layout(_services: Services) -> Component:
    """Return the notice; the browser shows it while a snapshot has no GPU, with the reason in that snapshot."""
    return html.Section(
        [
            html.Span(className="icon icon-chip", **attributes(aria_hidden="true")),
            html.H3("No GPU detected", className="notice-title", **attributes(data_text="notice.title")),
            html.P(className="notice-reason", **attributes(data_text="notice.reason")),
            html.P(**attributes(data_text="notice.outlook")),
        ],
        id=ids.NO_GPU_NOTICE,
        className="panel card notice no-gpu",
        **attributes(aria_label="GPU state"),
    )


HEADING: Final = Panel(section=Section.CURRENT, layout=heading_layout, live_data=heading_data)
NO_GPU: Final = Panel(section=Section.HISTORY, layout=no_gpu_layout)
