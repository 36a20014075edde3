"""One real GPU behind the GpuDevice protocol, through the ctypes binding of nvidia-ml-py."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pynvml

from dashtop.catalog.gpu import pcie_bandwidth
from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.ports import ByteRates, Clocks, GpuUtilization, MemoryUse, PcieLink
from dashtop.domain.sample import Device, GpuProcess
from dashtop.sources.nvml_gate import call, call_or_none, reason_of
from dashtop.sources.nvml_gpm import SmActivity

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.sources.nvml_throughput import ThroughputPoller

ResultT = TypeVar("ResultT")

MILLI = 1e-3
COUNTER_WRAP = 2**32
_PCIE_FIELDS = (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES)
_PROCESS_LISTS = (
    ("C", pynvml.nvmlDeviceGetComputeRunningProcesses),
    ("G", pynvml.nvmlDeviceGetGraphicsRunningProcesses),
    ("M", pynvml.nvmlDeviceGetMPSComputeRunningProcesses),
)


def static_facts(handle: object, index: int, driver: str | None, cuda: str | None) -> Device:
    """Ask everything about a GPU that does not change while it runs. Raises Unavailable without a UUID."""
    capability = call_or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = call_or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    power = call_or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    pci = call_or_none(pynvml.nvmlDeviceGetPciInfo, handle)
    slowdown, shutdown = (
        call_or_none(pynvml.nvmlDeviceGetTemperatureThreshold, handle, kind)
        for kind in (pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
    )
    return Device(
        uuid=call(pynvml.nvmlDeviceGetUUID, handle),
        index=index,
        name=call_or_none(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU",
        memory_total_bytes=memory.total if memory is not None else None,
        driver_version=driver,
        cuda_version=cuda,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability is not None else None,
        pci_bus_id=pci.busId if pci is not None else None,
        power_limit_watts=power * MILLI if power is not None else None,
        slowdown_celsius=slowdown or None,
        shutdown_celsius=shutdown or None,
    )


class NvmlDevice:
    """Implements GpuDevice. Within one tick each NVML function is called once, however many rows need it."""

    def __init__(self, handle: object, throughput: ThroughputPoller) -> None:
        self._handle = handle
        self._throughput = throughput
        self._answers: dict[Callable[..., object], object] = {}
        self._now = 0.0
        self._pcie_last: tuple[float, int, int] | None = None
        self._sm_activity = SmActivity(handle)
        self._memory_function: Callable[..., object] = _memory_v2

    def begin(self, now: float) -> None:
        """Start a tick at `now` (monotonic seconds): forget the answers of the last one."""
        self._now = now
        self._answers.clear()

    def close(self) -> None:
        """Give back what the driver has handed out."""
        self._sm_activity.close()

    def _once(self, function: Callable[..., ResultT], *arguments: object) -> ResultT:
        try:
            answer = self._answers[function]
        except KeyError:
            try:
                answer = call(function, self._handle, *arguments)
            except Unavailable as missing:
                answer = missing
            self._answers[function] = answer
        if isinstance(answer, Unavailable):
            raise answer
        return answer  # type: ignore[return-value]

    def utilization(self) -> GpuUtilization:
        """Percent busy."""
        rates = self._once(pynvml.nvmlDeviceGetUtilizationRates)
        return GpuUtilization(rates.gpu, rates.memory)

    def sm_activity(self) -> float:
        """Percent of time with at least one warp on a multiprocessor, averaged over all (NVML GPM)."""
        return self._sm_activity.read()

    def memory(self) -> MemoryUse:
        """Framebuffer memory without the driver's reserve.

        Only version 2 of the structure tells the reserve apart (NVML manual, nvmlMemory_v2_t); the first version,
        for drivers before R510, counts it as used.
        """
        try:
            info = self._once(self._memory_function)
        except Unavailable as missing:
            if missing.reason is not Reason.LIBRARY_TOO_OLD or self._memory_function is not _memory_v2:
                raise
            self._memory_function = pynvml.nvmlDeviceGetMemoryInfo
            info = self._once(self._memory_function)
        return MemoryUse(info.used, info.total, info.free)  # type: ignore[attr-defined]

    def temperature(self) -> float:
        """°C of the GPU core."""
        return float(self._once(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU))

    def power_usage(self) -> float:
        """Watts drawn by the whole board."""
        return float(self._once(pynvml.nvmlDeviceGetPowerUsage)) * MILLI

    def power_limit(self) -> float:
        """Watts the board is held to at present."""
        return float(self._once(pynvml.nvmlDeviceGetEnforcedPowerLimit)) * MILLI

    def fan_speed(self) -> float:
        """Percent of the fan's maximum."""
        return float(self._once(pynvml.nvmlDeviceGetFanSpeed))

    def clocks(self) -> Clocks:
        """Clocks now, MHz."""
        return Clocks(self._once(_graphics_clock), self._once(_memory_clock))

    def max_clocks(self) -> Clocks:
        """Clocks at most, MHz."""
        return Clocks(self._once(_max_graphics_clock), self._once(_max_memory_clock))

    def pcie_link(self) -> PcieLink:
        """The current link."""
        return PcieLink(
            self._once(pynvml.nvmlDeviceGetCurrPcieLinkGeneration), self._once(pynvml.nvmlDeviceGetCurrPcieLinkWidth)
        )

    def pcie_rates(self) -> ByteRates:
        """PCIe traffic in bytes per second: from byte counters, else from the poller beside the main path."""
        try:
            return self._once(self._counted_pcie_rates)
        except Unavailable as missing:
            if missing.reason is Reason.FIRST_READING:
                raise
        return self._throughput.rates(self._handle)

    def _counted_pcie_rates(self, handle: object) -> ByteRates:
        sent, received = pynvml.nvmlDeviceGetFieldValues(handle, _PCIE_FIELDS)
        for field in (sent, received):
            if field.nvmlReturn != pynvml.NVML_SUCCESS:
                raise Unavailable(reason_of(field.nvmlReturn))
        counts = (sent.value.ullVal, received.value.ullVal)
        last, self._pcie_last = self._pcie_last, (self._now, *counts)
        if last is None or self._now <= last[0]:
            raise Unavailable(Reason.FIRST_READING)
        seconds = self._now - last[0]
        sent_bytes, received_bytes = (
            self._counted(then, now, seconds) for then, now in zip(last[1:], counts, strict=True)
        )
        return ByteRates(sent_bytes / seconds, received_bytes / seconds)

    def _counted(self, then: int, now: int, seconds: float) -> int:
        """Return what a counter has counted; Unavailable(NOT_SUPPORTED) where it may have wrapped unseen.

        The counters may wrap (nvml.h, NVML_FI_DEV_PCIE_COUNT_TX_BYTES), and one that was never past 32 bits may do so
        several times a second on a fast link.
        """
        if max(then, now) >= COUNTER_WRAP:
            if now < then:
                raise Unavailable(Reason.FIRST_READING)
            return now - then
        if pcie_bandwidth(self.pcie_link()) * 1e9 * seconds >= COUNTER_WRAP:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return (now - then) % COUNTER_WRAP

    def encoder_utilization(self) -> float:
        """Percent busy."""
        return float(self._once(pynvml.nvmlDeviceGetEncoderUtilization)[0])

    def decoder_utilization(self) -> float:
        """Percent busy."""
        return float(self._once(pynvml.nvmlDeviceGetDecoderUtilization)[0])

    def processes(self) -> tuple[GpuProcess, ...]:
        """Every process with memory on this GPU, once, largest first; empty where no list can be had."""
        found: dict[int, GpuProcess] = {}
        for kind, function in _PROCESS_LISTS:
            try:
                entries = self._once(function)
            except Unavailable:
                continue
            for entry in entries:
                found[entry.pid] = _merge(found.get(entry.pid), kind, entry.pid, entry.usedGpuMemory)
        return tuple(sorted(found.values(), key=lambda process: -(process.gpu_memory_bytes or 0)))


def _merge(known: GpuProcess | None, kind: str, pid: int, memory: int | None) -> GpuProcess:
    """Join a process that stands in several of NVML's lists: each list tells its whole memory, so they don't add up."""
    if known is None:
        return GpuProcess(pid=pid, kind=kind, gpu_memory_bytes=memory)
    sizes = [size for size in (known.gpu_memory_bytes, memory) if size is not None]
    return GpuProcess(pid=pid, kind=f"{known.kind}+{kind}", gpu_memory_bytes=max(sizes) if sizes else None)


def _memory_v2(handle: object) -> object:
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)


def _graphics_clock(handle: object) -> float:
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))


def _memory_clock(handle: object) -> float:
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def _max_graphics_clock(handle: object) -> float:
    return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))


def _max_memory_clock(handle: object) -> float:
    return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))
