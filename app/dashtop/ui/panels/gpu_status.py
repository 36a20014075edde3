"""The state of the selected GPU: its heading, the notice if there is no GPU, and the compact status in the header.

The compact status has its own timer, and its own request when the page has no recent snapshot (assets/compact.js): it
keeps working when the rest of the page does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html
from flask import jsonify, request

from dashtop.metrics.gpu_state import classify_gpus
from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Occupancy
from dashtop.model.timerange import MINUTE_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids, snapshot
from dashtop.ui.components import attributes, find_metrics, ratio, value
from dashtop.ui.gpu_state import read_last_holders, read_state
from dashtop.ui.overview_data import TOTAL_COLUMNS, build_status, build_totals, read_totals
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash import Dash
    from dash.development.base_component import Component
    from flask import Response

    from dashtop.metrics.gpu_state import GpuState
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, ProcessSpan, Sample
    from dashtop.ui.panels.base import PanelContext


def heading_layout(_services: Services) -> Component:
    """Return the line that stays below the header: which GPU, its state, who holds it, and whether it is throttled."""
    return html.Section(
        [
            html.H3("GPU", className="card-title", **attributes(data_text="gpuName")),
            html.Span(className="gpu-index", **attributes(data_text="gpuIndex")),
            html.Span(className="gpu-part", **attributes(data_text="gpu.part")),
            html.Span(className="condition", **attributes(data_text="gpu.condition", data_condition="")),
            html.Span(className="holder", **attributes(data_text="gpu.holder")),
            html.Span(className="throttle", **attributes(data_text="gpu.throttle", data_throttle="")),
            html.Span(className="gpu-age", **attributes(data_text="gpuAge")),
            html.Button(
                "Notify me when free",
                type="button",
                className="btn btn-sm watch-button",
                hidden=True,
                **attributes(data_watch_gpu="", aria_haspopup="dialog"),
            ),
            html.P(
                [
                    html.Span(**attributes(data_text="gpu.state")),
                    html.Span(className="gpu-state-since", **attributes(data_state_since="")),
                ],
                className="gpu-state",
                role="status",
            ),
        ],
        id=ids.GPU_HEADING,
        className="gpu-heading needs-gpu only-single",
        **attributes(aria_label="Chosen GPU"),
    )


def heading_data(context: PanelContext) -> dict[str, Any]:
    """Add what the head says of the chosen GPU, and in `gpu_head` how it is marked."""
    gpu = context.gpu
    if gpu is None:
        names = ("state", "condition", "holder", "throttle")
        return {"gpu_head": None, "texts": {f"gpu.{name}": "" for name in names}}
    state = read_state(context, gpu)
    throttle, severity = describe_throttling(gpu)
    texts = {
        "gpu.state": describe_state(gpu, state),
        "gpu.condition": state.label,
        "gpu.holder": describe_holder(gpu, context.sample.time_ms)
        or describe_last_holder(read_last_holders(context).get(gpu.device.uuid, ())),
        "gpu.throttle": throttle,
    }
    head = {
        "condition": state.condition.name.lower(),
        "severity": state.severity.value if state.severity is not None else "",
        "throttle": severity,
        "since": state.since_ms if gpu.state is not None else None,
        "is_unreadable": gpu.state is not None or state.occupancy is Occupancy.SPLIT,
    }
    return {"gpu_head": head, "texts": texts}


def describe_holder(gpu: Gpu, now_ms: int) -> str:
    """Return user, name and age of the process that holds most memory, and how many others there are."""
    process = max(gpu.processes, key=lambda each: each.gpu_memory_bytes or 0, default=None)
    if process is None:
        error = gpu.unavailable.get(PROCESSES)
        return f"Processes: {error.text}" if error is not None and gpu.state is None else ""
    info = process.info
    parts = [info.username, info.name or f"pid {process.pid}"]
    if info.started_ms is not None:
        parts.append(f"for {format_duration(now_ms - info.started_ms)}")
    if len(gpu.processes) > 1:
        parts.append(f"{len(gpu.processes) - 1} more")
    return " · ".join(part for part in parts if part)


def describe_last_holder(spans: Sequence[ProcessSpan]) -> str:
    """Return user and name of the process that held most memory of a lost GPU, and how many others there were."""
    if not spans:
        return ""
    info = spans[0].info
    others = f"{len(spans) - 1} more" if len(spans) > 1 else ""
    parts = (info.username, info.name or f"pid {spans[0].pid}", others)
    return f"Last held by {' · '.join(part for part in parts if part)}"


def format_duration(span_ms: int) -> str:
    """Return a duration in minutes, hours or days: "2 d 3 h". Text that changes at most once a minute."""
    minutes = max(span_ms, 0) // MINUTE_MS
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def describe_throttling(gpu: Gpu) -> tuple[str, str]:
    """Return the throttle reasons that hold the clocks down, and the severity of the worst; "" if it is normal."""
    flags = gpu.values.get("gpu.clocks.event_reasons")
    if flags is None:
        return "", ""
    reasons = [reason for reason in find_throttle_reasons(flags) if reason.severity is not None]
    if not reasons:
        return "Not throttled", ""
    worst = min((reason.severity for reason in reasons if reason.severity is not None), key=_SEVERITIES.index)
    return ", ".join(reason.name for reason in reasons), "" if worst is Severity.INFO else worst.value


_SEVERITIES: Final = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)


def describe_mig_instance(sample: Sample, gpu: Gpu) -> str:
    """Return which MIG instance of which GPU this is, "" for a whole GPU."""
    device = gpu.device
    if device.mig_parent_uuid is None:
        return ""
    parent = next((each.device for each in sample.gpus if each.device.uuid == device.mig_parent_uuid), None)
    whole = f"GPU {parent.index}" if parent is not None else device.mig_parent_uuid
    return f"MIG instance {device.mig_profile or ''} of {whole}".replace("  ", " ")


def describe_state(gpu: Gpu, state: GpuState) -> str:
    """Return why the GPU reports no values, or what a person should do about it; "" if nothing."""
    if gpu.state is not None:
        text, advice = gpu.state_text, state.problems[0].advice if state.problems else ""
    elif state.occupancy is Occupancy.SPLIT:
        text, advice = UnavailableReason.MIG_PARENT.text, ""
    elif state.problems:
        text, advice = state.problems[0].text, state.problems[0].advice
    else:
        return ""
    return f"{text[:1].upper()}{text[1:]}. {advice}".strip()


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


HEADING: Final = Panel(section=Section.GPU_HEAD, id=ids.GPU_HEADING, layout=heading_layout, live_data=heading_data)
NO_GPU: Final = Panel(section=Section.GPU_HEAD, layout=no_gpu_layout)


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
            _total("", "free"),
            _total("VRAM", "vram"),
            _total("Hottest", "hottest"),
            _item("CPU", value("system.cpu.usage_percent", class_name="percent"), "host-item"),
            _item("RAM", ratio("system.memory.used_gb", "system.memory.total_gb"), "host-item"),
        ],
        id=ids.COMPACT_STATUS,
        className="compact",
        role="group",
        **attributes(aria_label="Compact status"),
    )


def _item(label: str, shown: Component, class_name: str) -> Component:
    return html.Span([f"{label} " if label else "", shown], className=f"compact-item {class_name}")


def _total(label: str, name: str) -> Component:
    """Return a value of all GPUs, which the overview shows instead of those of one (assets/overview.js)."""
    shown = html.Span("‒", className="number", **attributes(data_total=name))
    return html.Span([f"{label} ", shown], className="compact-item total-item needs-gpu")


def register_compact(app: Dash, services: Services) -> None:
    """Serve GET `_compact?gpu=` with the index, the UUID or the start of the UUID of a GPU.

    `error` is why that GPU has no values, or why there is no GPU; "" if it has values. `severity` is "warning" if that
    is a failure.
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
            "severity": _find_severity(sample, gpu),
            "shared": gpu is not None and gpu.device.shares_host_memory,
            "totals": [dict(zip(TOTAL_COLUMNS, build_totals(sample, classify_gpus(sample)), strict=True))],
        }
        return jsonify(status | snapshot.build_readings(sample, gpu, metrics))

    app.server.add_url_rule(app.config.routes_pathname_prefix + COMPACT_PATH, COMPACT_PATH, answer)


def compact_data(context: PanelContext) -> dict[str, Any]:
    """Add the error of the status line, the MIG parent, which embedded panels name, and what the title says.

    Also the totals, which the header shows on pages that are not about the chosen GPU.
    """
    sample, gpu = context.sample, context.gpu
    part = describe_mig_instance(sample, gpu) if gpu is not None else ""
    texts = {"gpu.error": _describe_error(sample, gpu), "gpu.severity": _find_severity(sample, gpu), "gpu.part": part}
    data = {"status": build_status(context), "texts": texts}
    return data if context.request.is_visible(ids.GPU_HEADING) else data | {"totals": read_totals(context)}


def _describe_error(sample: Sample, gpu: Gpu | None) -> str:
    """Return why the status line shows no values of a GPU; "" if it does."""
    if gpu is None:
        return snapshot.build_notice(sample.gpu_error)["title"]
    reason = _find_reason(sample, gpu)
    return "" if reason is None else f"{reason.text[:1].upper()}{reason.text[1:]}"


def _find_severity(sample: Sample, gpu: Gpu | None) -> str:
    """Return the severity if that is a failure: a machine without a GPU, or one that sleeps, is not."""
    reason = _find_reason(sample, gpu)
    return reason.severity.value if reason is not None and reason.is_failure else ""


def _find_reason(sample: Sample, gpu: Gpu | None) -> UnavailableReason | None:
    return sample.gpu_error if gpu is None else gpu.state or snapshot.find_gpu_error(gpu)


COMPACT_STATUS: Final = Panel(
    section=Section.HEADER,
    layout=compact_layout,
    live_data=compact_data,
    register=register_compact,
)
