"""Reads GPUs through a worker process. A worker that hangs or crashes is replaced; dashtop itself goes on."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import GpuReading
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import mark_unavailable
from dashtop.sources.nvml.worker import REQUEST, Decoder

if TYPE_CHECKING:
    from dashtop.model.ports import Clock

STALE_AFTER_S = 2.0
HANG_TIMEOUT_S = 5.0
KILL_TIMEOUT_S = 1.0
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 5.0

# -c puts the current folder ('') first on sys.path; a file such as pickle.py there must not hide the standard library.
# The folder of dashtop is appended at the end for the same reason. PYTHONPATH keeps its effect.
_START = """import sys; sys.path[:] = [*filter(None, sys.path), sys.argv[1]]
from dashtop.sources.nvml.worker import main; main(int(sys.argv[2]), *sys.argv[3:])"""


class _Worker:
    """One worker process and the connection to it."""

    def __init__(self, proc: Path, sys_root: Path) -> None:
        own_end, worker_end = socket.socketpair()
        with worker_end:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _START, str(Path(__file__).parents[3]), str(worker_end.fileno())),
                    *(str(proc), str(sys_root)),
                ],
                pass_fds=(worker_end.fileno(),),
                stdin=subprocess.DEVNULL,
                close_fds=True,
            )
        self._connection = Connection(os.dup(own_end.fileno()))
        own_end.close()
        self._poll = select.poll()
        self._poll.register(self._connection, select.POLLIN)
        self._decoder = Decoder()
        self.requested_at: float | None = None
        self.terminated_at: float | None = None

    def request(self, now: float) -> None:
        """Request a reading unless one is pending. Raise OSError if the worker is gone."""
        if self.requested_at is None:
            self._connection.send_bytes(REQUEST)
            self.requested_at = now

    def receive(self, timeout_s: float) -> GpuReading | None:
        """Wait for the reading. Return None after the timeout. Raise OSError or EOFError if the worker is gone."""
        if not self._poll.poll(1000 * timeout_s):
            return None
        reading = self._decoder.decode(self._connection.recv_bytes())
        self.requested_at = None
        return reading

    def is_alive(self) -> bool:
        """Return whether the process exists."""
        return self._process.poll() is None

    def stop(self, now: float) -> None:
        """Terminate the process; called again after KILL_TIMEOUT_S, kill it. A call stuck in the driver can survive."""
        if self.terminated_at is None:
            self._connection.close()
            self._process.terminate()
            self.terminated_at = now
        elif now - self.terminated_at >= KILL_TIMEOUT_S:
            self._process.kill()

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to exit; kill it after the timeout."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:  # stuck in the kernel: it exits when the driver returns
                return


class SubprocessGpuReader:
    """Implements GpuReader with a worker process that is replaced when it hangs or crashes.

    There are never more than two workers: the current one, and a replaced one that the kernel cannot kill yet.
    """

    simulated = False

    def __init__(self, *, clock: Clock, proc: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> None:
        """`proc` and `sys_root`: where /proc and /sys are mounted."""
        self._clock = clock
        self._proc, self._sys_root = proc, sys_root
        self._worker: _Worker | None = None
        self._replaced: _Worker | None = None
        self._last = GpuReading(error=UnavailableReason.STARTING)
        self._is_last_marked = False
        self._last_at = clock.monotonic()
        self._start_at = 0.0
        self._backoff_s = MIN_BACKOFF_S
        self._failures = 0

    def failures(self) -> int:
        """Return how many workers hung or crashed."""
        return self._failures

    def read(self, timeout_s: float) -> GpuReading:
        """Return a new reading; or, if it is late, the last one with its age; or the reason why there is none."""
        now = self._clock.monotonic()
        self._stop_replaced(now)
        worker = self._worker or self._start(now)
        if worker is None:
            return self._get_last(now)
        try:
            worker.request(now)
            reading = worker.receive(timeout_s)
        except (OSError, EOFError):
            self._fail(worker, now, UnavailableReason.DRIVER_ERROR)
            return self._get_last(now)
        if reading is not None:
            if reading.error is None:
                self._backoff_s = MIN_BACKOFF_S
            self._last, self._last_at, self._is_last_marked = replace(reading, events=()), now, False
            if reading.error is not None and reading.error.requires_restart:
                self._replace(worker, now)
            return reading
        if worker.requested_at is not None and now - worker.requested_at > HANG_TIMEOUT_S:
            if self._replaced is None:
                self._fail(worker, now, UnavailableReason.DRIVER_SILENT)
            else:  # two workers hang: keep this one, because the driver may let either continue
                self._last = mark_all_unavailable(self._last, UnavailableReason.DRIVER_SILENT)
        return self._get_last(now)

    def _start(self, now: float) -> _Worker | None:
        if now < self._start_at:
            return None
        self._worker = _Worker(self._proc, self._sys_root)
        return self._worker

    def _fail(self, worker: _Worker, now: float, reason: UnavailableReason) -> None:
        """Replace a worker that hangs or has crashed, and mark every value unavailable."""
        self._failures += 1
        self._last, self._is_last_marked = mark_all_unavailable(self._last, reason), True
        self._replace(worker, now)

    def _replace(self, worker: _Worker, now: float) -> None:
        """Stop a worker. `read` starts another one after the backoff."""
        self._worker = None
        worker.stop(now)
        if self._replaced is None:
            self._replaced = worker
        else:
            worker.wait(KILL_TIMEOUT_S)
        self._start_at = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    def _stop_replaced(self, now: float) -> None:
        if self._replaced is None:
            return
        if self._replaced.is_alive():
            self._replaced.stop(now)
        else:
            self._replaced = None

    def _get_last(self, now: float) -> GpuReading:
        age_s = now - self._last_at
        if age_s > STALE_AFTER_S and self._last.error is None and not self._is_last_marked:
            self._last, self._is_last_marked = mark_all_unavailable(self._last, UnavailableReason.STALE), True
        return replace(self._last, age_s=age_s)

    def close(self) -> None:
        """Stop the workers. Return within two seconds."""
        now = self._clock.monotonic()
        workers = [worker for worker in (self._worker, self._replaced) if worker is not None]
        self._worker = self._replaced = None
        for worker in workers:
            worker.stop(now)
        for worker in workers:
            worker.wait(0.5)


def mark_all_unavailable(reading: GpuReading, reason: UnavailableReason) -> GpuReading:
    """Return the reading without values, all missing for `reason`; without GPUs, it is the error of the reading."""
    if not reading.gpus:
        return GpuReading(error=reason)
    return GpuReading(gpus=tuple(mark_unavailable(gpu.device, reason) for gpu in reading.gpus))
