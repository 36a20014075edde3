"""The last hour at full resolution in RAM: a ring buffer with a row per series and a column per sample.

The readings of a series are adjacent, so that reading a chart does not cause a cache miss for each sample. With 16 GPUs
and cold caches, an hour of 16 series takes 0.1 ms (0.5 ms with a row per sample), and appending a sample 0.04 ms.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import numpy as np

from dashtop.history.encoder import MAX_LAYOUTS
from dashtop.history.rollup import Readings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.history.encoder import Layout
    from dashtop.model.sample import SeriesKey

SPAN_S = 3660.0
"""One minute more than an hour: a chart in whole minutes begins before the hour does."""

MAX_ABSENT_SCOPES = 32
"""GPUs that keep their rows although they are not in the newest sample. Those of the longest absent are reused."""


class Ring:
    """Float32 values, 4 bytes a reading: 8 GPUs at one second take about 5 MB."""

    def __init__(self, *, interval_s: float, span_s: float = SPAN_S) -> None:
        self._capacity = math.ceil(span_s / interval_s) + 1
        self._times: NDArray[np.int64] = np.zeros(self._capacity, dtype=np.int64)
        self._values: NDArray[np.float32] = np.full((0, self._capacity), np.nan, dtype=np.float32)
        self._rows: dict[str | None, Rows] = {}
        self._last_seen: dict[str | None, int] = {}
        self._positions: dict[Layout, NDArray[np.intp]] = {}
        self._written = 0
        self._oldest = 0
        self._lock = threading.Lock()

    def append(self, time_ms: int, layout: Layout, values: NDArray[np.float32]) -> None:
        """Append the values of a sample, NaN for no reading.

        If the wall clock was set back, the readings with later times are dropped: times always ascend.
        """
        with self._lock:
            while self._written > self._oldest and self._time(self._written - 1) >= time_ms:
                self._written -= 1
            positions = self._positions.get(layout)
            if positions is None:
                positions = self._add_layout(layout)
            slot = self._written % self._capacity
            self._times[slot] = time_ms
            self._values[:, slot] = np.nan
            self._values[positions, slot] = values
            self._last_seen.update(dict.fromkeys(layout.scopes, self._written))
            self._written += 1
            self._oldest = max(self._oldest, self._written - self._capacity)

    def covers(self, start_ms: int) -> bool:
        """Return whether the ring holds every appended sample since `start_ms`."""
        with self._lock:
            return self._oldest < self._written and self._time(self._oldest) <= start_ms

    def read(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int) -> Readings:
        """Return the readings in [start_ms, end_ms), a row per key; an unknown key has none."""
        with self._lock:
            times = np.concatenate([self._times[part] for part in self._find_slots(self._oldest, self._written)])
            first, last = (int(each) for each in np.searchsorted(times, (start_ms, end_ms)))
            parts = self._find_slots(self._oldest + first, self._oldest + max(first, last))
            values = np.full((len(keys), max(last - first, 0)), np.nan, dtype=np.float32)
            for number, key in enumerate(keys):
                rows = self._rows.get(key.gpu_uuid)
                if rows is not None and key.metric in rows.positions:
                    readings = self._values[rows.positions[key.metric]]
                    np.concatenate([readings[part] for part in parts], out=values[number])
        return Readings.from_raw(times[first:last], values)

    def _find_slots(self, first: int, end: int) -> tuple[slice, slice]:
        """Return where samples `first` to `end` are: up to the end of the ring, and from its start on."""
        slot = first % self._capacity
        before_wrap = min(end - first, self._capacity - slot)
        return slice(slot, slot + before_wrap), slice(0, end - first - before_wrap)

    def _time(self, sample: int) -> int:
        return int(self._times[sample % self._capacity])

    def _add_layout(self, layout: Layout) -> NDArray[np.intp]:
        """Return the row of each value of a new layout."""
        # The scopes that are known already are in use again: a new one must not take their rows.
        self._last_seen.update(dict.fromkeys(self._rows.keys() & set(layout.scopes), self._written))
        for scope, metrics in zip(layout.scopes, layout.metrics, strict=True):
            if scope not in self._rows:
                self._rows[scope] = Rows(self._allocate(len(metrics)), metrics)
                self._last_seen[scope] = self._written
        positions = np.array([self._rows[key.gpu_uuid].positions[key.metric] for key in layout.keys], dtype=np.intp)
        if len(self._positions) >= MAX_LAYOUTS:
            self._positions.clear()
        self._positions[layout] = positions
        return positions

    def _allocate(self, count: int) -> int:
        """Return the first of `count` rows: those of a scope that is not needed any more, or new ones."""
        absent = sorted(
            (scope for scope, last_seen in self._last_seen.items() if last_seen < self._written),
            key=lambda scope: self._last_seen[scope],
        )
        for number, scope in enumerate(absent):
            is_unneeded = self._last_seen[scope] < self._oldest or number < len(absent) - MAX_ABSENT_SCOPES
            if is_unneeded and len(self._rows[scope].positions) == count:
                del self._last_seen[scope]
                self._positions.clear()
                first = self._rows.pop(scope).first
                self._values[first : first + count] = np.nan
                return first
        first = len(self._values)
        added = np.full((count, self._capacity), np.nan, dtype=np.float32)
        self._values = np.concatenate([self._values, added])
        return first


class Rows:
    """The adjacent rows of one scope: the host or one GPU."""

    def __init__(self, first: int, metrics: Sequence[str]) -> None:
        self.first = first
        self.positions = {metric: first + offset for offset, metric in enumerate(metrics)}
