"""The wall clock jumps while a collector reads this machine: no negative rates, no invented readings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.collector.latest import LatestSample
from dashtop.collector.loop import Collector
from dashtop.collector.sampler import Sampler
from dashtop.export.table import FORMATS, Table
from dashtop.model.sample import SeriesKey
from dashtop.sources.host.reader import PsutilHostReader
from tests.builders import make_history, wait_until_written
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dashtop.model.sample import Sample

HOUR_S = 3600
TICKS = 30
BERLIN_OCTOBER_MS = 1_792_890_000_000  # 2026-10-25 01:00 UTC, when 3 o'clock becomes 2 o'clock in Berlin
BERLIN_MARCH_MS = 1_806_195_600_000  # 2027-03-28 01:00 UTC, when 2 o'clock becomes 3 o'clock
MEMORY = SeriesKey("system.memory.used_gb")
RATES = ("cpu.usage_percent", "network.upload_mbps", "network.download_mbps", "disk_io.read_mbps", "disk_io.write_mbps")


class Machine:
    """Collects this machine's real counters, with a clock that tests set."""

    def __init__(self, folder: Path | None, start_ms: int) -> None:
        self.clock = FakeClock(now_ms=start_ms)
        self.history = make_history(folder)
        self._collector = Collector(
            sampler=Sampler(host=PsutilHostReader(clock=self.clock), gpus=None, clock=self.clock),
            history=self.history,
            latest=LatestSample(clock=self.clock, interval_s=1.0),
            clock=self.clock,
        )

    def run(self, ticks: int) -> list[Sample]:
        """Take a sample each second."""
        samples = []
        for _ in range(ticks):
            self.clock.advance(1.0)
            samples.append(self._collector.collect())
        return samples

    def close(self) -> None:
        self._collector.close()
        self.history.close()


@pytest.mark.parametrize(
    "step_s", [8 * HOUR_S, HOUR_S, -HOUR_S, -1_800_000_000], ids=["asleep for 8 h", "forward", "back", "to 1970"]
)
def test_wall_clock_step_gives_no_negative_rate_and_leaves_a_gap(step_s: int, tmp_path: Path) -> None:
    start_ms = 1_800_000_000_000
    machine = Machine(tmp_path, start_ms)
    samples = machine.run(TICKS)
    machine.clock.set_wall(step_s)
    samples += machine.run(TICKS)
    wait_until_written(machine.history)
    for path in RATES:
        rates = [sample.host.values[f"system.{path}"] for sample in samples]
        assert all(rate is None or rate >= 0 for rate in rates)
        if path != "cpu.usage_percent":  # the only rate over real time, of which almost none passes here
            assert len({rate is None for rate in rates[1:]}) == 1
    assert [event.kind for sample in samples for event in sample.events] == ["restart"]
    machine.close()
    reopened = make_history(tmp_path)  # without the ring in memory
    for first_ms in (start_ms, start_ms + step_s * 1000 + TICKS * 1000):
        found = reopened.query([MEMORY], first_ms - 60_000, first_ms + 120_000, 1000)
        has_reading = ~np.isnan(found.series[0].mean)
        moments = [found.start_ms + 1000 * position for position in np.flatnonzero(has_reading).tolist()]
        taken = [s.time_ms for s in samples if found.start_ms <= s.time_ms < first_ms + 120_000]
        assert moments == taken
        assert (np.diff(moments) == 1000).all()
    reopened.close()


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("switch_ms", [BERLIN_OCTOBER_MS, BERLIN_MARCH_MS])
def test_daylight_saving_time_gives_no_gap_and_no_duplicate(switch_ms: int, tmp_path: Path) -> None:
    local = [time.localtime(switch_ms // 1000 + offset).tm_isdst for offset in (-1, 0)]
    assert sorted(local) == [0, 1]
    machine = Machine(tmp_path, switch_ms - TICKS * 1000)
    samples = machine.run(2 * TICKS)
    wait_until_written(machine.history)
    machine.close()
    reopened = make_history(tmp_path)
    start_ms, end_ms = samples[0].time_ms, samples[-1].time_ms + 1000
    found = reopened.query([MEMORY], start_ms, end_ms, 1000)
    assert found.start_ms == start_ms
    assert not np.isnan(found.series[0].mean).any()
    quarters = reopened.query([MEMORY], start_ms, end_ms, 15_000)
    assert quarters.start_ms % 15_000 == 0
    table = Table(reopened, [MEMORY], start_ms=start_ms, end_ms=end_ms, step_ms=1000)
    _, *rows = b"".join(FORMATS["csv"].write(table)).decode().splitlines()
    times = [row.split(",")[0] for row in rows]
    assert times == sorted(set(times))
    assert len(times) == len(samples)
    reopened.close()
