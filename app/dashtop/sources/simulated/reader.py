"""Simulated GPUs behind the GpuReader port, to look at dashtop on a machine without any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import Device, GpuReading
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import (
    ARCHITECTURES,
    build_host_memory_reader,
    build_instance,
    format_cuda_version,
    shares_host_memory,
)
from dashtop.sources.simulated.curves import Noise
from dashtop.sources.simulated.gpu import ROLES, SimulatedGpu, find_fact, load_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from dashtop.model.ports import Clock, MemoryUse

MAX_GPUS = 64
_PIDS_PER_GPU = 50_000


class SimulatedGpuReader:
    """Implements GpuReader with `count` simulated GPUs (0 to 64) and the MIG instances of those that are split.

    Every value depends only on the GPU, the wall clock and the seed.
    """

    simulated: bool = True

    def __init__(self, count: int, *, clock: Clock, seed: int = 0, proc: Path = Path("/proc")) -> None:
        """`proc`: where the host's memory is read, which some of the GPUs share."""
        if not 0 <= count <= MAX_GPUS:
            raise ValueError(f"0 to {MAX_GPUS} GPUs can be simulated, not {count}")
        self._clock = clock
        self._read_until_ms = clock.now_ms()
        self.gpus = tuple(_build_gpus(count, seed, build_host_memory_reader(proc)))

    def read(self, timeout_s: float) -> GpuReading:  # noqa: ARG002 - nothing here waits
        """Return the GPUs as they are now."""
        if not self.gpus:
            return GpuReading(error=UnavailableReason.NO_DEVICE)
        since_ms, self._read_until_ms = self._read_until_ms, self._clock.now_ms()
        return GpuReading(
            gpus=tuple(gpu.read(self._read_until_ms) for gpu in self.gpus),
            events=tuple(event for gpu in self.gpus for event in gpu.xids(since_ms, self._read_until_ms)),
        )

    def failures(self) -> int:
        """Return 0: no reading fails."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


def _build_gpus(count: int, seed: int, read_host_memory: Callable[[], MemoryUse]) -> Iterator[SimulatedGpu]:
    """Yield the GPUs, then the MIG instances with the next indices, in the order of NVML."""
    instances: list[tuple[Mapping[str, Any], int, Device]] = []

    def build(facts: Mapping[str, Any], position: int, device: Device) -> SimulatedGpu:
        return SimulatedGpu(
            device,
            facts,
            ROLES[position % len(ROLES)],
            Noise(seed * 1_000_003 + position * 7_919),
            first_pid=10_000 + _PIDS_PER_GPU * position,
            read_host_memory=read_host_memory,
        )

    for index in range(count):
        role = ROLES[index % len(ROLES)]
        world = load_world(role.world)
        facts = world["gpus"][role.position]
        noise = Noise(seed * 1_000_003 + index * 7_919)
        device = _build_device(facts, world, index, f"GPU-{noise.identity(0)}")
        for instance in find_fact(facts, "mig.instances") or ():
            uuid = f"MIG-{noise.identity(count + len(instances))}"
            part = build_instance(device, count + len(instances), uuid, instance["name"], instance["memory"]["total"])
            instances.append((instance, index, part))
        yield build(facts, index, device)
    yield from (build(*instance) for instance in instances)


def _build_device(facts: Mapping[str, Any], world: Mapping[str, Any], index: int, uuid: str) -> Device:
    """Return the static facts of a GPU; each has a bus address of its own."""
    capability = facts["compute_capability"]
    total, limit = find_fact(facts, "memory.total"), find_fact(facts, "power.enforced_limit")
    return Device(
        uuid=uuid,
        index=index,
        name=facts["name"],
        memory_total_bytes=total,
        driver_version=world["driver_version"],
        cuda_version=format_cuda_version(world["cuda_driver_version"]),
        compute_capability=f"{capability[0]}.{capability[1]}",
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        power_limit_watts=limit / 1000 if limit is not None else None,
        slowdown_celsius=find_fact(facts, "temperature_thresholds.slowdown"),
        shutdown_celsius=find_fact(facts, "temperature_thresholds.shutdown"),
        serial=facts.get("serial"),
        vbios=facts.get("vbios"),
        architecture=ARCHITECTURES[facts["architecture"]],
        shares_host_memory=shares_host_memory(facts["name"], total),
    )
