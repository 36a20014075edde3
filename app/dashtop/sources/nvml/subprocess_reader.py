"""Reads GPUs through a worker process. A worker that hangs or crashes is replaced; dashtop itself goes on.

A GPU that made it hang or crash is left to a worker of its own (`quarantine`), so that the others are read.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import GpuReading
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import mark_unavailable
from dashtop.sources.nvml.driver_files import describe_unreadable_gpu
from dashtop.sources.nvml.quarantine import MAX_PROBES, Quarantine, find_group
from dashtop.sources.nvml.worker_process import MessageError, WorkerProcess, stop_all

if TYPE_CHECKING:
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Device

log = logging.getLogger(__name__)

STALE_AFTER_S = 2.0
SUSPECT_TIMEOUT_S = 1.5
"""A call that takes longer hangs while the last worker hung too: several GPUs can hang at the same time."""
MAX_REPLACED = 3
"""Workers that the kernel cannot kill yet; after so many, none is replaced even to leave out one more GPU."""
TAKE_OVER_READINGS = 3
"""A successor takes over after so many readings, one a tick: the results of slow calls are there by then."""
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 5.0


class SubprocessGpuReader:
    """Implements GpuReader with a worker process that is replaced when it hangs or crashes.

    Unless GPUs are in quarantine, there are never more than two workers: the current one, and a replaced one that the
    kernel cannot kill yet. A worker of which only the background calls hang goes on until its successor takes over.
    """

    simulated = False

    def __init__(self, *, clock: Clock, proc: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> None:
        """`proc` and `sys_root`: where /proc and /sys are mounted."""
        self._clock = clock
        self._proc, self._sys_root = proc, sys_root
        self._worker: WorkerProcess | None = None
        self._successor: WorkerProcess | None = None
        self._successor_readings = 0
        self._replaced: list[WorkerProcess] = []
        self._quarantine = Quarantine(lambda: WorkerProcess(proc, sys_root))
        self._last = GpuReading(error=UnavailableReason.STARTING)
        self._is_last_marked = False
        self._last_at = clock.monotonic()
        self._start_at = 0.0
        self._backoff_s = MIN_BACKOFF_S
        self._failures = 0
        self._gpu_count = 0
        self._known: dict[int, Device] = {}
        self._is_suspect = False
        self._crashed_gpus: set[int] = set()

    def failures(self) -> int:
        """Return how many workers hung or crashed."""
        return self._failures

    def read(self, timeout_s: float) -> GpuReading:
        """Return a new reading; or, if it is late, the last one with its age; or the reason why there is none."""
        now = self._clock.monotonic()
        self._stop_replaced(now)
        self._quarantine.read(now)
        if self._successor is not None:
            self._prepare_successor(self._successor, now)
        worker = self._worker or self._start(now)
        if worker is None:
            return self._get_last(now)
        try:
            worker.request(now, self._quarantine.selection())
            reading = worker.receive(timeout_s)
        except (OSError, EOFError):
            self._handle_crash(worker, now)
            return self._get_last(now)
        except MessageError as error:
            log.error("Restart dashtop: %s", error)  # noqa: TRY400 - the cause is in the message
            self._fail(worker, now, UnavailableReason.INTERNAL_ERROR, at_once=False)
            return self._get_last(now)
        if reading is not None:
            return self._accept(worker, reading, now)
        self._handle_delay(worker, now)
        return self._get_last(now)

    def _accept(self, worker: WorkerProcess, reading: GpuReading, now: float) -> GpuReading:
        if worker.gpu_count() != self._gpu_count or reading.error is not None:
            self._gpu_count = worker.gpu_count()
            self._known.clear()
            if self._quarantine:  # GPUs were added or removed, so their indexes have changed
                self._quarantine.clear(now)
        if self._quarantine:
            reading = self._quarantine.merge(reading)
        reading = self._keep_identities(reading)
        if reading.error is None:
            self._backoff_s = MIN_BACKOFF_S
            self._is_suspect = False
        self._last, self._last_at, self._is_last_marked = replace(reading, events=(), implausible_count=0), now, False
        if reading.error is not None and reading.error.requires_restart:
            self._replace(worker, now)
        else:
            self._handle_hung_background_call(worker, now)
        return reading

    def _keep_identities(self, reading: GpuReading) -> GpuReading:
        """Restore the facts of GPUs that are lost since they were read: a new worker does not know them."""
        nameless = [gpu.device.index for gpu in reading.gpus if not gpu.device.is_identified]
        if not nameless:
            self._known = {gpu.device.index: gpu.device for gpu in reading.gpus}
            return reading
        known = self._known
        lost = known.keys() & set(nameless)
        gpus = (
            replace(gpu, device=known[gpu.device.index]) if gpu.device.index in lost else gpu for gpu in reading.gpus
        )
        return replace(reading, gpus=tuple(gpus))

    def _handle_delay(self, worker: WorkerProcess, now: float) -> None:
        """Replace a worker that hangs, without the GPU in whose call it hangs."""
        is_stale = not self._last.gpus or now - self._last_at > STALE_AFTER_S
        if is_stale and worker.is_initializing(now):
            self._last, self._is_last_marked = mark_all_unavailable(self._last, UnavailableReason.INITIALIZING), True
        call = worker.find_hung_call(now, SUSPECT_TIMEOUT_S if self._is_suspect else None)
        if call is None:
            return
        is_isolated = len(self._replaced) < MAX_REPLACED and self._isolate(
            call.gpu, UnavailableReason.NOT_RESPONDING, worker, now
        )
        if is_isolated or not self._replaced:
            log.warning("NVML hangs in %s of GPU %s", call.name, "(any)" if call.gpu is None else call.gpu)
            self._is_suspect = True
            self._fail(worker, now, UnavailableReason.DRIVER_SILENT, at_once=is_isolated)
        else:  # two workers hang: keep this one, because the driver may let either continue
            self._last = mark_all_unavailable(self._last, UnavailableReason.DRIVER_SILENT)

    def _handle_crash(self, worker: WorkerProcess, now: float) -> None:
        """Replace a worker that has crashed; the second time that a GPU is involved, without this GPU."""
        gpus = worker.list_running_gpus()
        suspects = gpus & self._crashed_gpus
        self._crashed_gpus = gpus
        isolated = [gpu for gpu in suspects if self._isolate(gpu, UnavailableReason.DRIVER_ERROR, worker, now)]
        self._fail(worker, now, UnavailableReason.DRIVER_ERROR, at_once=bool(isolated))

    def _handle_hung_background_call(self, worker: WorkerProcess, now: float) -> None:
        """Read a GPU apart whose slow calls hang: they would hold up those of the others."""
        call = worker.find_hung_background_call(now)
        if call is None or call.gpu is None or len(self._quarantine) >= MAX_PROBES or self._successor is not None:
            return
        if self._quarantine.can_isolate(call.gpu, self._gpu_count):
            log.warning("NVML hangs in %s of GPU %d in the background", call.name, call.gpu)
            self._isolate(call.gpu, UnavailableReason.NOT_RESPONDING, worker, now)
            self._failures += 1
            try:
                self._successor, self._successor_readings = WorkerProcess(self._proc, self._sys_root), 0
            except OSError as error:
                log.warning("The process that reads the GPUs cannot be started: %s", error)
                self._replace(worker, now)

    def _prepare_successor(self, successor: WorkerProcess, now: float) -> None:
        """Read the successor without waiting. It takes over when it is ready; if it fails, both are replaced."""
        try:
            if successor.requested_at is not None and successor.receive(0.0) is not None:
                self._successor_readings += 1
            successor.request(now, self._quarantine.selection())
        except (OSError, EOFError, MessageError):
            has_failed = True
        else:
            has_failed = successor.find_hung_call(now) is not None
        if has_failed:
            self._failures += 1
            self._successor = None
            self._stop_worker(successor, now)
        if self._worker is not None and (has_failed or self._successor_readings >= TAKE_OVER_READINGS):
            self._replace(self._worker, now)

    def _isolate(self, gpu: int | None, reason: UnavailableReason, worker: WorkerProcess, now: float) -> bool:
        """Put a GPU into quarantine. Return whether others are left; if none is, it is the driver that fails."""
        count = self._gpu_count = worker.gpu_count() or self._gpu_count
        if gpu is None or not self._quarantine.can_isolate(gpu, count):
            self._quarantine.clear(now)
            return False
        now_ms = self._clock.now_ms()
        gpus = find_group(gpu, self._last.gpus)
        if not gpus:  # it hangs since the start
            gpus = (mark_unavailable(describe_unreadable_gpu(self._proc, gpu, count), reason),)
        self._quarantine.isolate(gpu, reason, gpus=gpus, gpu_count=count, now=now, now_ms=now_ms)
        return True

    def _start(self, now: float) -> WorkerProcess | None:
        if now < self._start_at:
            return None
        try:
            self._worker = WorkerProcess(self._proc, self._sys_root)
        except OSError as error:
            log.warning("The process that reads the GPUs cannot be started: %s", error)
            self._last, self._is_last_marked = mark_all_unavailable(self._last, UnavailableReason.INTERNAL_ERROR), True
            self._back_off(now)
        return self._worker

    def _fail(self, worker: WorkerProcess, now: float, reason: UnavailableReason, *, at_once: bool) -> None:
        """Replace a worker that hangs or has crashed, and mark every value unavailable."""
        self._failures += 1
        self._last, self._is_last_marked = mark_all_unavailable(self._last, reason), True
        self._replace(worker, now)
        if at_once:
            self._start_at = now

    def _replace(self, worker: WorkerProcess, now: float) -> None:
        """Stop a worker. Its successor takes over if there is one; else `read` starts another one after the backoff."""
        self._worker, self._successor = self._successor, None
        self._stop_worker(worker, now)
        if self._worker is None:
            self._back_off(now)

    def _stop_worker(self, worker: WorkerProcess, now: float) -> None:
        worker.stop(now)
        self._replaced.append(worker)

    def _back_off(self, now: float) -> None:
        self._start_at = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    def _stop_replaced(self, now: float) -> None:
        for worker in list(self._replaced):
            if worker.is_alive():
                worker.stop(now)
            else:
                self._replaced.remove(worker)

    def _get_last(self, now: float) -> GpuReading:
        age_s = now - self._last_at
        if age_s > STALE_AFTER_S and self._last.error is None and not self._is_last_marked:
            self._last, self._is_last_marked = mark_all_unavailable(self._last, UnavailableReason.STALE), True
        return replace(self._last, age_s=age_s)

    def close(self) -> None:
        """Stop the workers. Return within two seconds."""
        now = self._clock.monotonic()
        workers = [*(each for each in (self._worker, self._successor) if each is not None), *self._replaced]
        self._worker, self._successor, self._replaced = None, None, []
        stop_all([*workers, *self._quarantine.close(now)], now)


def mark_all_unavailable(reading: GpuReading, reason: UnavailableReason) -> GpuReading:
    """Return the reading without values, all missing for `reason`; without GPUs, it is the error of the reading."""
    if not reading.gpus:
        return GpuReading(error=reason)
    return GpuReading(gpus=tuple(mark_unavailable(gpu.device, reason) for gpu in reading.gpus))
