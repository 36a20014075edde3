"""History of a demo: seven days of readings, events and processes of its simulated GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dashtop.collector.events import detect_events
from dashtop.history.compaction import find_aggregation
from dashtop.history.encoder import SampleEncoder
from dashtop.history.past import Past
from dashtop.history.rollup import Readings
from dashtop.history.schema import RAW, TIERS
from dashtop.metrics import GPU_METRICS
from dashtop.model.metric import Aggregation
from dashtop.model.sample import Host, Sample, SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dashtop.history.encoder import Record
    from dashtop.sources.simulated.gpu import SimulatedGpu


class Part(NamedTuple):
    """A part of the history: how far back it goes, its tier, and the time between its readings.

    It is computed in blocks of `block_ms`, which limits the size of the arrays.
    """

    span_ms: int
    tier: int
    interval_ms: int
    block_ms: int


# As fine as each range of the charts needs.
PARTS: Final = (
    Part(7 * DAY_MS, 2, 60 * SECOND_MS, 24 * HOUR_MS),
    Part(1 * DAY_MS, 1, 15 * SECOND_MS, 6 * HOUR_MS),
    Part(6 * HOUR_MS, 0, 5 * SECOND_MS, 2 * HOUR_MS),
    Part(1 * HOUR_MS, 0, 1 * SECOND_MS, 2 * HOUR_MS),
)
MARGIN_MS: Final = 5 * MINUTE_MS
"""Each part goes back a little further than its range, so that the first bucket is full."""


def build_past(gpus: Sequence[SimulatedGpu], now_ms: int) -> Past:
    """Return the last seven days of these GPUs. It is computed while it is read."""
    gpus = [gpu for gpu in gpus if gpu.state is None]
    start_ms = _floor(now_ms - PARTS[0].span_ms - MARGIN_MS)
    return Past(
        keys=[key for gpu in gpus for key in series_of(gpu)],
        blocks=_read_blocks(gpus, now_ms) if gpus else (),
        records=(record for gpu in gpus for record in encode_changes(gpu, start_ms, now_ms)),
        end_ms=now_ms,
    )


def _floor(time_ms: int) -> int:
    return time_ms // RAW.window_ms * RAW.window_ms


def _read_blocks(gpus: Sequence[SimulatedGpu], now_ms: int) -> Iterator[tuple[int, Readings]]:
    starts = [_floor(now_ms - part.span_ms - MARGIN_MS) for part in PARTS]
    for part, part_start_ms, part_end_ms in zip(PARTS, starts, [*starts[1:], now_ms], strict=True):
        for start_ms in range(part_start_ms, part_end_ms, part.block_ms):
            end_ms = min(start_ms + part.block_ms, part_end_ms)
            times_ms = np.arange(start_ms, end_ms, part.interval_ms, dtype=np.int64)
            of_gpus = [_read_block(gpu, times_ms, part) for gpu in gpus]
            columns = (np.concatenate(column) for column in list(zip(*of_gpus, strict=True))[1:])
            yield part.tier, Readings(of_gpus[0].times_ms, *columns)


def series_of(gpu: SimulatedGpu) -> list[SeriesKey]:
    """Return the series of a GPU."""
    return [
        SeriesKey(metric.key, gpu.device.uuid)
        for metric in GPU_METRICS
        if metric.key not in gpu.unavailable and not metric.constant
    ]


def _read_block(gpu: SimulatedGpu, times_ms: NDArray[np.int64], part: Part) -> Readings:
    """Return readings at these times, rolled up to the buckets of the part's tier."""
    metrics = [key.metric for key in series_of(gpu)]
    values = gpu.read_many(times_ms, metrics)
    width_ms = TIERS[part.tier].width_ms
    if not width_ms:
        return Readings.from_raw(times_ms, values)
    buckets = values.reshape(len(metrics), -1, width_ms // part.interval_ms)
    mean = buckets.mean(axis=2)
    for row, metric in enumerate(metrics):
        if find_aggregation(metric) is Aggregation.LAST:
            mean[row] = buckets[row, :, -1]
        elif find_aggregation(metric) is not Aggregation.MEAN:  # the flags are mostly one at a time
            mean[row] = buckets[row].max(axis=1)
    weight = np.where(np.isnan(mean), 0.0, width_ms / SECOND_MS).astype(np.float32)
    lowest, highest = buckets.min(axis=2), buckets.max(axis=2)
    return Readings(times_ms[:: buckets.shape[2]], mean, lowest, highest, weight)


def encode_changes(gpu: SimulatedGpu, start_ms: int, end_ms: int) -> Iterator[Record]:
    """Yield records with the events and process spans of one GPU, as the collector writes them."""
    changes = gpu.changes(start_ms, end_ms)
    times_ms = sorted({start_ms, *changes, *(time_ms - SECOND_MS for time_ms in changes), end_ms - 1})
    encoder = SampleEncoder()
    before: Sample | None = None
    for time_ms in times_ms:
        sample = Sample(
            sequence=0,
            time_ms=time_ms,
            monotonic_s=0.0,
            host=Host(values={}, unavailable={}, per_core=(), mounts=()),
            gpus=(gpu.read(time_ms),),
            gpu_error=None,
            gpu_age_s=0.0,
            simulated=True,
        )
        xids = gpu.xids(before.time_ms, time_ms) if before is not None else ()
        sample = replace(sample, events=(*xids, *(detect_events(before, sample) if before is not None else ())))
        yield encoder.encode(sample, *encoder.encode_values(sample))
        before = sample
