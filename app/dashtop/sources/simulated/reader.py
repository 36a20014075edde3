"""Simulated GPUs as a GpuReader, to try dashtop on a machine without GPUs. `worlds/*.json` are recorded GPUs."""

from __future__ import annotations

import json
import uuid
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from dashtop.model.sample import Device, GpuReading, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import (
    ARCHITECTURES,
    build_host_memory_reader,
    build_instance,
    format_cuda_version,
    shares_host_memory,
)
from dashtop.sources.simulated.curves import BATCH, DAY_S, IDLE, INFERENCE, OVERHEATING, TRAINING, Noise
from dashtop.sources.simulated.gpu import Role, SimulatedGpu, find_fact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dashtop.model.ports import Clock

MAX_GPUS = 64
_PIDS_PER_GPU = 50_000
# The demo has seven days of history.
_DRIVER_LOADED_BEFORE_S = 8 * DAY_S

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
    Role("rtx4090", 0, TRAINING, (_ADA,)),
    Role("h100x8", 0, INFERENCE, (_SERVICE,)),
    Role("rtx3090", 0, OVERHEATING, (_ALAN,)),
    Role("t4", 0, BATCH, (_BARBARA, _GRACE, _ADA)),
    Role("v100", 0, TRAINING, (_GRACE,)),
    Role("t4", 0, INFERENCE, (_BARBARA,)),
    Role("rtx4090", 0, IDLE, (_ADA,)),
    Role("h100x8", 1, TRAINING, (_GRACE,)),
    Role("a100_mig", 0, TRAINING, (_SERVICE,)),
    Role("lost_gpu", 1, IDLE, (_ADA,)),
    Role("rtx4090_laptop_awake", 0, BATCH, (_ALAN,)),
    Role("rtx4090_laptop_asleep", 0, IDLE, (_ALAN,)),
    Role("gb10", 0, TRAINING, (_ADA,)),
)


@cache
def load_world(name: str) -> dict[str, Any]:
    """Return a recorded world: what NVML answered on some machine. An absent key is not supported there."""
    world: dict[str, Any] = json.loads((files("dashtop.sources.simulated") / "worlds" / f"{name}.json").read_text())
    return world


class SimulatedGpuReader:
    """Implements GpuReader with `count` simulated GPUs (0 to 64) and the MIG instances of those that are split.

    Every value depends only on the GPU, the wall clock and the seed; energy also on when the reader was created.
    """

    simulated: bool = True

    def __init__(self, count: int, *, clock: Clock, seed: int = 0, proc: Path = Path("/proc")) -> None:
        """`proc`: where /proc is mounted, for GPUs that share the memory of the host."""
        if not 0 <= count <= MAX_GPUS:
            raise ValueError(f"0 to {MAX_GPUS} GPUs can be simulated, not {count}")
        self._clock = clock
        self._read_until_ms = clock.now_ms()
        self.gpus = tuple(_build_gpus(count, seed, proc, clock.now_ms() // 1000 - _DRIVER_LOADED_BEFORE_S))

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


def _build_gpus(count: int, seed: int, proc: Path, driver_loaded_s: float) -> Iterator[SimulatedGpu]:
    """Yield the GPUs, then the MIG instances with the next indexes, in the order of NVML."""
    instances: list[tuple[Device, Mapping[str, Any], int]] = []

    def build(device: Device, facts: Mapping[str, Any], index: int) -> SimulatedGpu:
        return SimulatedGpu(
            device,
            facts,
            ROLES[index % len(ROLES)],
            Noise(1_000 * seed + index),
            first_pid=10_000 + _PIDS_PER_GPU * index,
            driver_loaded_s=driver_loaded_s,
            read_host_memory=build_host_memory_reader(proc),
        )

    for index in range(count):
        role, random = ROLES[index % len(ROLES)], Random(1_000 * seed + index)  # noqa: S311 - identifiers of a demo
        world = load_world(role.world)
        facts = world["gpus"][role.position]
        device = _build_device(facts, world, index, f"GPU-{_draw_uuid(random)}")
        for instance in find_fact(facts, "mig.instances") or ():
            number, name = count + len(instances), instance["name"]
            part = build_instance(device, number, f"MIG-{_draw_uuid(random)}", name, instance["memory"]["total"])
            instances.append((part, instance, index))
        yield build(device, facts, index)
    yield from (build(*instance) for instance in instances)


def _draw_uuid(random: Random) -> uuid.UUID:
    return uuid.UUID(int=random.getrandbits(128), version=4)


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
