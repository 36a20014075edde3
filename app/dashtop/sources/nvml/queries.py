"""Single questions to NVML, each a function of a device's handle, in the units of the ports."""

from __future__ import annotations

from typing import Any

import pynvml

from dashtop.model.ports import ByteRates, MemoryUse, NvLinks, PowerRange, RemappedRows, RetiredPages
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.errors import call

MILLI = 1e-3
KILOBYTE = 1000.0
MOST_NVLINKS = 36

Handle = Any


def memory_v2(handle: Handle) -> Any:
    """Memory with the driver's reserve told apart (NVML manual, nvmlMemory_v2_t; R510 and later)."""
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)


def bar1(handle: Handle) -> MemoryUse:
    """Bytes of the BAR1 window."""
    info = pynvml.nvmlDeviceGetBAR1MemoryInfo(handle)
    return MemoryUse(info.bar1Used, info.bar1Total, info.bar1Free)


def slowdown_temperature(handle: Handle) -> float:
    """°C at which the GPU slows itself down; 0 is how the driver says that there is no such limit."""
    return _threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)


def shutdown_temperature(handle: Handle) -> float:
    """°C at which the GPU switches off."""
    return _threshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)


def _threshold(handle: Handle, kind: int) -> float:
    celsius = pynvml.nvmlDeviceGetTemperatureThreshold(handle, kind)
    if not celsius:
        raise Unavailable(UnavailableReason.NOT_SUPPORTED)
    return float(celsius)


def power_limit_range(handle: Handle) -> PowerRange:
    """Watts that the limit can be set to."""
    lowest, highest = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    return PowerRange(lowest * MILLI, highest * MILLI)


def energy(handle: Handle) -> float:
    """Joules drawn since the driver was loaded."""
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * MILLI)


def pcie_throughput(handle: Handle) -> ByteRates:
    """Bytes per second over 20 ms a direction, for which the call blocks (NVML manual: it answers in KB/s)."""
    sent, received = (
        pynvml.nvmlDeviceGetPcieThroughput(handle, counter) * KILOBYTE
        for counter in (pynvml.NVML_PCIE_UTIL_TX_BYTES, pynvml.NVML_PCIE_UTIL_RX_BYTES)
    )
    return ByteRates(sent, received)


def nvlinks(handle: Handle) -> NvLinks:
    """Links that there are, and those that are up. A GPU without NVLink is NOT_SUPPORTED."""
    states = []
    for link in range(MOST_NVLINKS):
        try:
            states.append(call(pynvml.nvmlDeviceGetNvLinkState, handle, link))
        except Unavailable:
            if link == 0:
                raise
            break
    return NvLinks(len(states), sum(states))


def ecc_errors(handle: Handle, corrected: bool, lifetime: bool) -> int:
    """Memory errors by what became of them and since when they are counted."""
    kind = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED if corrected else pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    since = pynvml.NVML_AGGREGATE_ECC if lifetime else pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, since))


def retired_pages(handle: Handle) -> RetiredPages:
    """Pages out of use, by cause."""
    single, double = (
        len(pynvml.nvmlDeviceGetRetiredPages(handle, cause))
        for cause in (
            pynvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
            pynvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
        )
    )
    return RetiredPages(single, double, int(pynvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)))


def remapped_rows(handle: Handle) -> RemappedRows:
    """Rows replaced by spares."""
    return RemappedRows(*pynvml.nvmlDeviceGetRemappedRows(handle))


def encoder_sessions(handle: Handle) -> int:
    """Video encoding sessions open."""
    return int(pynvml.nvmlDeviceGetEncoderStats(handle)[0])


def graphics_clock(handle: Handle) -> float:
    """MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))


def memory_clock(handle: Handle) -> float:
    """MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def sm_clock(handle: Handle) -> float:
    """MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))


def video_clock(handle: Handle) -> float:
    """MHz."""
    return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_VIDEO))


def max_graphics_clock(handle: Handle) -> float:
    """MHz."""
    return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_GRAPHICS))


def max_memory_clock(handle: Handle) -> float:
    """MHz."""
    return float(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def mig_mode(handle: Handle) -> int:
    """1 if MIG mode is enabled."""
    return int(pynvml.nvmlDeviceGetMigMode(handle)[0])
