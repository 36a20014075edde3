"""The last hour and a bit at full resolution, in RAM: a ring with one row a sample and one column a series."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import numpy as np

from dashtop.history.rollup import Readings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.history.encoder import Layout
    from dashtop.model.sample import SeriesKey

SPAN_S = 3660.0
"""The minute more is for what is shown in whole minutes of an hour: the first of them begins before it."""


class Ring:
    """Float32 values, 4 bytes a reading: 8 GPUs at one second take about 3 MB."""

    def __init__(self, *, interval_s: float, span_s: float = SPAN_S) -> None:
        self._capacity = math.ceil(span_s / interval_s) + 1
        self._times: NDArray[np.int64] = np.zeros(self._capacity, dtype=np.int64)
        self._rows: NDArray[np.float32] = np.full((self._capacity, 0), np.nan, dtype=np.float32)
        self._columns: dict[str | None, Columns] = {}
        self._last_seen: dict[str | None, int] = {}
        self._places: dict[Layout, NDArray[np.intp]] = {}
        self._written = 0
        self._oldest = 0
        self._lock = threading.Lock()

    def append(self, time_ms: int, layout: Layout, row: NDArray[np.float32]) -> None:
        """Keep the numbers of a sample, NaN where there is no reading.

        When the wall clock was set back, the readings stamped later than now are dropped: times always ascend.
        """
        with self._lock:
            while self._written > self._oldest and self._time(self._written - 1) >= time_ms:
                self._written -= 1
            places = self._places.get(layout)
            if places is None:
                places = self._placed(layout)
            slot = self._written % self._capacity
            self._times[slot] = time_ms
            self._rows[slot] = np.nan
            self._rows[slot, places] = row
            self._last_seen.update(dict.fromkeys(layout.scopes, self._written))
            self._written += 1
            self._oldest = max(self._oldest, self._written - self._capacity)

    def covers(self, start_ms: int) -> bool:
        """Tell whether every sample since `start_ms` that was ever appended is here."""
        with self._lock:
            return self._oldest < self._written and self._time(self._oldest) <= start_ms

    def readings(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int) -> Readings:
        """Return the readings in [start_ms, end_ms), a row a key; a key that was never seen has none."""
        with self._lock:
            order = np.arange(self._oldest, self._written) % self._capacity
            times = self._times[order]
            first, last = np.searchsorted(times, (start_ms, end_ms))
            times, order = times[first:last], order[first:last]
            values = np.full((len(keys), len(order)), np.nan, dtype=np.float32)
            for row, key in enumerate(keys):
                columns = self._columns.get(key.gpu_uuid)
                if columns is not None and key.metric in columns.positions:
                    values[row] = self._rows[order, columns.positions[key.metric]]
        return Readings.raw(times, values)

    def _time(self, row: int) -> int:
        return int(self._times[row % self._capacity])

    def _placed(self, layout: Layout) -> NDArray[np.intp]:
        """Return the column of each number of a layout not seen before."""
        # Those known already are wanted again: no new one may take their room.
        self._last_seen.update(dict.fromkeys(self._columns.keys() & set(layout.scopes), self._written))
        for scope, metrics in zip(layout.scopes, layout.metrics, strict=True):
            if scope not in self._columns:
                self._columns[scope] = Columns(self._room_for(len(metrics)), metrics)
                self._last_seen[scope] = self._written
        positions = [self._columns[key.gpu_uuid].positions[key.metric] for key in layout.keys]
        places = self._places[layout] = np.array(positions, dtype=np.intp)
        return places

    def _room_for(self, count: int) -> int:
        """Find room for a scope not seen before: where one was that has left the ring, else in new columns."""
        for scope, seen in list(self._last_seen.items()):
            if seen < self._oldest and len(self._columns[scope].positions) == count:
                del self._last_seen[scope]
                self._places.clear()
                return self._columns.pop(scope).first
        first: int = self._rows.shape[1]
        wider = np.full((self._capacity, first + count), np.nan, dtype=np.float32)
        wider[:, :first] = self._rows
        self._rows = wider
        return first


class Columns:
    """Where the values of one scope stand, side by side."""

    def __init__(self, first: int, metrics: Sequence[str]) -> None:
        self.first = first
        self.positions = {metric: first + offset for offset, metric in enumerate(metrics)}
