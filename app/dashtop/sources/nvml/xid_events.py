"""What the driver reports of itself: XID and memory errors, waited for in a thread of their own."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.metrics.xid import ecc_event, xid_event
from dashtop.model.unavailable import Unavailable
from dashtop.sources.nvml.errors import call, call_or_none

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashtop.model.sample import Event

WANTED = (
    pynvml.nvmlEventTypeXidCriticalError
    | pynvml.nvmlEventTypeDoubleBitEccError
    | pynvml.nvmlEventTypeSingleBitEccErrorStorm
    | pynvml.nvmlEventTypeDramRetirementEvent
    | pynvml.nvmlEventTypeDramRetirementFailure
)
WAIT_MS = 500
MOST_WAITING = 256


class EventWatcher:
    """Waits for events of the GPUs it is given. Quiet where the driver offers none (Windows, vGPU)."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        """Register each of `handles`, GPUs by UUID."""
        self._found: deque[Event] = deque(maxlen=MOST_WAITING)
        self._stop = threading.Event()
        self._uuids = {_address(handle): uuid for uuid, handle in handles.items()}
        self._set = call_or_none(pynvml.nvmlEventSetCreate)
        self._thread: threading.Thread | None = None
        if self._set is None:
            return
        registered = [handle for handle in handles.values() if self._register(handle)]
        if registered:
            self._thread = threading.Thread(target=self._run, name="dashtop-events", daemon=True)
            self._thread.start()

    def _register(self, handle: Any) -> bool:
        supported = call_or_none(pynvml.nvmlDeviceGetSupportedEventTypes, handle)
        if not supported or not supported & WANTED:
            return False
        try:
            call(pynvml.nvmlDeviceRegisterEvents, handle, supported & WANTED, self._set)
        except Unavailable:
            return False
        return True

    def drain(self) -> tuple[Event, ...]:
        """Return the events since the last call, oldest first."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._found.popleft())
        return tuple(found)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                data = pynvml.nvmlEventSetWait_v2(self._set, WAIT_MS)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    # A lost GPU or a driver that goes away answers at once, for ever.
                    self._stop.wait(WAIT_MS / 1000)
                continue
            self._found.append(self._event(data))

    def _event(self, data: Any) -> Event:
        uuid = self._uuids.get(_address(data.device))
        now_ms = time.time_ns() // 1_000_000
        if data.eventType & pynvml.nvmlEventTypeXidCriticalError:
            return xid_event(int(data.eventData), time_ms=now_ms, gpu_uuid=uuid)
        corrected = bool(data.eventType & pynvml.nvmlEventTypeSingleBitEccErrorStorm)
        return ecc_event(corrected=corrected, time_ms=now_ms, gpu_uuid=uuid)

    def close(self) -> None:
        """Stop waiting."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * WAIT_MS / 1000)
        if self._set is not None and (self._thread is None or not self._thread.is_alive()):
            call_or_none(pynvml.nvmlEventSetFree, self._set)


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
