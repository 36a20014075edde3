"""The simulated cards: which recorded GPU each one is, and what it does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dashtop.model.sample import Device, ProcessInfo
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.memory import is_shared
from dashtop.sources.nvml.device_info import ARCHITECTURES, cuda_version
from dashtop.sources.simulated.load import Load, Noise, idle, inference, overheating, training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MILLI = 1e-3


@dataclass(frozen=True, slots=True)
class Role:
    """What one card does, for whom, and the GPU it is: the position in a recorded world (`worlds/*.json`, which name
    their sources). `owner` is invented, as everything about the simulated processes is but their names and proportions.
    """

    world: str
    position: int
    job: Callable[[Noise, float], Load]
    owner: ProcessInfo


_ADA = ProcessInfo(username="ada", environment="train")
_GRACE = ProcessInfo(username="grace", slurm_job="4711", environment="llm")
_ALAN = ProcessInfo(username="alan", environment="render")
_BARBARA = ProcessInfo(username="barbara", container="5d1f0c7be2a4", container_runtime="docker")
_SERVICE = ProcessInfo(
    username="triton",
    container="c08e41d96f37",
    container_runtime="containerd",
    kubernetes_pod="3e0c9a1e-5f0b-4b52-9d0e-7c1a2b3d4e5f",
)

ROLES = (
    Role("rtx4090", 0, training, _ADA),
    Role("h100x8", 0, inference, _SERVICE),
    Role("rtx3090", 0, overheating, _ALAN),
    Role("t4", 0, idle, _BARBARA),
    Role("v100", 0, training, _GRACE),
    Role("t4", 0, inference, _BARBARA),
    Role("rtx4090", 0, idle, _ADA),
    Role("h100x8", 1, training, _GRACE),
    Role("a100_mig", 0, training, _SERVICE),
    Role("lost_gpu", 1, idle, _ADA),
    Role("rtx4090_laptop_awake", 0, inference, _ALAN),
    Role("rtx4090_laptop_asleep", 0, idle, _ALAN),
    Role("gb10", 0, training, _ADA),
)


def recorded_world(name: str) -> dict[str, Any]:
    """Read a recorded world: what NVML told on some machine, where a key that is not there is not supported."""
    world: dict[str, Any] = json.loads((files("dashtop.sources.simulated") / "worlds" / f"{name}.json").read_text())
    return world


@dataclass(frozen=True, slots=True)
class Recording:
    """A GPU or MIG instance of a recorded world. What it does not tell is missing for the reason `missing`."""

    facts: Mapping[str, Any]
    missing: UnavailableReason = UnavailableReason.NOT_SUPPORTED

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

    def silence(self) -> UnavailableReason | None:
        """Return why this GPU answers nothing at all, or None."""
        if self.facts.get("runtime_status") == "suspended":
            return UnavailableReason.ASLEEP
        return UnavailableReason.GPU_LOST if "*" in self.facts.get("returns", ()) else None

    def instances(self) -> tuple[Recording, ...]:
        """Return the MIG instances that the GPU is split into."""
        split = self.told_or_none("mig", "instances") or ()
        return tuple(Recording(instance, UnavailableReason.MIG_INSTANCE) for instance in split)


def static_facts(recording: Recording, world: Mapping[str, Any], index: int, uuid: str) -> Device:
    """Return the static facts of a GPU; each has a place of its own on the bus."""
    fact = recording.told_or_none
    capability = recording.told("compute_capability")
    total, limit = fact("memory", "total"), fact("power", "enforced_limit")
    return Device(
        uuid=uuid,
        index=index,
        name=recording.told("name"),
        memory_total_bytes=total,
        driver_version=world["driver_version"],
        cuda_version=cuda_version(world["cuda_driver_version"]),
        compute_capability=f"{capability[0]}.{capability[1]}",
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        power_limit_watts=limit * MILLI if limit is not None else None,
        slowdown_celsius=fact("temperature_thresholds", "slowdown"),
        shutdown_celsius=fact("temperature_thresholds", "shutdown"),
        serial=fact("serial"),
        vbios=fact("vbios"),
        architecture=ARCHITECTURES[recording.told("architecture")],
        shares_host_memory=is_shared(recording.told("name"), total),
    )
