"""The engine room of the chosen GPU: clocks, engines, links, the health of its memory, and what holds it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.metrics.throttle_reasons import clock_reasons
from dashtop.ui import ids
from dashtop.ui.components import PLACEHOLDER, attributes, fact, facts, ratio, row, value
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.metrics.throttle_reasons import ClockReason
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

_CLOCK, _MEMORY_CLOCK = "gpu.clocks.gpu_mhz", "gpu.clocks.memory_mhz"
_CLOCK_MAX, _MEMORY_CLOCK_MAX = "gpu.clocks.gpu_max_mhz", "gpu.clocks.memory_max_mhz"
_REASONS: Final = "gpu.clocks.event_reasons"

# nvml.h: nvmlComputeMode_t. 1 (one thread) has been withdrawn.
_COMPUTE_MODES: Final = {0: "shared", 2: "prohibited", 3: "one process"}
_SWITCH: Final = {0: "off", 1: "on"}
_MODES: Final = (
    ("gpu.compute_mode", "Compute", _COMPUTE_MODES),
    ("gpu.persistence_mode", "Persistence", _SWITCH),
    ("gpu.mig_mode", "MIG", _SWITCH),
)


def layout(_services: Services) -> Component:
    """Return the card."""
    state = html.Span(["Performance state P", value("gpu.performance_state")], className="card-aside")
    limits = html.Ul(className="limits", **attributes(data_limits="", aria_label="What holds the clocks down"))
    untold = html.Details([html.Summary(), html.P()], className="untold", hidden=True, **attributes(data_untold=""))
    columns = ([_clocks(), _modes()], [_engines()], [_links(), _health()])
    groups = html.Div([html.Div(each, className="column") for each in columns], className="groups")
    body = [limits, groups, untold]
    return card("Hardware", body, id=ids.PANEL_HARDWARE, aside=state, shape="needs-gpu only-single wide")


def _group(title: str, *shown: Component) -> Component:
    return html.Section([html.H4(title), *shown], className="group")


def _list(*shown: Component) -> Component:
    return html.Dl(list(shown), className="lines")


def _clocks() -> Component:
    return _group(
        "Clocks",
        row("GPU", ratio(_CLOCK, _CLOCK_MAX), fill=_CLOCK, of=_CLOCK_MAX),
        row("Memory", ratio(_MEMORY_CLOCK, _MEMORY_CLOCK_MAX), fill=_MEMORY_CLOCK, of=_MEMORY_CLOCK_MAX),
        _list(fact("gpu.clocks.sm_mhz", "SM"), fact("gpu.clocks.video_mhz", "Video")),
    )


def _engines() -> Component:
    engines = {
        "gpu.encoder_utilization": "Encoder",
        "gpu.decoder_utilization": "Decoder",
        "gpu.jpeg_utilization": "JPEG",
        "gpu.ofa_utilization": "Optical flow",
        "gpu.utilization.tensor": "Tensor cores",
        "gpu.utilization.sm_occupancy": "SM occupancy",
        "gpu.utilization.dram": "Memory bandwidth",
    }
    return _group("Engines", *(row(name, value(key), fill=key) for key, name in engines.items()))


def _links() -> Component:
    return _group(
        "Links",
        _list(
            facts("PCIe", "Gen ", value("gpu.pcie.generation"), " ×", value("gpu.pcie.width")),
            facts(
                "PCIe, at best",
                "Gen ",
                value("gpu.pcie.max_generation"),
                " ×",
                value("gpu.pcie.max_width"),
            ),
            fact("gpu.pcie.bandwidth_gbps", "Ceiling now"),
            fact("gpu.pcie.tx_mbps"),
            fact("gpu.pcie.rx_mbps"),
            fact("gpu.pcie.replays"),
            facts("NVLink, up", ratio("gpu.nvlink.active", "gpu.nvlink.links")),
            fact("gpu.nvlink.tx_mbps"),
            fact("gpu.nvlink.rx_mbps"),
        ),
    )


def _health() -> Component:
    return _group(
        "Memory health",
        _list(
            fact("gpu.ecc.volatile_corrected"),
            fact("gpu.ecc.volatile_uncorrected"),
            fact("gpu.ecc.aggregate_corrected"),
            fact("gpu.ecc.aggregate_uncorrected"),
            fact("gpu.remapped_rows.corrected"),
            fact("gpu.remapped_rows.uncorrected"),
            fact("gpu.remapped_rows.pending"),
            fact("gpu.remapped_rows.failure"),
            fact("gpu.retired_pages.single_bit"),
            fact("gpu.retired_pages.double_bit"),
            fact("gpu.retired_pages.pending"),
        ),
    )


def _modes() -> Component:
    modes = [
        facts(name, html.Span(PLACEHOLDER, className="number", **attributes(data_text=key))) for key, name, _ in _MODES
    ]
    return _group(
        "Memory and modes",
        _list(
            fact("gpu.memory.reserved_gb"),
            facts("BAR1", ratio("gpu.memory.bar1_used_gb", "gpu.memory.bar1_total_gb")),
            fact("gpu.encoder_sessions"),
            *modes,
        ),
    )


def frame(_sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add `limits`: what holds the clocks down, as [name, meaning, severity], null where it is not told; and modes."""
    if gpu is None:
        return {"limits": None}
    flags = gpu.values.get(_REASONS)
    found = None if flags is None else [_limit(reason) for reason in clock_reasons(flags)]
    return {"limits": found, "words": {key: _mode(gpu, key, names) for key, _, names in _MODES}}


def _mode(gpu: Gpu, key: str, names: dict[int, str]) -> str:
    number = gpu.values.get(key)
    return "N/A" if number is None else names.get(int(number), str(int(number)))


def _limit(reason: ClockReason) -> list[str]:
    return [reason.name, reason.meaning, reason.severity.value if reason.severity is not None else ""]


PANEL: Final = Panel(place=Place.CARDS, id=ids.PANEL_HARDWARE, layout=layout, frame=frame)
