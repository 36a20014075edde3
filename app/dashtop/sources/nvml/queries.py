"""NVML calls as functions of a device handle, with results in the units of GpuDevice, and the activity from GPM."""

from __future__ import annotations

import ctypes
import time
from typing import Any, NamedTuple

import pynvml

from dashtop.model.readers import ByteRates, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.bindings import call, call_or_none, check, find_function, get_reason

MILLI = 1e-3
KILOBYTE = 1000.0
MAX_NVLINKS = 36
# NVML manual, nvmlGpmMetricsGet: samples closer than 100 ms may not carry valid metrics.
MIN_GPM_INTERVAL_S = 0.1

Handle = Any


class ReservedMemory(NamedTuple):
    """Bytes of device memory, and those that the driver reserves, which do not count as used."""

    use: MemoryUse
    reserved: int


def memory_v2(handle: Handle) -> ReservedMemory:
    """Return memory with the part reserved by the driver (NVML manual, nvmlMemory_v2_t; R510 and later).

    pynvml runs Python code for each field of a struct that is read, so each is read once.
    """
    info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    return ReservedMemory(MemoryUse(info.used, info.total, info.free), info.reserved)


def memory_v1(handle: Handle) -> MemoryUse:
    """Return memory; what the driver reserves counts as used."""
    info = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return MemoryUse(info.used, info.total, info.free)


def bar1(handle: Handle) -> MemoryUse:
    """Return bytes of the BAR1 window."""
    info = pynvml.nvmlDeviceGetBAR1MemoryInfo(handle)
    return MemoryUse(info.bar1Used, info.bar1Total, info.bar1Free)


def slowdown_temperature(handle: Handle) -> float:
    """Return °C at which the GPU reduces its clocks."""
    return _threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)


def shutdown_temperature(handle: Handle) -> float:
    """Return °C at which the GPU shuts down."""
    return _threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)


def _threshold(handle: Handle, kind: int) -> float:
    """Return °C. The driver reports 0 if there is no such limit."""
    celsius = pynvml.nvmlDeviceGetTemperatureThreshold(handle, kind)
    if not celsius:
        raise Unavailable(UnavailableReason.NOT_SUPPORTED)
    return float(celsius)


def memory_temperature_limit(handle: Handle) -> float:
    """Return °C of the memory's limit.

    Drivers report a margin instead for some GPUs (NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT); there is no reading that it
    could be compared with.
    """
    return _threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_MEM_MAX)


def fan_rpm(handle: Handle) -> float:
    """Return the RPM of the slowest fan (R565 and later)."""
    find_function("nvmlDeviceGetFanSpeedRPM")  # older drivers need not be asked for the number of fans
    count = pynvml.nvmlDeviceGetNumFans(handle)
    if not count:
        raise Unavailable(UnavailableReason.NOT_SUPPORTED)
    return float(min(read_fan_rpm(handle, fan) for fan in range(count)))


def read_fan_rpm(handle: Handle, fan: int) -> int:
    """Return the RPM of one fan. pynvml's own function reads the first one only."""
    info = pynvml.c_nvmlFanSpeedInfo_t(version=pynvml.nvmlFanSpeedInfo_v1, fan=fan)
    code = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFanSpeedRPM")(handle, ctypes.byref(info))  # noqa: SLF001
    if code != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(code)
    return int(info.speed)


def recovery_action(handle: Handle) -> int:
    """Return the recovery action that the driver asks for (R570 and later)."""
    (field,) = call(pynvml.nvmlDeviceGetFieldValues, handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if field.nvmlReturn == pynvml.NVML_ERROR_INVALID_ARGUMENT:  # this driver does not know the field
        raise Unavailable(UnavailableReason.LIBRARY_TOO_OLD)
    check(field.nvmlReturn)
    return int(field.value.uiVal)


def power_limit_range(handle: Handle) -> PowerRange:
    """Return the watts between which the limit can be set."""
    lowest, highest = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    return PowerRange(lowest * MILLI, highest * MILLI)


def energy(handle: Handle) -> float:
    """Return joules since the driver was loaded."""
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * MILLI)


def pcie_throughput(handle: Handle) -> ByteRates:
    """Return bytes per second. The call blocks 20 ms per direction (NVML manual; it returns KB/s)."""
    sent, received = (
        pynvml.nvmlDeviceGetPcieThroughput(handle, counter) * KILOBYTE
        for counter in (pynvml.NVML_PCIE_UTIL_TX_BYTES, pynvml.NVML_PCIE_UTIL_RX_BYTES)
    )
    return ByteRates(sent, received)


def nvlinks(handle: Handle) -> NvLinks:
    """Return the number of links and of active links. Raise Unavailable(NOT_SUPPORTED) without NVLink."""
    states = []
    for link in range(MAX_NVLINKS):
        try:
            states.append(call(pynvml.nvmlDeviceGetNvLinkState, handle, link))
        except Unavailable:
            if link == 0:
                raise
            break
    return NvLinks(len(states), sum(states))


def ecc_errors(handle: Handle, corrected: bool, lifetime: bool) -> int:
    """Return the number of memory errors, since the last reboot or in the lifetime of the GPU."""
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED if corrected else pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    since = pynvml.NVML_AGGREGATE_ECC if lifetime else pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))


def retired_pages(handle: Handle) -> RetiredPages:
    """Return the number of retired pages by cause."""
    single, double = (
        len(pynvml.nvmlDeviceGetRetiredPages(handle, cause))
        for cause in (
            pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
            pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
        )
    )
    return RetiredPages(single, double)


def remapped_rows(handle: Handle) -> RemappedRows:
    """Return the number of remapped rows."""
    return RemappedRows(*pynvml.nvmlDeviceGetRemappedRows(handle))


def encoder_sessions(handle: Handle) -> int:
    """Return the number of open video encoding sessions."""
    return int(pynvml.nvmlDeviceGetEncoderStats(handle)[0])


def graphics_clock(handle: Handle) -> float:
    """Return MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))


def memory_clock(handle: Handle) -> float:
    """Return MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def sm_clock(handle: Handle) -> float:
    """Return MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))


def video_clock(handle: Handle) -> float:
    """Return MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_VIDEO))


def max_graphics_clock(handle: Handle) -> float:
    """Return MHz."""
    return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))


def max_memory_clock(handle: Handle) -> float:
    """Return MHz."""
    return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def mig_mode(handle: Handle) -> int:
    """Return 1 if the GPU is split into MIG instances, else 0."""
    return int(pynvml.nvmlDeviceGetMigMode(handle)[0])


class Activity(NamedTuple):
    """SM activity, occupancy, tensor and DRAM activity: percent since the last sample (see GpuDevice)."""

    sm: float | Unavailable
    occupancy: float | Unavailable
    tensor: float | Unavailable
    dram: float | Unavailable


GPM_METRIC_IDS = (
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
)


class GpmReader:
    """Compares the last two samples of GPU Performance Monitoring (GPM) of one GPU. Supported by Hopper and later."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._samples: list[Any] = []
        self._sampled_at = 0.0
        self._request = _build_gpm_request()

    def read(self) -> Activity:
        """Return the activity since the last call.

        Raise Unavailable: NOT_SUPPORTED, or FIRST_READING the first time and within MIN_GPM_INTERVAL_S.
        """
        if not self._samples:
            if not call(pynvml.nvmlGpmQueryDeviceSupport, self._handle).isSupportedDevice:
                raise Unavailable(UnavailableReason.NOT_SUPPORTED)
            self._samples = [call(pynvml.nvmlGpmSampleAlloc), call(pynvml.nvmlGpmSampleAlloc)]
            self._take_sample()
            raise Unavailable(UnavailableReason.FIRST_READING)
        if time.monotonic() - self._sampled_at <= MIN_GPM_INTERVAL_S:
            raise Unavailable(UnavailableReason.FIRST_READING)
        self._samples.reverse()
        self._take_sample()
        request = self._request
        request.sample2, request.sample1 = self._samples
        call(pynvml.nvmlGpmMetricsGet, request)
        return Activity(*(_parse_gpm_metric(request.metrics[position]) for position in range(len(GPM_METRIC_IDS))))

    def _take_sample(self) -> None:
        call(pynvml.nvmlGpmSampleGet, self._handle, self._samples[0])
        self._sampled_at = time.monotonic()

    def close(self) -> None:
        """Free the samples."""
        for sample in self._samples:
            call_or_none(pynvml.nvmlGpmSampleFree, sample)
        self._samples = []


def _build_gpm_request() -> Any:
    """Return the request for GPM_METRIC_IDS, without the two samples."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(GPM_METRIC_IDS)
    for position, metric_id in enumerate(GPM_METRIC_IDS):
        request.metrics[position].metricId = metric_id
    return request


def _parse_gpm_metric(metric: Any) -> float | Unavailable:
    if metric.nvmlReturn != pynvml.NVML_SUCCESS:
        return Unavailable(get_reason(metric.nvmlReturn))
    return float(metric.value)
