"""The state of the selected GPU: its heading, the notice if there is no GPU, and the compact status in the header.

The compact status has its own timer, and its own request when the page has no recent snapshot (assets/compact.js): it
keeps working when the rest of the page does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html
from flask import jsonify, request

from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids, snapshot
from dashtop.ui.components import attributes, find_metrics, ratio, value
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component
    from flask import Response

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.panels.base import PanelContext


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


def heading_data(context: PanelContext) -> dict[str, Any]:
    """Add the MIG parent and the state of the GPU; both are empty for a whole GPU that works."""
    gpu = context.gpu
    if gpu is None:
        return {"texts": {"gpu.part": "", "gpu.state": ""}}
    return {"texts": {"gpu.part": describe_mig_instance(context.sample, gpu), "gpu.state": describe_state(gpu)}}


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
    text = gpu.state_text
    if not text and UnavailableReason.MIG_PARENT in gpu.unavailable.values():
        text = UnavailableReason.MIG_PARENT.text
    return f"{text[:1].upper()}{text[1:]}." if text else ""


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


# --- compact status ---------------------------------------------------------------------------------------------------

COMPACT_PATH: Final = "_compact"


def compact_layout(_services: Services) -> Component:
    """Return utilization, memory and temperature of the GPU, or its error; and the host's load."""
    return html.Div(
        [
            html.Span(className="compact-item compact-error"),
            _item("GPU", value("gpu.utilization.gpu", class_name="percent"), "gpu-item"),
            _item("VRAM", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), "gpu-item"),
            _item("Temp", value("gpu.temperature", class_name="percent"), "gpu-item"),
            _item("CPU", value("system.cpu.usage_percent", class_name="percent"), "host-item"),
            _item("RAM", ratio("system.memory.used_gb", "system.memory.total_gb"), "host-item"),
        ],
        id=ids.COMPACT_STATUS,
        className="compact",
        role="group",
        **attributes(aria_label="Compact status"),
    )


def _item(label: str, shown: Component, class_name: str) -> Component:
    return html.Span([f"{label} ", shown], className=f"compact-item {class_name}")


def register_compact(app: Dash, services: Services) -> None:
    """Serve GET `_compact?gpu=` with the index, the UUID or the start of the UUID of a GPU.

    `error` is why that GPU has no values, or why there is no GPU; "" if there is nothing wrong.
    """
    metrics = snapshot.select_metrics(find_metrics(compact_layout(services)))

    def answer() -> Response:
        sample = services.latest.latest()
        if sample is None:
            return jsonify(None)
        gpu = snapshot.find_gpu(sample, request.args.get("gpu", ""))
        age_s = services.clock.monotonic() - sample.monotonic_s
        status = {
            "age": round(max(age_s, 0.0), 2),
            "error": _describe_error(sample, gpu),
            "shared": gpu is not None and gpu.device.shares_host_memory,
        }
        return jsonify(status | snapshot.build_readings(sample, gpu, metrics))

    app.server.add_url_rule(app.config.routes_pathname_prefix + COMPACT_PATH, COMPACT_PATH, answer)


def compact_data(context: PanelContext) -> dict[str, Any]:
    """Add the error of the status line."""
    return {"texts": {"gpu.error": _describe_error(context.sample, context.gpu)}}


def _describe_error(sample: Sample, gpu: Gpu | None) -> str:
    if gpu is None:
        return snapshot.build_notice(sample.gpu_error)["title"]
    reason = gpu.state or snapshot.find_gpu_error(gpu)
    return "" if reason is None else f"{reason.text[:1].upper()}{reason.text[1:]}"


COMPACT_STATUS: Final = Panel(
    section=Section.HEADER,
    layout=compact_layout,
    live_data=compact_data,
    register=register_compact,
)
