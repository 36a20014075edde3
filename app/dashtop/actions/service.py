"""Decides whether a process may be sent a signal, and sends it. Every check is made on a process that a pidfd holds."""

from __future__ import annotations

import logging
import os
import pwd
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from dashtop.model.action import (
    KILL_AFTER_S,
    SENT,
    ActionRecord,
    ActionRefusedError,
    ActionRequest,
    ActionScope,
    ActionSignal,
    Refusal,
)
from dashtop.model.text import sanitize_text
from dashtop.sources.host.process_handle import ProcessFacts, ProcessHandle, list_ancestors, open_process

if TYPE_CHECKING:
    from dashtop.actions.audit import AuditLog
    from dashtop.model.ports import Clock, Latest
    from dashtop.model.sample import GpuProcess, Sample

START_TOLERANCE_MS: Final = 1000
"""Two readings of the start of one process differ a little, such as those of two workers of a server."""
MAX_SAMPLE_AGE_S: Final = 15.0
MAX_TERMINATED: Final = 1000
"""Processes whose SIGTERM is remembered."""
_INIT_PID: Final = 1

log = logging.getLogger(__name__)


class ActionService:
    """Implements Actions. `audit` None: nothing can be recorded, so every action is refused. Thread-safe."""

    def __init__(self, scope: ActionScope, *, audit: AuditLog | None, latest: Latest, clock: Clock) -> None:
        self.scope = scope
        self._audit = audit
        self._latest = latest
        self._clock = clock
        self._lock = threading.Lock()
        self._terminated_s: OrderedDict[tuple[int, int], float] = OrderedDict()

    @property
    def user(self) -> str:
        """The user dashtop runs as: with ActionScope.OWN only processes of this user are signaled."""
        return _read_user_name()

    def send(self, request: ActionRequest) -> None:
        """Send a signal. Raise ActionRefusedError. Both are recorded, the signal before it is sent."""
        sample = self._latest.latest()
        process = _find_process(sample, request)
        try:
            self._check_sample(sample)
            self._send(request, process, _is_graphics_only(sample, request.pid))
        except ActionRefusedError as error:
            self._record(request, process, error.refusal.outcome)
            raise

    def refuse(self, request: ActionRequest, refusal: Refusal, left_s: int = 0) -> ActionRefusedError:
        """Record a refusal of the web server, and return the error to raise."""
        self._record(request, _find_process(self._latest.latest(), request), refusal.outcome)
        return ActionRefusedError(refusal, left_s)

    def records(self) -> list[ActionRecord]:
        """Return the newest records, the newest first."""
        return self._audit.read_newest() if self._audit is not None else []

    def _send(self, request: ActionRequest, process: GpuProcess | None, is_graphics_only: bool) -> None:
        if request.pid == _INIT_PID:
            raise ActionRefusedError(Refusal.INIT)
        with open_process(request.pid) as handle:
            facts = _check_identity(handle, request, process)
            if is_graphics_only:
                raise ActionRefusedError(Refusal.GRAPHICS_ONLY)
            self._check_allowed(request.pid, facts)
            key = (request.pid, facts.start_ticks)
            if request.signal is ActionSignal.KILL:
                self._check_kill(key)
            if not self._record(request, process, SENT):
                raise ActionRefusedError(Refusal.NOT_RECORDED)
            handle.send(request.signal)
            if request.signal is ActionSignal.TERM:
                self._remember_term(key)

    def _check_sample(self, sample: Sample | None) -> None:
        if sample is not None and sample.simulated:
            raise ActionRefusedError(Refusal.SIMULATED)
        if self.scope is ActionScope.OFF:
            raise ActionRefusedError(Refusal.DISABLED)
        max_age_s = max(MAX_SAMPLE_AGE_S, 2 * self._latest.interval_s)
        if sample is None or self._clock.monotonic() - sample.monotonic_s + sample.gpu_age_s > max_age_s:
            raise ActionRefusedError(Refusal.STALE)

    def _check_allowed(self, pid: int, facts: ProcessFacts) -> None:
        if facts.is_kernel_thread:
            raise ActionRefusedError(Refusal.KERNEL_THREAD)
        own = os.getpid()
        if pid == own or own in list_ancestors(pid):
            raise ActionRefusedError(Refusal.DASHTOP)
        if pid in list_ancestors(own):
            raise ActionRefusedError(Refusal.ANCESTOR)
        if self.scope is ActionScope.ALL:
            if os.geteuid() != 0:
                raise ActionRefusedError(Refusal.NOT_ROOT)
        elif set(facts.uids) != {os.geteuid()}:
            raise ActionRefusedError(Refusal.OTHER_USER)

    def _check_kill(self, key: tuple[int, int]) -> None:
        with self._lock:
            terminated_s = self._terminated_s.get(key)
        if terminated_s is None:
            raise ActionRefusedError(Refusal.TOO_EARLY_TO_KILL)
        left_s = terminated_s + KILL_AFTER_S - self._clock.monotonic()
        if left_s > 0:
            raise ActionRefusedError(Refusal.WAIT_TO_KILL, int(left_s) + 1)

    def _remember_term(self, key: tuple[int, int]) -> None:
        """Remember the first SIGTERM: a second one does not begin the wait again."""
        with self._lock:
            self._terminated_s.setdefault(key, self._clock.monotonic())
            if len(self._terminated_s) > MAX_TERMINATED:
                self._terminated_s.popitem(last=False)

    def _record(self, request: ActionRequest, process: GpuProcess | None, outcome: str) -> bool:
        """Write a record to the audit log and to dashtop's log. Return whether the audit log has it."""
        if self._audit is None:
            return False
        info = process.info if process is not None else None
        record = ActionRecord(
            time_ms=self._clock.now_ms(),
            client=sanitize_text(request.client),
            viewer=sanitize_text(request.viewer) if request.viewer else None,
            pid=request.pid,
            started_ms=request.started_ms,
            owner=sanitize_text(info.username) if info is not None and info.username else None,
            name=sanitize_text(info.name) if info is not None and info.name else None,
            signal=request.signal.value,
            outcome=outcome,
        )
        log.info(
            "%sSIG%s to PID %d (%s of %s), asked by %s at %s: %s.",
            "" if outcome == SENT else "refused: ",
            *(record.signal, record.pid, record.name or "unknown", record.owner or "unknown"),
            *(record.viewer or "a user without a name", record.client, record.outcome),
        )
        try:
            self._audit.append(record)
        except OSError as error:
            log.error("The audit log %s cannot be written: %s", self._audit.path, error.strerror or error)  # noqa: TRY400
            return False
        return True


def _find_process(sample: Sample | None, request: ActionRequest) -> GpuProcess | None:
    """Return the process on the named GPU; None if that GPU does not list it."""
    if sample is None:
        return None
    found = [gpu for gpu in sample.gpus if gpu.device.uuid.startswith(request.gpu_uuid)]
    return next((process for gpu in found for process in gpu.processes if process.pid == request.pid), None)


def _check_identity(handle: ProcessHandle, request: ActionRequest, process: GpuProcess | None) -> ProcessFacts:
    """Return the facts of the held process if it is the one that the client means, and that uses the GPU."""
    facts = handle.read()
    if facts.has_ended:
        raise ActionRefusedError(Refusal.GONE)
    if process is None or process.gpu_memory_bytes == 0:
        raise ActionRefusedError(Refusal.NO_GPU_MEMORY)
    started_ms = process.info.started_ms
    if process.info.foreign or started_ms is None or process.start_ticks is None:
        raise ActionRefusedError(Refusal.FOREIGN)
    is_meant = abs(started_ms - request.started_ms) <= START_TOLERANCE_MS
    if not is_meant or facts.start_ticks != process.start_ticks:
        raise ActionRefusedError(Refusal.OTHER_PROCESS)
    return facts


def _is_graphics_only(sample: Sample | None, pid: int) -> bool:
    """Return whether the process computes on no GPU."""
    gpus = sample.gpus if sample is not None else ()
    return all(process.kind == "G" for gpu in gpus for process in gpu.processes if process.pid == pid)


def _read_user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
