"""The simulated cards: which recorded GPU each one is, and what it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.sample import Device
from dashtop.sources.demo_load import Load, Noise, idle, inference, overheating, training
from dashtop.sources.describe import ARCHITECTURES, cuda_version

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MILLI = 1e-3


@dataclass(frozen=True, slots=True)
class Role:
    """What one card does, and the GPU it is: the position in a recorded world (`worlds/*.json`, which name their
    sources)."""

    world: str
    position: int
    job: Callable[[Noise, float], Load]


ROLES = (
    Role("rtx4090", 0, training),
    Role("h100x8", 0, inference),
    Role("rtx3090", 0, overheating),
    Role("t4", 0, idle),
    Role("v100", 0, training),
    Role("t4", 0, inference),
    Role("rtx4090", 0, idle),
    Role("h100x8", 1, training),
    Role("a100_mig", 0, training),
    Role("lost_gpu", 1, idle),
    Role("rtx4090_laptop_awake", 0, inference),
    Role("rtx4090_laptop_asleep", 0, idle),
)


def recorded_world(name: str) -> dict[str, Any]:
    """Read a recorded world: what NVML told on some machine, where a key that is not there is not supported."""
    world: dict[str, Any] = json.loads((files("dashtop.sources") / "worlds" / f"{name}.json").read_text())
    return world


@dataclass(frozen=True, slots=True)
class Recording:
    """A GPU or MIG instance of a recorded world. What it does not tell is missing for the reason `missing`."""

    facts: Mapping[str, Any]
    missing: Reason = Reason.NOT_SUPPORTED

    def told(self, *path: str) -> Any:
        """Return what stands under these keys. Raises Unavailable where nothing does."""
        found: Any = self.facts
        try:
            for key in path:
                found = found[key]
        except KeyError:
            raise Unavailable(self.missing) from None
        return found

    def told_or_none(self, *path: str) -> Any:
        """Return what stands under these keys, or None."""
        try:
            return self.told(*path)
        except Unavailable:
            return None

    def silence(self) -> Reason | None:
        """Return why this GPU answers nothing at all, or None."""
        if self.facts.get("runtime_status") == "suspended":
            return Reason.ASLEEP
        return Reason.GPU_LOST if "*" in self.facts.get("returns", ()) else None

    def instances(self) -> tuple[Recording, ...]:
        """Return the MIG instances that the GPU is split into."""
        split = self.told_or_none("mig", "instances") or ()
        return tuple(Recording(instance, Reason.MIG_INSTANCE) for instance in split)


def static_facts(recording: Recording, world: Mapping[str, Any], index: int, uuid: str) -> Device:
    """Return the static facts of a GPU; each has a place of its own on the bus."""
    fact = recording.told_or_none
    capability = recording.told("compute_capability")
    return Device(
        uuid=uuid,
        index=index,
        name=recording.told("name"),
        memory_total_bytes=recording.told("memory", "total"),
        driver_version=world["driver_version"],
        cuda_version=cuda_version(world["cuda_driver_version"]),
        compute_capability=f"{capability[0]}.{capability[1]}",
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        power_limit_watts=recording.told("power", "enforced_limit") * MILLI,
        slowdown_celsius=fact("temperature_thresholds", "slowdown"),
        shutdown_celsius=fact("temperature_thresholds", "shutdown"),
        serial=fact("serial"),
        vbios=fact("vbios"),
        architecture=ARCHITECTURES[recording.told("architecture")],
    )
