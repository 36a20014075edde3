"""One real GPU, or MIG instance, behind the GpuDevice protocol. Which question goes which way is decided here."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pynvml

from dashtop.metrics.convert import pcie_bandwidth
from dashtop.model.ports import ByteRates, GpuUtilization, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml import queries
from dashtop.sources.nvml.errors import call
from dashtop.sources.nvml.fields import FieldBatch, FieldReadings
from dashtop.sources.nvml.gpm import Activity, ActivityMonitor
from dashtop.sources.nvml.processes import ProcessLists
from dashtop.sources.nvml.rates import EnergyRate

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.sample import GpuProcess
    from dashtop.sources.nvml.background_poller import BackgroundPoller

ResultT = TypeVar("ResultT")

# Seconds between two questions of the slow lane.
EACH_SECOND, NOW_AND_THEN, SELDOM, RARELY = 1.0, 3.0, 10.0, 60.0


class NvmlDevice:
    """Implements GpuDevice. Cheap questions are asked once a tick, costly ones through the slow lane.

    `missing` is the reason that stands for NOT_SUPPORTED where the kind of device explains it (MIG, Windows).
    `host_memory` tells the memory of the host, for a GPU that shares it.
    """

    def __init__(
        self,
        handle: Any,
        lane: BackgroundPoller,
        *,
        missing: UnavailableReason = UnavailableReason.NOT_SUPPORTED,
        host_memory: Callable[[], MemoryUse] | None = None,
    ) -> None:
        self._handle = handle
        self._lane = lane
        self._missing = missing
        self._host_memory = host_memory
        self._answers: dict[Callable[..., Any], Any] = {}
        self._slow: dict[tuple[object, ...], Callable[[], Any]] = {}
        self._activity = ActivityMonitor(handle)
        self._processes = ProcessLists(handle)
        self._fields = FieldBatch(handle)
        self._energy = EnergyRate(handle)

    def begin(self) -> None:
        """Start a tick: forget the answers of the last one."""
        self._answers.clear()

    def pause(self) -> None:
        """Leave the GPU alone until it is read again."""
        self._lane.pause(self)

    def close(self) -> None:
        """Give back what the driver has handed out."""
        self._activity.close()

    def _once(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Ask a cheap question, once a tick however many rows need it."""
        answer: ResultT | Unavailable | None = self._answers.get(function)
        if answer is None:
            try:
                answer = call(function, self._handle, *arguments)
            except Unavailable as error:
                answer = error
            self._answers[function] = answer
        return self._given(answer)

    def _slowly(self, period_s: float, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Ask a costly question beside the main path."""
        ask: Callable[[], ResultT] | None = self._slow.get((function, arguments))
        if ask is None:
            ask = self._slow[function, arguments] = partial(function, self._handle, *arguments)
        return self._from_lane(ask, period_s)

    def _from_lane(self, ask: Callable[[], ResultT], period_s: float) -> ResultT:
        answer: ResultT | Unavailable | None = self._answers.get(ask)
        if answer is None:
            try:
                answer = self._lane.answer(self, ask, period_s)
            except Unavailable as error:
                answer = error
            self._answers[ask] = answer
        return self._given(answer)

    def _given(self, answer: ResultT | Unavailable) -> ResultT:
        if isinstance(answer, Unavailable):
            raise Unavailable(self._missing) if answer.reason is UnavailableReason.NOT_SUPPORTED else answer
        return answer

    def _field_readings(self) -> FieldReadings:
        return self._from_lane(self._fields.read, EACH_SECOND)

    def utilization(self) -> GpuUtilization:
        rates = self._once(pynvml.nvmlDeviceGetUtilizationRates)
        return GpuUtilization(rates.gpu, rates.memory)

    def _activities(self) -> Activity:
        return self._from_lane(self._activity.read, EACH_SECOND)

    def sm_activity(self) -> float:
        return float(self._given(self._activities().sm))

    def sm_occupancy(self) -> float:
        return float(self._given(self._activities().occupancy))

    def tensor_activity(self) -> float:
        return float(self._given(self._activities().tensor))

    def dram_activity(self) -> float:
        return float(self._given(self._activities().dram))

    def memory(self) -> MemoryUse:
        """Bytes without the driver's reserve, which drivers before R510 count as used; the host's where shared."""
        if self._host_memory is not None:
            return self._host_memory()
        try:
            info = self._once(queries.memory_v2)
        except Unavailable as error:
            # Drivers before R510 do not have it, the one of WSL fails at it; the older one answers.
            if error.reason not in {UnavailableReason.LIBRARY_TOO_OLD, UnavailableReason.DRIVER_ERROR}:
                raise
            info = self._once(pynvml.nvmlDeviceGetMemoryInfo)
        return MemoryUse(info.used, info.total, info.free)

    def reserved_memory(self) -> int:
        if self._host_memory is not None:
            raise Unavailable(UnavailableReason.UNIFIED_MEMORY)
        return int(self._once(queries.memory_v2).reserved)

    def bar1(self) -> MemoryUse:
        return self._slowly(SELDOM, queries.bar1)

    def temperature(self) -> float:
        return float(self._once(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU))

    def memory_temperature(self) -> float:
        return self._given(self._field_readings().memory_temperature)

    def temperature_margin(self) -> float:
        return float(self._slowly(NOW_AND_THEN, pynvml.nvmlDeviceGetMarginTemperature))

    def slowdown_temperature(self) -> float:
        return self._slowly(RARELY, queries.slowdown_temperature)

    def shutdown_temperature(self) -> float:
        return self._slowly(RARELY, queries.shutdown_temperature)

    def power_usage(self) -> float:
        return float(self._once(pynvml.nvmlDeviceGetPowerUsage)) * queries.MILLI

    def power_instant(self) -> float:
        return self._given(self._field_readings().power_instant)

    def power_average(self) -> float:
        return self._given(self._field_readings().power_average)

    def power_limit(self) -> float:
        return float(self._slowly(NOW_AND_THEN, pynvml.nvmlDeviceGetEnforcedPowerLimit)) * queries.MILLI

    def default_power_limit(self) -> float:
        return float(self._slowly(RARELY, pynvml.nvmlDeviceGetPowerManagementDefaultLimit)) * queries.MILLI

    def power_limit_range(self) -> PowerRange:
        return self._slowly(RARELY, queries.power_limit_range)

    def energy(self) -> float:
        return self._slowly(SELDOM, queries.energy)

    def energy_rate(self) -> float:
        return self._from_lane(self._energy.read, SELDOM)

    def fan_speed(self) -> float:
        return float(self._slowly(EACH_SECOND, pynvml.nvmlDeviceGetFanSpeed))

    def graphics_clock(self) -> float:
        return self._once(queries.graphics_clock)

    def memory_clock(self) -> float:
        return self._once(queries.memory_clock)

    def max_graphics_clock(self) -> float:
        return self._slowly(RARELY, queries.max_graphics_clock)

    def max_memory_clock(self) -> float:
        return self._slowly(RARELY, queries.max_memory_clock)

    def sm_clock(self) -> float:
        return self._slowly(NOW_AND_THEN, queries.sm_clock)

    def video_clock(self) -> float:
        return self._slowly(NOW_AND_THEN, queries.video_clock)

    def performance_state(self) -> int:
        state = int(self._once(pynvml.nvmlDeviceGetPerformanceState))
        if state > pynvml.NVML_PSTATE_15:
            raise Unavailable(UnavailableReason.NOT_SUPPORTED)
        return state

    def clock_event_reasons(self) -> int:
        """A set of bits; drivers before R535 know the question by its older name only."""
        try:
            return int(self._once(pynvml.nvmlDeviceGetCurrentClocksEventReasons))
        except Unavailable as error:
            if error.reason is not UnavailableReason.LIBRARY_TOO_OLD:
                raise
            return int(self._once(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons))

    def pcie_generation(self) -> int:
        return int(self._once(pynvml.nvmlDeviceGetCurrPcieLinkGeneration))

    def pcie_width(self) -> int:
        return int(self._once(pynvml.nvmlDeviceGetCurrPcieLinkWidth))

    def pcie_max_generation(self) -> int:
        return int(self._slowly(RARELY, pynvml.nvmlDeviceGetMaxPcieLinkGeneration))

    def pcie_max_width(self) -> int:
        return int(self._slowly(RARELY, pynvml.nvmlDeviceGetMaxPcieLinkWidth))

    def pcie_rates(self) -> ByteRates:
        """Bytes per second; the ceiling of the link tells whether its counters can be trusted over a second."""
        try:
            self._fields.pcie.ceiling = pcie_bandwidth(self.pcie_generation(), self.pcie_width()) * 1e9
        except Unavailable:
            self._fields.pcie.ceiling = None
        return self._given(self._field_readings().pcie)

    def pcie_replays(self) -> int:
        return int(self._slowly(SELDOM, pynvml.nvmlDeviceGetPcieReplayCounter))

    def nvlinks(self) -> NvLinks:
        return self._slowly(RARELY, queries.nvlinks)

    def nvlink_rates(self) -> ByteRates:
        return self._given(self._field_readings().nvlink)

    def encoder_utilization(self) -> float:
        return float(self._once(pynvml.nvmlDeviceGetEncoderUtilization)[0])

    def decoder_utilization(self) -> float:
        return float(self._once(pynvml.nvmlDeviceGetDecoderUtilization)[0])

    def jpeg_utilization(self) -> float:
        return float(self._slowly(NOW_AND_THEN, pynvml.nvmlDeviceGetJpgUtilization)[0])

    def ofa_utilization(self) -> float:
        return float(self._slowly(NOW_AND_THEN, pynvml.nvmlDeviceGetOfaUtilization)[0])

    def encoder_sessions(self) -> int:
        return self._slowly(NOW_AND_THEN, queries.encoder_sessions)

    def ecc_errors(self, *, corrected: bool, lifetime: bool) -> int:
        return self._slowly(SELDOM, queries.ecc_errors, corrected, lifetime)

    def retired_pages(self) -> RetiredPages:
        return self._slowly(RARELY, queries.retired_pages)

    def remapped_rows(self) -> RemappedRows:
        return self._slowly(RARELY, queries.remapped_rows)

    def compute_mode(self) -> int:
        return int(self._slowly(SELDOM, pynvml.nvmlDeviceGetComputeMode))

    def persistence_mode(self) -> int:
        return int(self._slowly(SELDOM, pynvml.nvmlDeviceGetPersistenceMode))

    def mig_mode(self) -> int:
        return self._slowly(SELDOM, queries.mig_mode)

    def processes(self) -> tuple[GpuProcess, ...]:
        """Processes with memory on this GPU."""
        return self._from_lane(self._processes.read, EACH_SECOND)
