"""GPUs that cannot be read: which they are, and since when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dashtop.model.unavailable import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.sample import Gpu, Sample, StoredGpu
    from dashtop.model.unavailable import UnavailableReason

RETRY_S: Final = 10.0
"""How often the history is asked while it knows no GPU of that index."""


class UnreadableGpus:
    """Give GPUs that the driver counts but cannot read the identity that the history has for their index.

    Without it a GPU that is lost when dashtop starts would be another GPU: with other alerts, which are sent again, and
    without its charts. The driver counts GPUs by PCI address, so an index means another card only after a change of the
    hardware, and then the UUID is known as soon as the card can be read.
    """

    def __init__(self, read_stored: Callable[[], Sequence[StoredGpu]], clock: Clock) -> None:
        """`read_stored` returns the GPUs of the history; an index is that of the last GPU that had it."""
        self._read_stored = read_stored
        self._clock = clock
        self._known: dict[int, StoredGpu] = {}
        self._retry_at_s = 0.0

    def identify(self, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """Return the GPUs, those that cannot be identified with the UUID and name that the history has for them."""
        if all(gpu.device.is_identified for gpu in gpus):
            return gpus
        present = {gpu.device.uuid for gpu in gpus}
        missing = [gpu for gpu in gpus if not gpu.device.is_identified and gpu.device.index not in self._known]
        if missing and self._clock.monotonic() >= self._retry_at_s:
            self._retry_at_s = self._clock.monotonic() + RETRY_S
            self._known |= {stored.index: stored for stored in self._read_stored() if stored.index is not None}
        return tuple(self._identify(gpu, present) for gpu in gpus)

    def _identify(self, gpu: Gpu, present: set[str]) -> Gpu:
        known = self._known.get(gpu.device.index)
        if gpu.device.is_identified or known is None or known.uuid in present:
            return gpu
        return replace(gpu, device=replace(gpu.device, uuid=known.uuid, name=known.name or gpu.device.name))


def add_state_starts(previous: Sample | None, sample: Sample) -> Sample:
    """Return the sample with `state_since_ms` of the GPUs that the previous one shows in that state, or working.

    Of a GPU that has been unreadable since dashtop started, the history may know more.
    """
    if previous is None or all(gpu.state is None for gpu in sample.gpus):
        return sample
    before = {gpu.device.uuid: gpu for gpu in previous.gpus}
    gpus = (_add_state_start(before.get(gpu.device.uuid), gpu, sample.time_ms) for gpu in sample.gpus)
    return replace(sample, gpus=tuple(gpus))


def _add_state_start(before: Gpu | None, gpu: Gpu, time_ms: int) -> Gpu:
    if before is None or gpu.state is None or gpu.state_since_ms is not None:
        return gpu
    continues = before.state is not None and _is_same_fault(before.state, gpu.state)
    return replace(gpu, state_since_ms=before.state_since_ms if continues else time_ms)


def _is_same_fault(before: UnavailableReason, now: UnavailableReason) -> bool:
    """Return whether two states are of one fault: a silent driver is asked again, and a lost GPU may need a reset."""
    return before is now or before.scope is now.scope is Scope.DRIVER or (before.is_lost and now.is_lost)
