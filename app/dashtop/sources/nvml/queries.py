"""Single NVML calls as functions of a device handle, with results in the units of GpuDevice."""

from __future__ import annotations

from typing import Any

import pynvml

from dashtop.model.ports import ByteRates, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.bindings import call

MILLI = 1e-3
KILOBYTE = 1000.0
MAX_NVLINKS = 36

Handle = Any


def memory_v2(handle: Handle) -> Any:
    """Return memory with the part reserved by the driver (NVML manual, nvmlMemory_v2_t; R510 and later)."""
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)


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
    return RetiredPages(single, double, int(pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)))


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
