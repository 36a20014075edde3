"""Reads a metric table row by row: what is due, what is missing and why, and nothing takes another row with it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, TypeVar

from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.metric import Metric

ReaderT = TypeVar("ReaderT")

# What a device cannot tell it seldom learns later, and asking costs an exception and, for some calls, milliseconds.
# What only waits for a second reading is asked at once.
RETRY_S = {
    UnavailableReason.NOT_SUPPORTED: 300.0,
    UnavailableReason.LIBRARY_TOO_OLD: 300.0,
    UnavailableReason.NO_PERMISSION: 60.0,
    UnavailableReason.FIRST_READING: 0.0,
}

# A row is due a little before its period is over, so that a tick that comes a millisecond early does not skip it.
EARLY = 0.75


class MetricReader(Generic[ReaderT]):
    """The state of reading one table from one device: last values, reasons, and when each row is due again."""

    def __init__(self, metrics: Sequence[Metric[ReaderT]]) -> None:
        self._rows = [(metric.key, metric.read, metric.period_s) for metric in metrics]
        self._due = [-math.inf] * len(self._rows)
        self._values: dict[str, float | None] = {metric.key: None for metric in metrics}
        self._unavailable: dict[str, UnavailableReason] = {}

    def read(self, reader: ReaderT, now: float) -> tuple[Mapping[str, float | None], Mapping[str, UnavailableReason]]:
        """Read the rows due at `now` (monotonic seconds); return every row's value and the reasons of the missing.

        Any failure of a row is that row's alone. A value that is not a finite number counts as an error of the driver.
        """
        values, unavailable, due = self._values.copy(), self._unavailable.copy(), self._due
        for position, (key, read, period) in enumerate(self._rows):
            if now < due[position]:
                continue
            try:
                value = float(read(reader))
                if not math.isfinite(value):
                    raise Unavailable(UnavailableReason.DRIVER_ERROR)  # noqa: TRY301
            except Unavailable as missing:
                values[key], unavailable[key] = None, missing.reason
                due[position] = now + RETRY_S.get(missing.reason, EARLY * period)
            except Exception:  # noqa: BLE001 - a row must never take another with it, whatever a binding raises
                values[key], unavailable[key] = None, UnavailableReason.DRIVER_ERROR
                due[position] = now + EARLY * period
            else:
                values[key] = value
                unavailable.pop(key, None)
                due[position] = now + EARLY * period
        self._values, self._unavailable = values, unavailable
        return values, unavailable
