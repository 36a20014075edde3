"""Waits for XID and ECC error events of the driver, in a thread."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.metrics.xid import ecc_event, xid_event
from dashtop.model.threads import try_start_thread
from dashtop.model.unavailable import Unavailable
from dashtop.sources.nvml.bindings import call, call_or_none
from dashtop.sources.nvml.event_buffer import EventBuffer

if TYPE_CHECKING:
    from dashtop.model.sample import Event

# NVML's types of ECC events, and the XIDs of the same meaning.
ECC_EVENTS = {
    pynvml.nvmlEventTypeDoubleBitEccError: 48,
    pynvml.nvmlEventTypeSingleBitEccErrorStorm: 92,
    pynvml.nvmlEventTypeDramRetirementEvent: 63,
    pynvml.nvmlEventTypeDramRetirementFailure: 64,
}
EVENT_TYPES = pynvml.nvmlEventTypeXidCriticalError | sum(ECC_EVENTS)
WAIT_TIMEOUT_MS = 500


class XidEventWatcher:
    """Collects events of GPUs. There are none if the driver does not support events (Windows, vGPU)."""

    def __init__(self) -> None:
        self._buffer = EventBuffer()
        self._stop = threading.Event()
        self._uuids: dict[int | None, str] = {}
        self._set = call_or_none(pynvml.nvmlEventSetCreate)
        self._thread: threading.Thread | None = None

    def add(self, uuid: str, handle: Any) -> None:
        """Register for the events of a GPU. A GPU that is added again keeps its registration."""
        address = _get_address(handle)
        if self._set is None or address in self._uuids:
            return
        self._uuids[address] = uuid  # before it is registered: its first event can come at once
        if not self._register(handle):
            del self._uuids[address]
            return
        self._ensure_thread()

    def _ensure_thread(self) -> None:
        if self._thread is None and self._uuids:
            self._thread = try_start_thread(self._run, name="dashtop-nvml-events")

    def _register(self, handle: Any) -> bool:
        supported = call_or_none(pynvml.nvmlDeviceGetSupportedEventTypes, handle)
        if not supported or not supported & EVENT_TYPES:
            return False
        try:
            call(pynvml.nvmlDeviceRegisterEvents, handle, supported & EVENT_TYPES, self._set)
        except Unavailable:
            return False
        return True

    def drain(self) -> tuple[Event, ...]:
        """Return the events since the last call, oldest first."""
        self._ensure_thread()
        return self._buffer.drain(time.monotonic())

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                data = pynvml.nvmlEventSetWait_v2(self._set, WAIT_TIMEOUT_MS)
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:
                    # If the GPU is lost or the driver is unloaded, every call fails immediately.
                    self._stop.wait(WAIT_TIMEOUT_MS / 1000)
                continue
            event = self._build_event(data)
            if event is not None:
                self._buffer.add(event, time.monotonic())

    def _build_event(self, data: Any) -> Event | None:
        uuid = self._uuids.get(_get_address(data.device))
        now_ms = time.time_ns() // 1_000_000
        if data.eventType & pynvml.nvmlEventTypeXidCriticalError:
            return xid_event(int(data.eventData), time_ms=now_ms, gpu_uuid=uuid)
        xid = ECC_EVENTS.get(data.eventType)
        return ecc_event(xid, time_ms=now_ms, gpu_uuid=uuid) if xid is not None else None

    def close(self) -> None:
        """Stop waiting."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2 * WAIT_TIMEOUT_MS / 1000)
        if self._set is not None and (self._thread is None or not self._thread.is_alive()):
            call_or_none(pynvml.nvmlEventSetFree, self._set)


def _get_address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value
