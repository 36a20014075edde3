"""GPUs that could not be identified since dashtop started: the history knows which they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.sample import Gpu, StoredGpu

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
