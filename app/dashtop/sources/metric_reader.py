"""Reads a metric table row by row. A row that fails has no value and a reason; the other rows are not affected."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Generic, TypeVar

from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.metric import Metric

log = logging.getLogger(__name__)

ReaderT = TypeVar("ReaderT")

# A row is due a little before its period ends, so that a tick that comes a millisecond early does not skip it.
DUE_AFTER_SHARE_OF_PERIOD = 0.75


class MetricReader(Generic[ReaderT]):
    """The state of reading one table from one device: last values, reasons, and when each row is due again."""

    def __init__(self, metrics: Sequence[Metric[ReaderT]]) -> None:
        self._rows = [
            (metric.key, metric.read, DUE_AFTER_SHARE_OF_PERIOD * metric.period_s, *metric.plausible_range)
            for metric in metrics
        ]
        self._due = [-math.inf] * len(self._rows)
        self._values: dict[str, float | None] = {metric.key: None for metric in metrics}
        self._unavailable: dict[str, UnavailableReason] = {}
        self.implausible_count = 0
        """Number of implausible readings so far."""

    def read(self, reader: ReaderT, now: float) -> tuple[Mapping[str, float | None], Mapping[str, UnavailableReason]]:
        """Read the rows that are due at `now` (monotonic seconds).

        Return the value of every row, and the reason of each missing one. A value that is not finite is a driver error,
        one outside the plausible range of its row is missing as well.
        An exception other than Unavailable is our own mistake: it is logged once per row, until the row recovers.
        """
        values, unavailable, due = self._values.copy(), self._unavailable.copy(), self._due
        for position, (key, read, period_s, lowest, highest) in enumerate(self._rows):
            if now < due[position]:
                continue
            due[position] = now + period_s
            try:
                value = float(read(reader))
                if not lowest <= value <= highest:  # nor if it is NaN
                    is_finite = math.isfinite(value)
                    raise Unavailable(  # noqa: TRY301
                        UnavailableReason.IMPLAUSIBLE if is_finite else UnavailableReason.DRIVER_ERROR
                    )
            except Unavailable as missing:
                reason = missing.reason
                self.implausible_count += reason is UnavailableReason.IMPLAUSIBLE
            except Exception:
                reason = UnavailableReason.INTERNAL_ERROR
                if unavailable.get(key) is not reason:
                    log.exception("Reading %s failed", key)
            else:
                values[key] = value
                unavailable.pop(key, None)
                continue
            values[key], unavailable[key] = None, reason
            if reason.retry_after_s is not None:
                due[position] = now + reason.retry_after_s
        self._values, self._unavailable = values, unavailable
        return values, unavailable
