"""GPUs of a recording (`dashtop doctor --record`), replayed for `--demo FILE`: every value is as it was recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dashtop.metrics.convert import pcie_bandwidth, percent
from dashtop.model.errors import SettingsError
from dashtop.model.metric import GIB
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.simulated.curves import HOUR_S, Load, Workload
from dashtop.sources.simulated.gpu import Role, SimulatedGpu, find_fact
from dashtop.sources.simulated.metric_curves import CURVES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dashtop.model.sample import Event
    from dashtop.sources.simulated.curves import Moment, Number
    from dashtop.sources.simulated.metric_curves import Curve

MILLI, MEGA, KILO = 1e-3, 1e6, 1e3
MILLIJOULES_PER_WH = 3.6e6
# NVML manual, nvmlReturn_t: calls about a whole GPU that failed.
_STATES = {15: UnavailableReason.GPU_LOST, 16: UnavailableReason.GPU_RESET_REQUIRED}
_HANDLE_FUNCTION = "nvmlDeviceGetHandleByIndex_v2"
_MAX_PERFORMANCE_STATE = 15

# Without pauses, so that every process is there at any time.
_RECORDED = Workload(curve=lambda _: Load(100.0, 1.0, 1.0), slot_s=1e6 * HOUR_S, pause_s=(0.0, 0.0), last_heat=1.0)


def build_role(position: int) -> Role:
    """Return the role of the GPU at a position of the recording."""
    return Role("", position, _RECORDED, (ProcessInfo(),))


def load_recording(file: Path) -> dict[str, Any]:
    """Return the world of a file. Raise SettingsError if it is none."""
    try:
        world: dict[str, Any] = json.loads(file.read_bytes())
        uuids = [gpu["uuid"] for gpu in world["gpus"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SettingsError(f"--demo {file}: `dashtop doctor --record` did not write this file ({error!r}).") from error
    if len(set(uuids)) < len(uuids):
        raise SettingsError(f"--demo {file}: two GPUs have the same UUID.")
    return world


def _energy(fact: Mapping[str, float], m: Moment) -> Number:
    grown = fact["value"] + fact["per_second"] * (m.t - fact["since_s"])
    return m.xp.maximum(grown, 0.0) / MILLIJOULES_PER_WH


_REPLAYED: dict[str, tuple[str, Curve | float]] = {
    "gpu.utilization.gpu": ("utilization.gpu", 1.0),
    "gpu.utilization.memory": ("utilization.memory", 1.0),
    "gpu.utilization.compute": ("gpm.metrics.2", 1.0),
    "gpu.utilization.sm_occupancy": ("gpm.metrics.3", 1.0),
    "gpu.utilization.tensor": ("gpm.metrics.5", 1.0),
    "gpu.utilization.dram": ("gpm.metrics.10", 1.0),
    "gpu.memory.used_gb": ("memory.used", 1 / GIB),
    "gpu.memory.total_gb": ("memory.total", 1 / GIB),
    "gpu.memory.used_percent": ("memory_percent", 1.0),
    "gpu.temperature": ("temperature", 1.0),
    "gpu.memory_temperature": ("memory_temperature", 1.0),
    "gpu.temperature_margin": ("temperature_margin", 1.0),
    "gpu.power.current_watts": ("power.usage", MILLI),
    "gpu.power.instant_watts": ("power.instant", MILLI),
    "gpu.power.average_watts": ("power.average", MILLI),
    "gpu.power.usage_percent": ("power_percent", 1.0),
    "gpu.energy.total_wh": ("energy", _energy),
    "gpu.energy.wh_per_hour": ("energy.per_second", MILLI),
    "gpu.fan_speed": ("fan_speed", 1.0),
    "gpu.fan_rpm": ("fan_rpm", 1.0),
    "gpu.clocks.gpu_mhz": ("clocks.graphics", 1.0),
    "gpu.clocks.sm_mhz": ("clocks.sm", 1.0),
    "gpu.clocks.memory_mhz": ("clocks.memory", 1.0),
    "gpu.clocks.video_mhz": ("clocks.video", 1.0),
    "gpu.clocks.event_reasons": ("clocks_event_reasons", 1.0),
    "gpu.performance_state": ("performance_state", 1.0),
    "gpu.pcie.generation": ("pcie.generation", 1.0),
    "gpu.pcie.bandwidth_gbps": ("pcie_bandwidth", 1.0),
    "gpu.pcie.tx_mbps": ("pcie_tx", 1 / MEGA),
    "gpu.pcie.rx_mbps": ("pcie_rx", 1 / MEGA),
    "gpu.nvlink.links": ("nvlink_links", 1.0),
    "gpu.nvlink.active": ("nvlink_active", 1.0),
    "gpu.nvlink.tx_mbps": ("nvlink_tx", 1 / MEGA),
    "gpu.nvlink.rx_mbps": ("nvlink_rx", 1 / MEGA),
    "gpu.encoder_utilization": ("encoder.utilization", 1.0),
    "gpu.decoder_utilization": ("decoder.utilization", 1.0),
    "gpu.jpeg_utilization": ("jpeg.utilization", 1.0),
    "gpu.ofa_utilization": ("ofa.utilization", 1.0),
}
"""Metrics whose simulated values differ from the recorded ones: the recorded fact and its factor."""


class RecordedGpu(SimulatedGpu):
    """A GPU that always has the recorded values and processes. Energy grows from the recorded counter on."""

    @staticmethod
    def find_curves(*, shares_host_memory: bool) -> dict[str, tuple[str, Curve | float]]:
        """Return how each metric follows from the facts. The memory of the host is read, not replayed."""
        kept = {
            key: row for key, row in _REPLAYED.items() if not (shares_host_memory and key.startswith("gpu.memory."))
        }
        return {**CURVES, **kept}

    def _list_processes(self, m: Moment) -> tuple[GpuProcess, ...]:  # noqa: ARG002 - they do not change
        return tuple(_build_process(process) for process in self._processes)

    def changes(self, start_ms: int, end_ms: int) -> list[int]:  # noqa: ARG002 - nothing changes
        """Return no times."""
        return []

    def xids(self, start_ms: int, end_ms: int) -> Iterator[Event]:  # noqa: ARG002 - none is recorded
        """Yield no errors."""
        yield from ()


def _build_process(process: Mapping[str, Any]) -> GpuProcess:
    percents = (process.get(f"{name}_util") for name in ("sm", "mem", "enc", "dec"))
    sm, memory, encoder, decoder = (None if value is None else float(value) for value in percents)
    return GpuProcess(
        pid=process["pid"],
        kind=process.get("type", "C"),
        gpu_memory_bytes=process.get("used_memory"),
        sm_percent=sm,
        memory_percent=memory,
        encoder_percent=encoder,
        decoder_percent=decoder,
        info=ProcessInfo(name=str(process.get("name", "")).rpartition("/")[2] or None),
    )


def find_state(facts: Mapping[str, Any]) -> UnavailableReason | None:
    """Return why the GPU as a whole was not readable: its handle or all calls failed, or a call hung."""
    returns = facts.get("returns", {})
    code = returns.get(_HANDLE_FUNCTION) or returns.get("*")
    if code:
        return _STATES.get(code, UnavailableReason.DRIVER_ERROR)
    return UnavailableReason.NOT_RESPONDING if facts.get("hang") else None


def derive_facts(facts: Mapping[str, Any], now_s: float) -> dict[str, Any]:
    """Return the facts with those that follow from several; `now_s`: since when energy grows, in epoch seconds."""
    derived: dict[str, Any] = {"processes": facts.get("processes") or []}
    derived["processes"] = [{"name": "", "type": "C", "used_memory": None, **each} for each in derived["processes"]]
    for name, part, whole in (
        ("memory_percent", "memory.used", "memory.total"),
        ("power_percent", "power.usage", "power.enforced_limit"),
    ):
        values = find_fact(facts, part), find_fact(facts, whole)
        if values[0] is not None and values[1]:
            derived[name] = percent(*values)
    energy = facts.get("energy_mj")
    if energy is not None:
        counter = energy if isinstance(energy, dict) else {"value": energy, "per_second": 0.0}
        derived["energy"] = {"value": 0.0, **counter, "since_s": now_s}
    try:
        derived["pcie_bandwidth"] = pcie_bandwidth(facts["pcie"]["generation"], facts["pcie"]["width"])
    except (KeyError, Unavailable):
        derived["pcie_bandwidth"] = None
    for way in ("tx", "rx"):
        kilobytes = find_fact(facts, f"pcie.{way}_kb_per_s")
        rate = find_fact(facts, f"pcie.{way}_bytes.per_second")
        derived[f"pcie_{way}"] = rate if rate is not None or kilobytes is None else kilobytes * KILO
    speeds = [fan["rpm"] for fan in facts.get("fans") or () if "rpm" in fan]
    if speeds:
        derived["fan_rpm"] = min(speeds)
    if (state := facts.get("performance_state")) is not None and state > _MAX_PERFORMANCE_STATE:
        derived["performance_state"] = None
    limits = facts.get("temperature_thresholds", {})
    derived["temperature_thresholds"] = {name: celsius for name, celsius in limits.items() if celsius}  # 0: no limit
    metrics = find_fact(facts, "gpm.metrics") or {}
    derived["gpm"] = {"metrics": {name: value for name, value in metrics.items() if not isinstance(value, str)}}
    return {**facts, **derived, **_derive_links(facts.get("nvlink", {}))}


def _derive_links(nvlink: Mapping[str, Any]) -> dict[str, Any]:
    links = nvlink.get("links") or [nvlink["link"]] * nvlink["link_count"] if nvlink else []
    found: dict[str, Any] = {}
    if links:
        found = {"nvlink_links": len(links), "nvlink_active": sum(link.get("active", 0) for link in links)}
    for way in ("tx", "rx"):
        rates = [rate for link in links if (rate := find_fact(link, f"{way}_bytes.per_second")) is not None]
        if rates:
            found[f"nvlink_{way}"] = sum(rates)
    return found
