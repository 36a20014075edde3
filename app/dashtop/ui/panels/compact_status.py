"""The compact status in the header: utilization, memory and temperature of the GPU, or its error; and the host.

It has its own timer, and its own request when the page has no recent snapshot (assets/compact.js), so it keeps working
when the rest of the page does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html
from flask import jsonify, request

from dashtop.ui import ids, snapshot
from dashtop.ui.components import attributes, find_metrics, ratio, value
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component
    from flask import Response

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

_GPU_ITEM, _HOST_ITEM = "gpu-item", "host-item"
_PATH: Final = "_compact"


def layout(_services: Services) -> Component:
    """Return the status line."""
    return html.Div(
        [
            html.Span(className="compact-item compact-error"),
            _item("GPU", value("gpu.utilization.gpu", class_name="percent"), _GPU_ITEM),
            _item("VRAM", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), _GPU_ITEM),
            _item("Temp", value("gpu.temperature", class_name="percent"), _GPU_ITEM),
            _item("CPU", value("system.cpu.usage_percent", class_name="percent"), _HOST_ITEM),
            _item("RAM", ratio("system.memory.used_gb", "system.memory.total_gb"), _HOST_ITEM),
        ],
        id=ids.COMPACT_STATUS,
        className="compact",
        role="group",
        **attributes(aria_label="Compact status"),
    )


def _item(label: str, shown: Component, class_name: str) -> Component:
    return html.Span([f"{label} ", shown], className=f"compact-item {class_name}")


def register(app: Dash, services: Services) -> None:
    """Serve GET `_compact?gpu=` with the index, the UUID or the start of the UUID of a GPU.

    `error` is why that GPU has no values, or why there is no GPU; "" if there is nothing wrong.
    """
    metrics = snapshot.select_metrics(find_metrics(layout(services)))

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

    app.server.add_url_rule(app.config.routes_pathname_prefix + _PATH, _PATH, answer)


def live_data(sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add the error of the status line, in words."""
    return {"words": {"gpu.error": _describe_error(sample, gpu)}}


def _describe_error(sample: Sample, gpu: Gpu | None) -> str:
    if gpu is None:
        return snapshot.build_notice(sample.gpu_error)["title"]
    reason = gpu.state or snapshot.find_gpu_error(gpu)
    return "" if reason is None else f"{reason.text[:1].upper()}{reason.text[1:]}"


PANEL: Final = Panel(section=Section.HEADER, layout=layout, live_data=live_data, register=register)
