"""The GPUs that this run of dashtop or the one before it has seen, so that one that is gone is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.alerts.rule import KnownGpu
from dashtop.model.unavailable import UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dashtop.model.sample import Sample

RULE = "gpu_missing"


class KnownGpus:
    """Physical GPUs; MIG instances come and go. Not thread-safe."""

    def __init__(self, known: Iterable[KnownGpu] = ()) -> None:
        """`known`: the GPUs that an earlier run knew."""
        self._gpus = {gpu.uuid: gpu._replace(is_present=False) for gpu in known}
        self._present: frozenset[str] = frozenset()
        self.are_all_present = not self._gpus

    def get_all(self) -> tuple[KnownGpu, ...]:
        """Return the known GPUs, present or not."""
        return tuple(self._gpus.values())

    def update(self, sample: Sample) -> None:
        """Take note of the GPUs of a sample."""
        present = frozenset(gpu.device.uuid for gpu in sample.gpus)
        if present == self._present:
            return
        self._present = present
        for gpu in sample.gpus:
            device = gpu.device
            if device.mig_parent_uuid is None and device.is_identified:
                self._gpus[device.uuid] = KnownGpu(device.uuid, device.index, gpu.label, is_present=True)
        self._gpus = {uuid: gpu._replace(is_present=uuid in present) for uuid, gpu in self._gpus.items()}
        self.are_all_present = self._gpus.keys() <= present

    def list_all(self, sample: Sample) -> Iterator[KnownGpu]:
        """Yield the known GPUs; none if the driver does not answer, for then nothing is known of them."""
        if not sample.gpu_age_s and sample.gpu_error in {None, UnavailableReason.NO_DEVICE}:
            yield from self._gpus.values()

    def forget(self, uuid: str) -> None:
        """Forget a GPU that was removed on purpose."""
        self._gpus.pop(uuid, None)
