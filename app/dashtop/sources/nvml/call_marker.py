"""The NVML call that each thread of a worker is in, in memory shared with the parent.

It survives a hang and a crash of the worker, so the parent knows the GPU that caused it.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from typing import NamedTuple

NO_GPU = -1
MAX_NAME_BYTES = 48
# A sequence number; whether a call is running, index of its GPU, length and bytes of its name.
_SEQUENCE = Struct("=Q")
_CALL = Struct(f"=BiB{MAX_NAME_BYTES}s")
_NO_CALL = bytes(_CALL.size)
_GPU_COUNT = Struct("=i")
_SLOT_BYTES = _SEQUENCE.size + _CALL.size
_OFFSETS = {"sample": 0, "background": _SLOT_BYTES}
_GPU_COUNT_OFFSET = 2 * _SLOT_BYTES
MEMORY_BYTES = mmap.PAGESIZE

OPEN_DRIVER = "nvmlInit"
OPEN_GPU = "open"


class Call(NamedTuple):
    """A call: its GPU (index of the physical GPU, None: no GPU in particular) and its name."""

    gpu: int | None
    name: str


def build_mark(gpu: int, name: str) -> bytes:
    """Return the mark of a call, for `CallMarker.set`."""
    encoded = name.encode()[:MAX_NAME_BYTES]
    return _CALL.pack(1, gpu, len(encoded), encoded)


class CallMarker:
    """The worker's side, for one of its threads: marks the call that begins."""

    def __init__(self, memory: mmap.mmap, thread: str) -> None:
        """`thread`: "sample" or "background"."""
        self._memory, self._offset = memory, _OFFSETS[thread]
        self._body, self._end = self._offset + _SEQUENCE.size, self._offset + _SEQUENCE.size + _CALL.size
        self._sequence = 0

    def begin(self, gpu: int, name: str) -> None:
        """Mark the beginning of a call; `gpu` NO_GPU: of no GPU in particular."""
        self.begin_marked(build_mark(gpu, name))

    def begin_marked(self, mark: bytes) -> None:
        """Mark the beginning of a call with a mark of `build_mark`."""
        self._sequence += 1
        self._memory[self._offset : self._end] = _SEQUENCE.pack(self._sequence) + mark

    def set(self, mark: bytes) -> None:
        """Mark the beginning of a call that a tick makes once. Takes 0.1 us, a quarter of `begin`."""
        self._memory[self._body : self._end] = mark

    def end(self) -> None:
        """Mark that no call is running."""
        self._sequence += 1
        self._memory[self._offset : self._end] = _SEQUENCE.pack(self._sequence) + _NO_CALL

    def set_gpu_count(self, count: int) -> None:
        """Tell the parent the number of GPUs, before the first of them is opened."""
        _GPU_COUNT.pack_into(self._memory, _GPU_COUNT_OFFSET, count)


class CallWatch:
    """The parent's side: how long each thread of a worker has been in the same call."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("dashtop-nvml-calls")
        os.ftruncate(self.descriptor, MEMORY_BYTES)
        self._memory = mmap.mmap(self.descriptor, MEMORY_BYTES)
        self._seen: dict[str, tuple[bytes, float]] = dict.fromkeys(_OFFSETS, (b"", 0.0))

    def close_descriptor(self) -> None:
        """Close the descriptor after the worker has inherited it. The memory stays."""
        os.close(self.descriptor)

    def read(self, thread: str) -> Call | None:
        """Return the call that a thread is in, or None."""
        is_running, gpu, length, name = _CALL.unpack_from(self._memory, _OFFSETS[thread] + _SEQUENCE.size)
        return Call(None if gpu == NO_GPU else gpu, name[:length].decode(errors="replace")) if is_running else None

    def measure_s(self, thread: str, now: float) -> float:
        """Return for how long the thread has made no progress, counted from the first look at the same call."""
        offset = _OFFSETS[thread]
        mark = self._memory[offset : offset + _SLOT_BYTES]
        if self._seen[thread][0] != mark:
            self._seen[thread] = (mark, now)
        return now - self._seen[thread][1]

    def gpu_count(self) -> int:
        """Return the number of GPUs that the worker has found; 0: not known yet."""
        count: int = _GPU_COUNT.unpack_from(self._memory, _GPU_COUNT_OFFSET)[0]
        return count


def open_memory(descriptor: int | None) -> mmap.mmap:
    """Return the memory of `descriptor`; None: memory that nobody else reads, for a session without a parent."""
    return mmap.mmap(-1 if descriptor is None else descriptor, MEMORY_BYTES)
