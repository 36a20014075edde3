"""Writes a past into an empty history: readings go into compressed windows at once, without passing the buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dashtop.history.compaction import find_aggregation, get_layout_id, insert_buffer, insert_window
from dashtop.history.rollup import Readings, aggregate, align_buckets, concatenate
from dashtop.history.schema import RAW, TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dashtop.history.database import Connection
    from dashtop.history.encoder import Record
    from dashtop.model.sample import SeriesKey


class Past(NamedTuple):
    """What is known from before the first sample.

    `blocks`: readings of all these series with the number of their tier, in ascending time, coarse tiers first. A block
    begins and ends on a multiple of the raw tier's window; the last one ends at `end_ms`. `records` carry events and
    spans.
    """

    keys: Sequence[SeriesKey]
    blocks: Iterable[tuple[int, Readings]]
    records: Iterable[Record]
    end_ms: int


def insert_readings(connection: Connection, past: Past, series: NDArray[np.int64]) -> None:
    """Insert the blocks and their roll-ups, as if appended one by one, in the caller's transaction."""
    aggregations = [find_aggregation(key.metric) for key in past.keys]
    layout = get_layout_id(connection, series)
    open_windows: dict[int, Readings] = {}

    def add(number: int, readings: Readings) -> None:
        """Append readings to a tier; all its windows but the last one are complete."""
        tier = TIERS[number]
        readings = concatenate([open_windows[number], readings]) if number in open_windows else readings
        starts = np.unique(readings.times_ms // tier.window_ms) * tier.window_ms
        for start_ms in map(int, starts[:-1]):
            insert_window(connection, tier, start_ms, series, readings.select(start_ms, start_ms + tier.window_ms))
        open_windows[number] = readings.select(int(starts[-1]), int(starts[-1]) + tier.window_ms)

    compacted_ms = past.end_ms // RAW.window_ms * RAW.window_ms  # the current raw window is rolled up when it is over
    for number, block in past.blocks:
        add(number, block)
        start_ms, end_ms = int(block.times_ms[0]), int(block.times_ms[-1]) + 1
        readings = block
        for tier in TIERS[number + 1 :]:
            readings = readings.select(start_ms, compacted_ms)
            if len(readings.times_ms):
                readings = aggregate(
                    readings, align_buckets(start_ms, min(end_ms, compacted_ms), tier.width_ms), aggregations
                )
                add(tier.number, readings)
    for number, readings in sorted(open_windows.items()):
        tier, start_ms = TIERS[number], int(readings.times_ms[0]) // TIERS[number].window_ms * TIERS[number].window_ms
        if start_ms == past.end_ms // tier.window_ms * tier.window_ms:
            insert_buffer(connection, tier, layout, readings)
        else:
            insert_window(connection, tier, start_ms, series, readings)
