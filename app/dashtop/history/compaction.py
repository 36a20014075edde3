"""Compaction and retention: rows of the buffer become compressed chunks and roll-ups, the oldest windows are deleted.

All functions work in the caller's transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashtop.history.events import prune_events
from dashtop.history.rollup import Readings, aggregate, align_buckets
from dashtop.history.schema import TIERS, Tier, compress, compress_times
from dashtop.history.usage import prune_usage
from dashtop.metrics import METRICS
from dashtop.model.metric import Aggregation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dashtop.history.database import Connection

MAX_DELETED_WINDOWS = 4
"""Windows deleted at most for each one that is compacted, so that no step takes long."""
MAX_SPANS = 500_000
"""Spans of processes kept."""
ROLLUP_COLUMNS = 4
"""Mean, minimum, maximum and weight of a rolled-up reading; a raw one is its value alone."""


def find_aggregation(metric: str) -> Aggregation:
    """Return how readings of a metric are rolled up: the mean for one that this version does not know."""
    known = METRICS.get(metric)
    return known.aggregation if known is not None else Aggregation.MEAN


def compact(connection: Connection, now_ms: int) -> None:
    """Compact every window of the buffer except the current ones of `now_ms`."""
    for tier in TIERS:
        windows = connection.execute(
            "SELECT DISTINCT time_ms / ? FROM head WHERE tier = ? AND time_ms / ? <> ? ORDER BY 1",
            (tier.window_ms, tier.number, tier.window_ms, now_ms // tier.window_ms),
        ).fetchall()
        for (window,) in windows:
            _compact_window(connection, tier, window * tier.window_ms)


def get_layout_id(connection: Connection, series: NDArray[np.int64]) -> int:
    """Return the id of this order of series, which is inserted if it is new."""
    blob = series.tobytes()
    connection.execute("INSERT INTO layout (series) VALUES (?) ON CONFLICT DO NOTHING", (blob,))
    layout_id: int = connection.execute("SELECT id FROM layout WHERE series = ?", (blob,)).fetchone()[0]
    return layout_id


def read_buffer(
    connection: Connection, tier: Tier, start_ms: int, end_ms: int, series: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], Readings]:
    """Return series ids, and their readings in [start_ms, end_ms) that are not compacted yet. None: all series."""
    rows = connection.execute(
        "SELECT time_ms, layout, data FROM head WHERE tier = ? AND time_ms >= ? AND time_ms < ? ORDER BY time_ms, id",
        (tier.number, start_ms, end_ms),
    ).fetchall()
    layouts = {
        layout: np.frombuffer(
            connection.execute("SELECT series FROM layout WHERE id = ?", (layout,)).fetchone()[0], dtype=np.int64
        )
        for layout in sorted({layout for _, layout, _ in rows})
    }
    if series is None:
        series = np.unique(np.concatenate([*layouts.values(), np.zeros(0, dtype=np.int64)]))
    columns = 1 if tier.width_ms == 0 else ROLLUP_COLUMNS
    values = np.full((columns, len(series), len(rows)), np.nan, dtype=np.float32)
    for layout, order in layouts.items():
        times = [position for position, row in enumerate(rows) if row[1] == layout]
        data = np.frombuffer(b"".join(rows[position][2] for position in times), dtype=np.float32)
        table = data.reshape(len(times), columns, len(order)).transpose(1, 2, 0)
        sources = {int(series_id): position for position, series_id in enumerate(order)}
        pairs = [(row, sources[int(series_id)]) for row, series_id in enumerate(series) if int(series_id) in sources]
        if pairs:
            targets, found = (np.array(side) for side in zip(*pairs, strict=True))
            values[:, targets[:, None], np.array(times)] = table[:, found]
    return series, to_readings(np.array([row[0] for row in rows], dtype=np.int64), values)


def to_readings(times: NDArray[np.int64], columns: NDArray[np.float32]) -> Readings:
    """Return an array of (columns, series, times) as readings."""
    if len(columns) == 1:
        return Readings.from_raw(times, columns[0])
    mean, minimum, maximum, weight = columns
    return Readings(times, mean, minimum, maximum, np.nan_to_num(weight))


def _compact_window(connection: Connection, tier: Tier, start_ms: int) -> None:
    end_ms = start_ms + tier.window_ms
    series, readings = read_buffer(connection, tier, start_ms, end_ms)
    insert_window(connection, tier, start_ms, series, readings)
    connection.execute(
        "DELETE FROM head WHERE tier = ? AND time_ms >= ? AND time_ms < ?", (tier.number, start_ms, end_ms)
    )
    if tier.width_ms == 0:
        _roll_up(connection, series, readings, start_ms, end_ms)


def insert_window(
    connection: Connection, tier: Tier, start_ms: int, series: NDArray[np.int64], readings: Readings
) -> None:
    """Insert the readings of one window as a compressed chunk for each series."""
    # There is one writer, so the next id is free. INSERT … RETURNING needs SQLite 3.35.
    (window,) = connection.execute('SELECT coalesce(max(id), 0) + 1 FROM "window"').fetchone()
    connection.execute(
        'INSERT INTO "window" (id, tier, start_ms, times) VALUES (?, ?, ?, ?)',
        (window, tier.number, start_ms, compress_times(readings.times_ms)),
    )
    columns = _stack_columns(tier, readings)
    connection.executemany(
        'INSERT INTO chunk (series, "window", data) VALUES (?, ?, ?)',
        [
            (int(series_id), window, compress(columns[:, row]))
            for row, series_id in enumerate(series)
            if readings.weight[row].any()  # a series without any reading has no chunk
        ],
    )


def insert_buffer(connection: Connection, tier: Tier, layout: int, readings: Readings) -> None:
    """Insert readings of the layout's series that are not compacted yet."""
    columns = _stack_columns(tier, readings)
    connection.executemany(
        "INSERT INTO head (tier, time_ms, layout, data) VALUES (?, ?, ?, ?)",
        [
            (tier.number, int(readings.times_ms[position]), layout, columns[:, :, position].tobytes())
            for position in np.flatnonzero(readings.weight.any(axis=0))
        ],
    )


def _stack_columns(tier: Tier, readings: Readings) -> NDArray[np.float32]:
    return np.stack([readings.mean] if tier.width_ms == 0 else list(readings[1:]))


def _roll_up(connection: Connection, series: NDArray[np.int64], raw: Readings, start_ms: int, end_ms: int) -> None:
    metrics: dict[int, str] = dict(connection.execute("SELECT id, metric FROM series"))
    aggregations = [find_aggregation(metrics[int(series_id)]) for series_id in series]
    layout = get_layout_id(connection, series)
    readings = raw
    for tier in TIERS[1:]:  # each from the finer one, whose buckets are parts of its own
        readings = aggregate(readings, align_buckets(start_ms, end_ms, tier.width_ms), aggregations)
        insert_buffer(connection, tier, layout, readings)


def prune(connection: Connection, *, kept_ms: int, max_bytes: int, used_bytes: Callable[[Connection], int]) -> None:
    """Delete windows that are older than each tier keeps; beyond `max_bytes` also the oldest, of the finest tier first.

    Windows are counted in the order in which they were written, whatever their times: a clock that is wrong, even by
    decades, deletes nothing. `kept_ms` is therefore time in which dashtop ran.
    """
    for tier in TIERS:
        max_windows = -(-min(kept_ms, tier.kept_ms or kept_ms) // tier.window_ms)
        windows = 'SELECT id FROM "window" WHERE tier = ? ORDER BY id DESC LIMIT ? OFFSET ?'
        _delete_windows(connection, windows, tier.number, MAX_DELETED_WINDOWS, max_windows)
    prune_events(connection)
    connection.execute(
        f"DELETE FROM process WHERE id <= (SELECT id FROM process ORDER BY id DESC LIMIT 1 OFFSET {MAX_SPANS})"  # noqa: S608
    )
    prune_usage(connection, kept_ms=kept_ms, max_bytes=max_bytes)
    if used_bytes(connection) > max_bytes:
        _delete_windows(connection, 'SELECT id FROM "window" ORDER BY tier, id LIMIT ?', MAX_DELETED_WINDOWS)


def _delete_windows(connection: Connection, query: str, *parameters: int) -> None:
    for window in connection.execute(query, parameters).fetchall():
        connection.execute('DELETE FROM chunk WHERE series IN (SELECT id FROM series) AND "window" = ?', window)
        connection.execute('DELETE FROM "window" WHERE id = ?', window)
