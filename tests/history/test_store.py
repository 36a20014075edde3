"""The store: appended samples are read in any range and after a restart, with spikes and gaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, RANGES
from tests.builders import make_device, make_gpu, make_history, make_sample, wait_until_written

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

CPU = SeriesKey("system.cpu.usage_percent")
LOAD = SeriesKey("gpu.utilization.gpu", make_device(0).uuid)
REASONS = SeriesKey("gpu.clocks.event_reasons", make_device(0).uuid)
MIDNIGHT_MS = 1_800_057_600_000


def fill(history: HistoryStore, times: Iterable[int], *, spike_at: int = -1) -> None:
    for count, time_ms in enumerate(times):
        history.append(
            make_sample(
                count,
                time_ms=time_ms,
                host={CPU.metric: time_ms // 1000 % 100},
                gpus=(make_gpu(values={LOAD.metric: 100 if time_ms == spike_at else 0, REASONS.metric: 4}),),
            )
        )
        if count % 2000 == 1999:
            wait_until_written(history)
    wait_until_written(history)


@pytest.mark.parametrize("name", ["1h", "6h", "24h", "30d"])
def test_every_range_shows_one_second_at_full_load(name: str, storage: Storage) -> None:
    assert_seen(storage.history(), name)


@pytest.mark.parametrize("name", ["1h", "6h", "24h", "30d"])
def test_every_range_of_memory_history_shows_one_second_at_full_load(name: str) -> None:
    assert_seen(make_history(), name)


def assert_seen(history: HistoryStore, name: str) -> None:
    span = min(RANGES[name].span_ms, DAY_MS)
    now = MIDNIGHT_MS + span
    spike = now - span // 2 // 3000 * 3000
    fill(history, range(MIDNIGHT_MS, now, 3000), spike_at=spike)
    start, end, step = RANGES[name].find_bounds(now)
    found = history.query([LOAD, REASONS], start, end, step)
    load, reasons = found.series
    storages = np.flatnonzero(load.maximum == 100)
    assert [
        found.start_ms + storage * step <= spike < found.start_ms + (storage + 1) * step for storage in storages
    ] == [True]
    assert load.minimum[storages[0]] == (0 if step > 3000 else 100)
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
