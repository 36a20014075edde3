"""The GPUs behind a child process: a driver that hangs or crashes costs the child, never dashtop."""

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
from dashtop.sources.nvml.device_info import silent
from dashtop.sources.nvml.ipc_codec import Decoder
from dashtop.sources.nvml.worker import REQUEST

if TYPE_CHECKING:
    from dashtop.model.ports import Clock

STALE_S = 2.0
HANG_S = 5.0
KILL_AFTER_S = 1.0
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 5.0

_START = """import sys; sys.path.append(sys.argv[1])
from dashtop.sources.nvml.worker import main; main(int(sys.argv[2]), *sys.argv[3:])"""


class _Child:
    """One child process and the conversation with it."""

    def __init__(self, proc: Path, sys_root: Path) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # The path is added at the end, so that it can hide nothing of the standard library.
                [
                    *(sys.executable, "-c", _START, str(Path(__file__).parents[3]), str(theirs.fileno())),
                    *(str(proc), str(sys_root)),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                close_fds=True,
            )
        self._connection = Connection(os.dup(ours.fileno()))
        ours.close()
        self._arrivals = select.poll()
        self._arrivals.register(self._connection, select.POLLIN)
        self._decoder = Decoder()
        self.asked_at: float | None = None
        self.ended_at: float | None = None

    def ask(self, now: float) -> None:
        """Ask for a reading unless one is already under way. Raises OSError when the child is gone."""
        if self.asked_at is None:
            self._connection.send_bytes(REQUEST)
            self.asked_at = now

    def answer(self, timeout_s: float) -> GpuReading | None:
        """Wait for the reading; None when it does not come in time. Raises OSError or EOFError: the child is gone."""
        if not self._arrivals.poll(1000 * timeout_s):
            return None
        reading = self._decoder.decode(self._connection.recv_bytes())
        self.asked_at = None
        return reading

    def alive(self) -> bool:
        """Tell whether the process still exists."""
        return self._process.poll() is None

    def end(self, now: float) -> None:
        """Ask the process to end, and insist once it has had its time; a call stuck in the driver may outlive both."""
        if self.ended_at is None:
            self._connection.close()
            self._process.terminate()
            self.ended_at = now
        elif now - self.ended_at >= KILL_AFTER_S:
            self._process.kill()

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:  # stuck in the kernel: it ends when the driver lets go of it
                return


class SubprocessGpuReader:
    """Implements GpuReader over a child process that is replaced when it hangs or crashes.

    There are never more than two children: the one that is asked, and one abandoned that the kernel will not let die.
    """

    simulated = False

    def __init__(self, *, clock: Clock, proc: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> None:
        """`proc` and `sys_root`: where the kernel tells of GPUs that had better not be asked themselves."""
        self._clock = clock
        self._proc, self._sys_root = proc, sys_root
        self._child: _Child | None = None
        self._abandoned: _Child | None = None
        self._last = GpuReading(error=UnavailableReason.STARTING)
        self._silenced = False
        self._last_at = clock.monotonic()
        self._start_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._failures = 0

    def failures(self) -> int:
        """Count the children that hung or crashed."""
        return self._failures

    def read(self, timeout_s: float) -> GpuReading:
        """Return a fresh reading; or, while one is late, the last with its age; or why there is none."""
        now = self._clock.monotonic()
        self._reap(now)
        child = self._child or self._start(now)
        if child is None:
            return self._late(now)
        try:
            child.ask(now)
            reading = child.answer(timeout_s)
        except (OSError, EOFError):
            self._give_up(child, now, UnavailableReason.DRIVER_ERROR)
            return self._late(now)
        if reading is not None:
            if reading.error is None:
                self._backoff_s = FIRST_BACKOFF_S
            self._last, self._last_at, self._silenced = replace(reading, events=()), now, False
            if reading.error is not None and reading.error.requires_restart:
                self._replace(child, now)
            return reading
        if child.asked_at is not None and now - child.asked_at > HANG_S:
            if self._abandoned is None:
                self._give_up(child, now, UnavailableReason.DRIVER_SILENT)
            else:  # one is stuck already: keep this one, for the driver may let either go on
                self._last = silenced(self._last, UnavailableReason.DRIVER_SILENT)
        return self._late(now)

    def _start(self, now: float) -> _Child | None:
        if now < self._start_at:
            return None
        self._child = _Child(self._proc, self._sys_root)
        return self._child

    def _give_up(self, child: _Child, now: float, reason: UnavailableReason) -> None:
        """Abandon a child that hangs or has crashed, and say of every GPU why it has no values any more."""
        self._failures += 1
        self._last, self._silenced = silenced(self._last, reason), True
        self._replace(child, now)

    def _replace(self, child: _Child, now: float) -> None:
        self._child = None
        child.end(now)
        if self._abandoned is None:
            self._abandoned = child
        else:
            child.wait(KILL_AFTER_S)
        self._start_at = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, LONGEST_BACKOFF_S)

    def _reap(self, now: float) -> None:
        if self._abandoned is None:
            return
        if self._abandoned.alive():
            self._abandoned.end(now)
        else:
            self._abandoned = None

    def _late(self, now: float) -> GpuReading:
        age_s = now - self._last_at
        if age_s > STALE_S and self._last.error is None and not self._silenced:
            self._last, self._silenced = silenced(self._last, UnavailableReason.STALE), True
        return replace(self._last, age_s=age_s)

    def close(self) -> None:
        """End the children; returns within two seconds."""
        now = self._clock.monotonic()
        children = [child for child in (self._child, self._abandoned) if child is not None]
        self._child = self._abandoned = None
        for child in children:
            child.end(now)
        for child in children:
            child.wait(0.5)


def silenced(reading: GpuReading, reason: UnavailableReason) -> GpuReading:
    """Return the reading with every value gone for `reason`; with no GPUs known, it is the reading's error."""
    if not reading.gpus:
        return GpuReading(error=reason)
    return GpuReading(gpus=tuple(silent(gpu.device, reason) for gpu in reading.gpus))
