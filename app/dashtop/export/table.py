"""History as one table, a piece at a time: a row for each bucket that holds a reading, a column a statistic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dashtop.metrics import METRICS
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dashtop.model.ports import History
    from dashtop.model.sample import SeriesKey

STATISTICS = ("mean", "min", "max")
DIGITS = 4
LONGEST_TITLE = 200
CELLS_AT_ONCE = 200_000
"""What is held in memory at a time: some MB as text."""


@dataclass(frozen=True, slots=True)
class Column:
    """One statistic of one series. `unit` is "" for plain numbers."""

    key: SeriesKey
    statistic: str

    @property
    def unit(self) -> str:
        """The unit's sign."""
        metric = METRICS.get(self.key.metric)
        return metric.unit.symbol if metric is not None else ""

    @property
    def title(self) -> str:
        """What stands above the column: metric, statistic, unit, and the GPU's UUID."""
        unit = f" ({self.unit})" if self.unit else ""
        gpu = f" {self.key.gpu_uuid}" if self.key.gpu_uuid is not None else ""
        return sanitize_text(f"{self.key.metric} {self.statistic}{unit}{gpu}", LONGEST_TITLE)


class Piece(NamedTuple):
    """Some rows: when each bucket begins (epoch ms), and (rows, columns) numbers, NaN where there is none."""

    times_ms: NDArray[np.int64]
    values: NDArray[np.float64]


class Table:
    """What is to be exported: [start_ms, end_ms) in buckets of `step_ms` on the epoch's grid."""

    def __init__(
        self, history: History, keys: Sequence[SeriesKey], *, start_ms: int, end_ms: int, step_ms: int
    ) -> None:
        self._history = history
        self._keys = keys
        self._start_ms = start_ms // step_ms * step_ms
        self._end_ms = end_ms
        self.step_ms = step_ms
        self.columns = tuple(Column(key, statistic) for key in keys for statistic in STATISTICS)

    def pieces(self) -> Iterator[Piece]:
        """Give the rows in the order of time. Buckets without any reading are left out."""
        if not self.columns:
            return
        rows = max(1, CELLS_AT_ONCE // len(self.columns))
        for start_ms in range(self._start_ms, self._end_ms, rows * self.step_ms):
            end_ms = min(self._end_ms, start_ms + rows * self.step_ms)
            found = self._history.query(self._keys, start_ms, end_ms, self.step_ms)
            values = np.stack(
                [statistic for each in found.series for statistic in (each.mean, each.minimum, each.maximum)], axis=1
            )
            known = ~np.isnan(values).all(axis=1)
            if known.any():
                times = found.start_ms + found.step_ms * np.flatnonzero(known)
                yield Piece(times, values[known].astype(np.float64).round(DIGITS))
