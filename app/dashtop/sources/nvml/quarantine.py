"""GPUs that hang or crash their reader. Each is read by a worker process of its own until it answers again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import mark_unavailable
from dashtop.sources.nvml.selection import Selection
from dashtop.sources.nvml.worker_process import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dashtop.model.sample import Event, Gpu, GpuReading
    from dashtop.sources.nvml.worker_process import WorkerProcess

log = logging.getLogger(__name__)

MAX_PROBES = 4
"""Workers at the same time, each about 30 MB. More hanging GPUs are probed in turn."""
MIN_PROBE_BACKOFF_S = 1.0
MAX_PROBE_BACKOFF_S = 30.0
STALE_AFTER_S = 2.0
RELEASE_AFTER_S = 5.0
"""A GPU that answers for so long is read together with the others again."""
RESTART_AFTER_S = 60.0
"""A worker whose background call hangs for so long is replaced: the driver may have given up on that call only."""


@dataclass
class IsolatedGpu:
    """A GPU in quarantine. `gpus`: it and its MIG instances as last read, without values while it does not respond."""

    index: int
    reason: UnavailableReason
    since_ms: int
    gpus: tuple[Gpu, ...]
    worker: WorkerProcess | None = None
    start_at: float = 0.0
    backoff_s: float = MIN_PROBE_BACKOFF_S
    healthy_since: float | None = None
    background_hung_since: float | None = None

    def mark(self) -> None:
        """Mark every value unavailable."""
        self.gpus = tuple(
            replace(mark_unavailable(gpu.device, self.reason), state_since_ms=self.since_ms) for gpu in self.gpus
        )
        self.healthy_since = None


class Quarantine:
    """The GPUs that the main worker leaves out, and the workers that probe them. Never blocks."""

    def __init__(self, start_worker: Callable[[], WorkerProcess]) -> None:
        """`start_worker` starts a worker process; it can raise OSError."""
        self._start_worker = start_worker
        self._isolated: dict[int, IsolatedGpu] = {}
        self._stopped: list[WorkerProcess] = []
        self._gpu_count = 0
        self._events: list[Event] = []
        self._implausible_count = 0

    def __len__(self) -> int:
        return len(self._isolated)

    def selection(self) -> Selection:
        """Return which GPUs the main worker reads."""
        return Selection(excluded=frozenset(self._isolated)) if self._isolated else Selection()

    def can_isolate(self, index: int, gpu_count: int) -> bool:
        """Return whether the main worker keeps a GPU without this one. If all GPUs hang, it is the driver."""
        return index not in self._isolated and index < gpu_count and len(self._isolated) + 1 < gpu_count

    def isolate(
        self, index: int, reason: UnavailableReason, *, gpus: tuple[Gpu, ...], gpu_count: int, now: float, now_ms: int
    ) -> None:
        """Read a GPU apart from now on. `gpus`: it and its MIG instances as last read."""
        self._gpu_count = gpu_count
        entry = IsolatedGpu(index, reason, now_ms, gpus, start_at=now)
        entry.mark()
        self._isolated[index] = entry

    def read(self, now: float) -> None:
        """Advance every probe: start, request, receive, stop, release."""
        for worker in list(self._stopped):
            if worker.is_alive():
                worker.stop(now)
            else:
                self._stopped.remove(worker)
        for entry in list(self._isolated.values()):
            if entry.worker is None:
                self._start(entry, now)
            if entry.worker is not None:
                self._probe(entry, entry.worker, now)

    def _start(self, entry: IsolatedGpu, now: float) -> None:
        running = sum(each.worker is not None for each in self._isolated.values()) + len(self._stopped)
        if now < entry.start_at or running >= MAX_PROBES:
            return
        try:
            entry.worker = self._start_worker()
        except OSError as error:
            log.warning("GPU %d cannot be probed: %s", entry.index, error)
            self._back_off(entry, now)

    def _probe(self, entry: IsolatedGpu, worker: WorkerProcess, now: float) -> None:
        try:
            reading = worker.receive(0.0) if worker.requested_at is not None else None
            worker.request(now, Selection(only=entry.index))
        except (OSError, EOFError, MessageError):
            self._stop(entry, worker, UnavailableReason.DRIVER_ERROR, now)
            return
        is_background_hung = worker.find_hung_background_call(now) is not None
        entry.background_hung_since = (entry.background_hung_since or now) if is_background_hung else None
        if reading is not None:
            self._accept(entry, worker, reading, now)
        elif worker.find_hung_call(now) is not None:
            self._stop(entry, worker, UnavailableReason.NOT_RESPONDING, now)
        elif worker.requested_at is not None and now - worker.requested_at > STALE_AFTER_S:
            entry.mark()
        if entry.background_hung_since is not None and now - entry.background_hung_since > RESTART_AFTER_S:
            self._stop(entry, worker, entry.reason, now)

    def _accept(self, entry: IsolatedGpu, worker: WorkerProcess, reading: GpuReading, now: float) -> None:
        self._events.extend(reading.events)
        self._implausible_count += reading.implausible_count
        if reading.error is not None or not reading.gpus:
            if reading.error is not None and reading.error.requires_restart:
                self._stop(entry, worker, reading.error, now)
            return
        entry.gpus = reading.gpus
        if entry.background_hung_since is not None or any(_has_failed(gpu) for gpu in reading.gpus):
            entry.healthy_since = None
            return
        entry.backoff_s = MIN_PROBE_BACKOFF_S
        if entry.healthy_since is None:
            entry.healthy_since = now
        elif now - entry.healthy_since >= RELEASE_AFTER_S:
            log.warning("GPU %d responds again", entry.index)
            del self._isolated[entry.index]
            self._discard(worker, now)

    def _stop(self, entry: IsolatedGpu, worker: WorkerProcess, reason: UnavailableReason, now: float) -> None:
        """Stop a probe that hangs or has crashed, and start another one after the backoff."""
        entry.reason, entry.worker, entry.background_hung_since = reason, None, None
        entry.mark()
        self._discard(worker, now)
        self._back_off(entry, now)

    def _discard(self, worker: WorkerProcess, now: float) -> None:
        worker.stop(now)
        self._stopped.append(worker)

    @staticmethod
    def _back_off(entry: IsolatedGpu, now: float) -> None:
        entry.start_at = now + entry.backoff_s
        entry.backoff_s = min(2 * entry.backoff_s, MAX_PROBE_BACKOFF_S)

    def merge(self, reading: GpuReading) -> GpuReading:
        """Add the GPUs in quarantine to a reading of the others, in the order of their indexes."""
        gpus = (*reading.gpus, *(gpu for entry in self._isolated.values() for gpu in entry.gpus))
        events, self._events = (*reading.events, *self._events), []
        implausible, self._implausible_count = reading.implausible_count + self._implausible_count, 0
        return replace(reading, gpus=_sort_gpus(gpus, self._gpu_count), events=events, implausible_count=implausible)

    def clear(self, now: float) -> None:
        """Stop every probe: the main worker reads every GPU again."""
        for entry in self._isolated.values():
            if entry.worker is not None:
                self._discard(entry.worker, now)
        self._isolated.clear()

    def close(self, now: float) -> list[WorkerProcess]:
        """Stop every probe and return the processes to wait for."""
        self.clear(now)
        stopped, self._stopped = self._stopped, []
        return stopped


def _has_failed(gpu: Gpu) -> bool:
    return gpu.state is not None and gpu.state.is_failure


def find_group(index: int, gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Return a physical GPU and its MIG instances."""
    listed = tuple(gpus)
    uuids = {gpu.device.uuid for gpu in listed if gpu.device.index == index and gpu.device.mig_parent_uuid is None}
    return tuple(gpu for gpu in listed if {gpu.device.uuid, gpu.device.mig_parent_uuid} & uuids)


def _sort_gpus(gpus: tuple[Gpu, ...], gpu_count: int) -> tuple[Gpu, ...]:
    """Return the GPUs by index, then the MIG instances by that of their GPU, with the indexes that follow."""
    whole = sorted((gpu for gpu in gpus if gpu.device.mig_parent_uuid is None), key=lambda gpu: gpu.device.index)
    positions = {gpu.device.uuid: gpu.device.index for gpu in whole}
    instances = sorted(
        (gpu for gpu in gpus if gpu.device.mig_parent_uuid is not None),
        key=lambda gpu: (positions.get(gpu.device.mig_parent_uuid or "", gpu_count), gpu.device.index),
    )
    numbered = (
        replace(gpu, device=replace(gpu.device, index=index)) for index, gpu in enumerate(instances, start=gpu_count)
    )
    return (*whole, *numbered)
