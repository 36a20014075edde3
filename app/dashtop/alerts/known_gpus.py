"""The GPUs that were seen since dashtop started, so that one that is gone is noticed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.alerts.rule import KnownGpu
from dashtop.model.unavailable import UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dashtop.model.alert import Alert
    from dashtop.model.sample import Sample

RULE = "gpu_missing"


class KnownGpus:
    """Physical GPUs; MIG instances come and go. Not thread-safe."""

    def __init__(self, known: Iterable[Alert] = ()) -> None:
        """`known`: alerts of an earlier run; a GPU that was missing then is known."""
        self._gpus = {
            alert.gpu_uuid: KnownGpu(alert.gpu_uuid, alert.gpu_id, f"GPU {alert.gpu_id}", is_present=False)
            for alert in known
            if alert.rule == RULE and alert.gpu_uuid is not None
        }
        self._present: frozenset[str] = frozenset()
        self.are_all_present = not self._gpus

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
