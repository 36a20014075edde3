"""The rarer readings of a simulated card, each made from the ones everybody looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.readings import ByteRates, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.sources.demo_cards import HOPPER

if TYPE_CHECKING:
    from dashtop.sources.demo_cards import Clocks, Model
    from dashtop.sources.demo_load import Load

MIB = 2**20
RESTING_STATE = 8
HOT_MARGIN_CELSIUS = 1.0
IDLE, POWER_CAP, THERMAL = 0x1, 0x4, 0x20


class DemoRest(ABC):
    """Mixed into DemoDevice, which sets the state of the moment and answers the essential questions."""

    _model: Model
    _load: Load
    _watts: float
    _celsius: float
    _throttle: float
    _now: float

    @abstractmethod
    def clocks(self) -> Clocks:
        """MHz."""

    @property
    def _data_centre(self) -> bool:
        return not self._model.fan

    def sm_occupancy(self) -> float:
        """Percent; only Hopper reports it."""
        return self._on_hopper(0.46 * self._load.busy)

    def tensor_activity(self) -> float:
        """Percent; only Hopper reports it."""
        return self._on_hopper(0.58 * self._load.busy)

    def dram_activity(self) -> float:
        """Percent; only Hopper reports it."""
        return self._on_hopper(0.8 * self._load.memory_busy)

    def _on_hopper(self, percent: float) -> float:
        if self._model.capability != HOPPER:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return round(percent, 1)

    def reserved_memory(self) -> int:
        """Bytes, about what drivers keep."""
        return (self._model.memory_mib // 128 + 256) * MIB

    def bar1(self) -> MemoryUse:
        """Bytes: data-centre cards map all of their memory."""
        total = (2 * self._model.memory_mib if self._data_centre else 256) * MIB
        return MemoryUse(8 * MIB, total, total - 8 * MIB)

    def memory_temperature(self) -> float:
        """Whole °C; HBM is reported, GDDR is not."""
        if self._model.memory_mib < 40_000:  # noqa: PLR2004 - HBM cards are the big ones
            raise Unavailable(Reason.NOT_SUPPORTED)
        return float(round(self._celsius + 4.0 + 6.0 * self._load.memory_busy / 100.0))

    def temperature_margin(self) -> float:
        """Whole °C left to the slowdown temperature."""
        return float(round(self.slowdown_temperature() - self._celsius))

    def slowdown_temperature(self) -> float:
        """°C."""
        if self._model.slowdown is None:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return self._model.slowdown

    def shutdown_temperature(self) -> float:
        """°C."""
        if self._model.shutdown is None:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return self._model.shutdown

    def power_instant(self) -> float:
        """Watts."""
        return self._watts

    def power_average(self) -> float:
        """Watts."""
        return round(self._watts)

    def default_power_limit(self) -> float:
        """Watts."""
        return self._model.watts

    def power_limit_range(self) -> PowerRange:
        """Watts."""
        return PowerRange(round(self._model.watts * 0.3), self._model.watts)

    def energy(self) -> float:
        """Joules since the clock began, at half the power limit."""
        return self._now * self._model.watts * 0.5

    def energy_rate(self) -> float:
        """Watts."""
        return self._watts

    def graphics_clock(self) -> float:
        """MHz."""
        return self.clocks().gpu

    def memory_clock(self) -> float:
        """MHz."""
        return self.clocks().memory

    def max_graphics_clock(self) -> float:
        """MHz."""
        return self._model.clocks.gpu

    def max_memory_clock(self) -> float:
        """MHz."""
        return self._model.clocks.memory

    def sm_clock(self) -> float:
        """MHz: with the graphics clock."""
        return self.clocks().gpu

    def video_clock(self) -> float:
        """MHz, in step with the graphics clock."""
        return 15.0 * round(self.clocks().gpu * 0.87 / 15.0)

    def performance_state(self) -> int:
        """P0 at work, P8 at rest."""
        return RESTING_STATE if self._load.resting else 0

    def clock_event_reasons(self) -> int:
        """Bits of catalog.reasons."""
        if self._load.resting:
            return IDLE
        capped = POWER_CAP if self._watts >= 0.995 * self._model.watts else 0
        slowed = self._throttle < 1.0 and self.slowdown_temperature() - self._celsius <= HOT_MARGIN_CELSIUS
        return capped | (THERMAL if slowed else 0)

    def pcie_generation(self) -> int:
        """A link at rest falls back to the first generation."""
        return 1 if self._load.resting else self._model.pcie_generation

    def pcie_width(self) -> int:
        """Sixteen lanes."""
        return 16

    def pcie_max_generation(self) -> int:
        """The card's own."""
        return self._model.pcie_generation

    def pcie_max_width(self) -> int:
        """Sixteen lanes."""
        return 16

    def pcie_replays(self) -> int:
        """None ever."""
        return 0

    def nvlinks(self) -> NvLinks:
        """Hopper SXM boards have 18."""
        if self._model.capability != HOPPER:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return NvLinks(18, 18)

    def nvlink_rates(self) -> ByteRates:
        """Bytes per second, with the load."""
        self.nvlinks()
        return ByteRates(self._load.busy * 0.9e9, self._load.busy * 0.88e9)

    def jpeg_utilization(self) -> float:
        """Unused."""
        if not self._data_centre:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return 0.0

    def ofa_utilization(self) -> float:
        """Unused."""
        return self.jpeg_utilization()

    def encoder_sessions(self) -> int:
        """None open."""
        return 0

    def ecc_errors(self, *, corrected: bool, lifetime: bool) -> int:
        """Data-centre cards count; nothing has happened but a few corrections."""
        if not self._data_centre:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return 3 if corrected and lifetime else 0

    def retired_pages(self) -> RetiredPages:
        """Turing's way of mending."""
        if self._model.capability != "7.5" or not self._data_centre:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return RetiredPages(0, 0, 0)

    def remapped_rows(self) -> RemappedRows:
        """Ampere's way of mending, and that of later cards."""
        if not self._data_centre or self._model.capability < "8":
            raise Unavailable(Reason.NOT_SUPPORTED)
        return RemappedRows(0, 0, 0, 0)

    def compute_mode(self) -> int:
        """Shared."""
        return 0

    def persistence_mode(self) -> int:
        """On, as the driver's packages set it on servers."""
        return 1 if self._data_centre else 0

    def mig_mode(self) -> int:
        """Not split."""
        if not self._data_centre or self._model.capability < "8":
            raise Unavailable(Reason.NOT_SUPPORTED)
        return 0
