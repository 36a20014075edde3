"""A worker process as its parent sees it: start, request, receive, stop, and the call in which it hangs."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from dashtop.model.errors import DashtopError
from dashtop.model.python_process import build_python_command
from dashtop.sources.nvml.call_marker import OPEN_DRIVER, OPEN_GPU, Call, CallWatch
from dashtop.sources.nvml.worker import Decoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dashtop.model.sample import GpuReading
    from dashtop.sources.nvml.selection import Selection

KILL_TIMEOUT_S = 1.0
EXIT_TIMEOUT_S = 0.5
HANG_TIMEOUT_S = 4.0
"""A call that takes longer hangs. The slowest known one, nvmlDeviceGetPcieThroughput, takes 0.02 s."""
OPEN_TIMEOUT_S = 15.0
"""The same for opening one GPU: without persistence mode the driver initializes it then, which takes seconds."""
INIT_TIMEOUT_S = 60.0
"""The same for nvmlInit, which can initialize every GPU, and for the start of the process on a busy machine."""
INIT_SHOWN_AFTER_S = 1.0

_START = "from dashtop.sources.nvml.worker import main; main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])"


class MessageError(DashtopError):
    """A worker's message cannot be decoded."""


class WorkerProcess:
    """One worker process and the connection to it."""

    def __init__(self, proc: Path, sys_root: Path) -> None:
        """Start the process. Raise OSError if the machine is short of processes, memory or descriptors."""
        self._calls = CallWatch()
        own_end, worker_end = socket.socketpair()
        descriptors = (worker_end.fileno(), self._calls.descriptor)
        try:
            self._process = subprocess.Popen(
                build_python_command(_START, *map(str, descriptors), str(proc), str(sys_root)),
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                close_fds=True,
            )
            self._connection = Connection(own_end.detach())
        finally:
            own_end.close()
            worker_end.close()
            self._calls.close_descriptor()
        self._poll = select.poll()
        self._poll.register(self._connection, select.POLLIN)
        self._decoder = Decoder()
        self.requested_at: float | None = None
        self.terminated_at: float | None = None

    def request(self, now: float, selection: Selection) -> None:
        """Request a reading unless one is pending. Raise OSError if the worker is gone."""
        if self.requested_at is None:
            self._connection.send_bytes(selection.encode())
            self.requested_at = now

    def receive(self, timeout_s: float) -> GpuReading | None:
        """Wait for the reading. Return None after the timeout.

        Raise OSError or EOFError if the worker is gone, and MessageError if it does not fit this process: its package
        was upgraded while the server runs.
        """
        if not self._poll.poll(1000 * timeout_s):
            return None
        message = self._connection.recv_bytes()
        try:
            reading = self._decoder.decode(message)
        except Exception as error:
            raise MessageError(f"the answer of the process that reads the GPUs is not understood: {error!r}") from error
        self.requested_at = None
        return reading

    def gpu_count(self) -> int:
        """Return the number of GPUs that the worker has found; 0: not known yet."""
        return self._calls.gpu_count()

    def find_hung_call(self, now: float, hang_timeout_s: float | None = None) -> Call | None:
        """Return the call in which a requested reading hangs, or None. Each call has its own deadline.

        `hang_timeout_s` replaces HANG_TIMEOUT_S.
        """
        if self.requested_at is None:
            return None
        stuck_s = self._calls.measure_s("sample", now)
        call = self._calls.read("sample")
        timeout_s = INIT_TIMEOUT_S if call is None else hang_timeout_s or HANG_TIMEOUT_S
        if call is not None and call.name in {OPEN_DRIVER, OPEN_GPU}:
            timeout_s = OPEN_TIMEOUT_S if call.name == OPEN_GPU else INIT_TIMEOUT_S
        return (call or Call(None, "start")) if stuck_s > timeout_s else None

    def find_hung_background_call(self, now: float) -> Call | None:
        """Return the background call that hangs, or None."""
        is_hung = self._calls.measure_s("background", now) > HANG_TIMEOUT_S
        return self._calls.read("background") if is_hung else None

    def is_initializing(self, now: float) -> bool:
        """Return whether the worker waits for the driver to initialize."""
        call = self._calls.read("sample")
        is_late = self.requested_at is not None and now - self.requested_at > INIT_SHOWN_AFTER_S
        return is_late and call is not None and call.name in {OPEN_DRIVER, OPEN_GPU}

    def list_running_gpus(self) -> set[int]:
        """Return the GPUs of the running calls; after a crash, one of them has caused it."""
        calls = [self._calls.read(thread) for thread in ("sample", "background")]
        return {call.gpu for call in calls if call is not None and call.gpu is not None}

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

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def has_exited(self, timeout_s: float) -> bool:
        """Wait for the process to exit. Return whether it did."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_all(workers: Sequence[WorkerProcess], now: float) -> None:
    """Terminate the workers, then kill those that go on. Return after 2 * EXIT_TIMEOUT_S at most.

    A worker that is stuck in the kernel exits when the driver returns.
    """
    for worker in workers:
        worker.stop(now)
    remaining = _wait_for_all(workers)
    for worker in remaining:
        worker.kill()
    _wait_for_all(remaining)


def _wait_for_all(workers: Sequence[WorkerProcess]) -> list[WorkerProcess]:
    """Wait up to EXIT_TIMEOUT_S for all of them. Return those that have not exited."""
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    return [worker for worker in workers if not worker.has_exited(max(0.0, deadline - time.monotonic()))]
