"""One GPU or MIG instance as a GpuDevice. Decides which NVML calls run in every tick and which in the background."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pynvml

from dashtop.metrics.convert import pcie_bandwidth
from dashtop.model.readers import ByteRates, GpuUtilization, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml import queries
from dashtop.sources.nvml.bindings import call
from dashtop.sources.nvml.call_marker import build_mark
from dashtop.sources.nvml.processes import ProcessReader
from dashtop.sources.nvml.throughput import EnergyRate, FieldReader, FieldReadings

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.sample import GpuProcess
    from dashtop.sources.nvml.background_poller import BackgroundPoller
    from dashtop.sources.nvml.call_marker import CallMarker

ResultT = TypeVar("ResultT")

# Seconds between two background calls.
EVERY_SECOND, EVERY_3_S, EVERY_10_S, EVERY_MINUTE = 1.0, 3.0, 10.0, 60.0


class NvmlDevice:
    """Implements GpuDevice. Fast calls run once per tick (`_query`), slow ones in the background (`_poll`).

    `not_supported_reason` replaces NOT_SUPPORTED if the kind of device explains it (MIG, Windows).
    `read_host_memory` returns the memory of the host, for a GPU that shares it. `gpu_index`: that of the physical GPU.
    """

    def __init__(
        self,
        handle: Any,
        poller: BackgroundPoller,
        *,
        marker: CallMarker,
        gpu_index: int,
        not_supported_reason: UnavailableReason = UnavailableReason.NOT_SUPPORTED,
        read_host_memory: Callable[[], MemoryUse] | None = None,
    ) -> None:
        self._handle = handle
        self._poller = poller
        self._marker = marker
        self.gpu_index = gpu_index
        self._not_supported_reason = not_supported_reason
        self._read_host_memory = read_host_memory
        self._marks: dict[Callable[..., Any], bytes] = {}
        self._results: dict[Callable[..., Any], Any] = {}
        self._polled: dict[tuple[object, ...], Callable[[], Any]] = {}
        self._activity = queries.GpmReader(handle)
        self._processes = ProcessReader(handle)
        self._fields = FieldReader(handle)
        self._energy = EnergyRate(handle)

    def start_tick(self) -> None:
        """Forget the results of the last tick."""
        self._results.clear()

    def stop_polling(self) -> None:
        """Stop the background calls until the GPU is read again."""
        self._poller.discard(self)

    def close(self) -> None:
        """Free what the driver has allocated."""
        self._activity.close()

    def _query(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Call NVML once per tick, however many metrics need the result."""
        result: ResultT | Unavailable | None = self._results.get(function)
        if result is None:
            self._marker.set(self._marks.get(function) or self._build_mark(function))
            try:
                result = call(function, self._handle, *arguments)
            except Unavailable as error:
                result = error.with_traceback(None)
            self._results[function] = result
        return self._unwrap(result)

    def _build_mark(self, function: Callable[..., Any]) -> bytes:
        mark = self._marks[function] = build_mark(self.gpu_index, function.__name__)
        return mark

    def _poll(self, interval_s: float, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        """Return the newest result of a slow call, which runs in the background every `interval_s`."""
        call_device: Callable[[], ResultT] | None = self._polled.get((function, arguments))
        if call_device is None:
            call_device = self._polled[function, arguments] = partial(function, self._handle, *arguments)
        return self._get_polled(call_device, interval_s)

    def _get_polled(self, read: Callable[[], ResultT], interval_s: float) -> ResultT:
        result: ResultT | Unavailable | None = self._results.get(read)
        if result is None:
            try:
                result = self._poller.get(self, read, interval_s)
            except Unavailable as error:
                result = error.with_traceback(None)
            self._results[read] = result
        return self._unwrap(result)

    def _unwrap(self, result: ResultT | Unavailable) -> ResultT:
        if isinstance(result, Unavailable):
            is_unsupported = result.reason is UnavailableReason.NOT_SUPPORTED
            # Not `result` itself: its traceback would refer to this frame and the frame to it, until a full collection
            # of garbage. With failures in every tick that was most of the growth of the worker, 3 MB at a time.
            raise Unavailable(self._not_supported_reason if is_unsupported else result.reason)
        return result

    def _read_fields(self) -> FieldReadings:
        return self._get_polled(self._fields.read, EVERY_SECOND)

    def utilization(self) -> GpuUtilization:
        rates = self._query(pynvml.nvmlDeviceGetUtilizationRates)
        return GpuUtilization(rates.gpu, rates.memory)

    def _read_activity(self) -> queries.Activity:
        return self._get_polled(self._activity.read, EVERY_SECOND)

    def sm_activity(self) -> float:
        return float(self._unwrap(self._read_activity().sm))

    def sm_occupancy(self) -> float:
        return float(self._unwrap(self._read_activity().occupancy))

    def tensor_activity(self) -> float:
        return float(self._unwrap(self._read_activity().tensor))

    def dram_activity(self) -> float:
        return float(self._unwrap(self._read_activity().dram))

    def memory(self) -> MemoryUse:
        """Return bytes without the memory reserved by the driver (drivers before R510 count it as used)."""
        if self._read_host_memory is not None:
            return self._read_host_memory()
        try:
            return self._query(queries.memory_v2).use
        except Unavailable as error:
            if error.reason.is_lost:
                raise
            # Drivers before R510 do not have v2 and that of WSL fails; v1 works in both.
            return self._query(queries.memory_v1)

    def reserved_memory(self) -> int:
        if self._read_host_memory is not None:
            raise Unavailable(UnavailableReason.UNIFIED_MEMORY)
        return self._query(queries.memory_v2).reserved

    def bar1(self) -> MemoryUse:
        return self._poll(EVERY_10_S, queries.bar1)

    def temperature(self) -> float:
        return float(self._query(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU))

    def memory_temperature(self) -> float:
        return self._unwrap(self._read_fields().memory_temperature)

    def memory_temperature_limit(self) -> float:
        return self._poll(EVERY_MINUTE, queries.memory_temperature_limit)

    def temperature_margin(self) -> float:
        return float(self._poll(EVERY_3_S, pynvml.nvmlDeviceGetMarginTemperature))

    def slowdown_temperature(self) -> float:
        return self._poll(EVERY_MINUTE, queries.slowdown_temperature)

    def shutdown_temperature(self) -> float:
        return self._poll(EVERY_MINUTE, queries.shutdown_temperature)

    def power_usage(self) -> float:
        return float(self._query(pynvml.nvmlDeviceGetPowerUsage)) * queries.MILLI

    def power_instant(self) -> float:
        return self._unwrap(self._read_fields().power_instant)

    def power_average(self) -> float:
        return self._unwrap(self._read_fields().power_average)

    def power_limit(self) -> float:
        return float(self._poll(EVERY_3_S, pynvml.nvmlDeviceGetEnforcedPowerLimit)) * queries.MILLI

    def default_power_limit(self) -> float:
        return float(self._poll(EVERY_MINUTE, pynvml.nvmlDeviceGetPowerManagementDefaultLimit)) * queries.MILLI

    def power_limit_range(self) -> PowerRange:
        return self._poll(EVERY_MINUTE, queries.power_limit_range)

    def energy(self) -> float:
        return self._poll(EVERY_10_S, queries.energy)

    def energy_rate(self) -> float:
        return self._get_polled(self._energy.read, EVERY_10_S)

    def fan_speed(self) -> float:
        return float(self._poll(EVERY_SECOND, pynvml.nvmlDeviceGetFanSpeed))

    def fan_rpm(self) -> float:
        return self._poll(EVERY_10_S, queries.fan_rpm)

    def graphics_clock(self) -> float:
        return self._query(queries.graphics_clock)

    def memory_clock(self) -> float:
        return self._query(queries.memory_clock)

    def max_graphics_clock(self) -> float:
        return self._poll(EVERY_MINUTE, queries.max_graphics_clock)

    def max_memory_clock(self) -> float:
        return self._poll(EVERY_MINUTE, queries.max_memory_clock)

    def sm_clock(self) -> float:
        return self._poll(EVERY_3_S, queries.sm_clock)

    def video_clock(self) -> float:
        return self._poll(EVERY_3_S, queries.video_clock)

    def performance_state(self) -> int:
        state = int(self._query(pynvml.nvmlDeviceGetPerformanceState))
        if state > pynvml.NVML_PSTATE_15:
            raise Unavailable(UnavailableReason.NOT_SUPPORTED)
        return state

    def clock_event_reasons(self) -> int:
        """Return a bit mask. Drivers before R535 have the function under its older name only."""
        try:
            return int(self._query(pynvml.nvmlDeviceGetCurrentClocksEventReasons))
        except Unavailable as error:
            if error.reason is not UnavailableReason.LIBRARY_TOO_OLD:
                raise
            return int(self._query(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons))

    def pcie_generation(self) -> int:
        return int(self._query(pynvml.nvmlDeviceGetCurrPcieLinkGeneration))

    def pcie_width(self) -> int:
        return int(self._query(pynvml.nvmlDeviceGetCurrPcieLinkWidth))

    def pcie_max_generation(self) -> int:
        return int(self._poll(EVERY_MINUTE, pynvml.nvmlDeviceGetMaxPcieLinkGeneration))

    def pcie_max_width(self) -> int:
        return int(self._poll(EVERY_MINUTE, pynvml.nvmlDeviceGetMaxPcieLinkWidth))

    def pcie_rates(self) -> ByteRates:
        """Return bytes per second. The bandwidth of the link decides whether its counters can wrap within a second."""
        try:
            self._fields.pcie.link_bandwidth = pcie_bandwidth(self.pcie_generation(), self.pcie_width()) * 1e9
        except Unavailable:
            self._fields.pcie.link_bandwidth = None
        return self._unwrap(self._read_fields().pcie)

    def pcie_replays(self) -> int:
        return int(self._poll(EVERY_10_S, pynvml.nvmlDeviceGetPcieReplayCounter))

    def nvlinks(self) -> NvLinks:
        return self._poll(EVERY_MINUTE, queries.nvlinks)

    def nvlink_rates(self) -> ByteRates:
        return self._unwrap(self._read_fields().nvlink)

    def encoder_utilization(self) -> float:
        return float(self._query(pynvml.nvmlDeviceGetEncoderUtilization)[0])

    def decoder_utilization(self) -> float:
        return float(self._query(pynvml.nvmlDeviceGetDecoderUtilization)[0])

    def jpeg_utilization(self) -> float:
        return float(self._poll(EVERY_3_S, pynvml.nvmlDeviceGetJpgUtilization)[0])

    def ofa_utilization(self) -> float:
        return float(self._poll(EVERY_3_S, pynvml.nvmlDeviceGetOfaUtilization)[0])

    def encoder_sessions(self) -> int:
        return self._poll(EVERY_3_S, queries.encoder_sessions)

    def ecc_errors(self, *, corrected: bool, lifetime: bool) -> int:
        return self._poll(EVERY_10_S, queries.ecc_errors, corrected, lifetime)

    def retired_pages(self) -> RetiredPages:
        return self._poll(EVERY_MINUTE, queries.retired_pages)

    def is_page_retirement_pending(self) -> bool:
        return bool(self._poll(EVERY_MINUTE, pynvml.nvmlDeviceGetRetiredPagesPendingStatus))

    def remapped_rows(self) -> RemappedRows:
        return self._poll(EVERY_MINUTE, queries.remapped_rows)

    def recovery_action(self) -> int:
        return self._poll(EVERY_10_S, queries.recovery_action)

    def compute_mode(self) -> int:
        return int(self._poll(EVERY_10_S, pynvml.nvmlDeviceGetComputeMode))

    def persistence_mode(self) -> int:
        return int(self._poll(EVERY_10_S, pynvml.nvmlDeviceGetPersistenceMode))

    def is_display_active(self) -> bool:
        """Return whether a display server draws on a display of this GPU, whether or not a monitor is connected."""
        return bool(self._poll(EVERY_3_S, pynvml.nvmlDeviceGetDisplayActive))

    def mig_mode(self) -> int:
        return self._poll(EVERY_10_S, queries.mig_mode)

    def processes(self) -> tuple[GpuProcess, ...]:
        """Return the processes with memory on this GPU."""
        return self._get_polled(self._processes.read, EVERY_SECOND)
