"""Combines the readings of host and GPUs into one Sample. It has no thread and no schedule."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.collector.idle import IdleTracker
from dashtop.collector.unreadable_gpus import UnreadableGpus
from dashtop.metrics import HOST_METRICS
from dashtop.model.sample import CollectorRun, Gpu, GpuReading, Host, Sample
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.metric_reader import MetricReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.readers import GpuReader, HostReader
    from dashtop.model.sample import GpuProcess, StoredGpu


class Sampler:
    """Takes samples. `gpus` is None if GPU monitoring is disabled."""

    def __init__(
        self,
        *,
        host: HostReader,
        gpus: GpuReader | None,
        clock: Clock,
        read_stored_gpus: Callable[[], Sequence[StoredGpu]] = tuple,
    ) -> None:
        """`read_stored_gpus` returns the GPUs of the history."""
        self._host = host
        self._unreadable = UnreadableGpus(read_stored_gpus, clock)
        self._gpus = gpus
        self._clock = clock
        self._host_metrics: MetricReader[HostReader] = MetricReader(HOST_METRICS)
        self._sequence = 0
        self._implausible_count = 0
        self._idle = IdleTracker()

    def sample(self, gpu_timeout_s: float) -> Sample:
        """Read host and GPUs once. A slow GPU delays the sample by about `gpu_timeout_s` at most."""
        started = self._clock.monotonic()
        time_ms = self._clock.now_ms()
        host = self._read_host(started)
        host_done = self._clock.monotonic()
        reading = self._read_gpus(gpu_timeout_s)
        gpus_done = self._clock.monotonic()
        gpus = self._idle.add_idle_times(self._add_host_info(self._unreadable.identify(reading.gpus)), time_ms)
        self._sequence += 1
        self._implausible_count += reading.implausible_count
        return Sample(
            sequence=self._sequence,
            time_ms=time_ms,
            monotonic_s=started,
            host=host,
            gpus=gpus,
            gpu_error=reading.error,
            gpu_age_s=reading.age_s,
            simulated=self._gpus is not None and self._gpus.simulated,
            events=reading.events,
            collectors=(
                CollectorRun(
                    name="host",
                    duration_s=host_done - started,
                    failures=0,
                    implausible_count=self._host_metrics.implausible_count,
                ),
                CollectorRun(
                    name="gpu",
                    duration_s=gpus_done - host_done,
                    failures=self._gpus.failures() if self._gpus is not None else 0,
                    implausible_count=self._implausible_count,
                ),
                CollectorRun(name="processes", duration_s=self._clock.monotonic() - gpus_done, failures=0),
            ),
        )

    def _read_host(self, now: float) -> Host:
        self._host.begin()
        values, unavailable = self._host_metrics.read(self._host, now)
        return Host(
            values=values,
            unavailable=unavailable,
            per_core=self._host.per_core(),
            core_ids=self._host.core_ids(),
            offline_cores=self._host.offline_cores(),
            mounts=self._host.mounts(),
        )

    def _read_gpus(self, timeout_s: float) -> GpuReading:
        if self._gpus is None:
            return GpuReading(error=UnavailableReason.DISABLED)
        return self._gpus.read(timeout_s)

    def _add_host_info(self, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """Add what the host knows about the processes; each is read once, however many GPUs it uses."""
        if self._gpus is None or self._gpus.simulated:
            return gpus
        by_pid = {process.pid: process for gpu in gpus for process in gpu.processes}
        known = {process.pid: process for process in self._host.add_host_info(tuple(by_pid.values()))}

        def add(process: GpuProcess) -> GpuProcess:
            host = known[process.pid]
            return replace(
                process,
                cpu_percent=host.cpu_percent,
                host_memory_bytes=host.host_memory_bytes,
                tree_cpu_percent=host.tree_cpu_percent,
                usable_cpus=host.usable_cpus,
                start_ticks=host.start_ticks,
                is_paused=host.is_paused,
                info=host.info,
            )

        return tuple(replace(gpu, processes=tuple(map(add, gpu.processes))) for gpu in gpus)

    def close(self) -> None:
        """Close the readers."""
        self._host.close()
        if self._gpus is not None:
            self._gpus.close()
