"""PCIe and NVLink throughput, energy rate, and the other values that NVML reports as field values."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from dashtop.model.readers import ByteRates
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.io_devices import Rate
from dashtop.sources.nvml import queries
from dashtop.sources.nvml.background_poller import RetryAfter
from dashtop.sources.nvml.bindings import FIELD_VALUE, call, check, find_function, get_reason

if TYPE_CHECKING:
    Counts = tuple[int | Unavailable, int | Unavailable]

KIB = 1024
COUNTER_WRAP = 2**32
UINT32_MASK = ALL_LINKS = 2**32 - 1
# Short enough that a generation 6 link of 16 lanes (121 GB/s) cannot wrap 32 bits twice.
PCIE_WINDOW_S = 0.025
# Bytes per second of generation 6 with 16 lanes.
MAX_PCIE_BANDWIDTH = 121e9
# The longest time between two readings. A link that carries less than 2^32 bytes in it cannot wrap unnoticed.
MAX_READ_INTERVAL_S = 2.0

MEMORY_TEMPERATURE = pynvml.NVML_FI_DEV_MEMORY_TEMP
POWER_INSTANT = pynvml.NVML_FI_DEV_POWER_INSTANT
POWER_AVERAGE = pynvml.NVML_FI_DEV_POWER_AVERAGE
PCIE_TX, PCIE_RX = pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES
NVLINK_TX = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
NVLINK_RX = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
FIELD_IDS = (MEMORY_TEMPERATURE, POWER_INSTANT, POWER_AVERAGE, PCIE_TX, PCIE_RX, NVLINK_TX, NVLINK_RX)
FIELD_REQUESTS = {
    field_id: FIELD_VALUE.pack(field_id, ALL_LINKS if field_id in {NVLINK_TX, NVLINK_RX} else 0, 0, 0, 0, 0, 0)
    for field_id in FIELD_IDS
}


class EnergyRate:
    """Average power from the energy counter of a GPU."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._joules = Rate()

    def read(self) -> float:
        """Return watts since the last call. Raise Unavailable(FIRST_READING) the first time."""
        return self._joules.update(round(queries.energy(self._handle)), time.monotonic())


class NvLinkThroughput:
    """Payload bytes per second of all NVLink links, from 64-bit counters in KiB (nvml.h)."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int] | None = None

    def update(self, now: float, counts: Counts) -> ByteRates | Unavailable:
        """Return the rates since the last counters. `now`: when these were read, in monotonic seconds."""
        sent, received = counts
        if isinstance(sent, Unavailable):
            return sent
        if isinstance(received, Unavailable):
            return received
        last, self._last = self._last, (now, sent * KIB, received * KIB)
        return calculate_rates(last, self._last)


class PcieThroughput:
    """Bytes per second over PCIe, as seen from the GPU.

    The driver returns the low 32 bits of its counters ("can be wrapped", nvml.h at NVML_FI_DEV_PCIE_COUNT_TX_BYTES). A
    fast link wraps them several times a second; there they are read twice, PCIE_WINDOW_S apart. A GPU without counters
    is read with nvmlDeviceGetPcieThroughput, which blocks 20 ms per direction.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._last: tuple[float, int, int] | None = None
        self.link_bandwidth: float | None = None
        """Bytes per second that the link can carry; None: not known."""

    def needs_window(self, counts: Counts) -> bool:
        """Return whether these counters can wrap unnoticed from one second to the next."""
        is_slow = self.link_bandwidth is not None and self.link_bandwidth * MAX_READ_INTERVAL_S < COUNTER_WRAP
        return not is_slow and not any(isinstance(count, Unavailable) or count >= COUNTER_WRAP for count in counts)

    def start_window(self, now: float, counts: Counts) -> None:
        """Store the first counters of a window."""
        self._last = _join_counts(now, counts)

    def update(self, now: float, counts: Counts) -> ByteRates | Unavailable:
        """Return the rates since the last counters. `now`: when these were read, in monotonic seconds."""
        current = _join_counts(now, counts)
        last, self._last = self._last, current
        is_too_late = self.needs_window(counts) and last is not None and self._can_have_wrapped(now - last[0])
        return self._measure() if current is None or is_too_late else calculate_rates(last, current)

    def _can_have_wrapped(self, seconds: float) -> bool:
        return seconds * (self.link_bandwidth or MAX_PCIE_BANDWIDTH) >= COUNTER_WRAP

    def _measure(self) -> ByteRates | Unavailable:
        try:
            return call(queries.pcie_throughput, self._handle)
        except Unavailable as error:
            return error


def _join_counts(now: float, counts: Counts) -> tuple[float, int, int] | None:
    sent, received = counts
    if isinstance(sent, Unavailable) or isinstance(received, Unavailable):
        return None
    return now, sent, received


def calculate_rates(before: tuple[float, int, int] | None, after: tuple[float, int, int]) -> ByteRates | Unavailable:
    """Return bytes per second between two readings, each of (monotonic seconds, bytes sent, bytes received)."""
    if before is None or after[0] <= before[0]:
        return Unavailable(UnavailableReason.FIRST_READING)
    differences = []
    for old, new in zip(before[1:], after[1:], strict=True):
        is_64_bit = max(old, new) >= COUNTER_WRAP
        if is_64_bit and new < old:
            return Unavailable(UnavailableReason.FIRST_READING)
        differences.append(new - old if is_64_bit else (new - old) % COUNTER_WRAP)
    seconds = after[0] - before[0]
    return ByteRates(differences[0] / seconds, differences[1] / seconds)


class FieldReadings(NamedTuple):
    """Values in °C, watts and bytes per second; each may be missing for a reason of its own."""

    memory_temperature: float | Unavailable
    power_instant: float | Unavailable
    power_average: float | Unavailable
    pcie: ByteRates | Unavailable
    nvlink: ByteRates | Unavailable


class FieldReader:
    """Reads all field values of one GPU in one call.

    A field that the GPU does not have is read again rarely, because some cost milliseconds even when they fail.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._array = ctypes.create_string_buffer(len(FIELD_IDS) * FIELD_VALUE.size)
        self._missing: dict[int, tuple[Unavailable, float]] = {}
        self._nvlink = NvLinkThroughput()
        self._read_at = 0.0
        self._window_start: dict[int, int | Unavailable] | None = None
        self.pcie = PcieThroughput(handle)

    def read(self) -> FieldReadings:
        """Read every field. Raise RetryAfter if the PCIe counters must be read a second time after a short window."""
        values, self._window_start = self._window_start, None
        if values is None:
            values, self._read_at = self._read_fields(FIELD_IDS), time.monotonic()
            now, pcie = self._read_at, (values[PCIE_TX], values[PCIE_RX])
            if self.pcie.needs_window(pcie):
                self.pcie.start_window(now, pcie)
                self._window_start = values
                raise RetryAfter(PCIE_WINDOW_S)
        else:
            values |= self._read_fields((PCIE_TX, PCIE_RX))
            now = time.monotonic()
        return FieldReadings(
            memory_temperature=_to_celsius(values[MEMORY_TEMPERATURE]),
            power_instant=_to_watts(values[POWER_INSTANT]),
            power_average=_to_watts(values[POWER_AVERAGE]),
            pcie=self.pcie.update(now, (values[PCIE_TX], values[PCIE_RX])),
            nvlink=self._nvlink.update(self._read_at, (values[NVLINK_TX], values[NVLINK_RX])),
        )

    def _read_fields(self, field_ids: tuple[int, ...]) -> dict[int, int | Unavailable]:
        now = time.monotonic()
        values: dict[int, int | Unavailable] = {
            field_id: error
            for field_id, (error, until) in self._missing.items()
            if now < until and field_id in field_ids
        }
        due = [field_id for field_id in field_ids if field_id not in values]
        if not due:
            return values
        request = b"".join(FIELD_REQUESTS[field_id] for field_id in due)
        ctypes.memmove(self._array, request, len(request))
        try:
            check(find_function("nvmlDeviceGetFieldValues")(self._handle, len(due), self._array))
        except Unavailable as error:
            if error.reason.retry_after_s is None:
                raise
            results: list[int | Unavailable] = [error] * len(due)
        else:
            rows = FIELD_VALUE.iter_unpack(memoryview(self._array)[: len(request)])
            results = [_parse_field(*row) for row in rows]
        for field_id, result in zip(due, results, strict=True):
            values[field_id] = result
            if isinstance(result, Unavailable) and result.reason.retry_after_s is not None:
                self._missing[field_id] = (result, now + result.reason.retry_after_s)
        return values


def _parse_field(
    _field_id: int, _scope: int, _timestamp: int, _latency: int, value_type: int, code: int, value: int
) -> int | Unavailable:
    if code == pynvml.NVML_ERROR_INVALID_ARGUMENT:  # this driver does not know the field
        return Unavailable(UnavailableReason.LIBRARY_TOO_OLD)
    if code != pynvml.NVML_SUCCESS:
        return Unavailable(get_reason(code))
    return value & UINT32_MASK if value_type == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT else value


def _to_watts(milliwatts: int | Unavailable) -> float | Unavailable:
    return milliwatts if isinstance(milliwatts, Unavailable) else milliwatts * queries.MILLI


def _to_celsius(value: int | Unavailable) -> float | Unavailable:
    """Return degrees. Some cards report 0 if they have no such sensor."""
    if isinstance(value, Unavailable):
        return value
    return float(value) if value else Unavailable(UnavailableReason.NOT_SUPPORTED)
