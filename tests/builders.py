"""Builders of samples and histories. Tests pass the values they need; all others are plausible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashtop.alerts.service import AlertService
from dashtop.history.postgresql import PostgresDatabase
from dashtop.history.sqlite import FILE, SqliteDatabase
from dashtop.history.store import HistoryStore
from dashtop.metrics import GPU_METRICS, HOST_METRICS
from dashtop.model.errors import CollectionEndedError
from dashtop.model.ports import SystemClock
from dashtop.model.sample import Device, Event, Gpu, GpuProcess, Host, Mount, Sample
from dashtop.model.timerange import DAY_MS
from dashtop.model.unavailable import UnavailableReason
from tests.clock import FakeClock
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dashtop.history.database import Database

NOON_MS = 1_800_000_000_000


def make_device(index: int = 0, **changes: object) -> Device:
    facts: dict[str, object] = {
        "uuid": f"GPU-{index:08x}-0000-4000-8000-000000000000",
        "index": index,
        "name": "NVIDIA GeForce RTX 3090",
        "memory_total_bytes": 24 * 2**30,
        "driver_version": "535.183.01",
        "cuda_version": "12.2",
        "compute_capability": "8.6",
        "pci_bus_id": f"00000000:{index + 1:02X}:00.0",
        "power_limit_watts": 350.0,
        "slowdown_celsius": 95.0,
        "shutdown_celsius": 98.0,
    }
    return Device(**{**facts, **changes})  # type: ignore[arg-type]


def make_gpu(
    index: int = 0,
    *,
    values: Mapping[str, float] | None = None,
    processes: tuple[GpuProcess, ...] = (),
    device: Device | None = None,
) -> Gpu:
    given = dict(values or {})
    return Gpu(
        device=device or make_device(index),
        values={metric.key: given.get(metric.key) for metric in GPU_METRICS},
        unavailable={metric.key: UnavailableReason.NOT_SUPPORTED for metric in GPU_METRICS if metric.key not in given},
        processes=processes,
    )


def make_sample(
    sequence: int = 1,
    *,
    time_ms: int | None = None,
    gpus: tuple[Gpu, ...] = (),
    host: Mapping[str, float] | None = None,
    mounts: tuple[Mount, ...] = (),
    error: UnavailableReason | None = None,
    gpu_age_s: float = 0.0,
    events: tuple[Event, ...] = (),
) -> Sample:
    given = dict(host or {})
    return Sample(
        sequence=sequence,
        time_ms=NOON_MS + 1000 * sequence if time_ms is None else time_ms,
        monotonic_s=float(sequence),
        host=Host(
            values={metric.key: given.get(metric.key) for metric in HOST_METRICS},
            unavailable={
                metric.key: UnavailableReason.FIRST_READING for metric in HOST_METRICS if metric.key not in given
            },
            per_core=(10.0, 20.0),
            core_ids=(0, 1),
            mounts=mounts,
        ),
        gpus=gpus,
        gpu_error=error,
        gpu_age_s=gpu_age_s,
        simulated=False,
        events=events,
    )


def make_alerts() -> AlertService:
    """Return the alerts of a dashtop that keeps nothing on disk."""
    return AlertService(None, clock=FakeClock(now_ms=NOON_MS), is_writer=lambda: True)


def make_history(
    folder: Path | None = None,
    *,
    url: str | None = None,
    interval_s: float = 1.0,
    kept_ms: int = 730 * DAY_MS,
    max_bytes: int = 2**32,
    write_interval_ms: int = 0,
    starts: bool = True,
    read_timeout_s: float | None = None,
) -> HistoryStore:
    """Return a history in memory, in `folder` or in the PostgreSQL database at `url`. `starts`: start its writer.

    Its writer writes each sample at once instead of every five seconds; see `wait_until_written`.
    """
    database: Database
    if url is not None:
        database = PostgresDatabase(url, kept_ms=kept_ms, max_bytes=max_bytes)
    else:
        path = folder / FILE if folder is not None else None
        database = SqliteDatabase(path, kept_ms=kept_ms, max_bytes=max_bytes)
    history = HistoryStore(
        database,
        clock=SystemClock(),
        interval_s=interval_s,
        write_interval_ms=write_interval_ms,
        read_timeout_s=read_timeout_s,
    )
    if starts:
        history.start()
    return history


def is_written(history: HistoryStore) -> bool:
    """Return whether every sample of the history is in its database."""
    return not history._writer.pending()


def wait_until_written(history: HistoryStore, timeout_s: float = 30.0) -> None:
    eventually(lambda: is_written(history), timeout_s, every_s=0.002)


@dataclass
class FixedSample:
    """A LatestSample that does not change by itself."""

    sample: Sample | None
    is_alive: bool = True
    interval_s: float = 1.0

    def request_interval(self, interval_s: float) -> float:
        return min(interval_s, self.interval_s)

    def latest(self) -> Sample | None:
        return self.sample

    def alive(self) -> bool:
        return self.is_alive

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        raise CollectionEndedError("no further sample")
