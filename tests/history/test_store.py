"""The store: appended samples are read in any range and after a restart, with spikes and gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, RANGES
from tests.builders import make_device, make_gpu, make_history, make_sample, wait_until_written

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

CPU = SeriesKey("system.cpu.usage_percent")
LOAD = SeriesKey("gpu.utilization.gpu", make_device(0).uuid)
REASONS = SeriesKey("gpu.clocks.event_reasons", make_device(0).uuid)
MIDNIGHT_MS = 1_800_057_600_000


def fill(history: HistoryStore, times: Iterable[int], *, spikes: Collection[int] = ()) -> None:
    for count, time_ms in enumerate(times):
        history.append(
            make_sample(
                count,
                time_ms=time_ms,
                host={CPU.metric: time_ms // 1000 % 100},
                gpus=(make_gpu(values={LOAD.metric: 100 if time_ms in spikes else 0, REASONS.metric: 4}),),
            )
        )
        if count % 2000 == 1999:
            wait_until_written(history)
    wait_until_written(history)


def test_every_range_shows_one_second_at_full_load(storage: Storage) -> None:
    check_ranges(storage.history())


def test_every_range_of_memory_history_shows_one_second_at_full_load() -> None:
    check_ranges(make_history())


def check_ranges(history: HistoryStore) -> None:
    """Fill an idle day with one sample at full load in the middle of each range, and query every range."""
    spans = {name: min(RANGES[name].span_ms, DAY_MS) for name in ("1h", "6h", "24h", "30d")}
    now = MIDNIGHT_MS + DAY_MS
    spikes = sorted({now - span // 2 // 3000 * 3000 for span in spans.values()})
    assert len(spikes) == 3
    fill(history, range(MIDNIGHT_MS, now, 3000), spikes=spikes)
    for name, span in spans.items():
        start, end, step = RANGES[name].find_bounds(now)
        found = history.query([LOAD, REASONS], start, end, step)
        load, reasons = found.series
        positions = np.flatnonzero(load.maximum == 100)
        expected = [(spike - found.start_ms) // step for spike in spikes if spike >= now - span]
        assert positions.tolist() == expected, name
        assert set(load.minimum[positions]) == {0 if step > 3000 else 100}, name
        assert np.nanmax(reasons.mean) == np.nanmin(reasons.mean) == 4
    history.close()


def test_history_survives_restarts(storage: Storage) -> None:
    for part in range(3):
        history = storage.history()
        fill(history, range(MIDNIGHT_MS + part * HOUR_MS, MIDNIGHT_MS + part * HOUR_MS + 30 * 60_000, 1000))
        history.close()
    history = storage.history()
    found = history.query([CPU], MIDNIGHT_MS, MIDNIGHT_MS + 3 * HOUR_MS, 1000).series[0].mean.reshape(6, 1800)
    np.testing.assert_array_equal(found[0::2], np.arange(3 * 3600).reshape(6, 1800)[0::2] % 100)
    assert np.isnan(found[1::2]).all()
    history.close()
