"""A collector that stands still and a history that is made of functions of time, for pure tests of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flask import Flask

from dashtop.model.ports import ReadStatus, Services
from dashtop.model.sample import ALL_EVENTS, Series, SeriesKey, SeriesSet
from dashtop.model.usage import NO_USAGE, StoredUsage
from dashtop.ui.panels import PanelContext
from dashtop.ui.parts import RenderCache
from dashtop.ui.request import ViewRequest
from tests.builders import NOON_MS, FixedSample, make_alerts, make_gpu, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.model.sample import Event, EventFilter, Gpu, ProcessSpan, Sample, StoredGpu

GPU_VALUES = {
    "gpu.utilization.gpu": 97.5,
    "gpu.memory.used_gb": 20.0,
    "gpu.memory.total_gb": 24.0,
    "gpu.memory.used_percent": 83.3,
    "gpu.temperature": 91.0,
}
HOST_VALUES = {
    "system.cpu.usage_percent": 12.3456,
    "system.memory.used_gb": 8.0,
    "system.memory.total_gb": 64.0,
    "system.memory.used_percent": 12.5,
}


@dataclass
class Recorded:
    """A history with one reading a second since `first_ms`, each as large as the seconds since then.

    While `is_out`, its database does not answer, and nothing but the last minute is in memory.
    """

    first_ms: int
    last_ms: int
    queries: int = 0
    is_out: bool = False
    outages: int = 0

    def append(self, sample: Sample) -> None:
        raise NotImplementedError

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        del wait
        self.queries += 1
        assert start_ms % step_ms == 0
        assert end_ms % step_ms == 0
        starts = np.arange(start_ms, end_ms, step_ms)
        known = (starts + step_ms > self.first_ms) & (starts <= self.last_ms)
        if self.is_out:
            known &= starts > self.last_ms - 60_000
        mean = np.where(known, (starts - self.first_ms) / 1000 % 90, np.nan).astype(np.float32)
        series = tuple(Series(key=key, mean=mean, minimum=mean - 2, maximum=mean + 3) for key in keys)
        return SeriesSet(start_ms=start_ms, step_ms=step_ms, count=len(starts), series=series)

    def series(self) -> tuple[SeriesKey, ...]:
        return ()

    def gpus(self) -> tuple[StoredGpu, ...]:
        return ()

    def events(self, start_ms: int, end_ms: int, wanted: EventFilter = ALL_EVENTS) -> tuple[Event, ...]:
        return ()

    def processes(self, gpu_uuid: str | tuple[str, ...], start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        return ()

    def usage(self, start_ms: int, end_ms: int) -> StoredUsage:
        return StoredUsage(start_ms=start_ms, end_ms=end_ms, began_ms=None, records=NO_USAGE)

    def status_message(self) -> str | None:
        return None

    def read_status(self) -> ReadStatus:
        return ReadStatus(version=self.outages, error="It does not answer." if self.is_out else None)

    def end_outage(self) -> None:
        self.is_out, self.outages = False, self.outages + 1

    def close(self) -> None:
        pass


def gpu(index: int = 0) -> Gpu:
    return make_gpu(index, values=GPU_VALUES)


def world(
    *, gpus: tuple[Gpu, ...] = (), recorded_s: int = 7200, sequence: int = 7200, interval_s: float = 1.0
) -> tuple[Services, FixedSample, Recorded]:
    """Services over a machine that has been watched for `recorded_s` seconds."""
    sample = make_sample(sequence, gpus=gpus, host=HOST_VALUES)
    latest = FixedSample(sample, interval_s=interval_s)
    history = Recorded(sample.time_ms - recorded_s * 1000, sample.time_ms)
    clock = FakeClock(now_ms=NOON_MS, monotonic_s=float(sequence) + 0.25)
    return Services(latest=latest, history=history, alerts=make_alerts(), clock=clock), latest, history


def make_context(
    of: Gpu | None = None, *, sample: Sample | None = None, services: Services | None = None, **request: object
) -> PanelContext:
    """Return what the data of a panel are built from: one GPU, or a sample, and what the browser asks for."""
    default, latest, _ = world(gpus=() if of is None else (of,))
    sample = sample or latest.sample
    assert sample is not None
    cache = RenderCache(Flask("test"))
    return PanelContext(
        services=services or default, cache=cache, sample=sample, gpu=of, request=ViewRequest.parse(request)
    )
