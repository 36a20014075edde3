"""Measures the history, compared with a plain SQLite table with a row per value and with reading every series.

    python benchmarks/history.py [--gpus 4 8] [--hours 24]

Fills a history from the simulated GPUs: 29 days at one sample a minute, then the hours at one a second. Prints CPU of a
tick (with compaction and pruning), bytes a value with all tiers, and the time of queries of 6 series. The plain table
has those 6 over the same 30 days; its CPU of a tick is of all series. "Everything" is every series in the finest tier
that has it. Targets: 0.2 ms a tick, 1.5 bytes a value, 15 ms for 24 h.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dashtop.history.compaction import find_aggregation
from dashtop.history.queries import read_readings
from dashtop.history.rollup import Readings, aggregate, align_buckets
from dashtop.history.schema import RAW
from dashtop.history.sqlite import FILE
from dashtop.history.writer import WRITE_INTERVAL_MS
from dashtop.metrics import HOST_METRICS, METRICS
from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import DAY_MS, MINUTE_MS, RANGES
from dashtop.sources.simulated.reader import SimulatedGpuReader
from tests.builders import make_history, make_sample, wait_until_written
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.history.store import HistoryStore
    from dashtop.model.sample import Sample

NOW_MS = 1_800_057_600_000
TIMED_TICKS = 3600
BATCH = WRITE_INTERVAL_MS // 1000 + 1
"""Samples that are written together: the last is an interval later than the first."""
TICKS_A_WINDOW = RAW.window_ms // 1000
PLAIN_TICKS = 600
KEYS = ("gpu.utilization.gpu", "gpu.memory.used_gb", "gpu.temperature", "gpu.power.current_watts", "gpu.clocks.gpu_mhz")


class World:
    """Simulated GPUs and a machine that wanders about."""

    def __init__(self, gpus: int, start_ms: int) -> None:
        self.clock = FakeClock(now_ms=start_ms)
        self._gpus = SimulatedGpuReader(gpus, clock=self.clock)
        self._draw = np.random.default_rng(1)
        self._host = {metric.key: 50.0 for metric in HOST_METRICS if not metric.constant}

    def samples(self, count: int, every_s: float) -> Iterator[Sample]:
        for _ in range(count):
            steps = self._draw.normal(0, 2, len(self._host))
            self._host = {
                key: round(float(np.clip(value + step, 0, 100)), 1)
                for (key, value), step in zip(self._host.items(), steps, strict=True)
            }
            yield make_sample(time_ms=self.clock.now_ms(), host=self._host, gpus=self._gpus.read(1.0).gpus)
            self.clock.advance(every_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--hours", type=float, default=24)
    given = parser.parse_args()
    for gpus in given.gpus:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), gpus, int(given.hours * 3600))


def measure(folder: Path, gpus: int, seconds: int) -> None:
    start_ms = NOW_MS - seconds * 1000
    history = make_history(folder)
    old = World(gpus, start_ms - 29 * DAY_MS)
    before = fill(history, old, 29 * DAY_MS // MINUTE_MS, 60)
    unused = read_used_bytes(folder)
    world = World(gpus, start_ms)
    values = fill(history, world, seconds - TIMED_TICKS, 1)
    history.close()
    history = make_history(folder, write_interval_ms=WRITE_INTERVAL_MS)
    tick_ms = measure_tick(history, world)
    sample = next(world.samples(1, 1))
    series = values // (seconds - TIMED_TICKS)
    values = series * seconds
    print(f"\n{gpus} GPUs, {series} series with values; {seconds / 3600:g} h at 1 s after 29 days at 60 s")
    narrow, narrow_tick_ms, narrow_bytes = build_plain_table(folder / "plain.sqlite", history, sample, start_ms)
    print(f"{'':24}{'dashtop':>10}{'plain table':>14}")
    print(f"{'CPU a tick, ms':24}{tick_ms:10.3f}{narrow_tick_ms:14.3f}   (at most 0.2)")
    used = read_used_bytes(folder)
    print(f"{'bytes a value':24}{(used - unused) / values:10.2f}{narrow_bytes:14.2f}   (at most 1.5)")
    print(f"{'30 days, MB':24}{used / 1e6:10.1f}   for {(values + before) / 1e6:.1f} million values")
    print(f"{'query of 6 series, ms':24}{'dashtop':>10}{'plain table':>14}{'everything':>14}")
    keys = [*(SeriesKey(key, sample.gpus[0].device.uuid) for key in KEYS), SeriesKey("system.cpu.usage_percent")]
    every = [SeriesKey(key, gpu.device.uuid) for gpu in sample.gpus for key in gpu.values if key in METRICS]
    history.close()
    reopened = make_history(folder)  # without the ring of the last hour
    for name in ("1h", "6h", "24h", "7d", "30d"):
        start, end, step = RANGES[name].find_bounds(NOW_MS - 1)
        own = measure_time(partial(reopened.query, keys, start, end, step))
        of_plain = measure_time(partial(query_plain, narrow, start, end, step), 2)
        of_everything = measure_time(partial(read_everything, folder, every, start, end), 1)
        note = "   (at most 15)" if name == "24h" else ""
        print(f"{name + f' at {step // 1000} s':24}{own:10.1f}{of_plain:14.1f}{of_everything:14.1f}{note}")
    reopened.close()


def fill(history: HistoryStore, world: World, count: int, every_s: float) -> int:
    """Append samples; return how many values they hold."""
    held = 0
    for number, sample in enumerate(world.samples(count, every_s)):
        history.append(sample)
        if number == 0:
            tables = [sample.host.values, *(gpu.values for gpu in sample.gpus)]
            held = sum(
                value is not None and not METRICS[key].constant for each in tables for key, value in each.items()
            )
        if number % 1000 == 999:
            wait_until_written(history)
    wait_until_written(history)
    return held * count


def measure_tick(history: HistoryStore, world: World) -> float:
    """Return milliseconds of CPU for appending a sample and writing it, all threads together.

    As many are written at once as in service, where they are a second apart. The best of some windows, each of which is
    compacted once: other load on the machine only adds.
    """
    taken = []
    history.append(next(world.samples(1, 1)))  # written at once, being the first
    wait_until_written(history)
    for _ in range(TIMED_TICKS // TICKS_A_WINDOW):
        samples = list(world.samples(TICKS_A_WINDOW, 1))
        before = time.process_time()
        for number, sample in enumerate(samples, 1):
            history.append(sample)
            if number % BATCH == 0:
                wait_until_written(history)
        taken.append((time.process_time() - before) * 1000 / TICKS_A_WINDOW)
    return min(taken)


def build_plain_table(
    path: Path, history: HistoryStore, sample: Sample, start_ms: int
) -> tuple[sqlite3.Connection, float, float]:
    """Return a table with a row a value of six series, CPU of a tick of all of them, and its bytes a value."""
    table = sqlite3.connect(path, isolation_level=None)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = NORMAL")
    columns = "series INT, time_ms INT, value REAL, PRIMARY KEY (series, time_ms)"
    table.execute(f"CREATE TABLE value ({columns}) WITHOUT ROWID")
    keys = [*(SeriesKey(key, sample.gpus[0].device.uuid) for key in KEYS), SeriesKey("system.cpu.usage_percent")]
    held = 0
    table.execute("BEGIN")
    for first, last, step_ms in ((start_ms - 29 * DAY_MS, start_ms, MINUTE_MS), (start_ms, NOW_MS, 1000)):
        found = history.query(keys, first, last, step_ms)
        for number, series in enumerate(found.series):
            there = np.flatnonzero(~np.isnan(series.mean))
            known = [(number, found.start_ms + step_ms * int(at), float(series.mean[at])) for at in there]
            table.executemany("INSERT INTO value VALUES (?, ?, ?)", known)
            held += len(known)
    table.execute("COMMIT")
    table.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    used = path.stat().st_size / held
    scopes = (sample.host.values, *(gpu.values for gpu in sample.gpus))
    values = [value for scope in scopes for value in scope.values() if value is not None]
    before = time.process_time()
    for tick in range(PLAIN_TICKS):
        table.execute("BEGIN")
        row = [(100 + number, tick, value) for number, value in enumerate(values)]
        table.executemany("INSERT INTO value VALUES (?, ?, ?)", row)
        table.execute("COMMIT")
    tick_ms = (time.process_time() - before) * 1000 / PLAIN_TICKS
    return table, tick_ms, used


def query_plain(table: sqlite3.Connection, start_ms: int, end_ms: int, step_ms: int) -> None:
    """Answer the same question from the plain table, with the same aggregation."""
    for number in range(len(KEYS) + 1):
        found = np.array(
            table.execute(
                "SELECT time_ms, value FROM value WHERE series = ? AND time_ms >= ? AND time_ms < ?",
                (number, start_ms, end_ms),
            ).fetchall()
        )
        known = Readings.from_raw(found[:, 0].astype(np.int64), found[:, 1].astype(np.float32)[None, :])
        aggregate(known, align_buckets(start_ms, end_ms, step_ms), [find_aggregation(KEYS[0])])


def read_everything(folder: Path, keys: list[SeriesKey], start_ms: int, end_ms: int) -> None:
    """Read all of these series as raw readings, without roll-ups."""
    with sqlite3.connect(folder / FILE) as file:
        read_readings(file, keys, start_ms, end_ms, 1)
    file.close()


def read_used_bytes(folder: Path) -> int:
    with sqlite3.connect(folder / FILE) as file:
        used: int = file.execute(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        ).fetchone()[0]
    file.close()
    return used


def measure_time(query: Callable[[], object], times: int = 7) -> float:
    """Return milliseconds, the best of some runs after a warm-up: other load on the machine only adds."""
    query()
    taken = []
    for _ in range(times):
        before = time.perf_counter()
        query()
        taken.append((time.perf_counter() - before) * 1000)
    return min(taken)


if __name__ == "__main__":
    main()
