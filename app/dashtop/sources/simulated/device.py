"""A simulated GPU, or MIG instance, behind the GpuDevice protocol: what its recording tells, moved by its engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.ports import ByteRates, GpuUtilization, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.simulated.cards import MILLI

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.sources.simulated.cards import Recording
    from dashtop.sources.simulated.engine import Engine

_BLOCK = 2**21
_RESTING_STATE = 8
_HOT_MARGIN_CELSIUS = 1.0
_IDLE, _POWER_CAP, _THERMAL = 0x1, 0x4, 0x20
# NVML's numbers for GPM metrics (nvmlGpmMetricId_t).
_SM, _OCCUPANCY, _TENSOR, _DRAM = "2", "3", "5", "10"


class DemoDevice:
    """Implements GpuDevice. A reading that the recorded GPU does not have is missing here too; utilizations that it
    has are what was recorded, in proportion to the load; facts and limits are the recorded ones."""

    def __init__(
        self, recording: Recording, engine: Engine, host_memory: Callable[[], MemoryUse] | None = None
    ) -> None:
        """`host_memory` tells the memory of the host, for a GPU that shares it."""
        self._told, self._engine, self._host_memory = recording.told, engine, host_memory

    def _busy(self, *path: str) -> float:
        """Percent: what was recorded, at the present load."""
        return round(float(self._told(*path)) * self._engine.load.busy / 100.0, 1)

    def utilization(self) -> GpuUtilization:
        self._told("utilization")
        return GpuUtilization(_percent(self._engine.load.busy), _percent(self._engine.load.memory_busy))

    def sm_activity(self) -> float:
        return self._busy("gpm", "metrics", _SM)

    def sm_occupancy(self) -> float:
        return self._busy("gpm", "metrics", _OCCUPANCY)

    def tensor_activity(self) -> float:
        return self._busy("gpm", "metrics", _TENSOR)

    def dram_activity(self) -> float:
        return self._busy("gpm", "metrics", _DRAM)

    def memory(self) -> MemoryUse:
        """Bytes; jobs take memory in steps of 2 MiB."""
        if self._host_memory is not None:
            return self._host_memory()
        total = self._told("memory", "total")
        used = int(self._engine.load.fill * total / _BLOCK) * _BLOCK
        return MemoryUse(used, total, total - used)

    def reserved_memory(self) -> int:
        if self._host_memory is not None:
            raise Unavailable(UnavailableReason.UNIFIED_MEMORY)
        return int(self._told("memory", "reserved"))

    def bar1(self) -> MemoryUse:
        used, total = self._told("bar1", "used"), self._told("bar1", "total")
        return MemoryUse(used, total, total - used)

    def temperature(self) -> float:
        """Whole °C, as NVML gives it."""
        self._told("temperature")
        return float(round(self._engine.celsius))

    def memory_temperature(self) -> float:
        """Whole °C, warmer than the core as it is used."""
        if not self._told("memory_temperature"):  # how a GPU without such a sensor answers
            raise Unavailable(UnavailableReason.NOT_SUPPORTED)
        return float(round(self._engine.celsius + 4.0 + 6.0 * self._engine.load.memory_busy / 100.0))

    def temperature_margin(self) -> float:
        """Whole °C left to where this GPU stood at margin 0 when it was recorded."""
        return float(round(self._told("temperature_margin") + self._told("temperature") - self._engine.celsius))

    def slowdown_temperature(self) -> float:
        return float(self._told("temperature_thresholds", "slowdown"))

    def shutdown_temperature(self) -> float:
        return float(self._told("temperature_thresholds", "shutdown"))

    def power_usage(self) -> float:
        self._told("power", "usage")
        return self._engine.watts

    def power_instant(self) -> float:
        self._told("power", "instant")
        return self._engine.watts

    def power_average(self) -> float:
        self._told("power", "average")
        return round(self._engine.watts)

    def power_limit(self) -> float:
        return float(self._told("power", "enforced_limit")) * MILLI

    def default_power_limit(self) -> float:
        return float(self._told("power", "default_limit")) * MILLI

    def power_limit_range(self) -> PowerRange:
        return PowerRange(self._told("power", "min_limit") * MILLI, self._told("power", "max_limit") * MILLI)

    def energy(self) -> float:
        """Joules: the recorded ones, and half the power limit since the clock began."""
        return float(self._told("energy_mj", "value")) * MILLI + self._engine.now * self._engine.limit * 0.5

    def energy_rate(self) -> float:
        self._told("energy_mj")
        return self._engine.watts

    def fan_speed(self) -> float:
        """Percent; stands still below 50 °C, full at 88 °C."""
        self._told("fan_speed")
        celsius = self._engine.celsius
        return _percent(30.0 + 70.0 * (celsius - 50.0) / 38.0) if celsius >= 50.0 else 0.0  # noqa: PLR2004

    def graphics_clock(self) -> float:
        self._told("clocks", "graphics")
        return self._engine.clocks.gpu

    def memory_clock(self) -> float:
        self._told("clocks", "memory")
        return self._engine.clocks.memory

    def max_graphics_clock(self) -> float:
        return float(self._told("max_clocks", "graphics"))

    def max_memory_clock(self) -> float:
        return float(self._told("max_clocks", "memory"))

    def sm_clock(self) -> float:
        """MHz: with the graphics clock."""
        self._told("clocks", "sm")
        return self._engine.clocks.gpu

    def video_clock(self) -> float:
        """MHz, in step with the graphics clock."""
        share: float = self._told("max_clocks", "video") / self._told("max_clocks", "graphics")
        return 15.0 * round(self._engine.clocks.gpu * share / 15.0)

    def performance_state(self) -> int:
        """P0 at work, P8 at rest."""
        self._told("performance_state")
        return _RESTING_STATE if self._engine.load.resting else 0

    def clock_event_reasons(self) -> int:
        """Bits of catalog.reasons."""
        self._told("clocks_event_reasons")
        engine = self._engine
        if engine.load.resting:
            return _IDLE
        slowed = engine.throttle < 1.0 and engine.slowdown - engine.celsius <= _HOT_MARGIN_CELSIUS
        return (_POWER_CAP if engine.capped else 0) | (_THERMAL if slowed else 0)

    def pcie_generation(self) -> int:
        """A link at rest falls back to the first generation."""
        return 1 if self._engine.load.resting else int(self._told("pcie", "generation"))

    def pcie_width(self) -> int:
        return int(self._told("pcie", "width"))

    def pcie_max_generation(self) -> int:
        return int(self._told("pcie", "max_generation"))

    def pcie_max_width(self) -> int:
        return int(self._told("pcie", "max_width"))

    def pcie_rates(self) -> ByteRates:
        self._told("pcie", "tx_bytes")
        return ByteRates(self._engine.load.sent, self._engine.load.received)

    def pcie_replays(self) -> int:
        return int(self._told("pcie", "replay_counter"))

    def nvlinks(self) -> NvLinks:
        count = self._told("nvlink", "link_count")
        return NvLinks(count, count * self._told("nvlink", "link", "active"))

    def nvlink_rates(self) -> ByteRates:
        """Bytes per second: the recorded ones of a link, times the links, at the present load."""
        links = self.nvlinks().active
        sent, received = (self._busy("nvlink", "link", way, "per_second") for way in ("tx_bytes", "rx_bytes"))
        return ByteRates(links * sent, links * received)

    def encoder_utilization(self) -> float:
        return _percent(self._busy("encoder", "utilization"))

    def decoder_utilization(self) -> float:
        return _percent(self._busy("decoder", "utilization"))

    def jpeg_utilization(self) -> float:
        return _percent(self._busy("jpeg", "utilization"))

    def ofa_utilization(self) -> float:
        return _percent(self._busy("ofa", "utilization"))

    def encoder_sessions(self) -> int:
        return int(self._told("encoder_stats", "sessions"))

    def ecc_errors(self, *, corrected: bool, lifetime: bool) -> int:
        what, since = "corrected" if corrected else "uncorrected", "aggregate" if lifetime else "volatile"
        return int(self._told("ecc", f"{what}_{since}"))

    def retired_pages(self) -> RetiredPages:
        pages = self._told("retired_pages")
        return RetiredPages(len(pages["single_bit"]), len(pages["double_bit"]), pages["pending"])

    def remapped_rows(self) -> RemappedRows:
        rows = self._told("remapped_rows")
        return RemappedRows(rows["correctable"], rows["uncorrectable"], rows["pending"], rows["failure"])

    def compute_mode(self) -> int:
        return int(self._told("compute_mode"))

    def persistence_mode(self) -> int:
        return int(self._told("persistence_mode"))

    def mig_mode(self) -> int:
        return int(self._told("mig", "current"))


def _percent(value: float) -> float:
    return float(round(min(100.0, max(0.0, value))))
