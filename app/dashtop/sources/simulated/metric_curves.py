"""How each metric of a simulated GPU follows from the recorded facts and the load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dashtop.metrics.convert import pcie_bandwidth
from dashtop.model.metric import GIB
from dashtop.sources.simulated.curves import Moment, Number

if TYPE_CHECKING:
    from dashtop.sources.simulated.energy import EnergyCounter

_IDLE_FLAG, _POWER_CAP_FLAG, _THERMAL_FLAG = 0x1, 0x4, 0x20
_POWER_CAP_SHARE = 0.955
_RESTING_MHZ, _RESTING_MEMORY_MHZ = 210.0, 405.0

Curve = Callable[[Any, Moment], Number]
"""Returns the metric's value at a moment, given the recorded fact."""


def _scale_by_load(scale: float = 1.0) -> Curve:
    """Return the curve of a metric that has its recorded value at full load."""
    return lambda fact, m: m.xp.round(fact * scale * m.busy / 100.0, 1)


def _clock(fact: float, m: Moment) -> Number:
    """Return MHz in the steps of 15 that NVIDIA's clocks have. `fact`: the maximum."""
    share = (0.95 - 0.06 * m.power_share + 0.006 * m.jitter) * m.xp.where(m.is_slowed_down, 0.87, 1.0)
    return m.xp.where(m.is_resting, _RESTING_MHZ, 15.0 * m.xp.round(share * fact / 15.0))


def _fan(_fact: float, m: Moment) -> Number:
    """Return percent: off below 50 °C, full at 88 °C."""
    speed = m.xp.round(m.xp.minimum(100.0, 30.0 + 70.0 * (m.celsius - 50.0) / 38.0))
    return m.xp.where(m.celsius < 50.0, 0.0, speed)  # noqa: PLR2004


def _event_reasons(_fact: float, m: Moment) -> Number:
    cap = m.xp.where(m.power_share > _POWER_CAP_SHARE, _POWER_CAP_FLAG, 0)
    return m.xp.where(m.is_resting, _IDLE_FLAG, m.xp.where(m.is_slowed_down, _THERMAL_FLAG, cap))


def _pcie(fact: float, m: Moment) -> Number:
    return m.xp.round(fact / 1e6 * m.busy / 100.0 * (1.0 + 0.2 * m.jitter), 2)


def _pcie_bandwidth(fact: dict[str, int], m: Moment) -> Number:
    resting, busy = (pcie_bandwidth(generation, fact["width"]) for generation in (1, fact["generation"]))
    return m.xp.where(m.is_resting, resting, busy)


def _energy(counter: EnergyCounter, m: Moment) -> Number:
    return counter.read(m.t)


def _watts(_fact: float, m: Moment) -> Number:
    return m.watts


CURVES: dict[str, tuple[str, Curve | float]] = {
    "gpu.utilization.gpu": ("utilization.gpu", lambda _, m: m.xp.round(m.busy)),
    "gpu.utilization.memory": ("utilization", lambda f, m: m.xp.round(m.busy * f["memory"] / max(f["gpu"], 1))),
    "gpu.utilization.compute": ("gpm.metrics.2", _scale_by_load()),
    "gpu.utilization.sm_occupancy": ("gpm.metrics.3", _scale_by_load()),
    "gpu.utilization.tensor": ("gpm.metrics.5", _scale_by_load()),
    "gpu.utilization.dram": ("gpm.metrics.10", _scale_by_load()),
    "gpu.memory.used_gb": ("memory.total", lambda _, m: m.used_bytes / GIB),
    "gpu.memory.total_gb": ("memory.total", lambda _, m: m.total_bytes / GIB),
    "gpu.memory.used_percent": ("memory.total", lambda _, m: 100.0 * m.used_bytes / m.total_bytes),
    "gpu.memory.reserved_gb": ("memory.reserved", 1 / GIB),
    "gpu.memory.bar1_used_gb": ("bar1.used", 1 / GIB),
    "gpu.memory.bar1_total_gb": ("bar1.total", 1 / GIB),
    "gpu.temperature": ("temperature", lambda _, m: m.xp.round(m.celsius)),
    "gpu.memory_temperature": ("memory_temperature", lambda _, m: m.xp.round(m.celsius + 4.0 + 0.05 * m.busy)),
    "gpu.memory_temperature_limit": ("temperature_thresholds.mem_max", 1.0),
    "gpu.fan_rpm": ("fan_rpm_at_full_speed", lambda fact, m: m.xp.round(fact / 100.0 * _fan(0.0, m))),
    "gpu.temperature_margin": ("hottest", lambda hottest, m: m.xp.round(hottest - m.celsius)),
    "gpu.temperature_slowdown": ("temperature_thresholds.slowdown", 1.0),
    "gpu.temperature_shutdown": ("temperature_thresholds.shutdown", 1.0),
    "gpu.power.current_watts": ("power.usage", _watts),
    "gpu.power.instant_watts": ("power.instant", _watts),
    "gpu.power.average_watts": ("power.average", lambda _, m: m.xp.round(m.watts)),
    "gpu.power.usage_percent": ("power.enforced_limit", lambda _, m: 100.0 * m.watts / m.board.limit_watts),
    "gpu.power.max_watts": ("power.enforced_limit", 1e-3),
    "gpu.power.limit_default_watts": ("power.default_limit", 1e-3),
    "gpu.power.limit_min_watts": ("power.min_limit", 1e-3),
    "gpu.power.limit_max_watts": ("power.max_limit", 1e-3),
    "gpu.energy.total_wh": ("energy_counter", _energy),
    "gpu.energy.wh_per_hour": ("energy_mj", _watts),
    "gpu.fan_speed": ("fan_speed", _fan),
    "gpu.clocks.gpu_mhz": ("max_clocks.graphics", _clock),
    "gpu.clocks.sm_mhz": ("max_clocks.sm", _clock),
    "gpu.clocks.video_mhz": ("max_clocks.video", _clock),
    "gpu.clocks.gpu_max_mhz": ("max_clocks.graphics", 1.0),
    "gpu.clocks.memory_mhz": (
        "max_clocks.memory",
        lambda fact, m: m.xp.where(m.is_resting, _RESTING_MEMORY_MHZ, fact),
    ),
    "gpu.clocks.memory_max_mhz": ("max_clocks.memory", 1.0),
    "gpu.clocks.event_reasons": ("clocks_event_reasons", _event_reasons),
    "gpu.performance_state": ("performance_state", lambda _, m: m.xp.where(m.is_resting, 8.0, 0.0)),
    "gpu.pcie.generation": ("pcie.generation", lambda fact, m: m.xp.where(m.is_resting, 1.0, fact)),
    "gpu.pcie.width": ("pcie.width", 1.0),
    "gpu.pcie.max_generation": ("pcie.max_generation", 1.0),
    "gpu.pcie.max_width": ("pcie.max_width", 1.0),
    "gpu.pcie.bandwidth_gbps": ("pcie", _pcie_bandwidth),
    "gpu.pcie.tx_mbps": ("pcie.tx_bytes.per_second", _pcie),
    "gpu.pcie.rx_mbps": ("pcie.rx_bytes.per_second", _pcie),
    "gpu.pcie.replays": ("pcie.replay_counter", 1.0),
    "gpu.nvlink.links": ("nvlink.link_count", 1.0),
    "gpu.nvlink.active": (
        "nvlink",
        lambda fact, _: fact["link_count"] * fact["link"]["active"],
    ),
    "gpu.nvlink.tx_mbps": ("nvlink_tx", _scale_by_load(1e-6)),
    "gpu.nvlink.rx_mbps": ("nvlink_rx", _scale_by_load(1e-6)),
    "gpu.encoder_utilization": ("encoder.utilization", _scale_by_load()),
    "gpu.decoder_utilization": ("decoder.utilization", _scale_by_load()),
    "gpu.jpeg_utilization": ("jpeg.utilization", _scale_by_load()),
    "gpu.ofa_utilization": ("ofa.utilization", _scale_by_load()),
    "gpu.encoder_sessions": ("encoder_stats.sessions", 1.0),
    "gpu.ecc.volatile_corrected": ("ecc.corrected_volatile", 1.0),
    "gpu.ecc.volatile_uncorrected": ("ecc.uncorrected_volatile", 1.0),
    "gpu.ecc.aggregate_corrected": ("ecc.corrected_aggregate", 1.0),
    "gpu.ecc.aggregate_uncorrected": ("ecc.uncorrected_aggregate", 1.0),
    "gpu.retired_pages.single_bit": ("retired_pages.single_bit", lambda pages, _: len(pages)),
    "gpu.retired_pages.double_bit": ("retired_pages.double_bit", lambda pages, _: len(pages)),
    "gpu.retired_pages.pending": ("retired_pages.pending", 1.0),
    "gpu.remapped_rows.corrected": ("remapped_rows.correctable", 1.0),
    "gpu.remapped_rows.uncorrected": ("remapped_rows.uncorrectable", 1.0),
    "gpu.remapped_rows.pending": ("remapped_rows.pending", 1.0),
    "gpu.remapped_rows.failure": ("remapped_rows.failure", 1.0),
    "gpu.recovery_action": ("recovery_action", 1.0),
    "gpu.compute_mode": ("compute_mode", 1.0),
    "gpu.persistence_mode": ("persistence_mode", 1.0),
    "gpu.mig_mode": ("mig.current", 1.0),
}
"""For each metric: the recorded fact without which a GPU does not support it, and its curve; or, if it is constant, the
factor that converts the fact to the metric's unit. A metric that is not here is not supported by any simulated GPU."""
