"""The compact status in the header bar: the GPU in three numbers, or what is wrong with it; and the host.

It has a clock of its own, and a small request of its own for when the page has not just been told the same
(assets/compact.js), and so goes on whatever the rest of the page does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html
from flask import jsonify, request

from dashtop.ui import ids
from dashtop.ui import snapshot as frames
from dashtop.ui.components import attributes, metrics_in, ratio, value
from dashtop.ui.panels.base import Panel, Place

if TYPE_CHECKING:
    from dash import Dash
    from dash.development.base_component import Component
    from flask import Response

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

_OF_GPU, _OF_HOST = "of-the-gpu", "of-the-host"
_PATH: Final = "_compact"


def _item(label: str, shown: Component, visibility: str) -> Component:
    return html.Span([f"{label} ", shown], className=f"compact-item {visibility}")


def layout(_services: Services) -> Component:
    """Return the status line."""
    return html.Div(
        [
            html.Span(className="compact-item trouble"),
            _item("GPU", value("gpu.utilization.gpu", shape="percent"), _OF_GPU),
            _item("VRAM", ratio("gpu.memory.used_gb", "gpu.memory.total_gb"), _OF_GPU),
            _item("Temp", value("gpu.temperature", shape="percent"), _OF_GPU),
            _item("CPU", value("system.cpu.usage_percent", shape="percent"), _OF_HOST),
            _item("RAM", ratio("system.memory.used_gb", "system.memory.total_gb"), _OF_HOST),
        ],
        id=ids.COMPACT_STATUS,
        className="compact",
        role="group",
        **attributes(aria_label="Status at a glance"),
    )


def register(app: Dash, services: Services) -> None:
    """Answer the status line's own requests: GET `_compact?gpu=` with index, UUID or the beginning of one.

    `trouble` says why that GPU, or any, is not told of; "" where it is.
    """
    metrics = frames.listed(metrics_in(layout(services)))

    def answer() -> Response:
        sample = services.latest.latest()
        gpu = frames.chosen_gpu(sample, request.args.get("gpu", "")) if sample is not None else None
        if sample is None:
            return jsonify(None)
        age_s = services.clock.monotonic() - sample.monotonic_s
        told = {
            "age": round(max(age_s, 0.0), 2),
            "trouble": _trouble(sample, gpu),
            "shared": gpu is not None and gpu.device.shares_host_memory,
        }
        return jsonify(told | frames.shown(sample, gpu, metrics))

    app.server.add_url_rule(app.config.routes_pathname_prefix + _PATH, _PATH, answer)


def frame(sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add the status line's `trouble`, in words."""
    return {"words": {"gpu.trouble": _trouble(sample, gpu)}}


def _trouble(sample: Sample, gpu: Gpu | None) -> str:
    if gpu is None:
        return frames.notice(sample.gpu_error)["title"]
    reason = gpu.state or frames.silence(gpu)
    return "" if reason is None else f"{reason.value[:1].upper()}{reason.value[1:]}"


PANEL: Final = Panel(place=Place.HEADER, layout=layout, frame=frame, register=register)
