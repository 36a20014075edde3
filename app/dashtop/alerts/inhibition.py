"""Which alert explains another one, which then sends no notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.alert import Alert

AlertKey = tuple[str, "str | None", str]
"""Rule, GPU and subject of an alert."""

# (cause, explained), of the same subject.
INHIBITIONS: Final = (
    ("gpu_overheating", "gpu_hot"),
    ("hw_thermal", "gpu_hot"),
    ("hw_thermal", "hw_slowdown"),
    ("fan_stopped", "gpu_hot"),
    ("fan_stopped", "hw_thermal"),
    ("fan_stopped", "memory_hot"),
    ("remap_failed", "remap_pending"),
    ("recovery", "remap_pending"),
    ("recovery", "pages_pending"),
    ("disk_full_critical", "disk_full"),
    ("ram_low_critical", "ram_low"),
    ("ram_low_critical", "swap_thrash"),
)
_WHOLE_GPU: Final = ("gpu_lost", "gpu_missing")
"""Rules whose alerts explain all others of the same GPU, the first one the second as well."""


def list_causes(alert: Alert) -> Iterator[AlertKey]:
    """Yield the keys of the alerts that would explain this one."""
    if alert.rule == "driver_silent":
        return
    if alert.gpu_uuid is not None:
        yield ("driver_silent", None, "")
        for cause in _WHOLE_GPU:
            if alert.rule == cause:
                break
            yield (cause, alert.gpu_uuid, "")
    for cause, explained in INHIBITIONS:
        if explained == alert.rule:
            yield (cause, alert.gpu_uuid, alert.subject)
