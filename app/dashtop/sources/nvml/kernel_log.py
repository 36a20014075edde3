"""XIDs from the kernel log (/dev/kmsg), beside those that NVML reports.

NVML's events miss some: 62, and at times 79, 119 and 120 (NVIDIA/DCGM issues 162 and 235). The log can also be read
while the driver hangs. Reading it needs root, or a kernel without `dmesg_restrict`; in a container it is seldom there.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.metrics.xid import xid_event
from dashtop.sources.nvml.event_buffer import REPEAT_INTERVAL_S, EventBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dashtop.model.ports import Clock
    from dashtop.model.readers import GpuReader
    from dashtop.model.sample import Event, Gpu, GpuReading

SAME_EVENT_S: Final = 5.0
"""An error of one GPU and code that both sources report within this time is one event."""
MAX_RECORD_BYTES: Final = 8192
"""The kernel's own limit (CONSOLE_EXT_LOG_MAX)."""
MAX_RECORDS: Final = 1000
"""Read at most so many per sample; the others follow with the next."""

# "6,1234,5678,-;NVRM: Xid (PCI:0000:c1:00): 79, pid=…". The first number is 8 x facility + level; what programs write
# has a facility other than 0. Older drivers leave out "PCI:", newer ones name a MIG instance behind the address.
_XID: Final = re.compile(
    rb"^([0-7]),[^;\n]*;NVRM: Xid \((?:PCI:)?([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})[^)\n]*\): (\d{1,4})\b",
    re.MULTILINE | re.IGNORECASE,
)


class _PciSlot(NamedTuple):
    domain: int
    bus: int
    device: int


class _Error(NamedTuple):
    gpu_uuid: str | None
    code: int


def open_kernel_log(path: Path) -> int | None:
    """Return a descriptor of the log at its end, None if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.lseek(descriptor, 0, os.SEEK_END)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


class KernelLogReader:
    """Implements GpuReader: the readings of another one, and the XIDs that only the kernel log has."""

    def __init__(self, reader: GpuReader, descriptor: int | None, *, clock: Clock) -> None:
        """`descriptor`: that of `open_kernel_log`. It never blocks, and is closed here."""
        self.simulated = reader.simulated
        self._reader = reader
        self._descriptor = descriptor
        self._clock = clock
        self._buffer = EventBuffer()
        self._by_nvml: dict[_Error, float] = {}
        self._by_kernel: dict[_Error, float] = {}

    def read(self, timeout_s: float) -> GpuReading:
        """Return the reading with the XIDs of the kernel log."""
        reading = self._reader.read(timeout_s)
        if self._descriptor is None:
            return reading
        now = self._clock.monotonic()
        events = [event for event in reading.events if not self._is_known_from_kernel(event, now)]
        for code, slot in self._read_xids(self._descriptor):
            gpu = find_gpu(reading.gpus, slot)
            if gpu is not None:
                self._add(_Error(gpu.device.uuid, code), now)
        events += self._buffer.drain(now)
        return reading if len(events) == len(reading.events) == 0 else replace(reading, events=tuple(events))

    def _is_known_from_kernel(self, event: Event, now: float) -> bool:
        """Note an event of NVML; return whether the kernel log reported it a moment ago."""
        if event.kind != "xid" or event.code is None:
            return False
        error = _Error(event.gpu_uuid, event.code)
        self._by_nvml[error] = now
        return now - self._by_kernel.get(error, -SAME_EVENT_S) < SAME_EVENT_S

    def _add(self, error: _Error, now: float) -> None:
        """Add an error of the log, unless NVML reports it: at once, or among those that it counts for a while."""
        reported_at = self._by_nvml.get(error)
        if reported_at is not None and now - reported_at < REPEAT_INTERVAL_S + SAME_EVENT_S:
            return
        self._by_kernel[error] = now
        self._buffer.add(xid_event(error.code, time_ms=self._clock.now_ms(), gpu_uuid=error.gpu_uuid), now)

    def _read_xids(self, descriptor: int) -> Iterator[tuple[int, _PciSlot]]:
        """Yield code and GPU of each XID since the last call."""
        for _ in range(MAX_RECORDS):
            try:
                record = os.read(descriptor, MAX_RECORD_BYTES)
            except BrokenPipeError:  # records were overwritten before they were read: go on with the next
                continue
            except OSError:
                return
            if not record:
                return
            yield from parse_xids(record)

    def failures(self) -> int:
        """Return the number of failed readings of the other reader."""
        return self._reader.failures()

    def close(self) -> None:
        """Close the log and the other reader."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._reader.close()


def parse_xids(text: bytes) -> Iterator[tuple[int, _PciSlot]]:
    """Yield code and PCI slot of each XID in records of the kernel log."""
    for _, domain, bus, device, code in _XID.findall(text):
        yield int(code), _PciSlot(int(domain, 16), int(bus, 16), int(device, 16))


def find_gpu(gpus: Iterable[Gpu], slot: _PciSlot) -> Gpu | None:
    """Return the physical GPU in a PCI slot."""
    for gpu in gpus:
        address = gpu.device.pci_bus_id
        if address is None or gpu.device.mig_parent_uuid is not None:
            continue
        parts = address.partition(".")[0].split(":")
        if len(parts) == len(slot) and _PciSlot(*(int(part, 16) for part in parts)) == slot:
            return gpu
    return None
