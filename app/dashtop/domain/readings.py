"""What single questions to a GPU or the host are answered with, in plain units."""

from __future__ import annotations

from typing import NamedTuple


class GpuUtilization(NamedTuple):
    """Percent of the last sampling period in which the GPU (or its memory interface) was busy."""

    gpu: float
    memory: float


class MemoryUse(NamedTuple):
    """Sizes in bytes."""

    used: int
    total: int
    available: int


class ByteRates(NamedTuple):
    """Traffic in bytes per second; `sent` leaves the device or host, `received` enters it."""

    sent: float
    received: float


class PowerRange(NamedTuple):
    """Watts that the limit of the board may be set to."""

    minimum: float
    maximum: float


class NvLinks(NamedTuple):
    """NVLink links that the GPU has, and how many of them are up."""

    total: int
    active: int


class RetiredPages(NamedTuple):
    """Pages of device memory taken out of use (before Ampere); `pending`: 1 while some wait for a reset."""

    single_bit: int
    double_bit: int
    pending: int


class RemappedRows(NamedTuple):
    """Rows of device memory replaced by spares (Ampere and later); `pending` and `failure` are 0 or 1."""

    corrected: int
    uncorrected: int
    pending: int
    failure: int


class LoadAverage(NamedTuple):
    """Mean length of the run queue over 1, 5 and 15 minutes."""

    one: float
    five: float
    fifteen: float
