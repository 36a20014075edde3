"""What each metric of a simulated GPU is: which recorded fact it needs and how it follows the load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.metrics.convert import pcie_bandwidth
from dashtop.model.metric import GIB

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dashtop.sources.simulated.curves import Floats, Jobs

IDLE, POWER_CAP, THERMAL = 0x1, 0x4, 0x20
_POWER_CAP_SHARE = 0.955
_RESTING_MHZ, _RESTING_MEMORY_MHZ = 210.0, 405.0
_ENERGY_EPOCH_S = 1.7e9


@dataclass(frozen=True)
class Moment:
    """A simulated GPU at some ascending times; arrays of one length. `limit`: watts; `used` and `total`: bytes."""

    t: Floats
    jobs: Jobs
    jitter: Floats
    busy: Floats
    power_share: Floats
    is_slowed_down: NDArray[np.bool_]
    is_resting: NDArray[np.bool_]
    sizes: list[Floats]
    used: Floats
    total: float
    limit: float
    compute_celsius: Callable[[Floats], Floats]

    @cached_property
    def celsius(self) -> Floats:
        """Temperature of the chip. The times should lie close together: it depends on all power before."""
        return self.compute_celsius(self.t)

    @property
    def watts(self) -> Floats:
        """Draw of the board."""
        watts: Floats = np.round(self.power_share * self.limit, 1)
        return watts


Curve = Callable[[Any, Moment], Any]
"""Returns values in the metric's unit, one for each time, given the recorded fact."""


def _busy(scale: float = 1.0) -> Curve:
    """Return the curve of a metric that is as recorded under full load."""
    return lambda fact, m: np.round(float(fact) * scale * m.busy / 100.0, 1)


def _clock(fact: Any, m: Moment) -> Any:
    """Return MHz in the steps of 15 that NVIDIA's clocks have, given the highest."""
    share = (0.95 - 0.06 * m.power_share + 0.006 * m.jitter) * np.where(m.is_slowed_down, 0.87, 1.0)
    return np.where(m.is_resting, _RESTING_MHZ, 15.0 * np.round(share * fact / 15.0))


def _fan(_fact: Any, m: Moment) -> Any:
    """Return percent: off below 50 °C, full at 88 °C."""
    return np.where(m.celsius < 50.0, 0.0, np.round(np.minimum(100.0, 30.0 + 70.0 * (m.celsius - 50.0) / 38.0)))  # noqa: PLR2004


def _event_reasons(_fact: Any, m: Moment) -> Any:
    capped = np.where(m.power_share > _POWER_CAP_SHARE, float(POWER_CAP), 0.0)
    return np.where(m.is_resting, float(IDLE), np.where(m.is_slowed_down, float(THERMAL), capped))


def _pcie(fact: Any, m: Moment) -> Any:
    return np.round(fact / 1e6 * m.busy / 100.0 * (1.0 + 0.2 * m.jitter), 2)


def _watts(_fact: Any, m: Moment) -> Any:
    return m.watts


CURVES: dict[str, tuple[str, Curve | float]] = {
    "gpu.utilization.gpu": ("utilization.gpu", lambda _, m: np.round(m.busy)),
    "gpu.utilization.memory": ("utilization", lambda f, m: np.round(m.busy * f["memory"] / max(f["gpu"], 1))),
    "gpu.utilization.compute": ("gpm.metrics.2", _busy()),
    "gpu.utilization.sm_occupancy": ("gpm.metrics.3", _busy()),
    "gpu.utilization.tensor": ("gpm.metrics.5", _busy()),
    "gpu.utilization.dram": ("gpm.metrics.10", _busy()),
    "gpu.memory.used_gb": ("memory.total", lambda _, m: m.used / GIB),
    "gpu.memory.total_gb": ("memory.total", lambda _, m: np.full(len(m.t), m.total / GIB)),
    "gpu.memory.used_percent": ("memory.total", lambda _, m: 100.0 * m.used / m.total),
    "gpu.memory.reserved_gb": ("memory.reserved", 1 / GIB),
    "gpu.memory.bar1_used_gb": ("bar1.used", 1 / GIB),
    "gpu.memory.bar1_total_gb": ("bar1.total", 1 / GIB),
    "gpu.temperature": ("temperature", lambda _, m: np.round(m.celsius)),
    "gpu.memory_temperature": ("memory_temperature", lambda _, m: np.round(m.celsius + 4.0 + 0.05 * m.busy)),
    "gpu.temperature_margin": ("hottest", lambda hottest, m: np.round(hottest - m.celsius)),
    "gpu.temperature_slowdown": ("temperature_thresholds.slowdown", 1.0),
    "gpu.temperature_shutdown": ("temperature_thresholds.shutdown", 1.0),
    "gpu.power.current_watts": ("power.usage", _watts),
    "gpu.power.instant_watts": ("power.instant", _watts),
    "gpu.power.average_watts": ("power.average", lambda _, m: np.round(m.watts)),
    "gpu.power.usage_percent": ("power.enforced_limit", lambda _, m: 100.0 * m.watts / m.limit),
    "gpu.power.max_watts": ("power.enforced_limit", 1e-3),
    "gpu.power.limit_default_watts": ("power.default_limit", 1e-3),
    "gpu.power.limit_min_watts": ("power.min_limit", 1e-3),
    "gpu.power.limit_max_watts": ("power.max_limit", 1e-3),
    "gpu.energy.total_wh": (
        "energy_mj.value",
        lambda fact, m: (fact / 1000 + (m.t - _ENERGY_EPOCH_S) * m.limit * 0.5) / 3600.0,
    ),
    "gpu.energy.wh_per_hour": ("energy_mj", _watts),
    "gpu.fan_speed": ("fan_speed", _fan),
    "gpu.clocks.gpu_mhz": ("max_clocks.graphics", _clock),
    "gpu.clocks.sm_mhz": ("max_clocks.sm", _clock),
    "gpu.clocks.video_mhz": ("max_clocks.video", _clock),
    "gpu.clocks.gpu_max_mhz": ("max_clocks.graphics", 1.0),
    "gpu.clocks.memory_mhz": (
        "max_clocks.memory",
        lambda fact, m: np.where(m.is_resting, _RESTING_MEMORY_MHZ, float(fact)),
    ),
    "gpu.clocks.memory_max_mhz": ("max_clocks.memory", 1.0),
    "gpu.clocks.event_reasons": ("clocks_event_reasons", _event_reasons),
    "gpu.performance_state": ("performance_state", lambda _, m: np.where(m.is_resting, 8.0, 0.0)),
    "gpu.pcie.generation": ("pcie.generation", lambda fact, m: np.where(m.is_resting, 1.0, float(fact))),
    "gpu.pcie.width": ("pcie.width", 1.0),
    "gpu.pcie.max_generation": ("pcie.max_generation", 1.0),
    "gpu.pcie.max_width": ("pcie.max_width", 1.0),
    "gpu.pcie.bandwidth_gbps": (
        "pcie",
        lambda f, m: np.where(m.is_resting, pcie_bandwidth(1, f["width"]), pcie_bandwidth(f["generation"], f["width"])),
    ),
    "gpu.pcie.tx_mbps": ("pcie.tx_bytes.per_second", _pcie),
    "gpu.pcie.rx_mbps": ("pcie.rx_bytes.per_second", _pcie),
    "gpu.pcie.replays": ("pcie.replay_counter", 1.0),
    "gpu.nvlink.links": ("nvlink.link_count", 1.0),
    "gpu.nvlink.active": (
        "nvlink",
        lambda fact, m: np.full(len(m.t), float(fact["link_count"] * fact["link"]["active"])),
    ),
    "gpu.nvlink.tx_mbps": ("nvlink_tx", _busy(1e-6)),
    "gpu.nvlink.rx_mbps": ("nvlink_rx", _busy(1e-6)),
    "gpu.encoder_utilization": ("encoder.utilization", _busy()),
    "gpu.decoder_utilization": ("decoder.utilization", _busy()),
    "gpu.jpeg_utilization": ("jpeg.utilization", _busy()),
    "gpu.ofa_utilization": ("ofa.utilization", _busy()),
    "gpu.encoder_sessions": ("encoder_stats.sessions", 1.0),
    "gpu.ecc.volatile_corrected": ("ecc.corrected_volatile", 1.0),
    "gpu.ecc.volatile_uncorrected": ("ecc.uncorrected_volatile", 1.0),
    "gpu.ecc.aggregate_corrected": ("ecc.corrected_aggregate", 1.0),
    "gpu.ecc.aggregate_uncorrected": ("ecc.uncorrected_aggregate", 1.0),
    "gpu.retired_pages.single_bit": ("retired_pages.single_bit", lambda pages, m: np.full(len(m.t), float(len(pages)))),
    "gpu.retired_pages.double_bit": ("retired_pages.double_bit", lambda pages, m: np.full(len(m.t), float(len(pages)))),
    "gpu.retired_pages.pending": ("retired_pages.pending", 1.0),
    "gpu.remapped_rows.corrected": ("remapped_rows.correctable", 1.0),
    "gpu.remapped_rows.uncorrected": ("remapped_rows.uncorrectable", 1.0),
    "gpu.remapped_rows.pending": ("remapped_rows.pending", 1.0),
    "gpu.remapped_rows.failure": ("remapped_rows.failure", 1.0),
    "gpu.compute_mode": ("compute_mode", 1.0),
    "gpu.persistence_mode": ("persistence_mode", 1.0),
    "gpu.mig_mode": ("mig.current", 1.0),
}
"""By metric: the recorded fact without which a GPU does not have it, and its curve, or the factor from the fact to the
metric's unit if it does not change. A metric that is not here is not supported by any simulated GPU."""
