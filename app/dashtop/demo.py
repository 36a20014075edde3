"""The demo: seven days of history of its simulated GPUs and the host, its runs, and the scene that it plays."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dashtop.collector.events import detect_events
from dashtop.collector.sampler import Sampler
from dashtop.history.compaction import find_aggregation
from dashtop.history.encoder import NO_SERIES, Record, SampleEncoder
from dashtop.history.past import Past
from dashtop.history.rollup import Readings
from dashtop.history.schema import TIERS
from dashtop.metrics import GPU_METRICS
from dashtop.model.errors import CollectionEndedError
from dashtop.model.metric import GIB, Aggregation
from dashtop.model.run import Run, RunMark, RunStatus
from dashtop.model.sample import Host, Sample, SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.model.usage import BUCKET_MS, UsageRecords
from dashtop.sources.simulated.curves import HOUR_S, Noise
from dashtop.sources.simulated.scene import ScenePlayer
from dashtop.usage.ledger import UsageLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dashtop.model.ports import Clock, History
    from dashtop.model.readers import HostReader, MemoryUse
    from dashtop.model.sample import Gpu, ProcessSpan
    from dashtop.sources.simulated.gpu import SimulatedGpu
    from dashtop.sources.simulated.reader import SimulatedGpuReader
    from dashtop.sources.simulated.scene import Scene


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
_RAM_KEYS: Final = ("system.memory.used_gb", "system.memory.used_percent")
REHEARSAL_STEP_S: Final = 5.0
"""As long as a gap may be that the alerts count as observed."""
MARGIN_MS: Final = 5 * MINUTE_MS
"""Each part goes back a little further than its range, so that the first bucket is full."""


class _Source(NamedTuple):
    """Series, and what computes them: `read_many(times_ms, metrics)` returns a row for each metric."""

    keys: Sequence[SeriesKey]
    read_many: Callable[[NDArray[np.int64], Sequence[str]], NDArray[np.float32]]


def build_past(gpus: Sequence[SimulatedGpu], now_ms: int, *, host_memory: MemoryUse | None = None) -> Past:
    """Return the last seven days of these GPUs. It is computed while it is read.

    `host_memory`: what is in use now; the simulated history of the RAM leads up to it. None: no history of the host.
    """
    gpus = [gpu for gpu in gpus if gpu.state is None]
    start_ms = _find_start(PARTS[0], now_ms)
    sources = [_Source(list_series(gpu), gpu.read_many) for gpu in gpus]
    if host_memory is not None:
        keys = [SeriesKey(key) for key in ("system.cpu.usage_percent", *_RAM_KEYS)]
        sources.insert(0, _Source(keys, partial(_simulate_host, host_memory, now_ms)))
    return Past(
        keys=[key for source in sources for key in source.keys],
        blocks=_read_blocks(sources, now_ms) if sources else (),
        records=chain(
            (record for gpu in gpus for record in encode_changes(gpu, start_ms, now_ms)),
            measure_usage(gpus, start_ms, now_ms),
        ),
        end_ms=now_ms,
    )


def _simulate_host(
    memory: MemoryUse, now_ms: int, times_ms: NDArray[np.int64], _metrics: Sequence[str]
) -> NDArray[np.float32]:
    """Return CPU in percent, RAM in GiB and in percent."""
    noise, t = Noise(-1), times_ms / 1000
    cpu = 15.0 + 9.0 * noise.wave(0, t, 400.0) + 5.0 * noise.wave(1, t, 15.0)
    age = np.minimum((now_ms / 1000 - t) / HOUR_S, 1.0)  # the swings fade out towards the present
    used = memory.used * (1.0 - age * (0.12 + 0.1 * noise.wave(2, t, 2.0 * HOUR_S)))
    return np.stack([cpu, used / GIB, 100.0 * used / memory.total]).astype(np.float32)


def _find_start(part: Part, now_ms: int) -> int:
    """Return where a part begins: with a window of its tier, or the rest of that window would be missing.

    A query reads coarser tiers only until the first window of a finer one.
    """
    window_ms = TIERS[part.tier].window_ms
    return (now_ms - part.span_ms - MARGIN_MS) // window_ms * window_ms


def _read_blocks(sources: Sequence[_Source], now_ms: int) -> Iterator[tuple[int, Readings]]:
    starts = [_find_start(part, now_ms) for part in PARTS]
    for part, part_start_ms, part_end_ms in zip(PARTS, starts, [*starts[1:], now_ms], strict=True):
        for start_ms in range(part_start_ms, part_end_ms, part.block_ms):
            end_ms = min(start_ms + part.block_ms, part_end_ms)
            times_ms = np.arange(start_ms, end_ms, part.interval_ms, dtype=np.int64)
            found = [_read_block(source, times_ms, part) for source in sources]
            columns = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
            yield part.tier, Readings(found[0].times_ms, *columns)


def list_series(gpu: SimulatedGpu) -> list[SeriesKey]:
    """Return the series of a GPU."""
    return [
        SeriesKey(metric.key, gpu.device.uuid)
        for metric in GPU_METRICS
        if metric.key not in gpu.unavailable and not metric.constant
    ]


def _read_block(source: _Source, times_ms: NDArray[np.int64], part: Part) -> Readings:
    """Return readings at these times, rolled up to the buckets of the part's tier."""
    metrics = [key.metric for key in source.keys]
    values = source.read_many(times_ms, metrics)
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


class SceneSampler(Sampler):
    """Takes samples of simulated GPUs, which a scene changes."""

    def __init__(self, scene: Scene, gpus: SimulatedGpuReader, *, host: HostReader, clock: Clock) -> None:
        """Begin the scene now, or so long ago that everything has happened."""
        super().__init__(host=host, gpus=gpus, clock=clock)
        self._clock, self._simulated = clock, gpus
        self._lead_s = 0.0 if scene.starts_with_demo else scene.duration_s
        self._player = ScenePlayer(scene, clock.monotonic() - self._lead_s)
        self._closing = threading.Event()

    def rehearse(self) -> Iterator[Sample]:
        """Yield the samples from the scene's begin until now."""
        base, now_s, now_ms = super().sample(0.0), self._clock.monotonic(), self._clock.now_ms()
        for step in range(int(self._lead_s / REHEARSAL_STEP_S), 0, -1):
            age_s = step * REHEARSAL_STEP_S
            time_ms = now_ms - round(1000 * age_s)
            gpus = tuple(gpu.read(time_ms) for gpu in self._simulated.gpus)
            played = self._player.play(replace(base, time_ms=time_ms, monotonic_s=now_s - age_s, gpus=gpus))
            if played is not None:
                yield played

    def sample(self, gpu_timeout_s: float) -> Sample:
        """Return the next sample; wait for it where the scene has none."""
        while (played := self._player.play(super().sample(gpu_timeout_s))) is None:
            if self._closing.wait(1.0):
                raise CollectionEndedError("dashtop is shutting down.")
        return played

    def close(self) -> None:
        """Stop waiting, and close the readers."""
        self._closing.set()
        super().close()


def measure_usage(gpus: Sequence[SimulatedGpu], start_ms: int, end_ms: int) -> Iterator[Record]:
    """Yield a record with the usage of each GPU, together with its MIG instances.

    The GPUs are read in steps of an hour, in the last day in steps of ten minutes: 0.1 s of CPU for each GPU.
    """
    groups: dict[str, list[SimulatedGpu]] = defaultdict(list)
    for gpu in gpus:
        groups[gpu.device.mig_parent_uuid or gpu.device.uuid].append(gpu)
    for group in groups.values():
        ledger = UsageLedger(interval_s=HOUR_MS / SECOND_MS)
        changes = {time_ms for gpu in group for time_ms in gpu.changes(start_ms, end_ms)}
        last_day_ms = (end_ms - DAY_MS) // HOUR_MS * HOUR_MS
        hours, buckets = range(start_ms, last_day_ms, HOUR_MS), range(last_day_ms, end_ms, BUCKET_MS)
        times_ms = sorted({*hours, *buckets, *changes, *(time_ms - SECOND_MS for time_ms in changes), end_ms - 1})
        found = [
            ledger.update(_build_sample(tuple(gpu.read(time_ms) for gpu in group), time_ms)) for time_ms in times_ms
        ]
        usage = UsageRecords(
            tuple(each for records in found for each in records.processes),
            tuple(each for records in found for each in records.gpus),
        )
        yield Record(time_ms=end_ms - 1, layout=NO_SERIES, values=b"", events=(), spans=(), usage=usage)


def _build_sample(gpus: tuple[Gpu, ...], time_ms: int) -> Sample:
    return Sample(
        sequence=0,
        time_ms=time_ms,
        monotonic_s=time_ms / SECOND_MS,
        host=Host(values={}, unavailable={}, per_core=(), core_ids=(), mounts=()),
        gpus=gpus,
        gpu_error=None,
        gpu_age_s=0.0,
        simulated=True,
    )


def encode_changes(gpu: SimulatedGpu, start_ms: int, end_ms: int) -> Iterator[Record]:
    """Yield records with the events and process spans of one GPU, as the collector writes them."""
    changes = gpu.changes(start_ms, end_ms)
    times_ms = sorted({start_ms, *changes, *(time_ms - SECOND_MS for time_ms in changes), end_ms - 1})
    encoder = SampleEncoder()
    before: Sample | None = None
    for time_ms in times_ms:
        sample = _build_sample((gpu.read(time_ms),), time_ms)
        xids = gpu.xids(before.time_ms, time_ms) if before is not None else ()
        sample = replace(sample, events=(*xids, *(detect_events(before, sample) if before is not None else ())))
        yield encoder.encode(sample, *encoder.encode_values(sample))
        before = sample


# --- runs -----------------------------------------------------------------------------------------------------------

_RUN_SPAN_MS: Final = 2 * DAY_MS
_RUNS_PER_GPU: Final = 2
_MIN_RUN_MS: Final = 10 * MINUTE_MS
_RUN_NAMES: Final = ("finetune", "pretrain", "ablation", "sweep", "distill", "eval")
_RATES: Final = ("3e-4", "1e-4", "5e-5", "2e-5")
_EPOCHS: Final = 8


def build_runs(gpus: Sequence[SimulatedGpu], history: History, now_ms: int) -> list[tuple[Run, tuple[RunMark, ...]]]:
    """Return invented runs of the simulated trainings (processes named python), with a mark after each epoch."""
    found: list[tuple[Run, tuple[RunMark, ...]]] = []
    for position, gpu in enumerate(gpus):
        jobs: dict[int, list[ProcessSpan]] = {}
        for span in history.processes(gpu.device.uuid, now_ms - _RUN_SPAN_MS, now_ms + 1):
            if (span.info.name or "").startswith("python") and span.info.started_ms is not None:
                jobs.setdefault(span.info.started_ms, []).append(span)
        for started_ms in sorted(jobs)[-_RUNS_PER_GPU:]:
            run = _build_run(jobs[started_ms], started_ms, now_ms, len(found), position)
            if (run.end_ms or now_ms) - run.begin_ms >= _MIN_RUN_MS:
                found.append((run, _build_marks(run, now_ms)))
    return found


def _build_run(spans: Sequence[ProcessSpan], started_ms: int, now_ms: int, number: int, position: int) -> Run:
    end_ms = max(span.end_ms for span in spans)
    is_running = end_ms >= now_ms - MINUTE_MS
    first = spans[0]
    return Run(
        id=f"{0x51:02x}{number:06x}",
        name=f"{_RUN_NAMES[position % len(_RUN_NAMES)]}-{number + 1}",
        tags={"lr": _RATES[number % len(_RATES)], "seed": str(number)},
        user=first.info.username,
        pid=first.pid,
        started_ms=started_ms,
        begin_ms=started_ms,
        end_ms=None if is_running else end_ms,
        status=RunStatus.RUNNING if is_running else RunStatus.FAILED if number % 5 == 1 else RunStatus.FINISHED,
        beat_ms=now_ms if is_running else end_ms,
        is_local=True,
        is_simulated=True,
        gpus=(first.gpu_uuid,),
        processes=tuple({(span.pid, span.info.started_ms): None for span in spans}),
    )


def _build_marks(run: Run, now_ms: int) -> tuple[RunMark, ...]:
    length_ms = (run.end_ms or now_ms) - run.begin_ms
    count = _EPOCHS if run.end_ms is not None else _EPOCHS // 2
    return tuple(
        RunMark(run.begin_ms + length_ms * epoch // (count + 1), f"epoch {epoch}") for epoch in range(1, count + 1)
    )
