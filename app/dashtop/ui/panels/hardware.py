"""The hardware card (clocks, engines, links, health, throttle reasons) and the information card (names, versions)."""

from __future__ import annotations

import platform
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.metrics import METRICS
from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.ui import ids
from dashtop.ui.components import PLACEHOLDER, attributes, card, combined_fact, fact, metric_row, ratio, value
from dashtop.ui.panels.base import Panel, Section
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.metrics.throttle_reasons import ClockReason
    from dashtop.model.ports import Services
    from dashtop.model.sample import Device, Gpu
    from dashtop.ui.panels.base import PanelContext

_CLOCK, _CLOCK_MAX = "gpu.clocks.gpu_mhz", "gpu.clocks.gpu_max_mhz"
_MEMORY_CLOCK, _MEMORY_CLOCK_MAX = "gpu.clocks.memory_mhz", "gpu.clocks.memory_max_mhz"
_EVENT_REASONS: Final = "gpu.clocks.event_reasons"
_ENGINES: Final = (
    "gpu.utilization.tensor",
    "gpu.utilization.sm_occupancy",
    "gpu.utilization.dram",
    "gpu.encoder_utilization",
    "gpu.decoder_utilization",
    "gpu.jpeg_utilization",
    "gpu.ofa_utilization",
)
# nvmlComputeMode_t in nvml.h, with the names of nvidia-smi. 1 (Exclusive Thread) was removed.
_COMPUTE_MODES: Final = {0: "Default", 2: "Prohibited", 3: "Exclusive Process"}
_ENABLED: Final = {0: "Disabled", 1: "Enabled"}
_MODES: Final = {
    "gpu.compute_mode": _COMPUTE_MODES,
    "gpu.persistence_mode": _ENABLED,
    "gpu.mig_mode": _ENABLED,
}


def hardware_layout(_services: Services) -> Component:
    """Return the card."""
    performance_state = html.Span(["Performance state P", value("gpu.performance_state")], className="card-aside")
    throttle_reasons = html.Ul(
        className="throttle-reasons", **attributes(data_throttle_reasons="", aria_label="Throttle reasons")
    )
    unsupported = html.Details(
        [html.Summary(), html.P()], className="unsupported", hidden=True, **attributes(data_unsupported="")
    )
    columns = ([_clocks(), _modes()], [_engines()], [_links(), _memory_health()])
    groups = html.Div([html.Div(each, className="column") for each in columns], className="groups")
    return card(
        "Clocks, engines, links, health",
        [throttle_reasons, groups, unsupported],
        id=ids.PANEL_HARDWARE,
        aside=performance_state,
        class_name="needs-gpu only-single wide",
    )


def _group(title: str, *shown: Component) -> Component:
    return html.Section([html.H4(title), *shown], className="group")


def _fact_list(*facts: Component) -> Component:
    return html.Dl(list(facts), className="fact-list")


def _clocks() -> Component:
    return _group(
        "Clocks",
        metric_row("GPU", ratio(_CLOCK, _CLOCK_MAX), fill=_CLOCK, of=_CLOCK_MAX),
        metric_row("Memory", ratio(_MEMORY_CLOCK, _MEMORY_CLOCK_MAX), fill=_MEMORY_CLOCK, of=_MEMORY_CLOCK_MAX),
        _fact_list(fact("gpu.clocks.sm_mhz", "SM"), fact("gpu.clocks.video_mhz", "Video")),
    )


def _engines() -> Component:
    return _group("Engines", *(metric_row(METRICS[key].title, value(key), fill=key) for key in _ENGINES))


def _links() -> Component:
    return _group(
        "Links",
        _fact_list(
            combined_fact("PCIe", "Gen ", value("gpu.pcie.generation"), " ×", value("gpu.pcie.width")),
            combined_fact("PCIe max", "Gen ", value("gpu.pcie.max_generation"), " ×", value("gpu.pcie.max_width")),
            fact("gpu.pcie.bandwidth_gbps", "Link bandwidth (max)"),
            fact("gpu.pcie.tx_mbps"),
            fact("gpu.pcie.rx_mbps"),
            fact("gpu.pcie.replays"),
            combined_fact("NVLink active links", ratio("gpu.nvlink.active", "gpu.nvlink.links")),
            fact("gpu.nvlink.tx_mbps"),
            fact("gpu.nvlink.rx_mbps"),
        ),
    )


def _memory_health() -> Component:
    return _group(
        "Memory health",
        _fact_list(
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
        combined_fact(METRICS[key].title, html.Span(PLACEHOLDER, className="number", **attributes(data_text=key)))
        for key in _MODES
    ]
    return _group(
        "Memory and modes",
        _fact_list(
            fact("gpu.memory.reserved_gb"),
            combined_fact("BAR1", ratio("gpu.memory.bar1_used_gb", "gpu.memory.bar1_total_gb")),
            fact("gpu.encoder_sessions"),
            *modes,
        ),
    )


def hardware_data(context: PanelContext) -> dict[str, Any]:
    """Add `throttle_reasons`, the active ones, null if unknown; and the names of the modes."""
    gpu = context.gpu
    if gpu is None:
        return {"throttle_reasons": None}
    flags = gpu.values.get(_EVENT_REASONS)
    reasons = None if flags is None else [_encode_reason(reason) for reason in find_throttle_reasons(flags)]
    return {"throttle_reasons": reasons, "texts": {key: _mode_name(gpu, key, names) for key, names in _MODES.items()}}


def _mode_name(gpu: Gpu, key: str, names: dict[int, str]) -> str:
    mode = gpu.values.get(key)
    return "N/A" if mode is None else names.get(int(mode), str(int(mode)))


def _encode_reason(reason: ClockReason) -> dict[str, str]:
    severity = reason.severity.value if reason.severity is not None else ""
    return {"name": reason.name, "meaning": reason.meaning, "severity": severity}


HARDWARE: Final = Panel(section=Section.DETAILS, id=ids.PANEL_HARDWARE, layout=hardware_layout, live_data=hardware_data)


# --- information ------------------------------------------------------------------------------------------------------

_SERIAL_CHARS_SHOWN: Final = 4


def information_layout(_services: Services) -> Component:
    """Return the card; the browser fills it, since a GPU can come and go."""
    facts = html.Dl(className="fact-list", **attributes(data_facts=""))
    return card("Information", [facts], id=ids.PANEL_INFORMATION, class_name="only-single")


def information_data(context: PanelContext) -> dict[str, Any]:
    """Add `facts`: pairs of a label and a text, null if the GPU does not report it."""
    gpu = context.gpu
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


INFORMATION: Final = Panel(
    section=Section.DETAILS,
    id=ids.PANEL_INFORMATION,
    layout=information_layout,
    live_data=information_data,
)
