"""Readings that come as field values: all of one GPU in one call to the driver, once a second in the slow lane."""

from __future__ import annotations

import ctypes
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.arrays import FIELD_VALUE, check, function
from dashtop.sources.nvml.background_poller import Again
from dashtop.sources.nvml.errors import reason_of
from dashtop.sources.nvml.rates import RECEIVED as PCIE_RECEIVED
from dashtop.sources.nvml.rates import SENT as PCIE_SENT
from dashtop.sources.nvml.rates import WINDOW_S, NvLinkTraffic, PcieTraffic

if TYPE_CHECKING:
    from dashtop.model.ports import ByteRates

MILLI = 1e-3
EVERY_LINK = NARROW = 2**32 - 1

MEMORY_TEMPERATURE = pynvml.NVML_FI_DEV_MEMORY_TEMP
POWER_INSTANT = pynvml.NVML_FI_DEV_POWER_INSTANT
POWER_AVERAGE = pynvml.NVML_FI_DEV_POWER_AVERAGE
NVLINK_SENT = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX
NVLINK_RECEIVED = pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
ALL = (MEMORY_TEMPERATURE, POWER_INSTANT, POWER_AVERAGE, PCIE_SENT, PCIE_RECEIVED, NVLINK_SENT, NVLINK_RECEIVED)
QUESTIONS = {
    number: FIELD_VALUE.pack(number, EVERY_LINK if number in {NVLINK_SENT, NVLINK_RECEIVED} else 0, 0, 0, 0, 0, 0)
    for number in ALL
}


class FieldReadings(NamedTuple):
    """°C, watts and bytes per second; each reading, or why there is none."""

    memory_temperature: float | Unavailable
    power_instant: float | Unavailable
    power_average: float | Unavailable
    pcie: ByteRates | Unavailable
    nvlink: ByteRates | Unavailable


class FieldBatch:
    """Remembers what one GPU does not have, so that it is asked again rarely: some cost milliseconds even then."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._array = ctypes.create_string_buffer(len(ALL) * FIELD_VALUE.size)
        self._missing: dict[int, tuple[Unavailable, float]] = {}
        self._nvlink = NvLinkTraffic()
        self._asked_at = 0.0
        self._begun: dict[int, int | Unavailable] | None = None
        self.pcie = PcieTraffic(handle)

    def read(self) -> FieldReadings:
        """Ask for everything that this GPU may have; raises Again where its PCIe counters must be read twice."""
        told, self._begun = self._begun, None
        if told is None:
            told, self._asked_at = self._ask(ALL), time.monotonic()
            now, pcie = self._asked_at, (told[PCIE_SENT], told[PCIE_RECEIVED])
            if self.pcie.needs_window(pcie):
                self.pcie.begin_window(now, pcie)
                self._begun = told
                raise Again(WINDOW_S)
        else:
            told |= self._ask((PCIE_SENT, PCIE_RECEIVED))
            now = time.monotonic()
        return FieldReadings(
            memory_temperature=_celsius(told[MEMORY_TEMPERATURE]),
            power_instant=_watts(told[POWER_INSTANT]),
            power_average=_watts(told[POWER_AVERAGE]),
            pcie=self.pcie.update(now, (told[PCIE_SENT], told[PCIE_RECEIVED])),
            nvlink=self._nvlink.update(self._asked_at, (told[NVLINK_SENT], told[NVLINK_RECEIVED])),
        )

    def _ask(self, numbers: tuple[int, ...]) -> dict[int, int | Unavailable]:
        now = time.monotonic()
        told: dict[int, int | Unavailable] = {
            number: missing for number, (missing, until) in self._missing.items() if now < until and number in numbers
        }
        wanted = [number for number in numbers if number not in told]
        if not wanted:
            return told
        asked = b"".join(QUESTIONS[number] for number in wanted)
        ctypes.memmove(self._array, asked, len(asked))
        try:
            check(function("nvmlDeviceGetFieldValues")(self._handle, len(wanted), self._array))
        except Unavailable as error:
            if error.reason.retry_after_s is None:
                raise
            found: list[int | Unavailable] = [error] * len(wanted)
        else:
            found = [_number(*answer) for answer in FIELD_VALUE.iter_unpack(memoryview(self._array)[: len(asked)])]
        for number, answer in zip(wanted, found, strict=True):
            told[number] = answer
            if isinstance(answer, Unavailable) and answer.reason.retry_after_s is not None:
                self._missing[number] = (answer, now + answer.reason.retry_after_s)
        return told


def _number(_field: int, _scope: int, _at: int, _took: int, kind: int, code: int, value: int) -> int | Unavailable:
    if code == pynvml.NVML_ERROR_INVALID_ARGUMENT:  # a field that this driver does not know
        return Unavailable(UnavailableReason.LIBRARY_TOO_OLD)
    if code != pynvml.NVML_SUCCESS:
        return Unavailable(reason_of(code))
    return value & NARROW if kind == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT else value


def _watts(milliwatts: int | Unavailable) -> float | Unavailable:
    return milliwatts if isinstance(milliwatts, Unavailable) else milliwatts * MILLI


def _celsius(value: int | Unavailable) -> float | Unavailable:
    """Some cards say 0 where they have no such sensor."""
    if isinstance(value, Unavailable):
        return value
    return float(value) if value else Unavailable(UnavailableReason.NOT_SUPPORTED)
