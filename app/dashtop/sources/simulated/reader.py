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
from dashtop.sources.simulated.recorded import RecordedGpu, build_role, derive_facts, find_state, load_recording

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
    """Implements GpuReader with simulated GPUs (0 to 64) and the MIG instances of those that are split.

    With a file, they are those of a recording. Every value depends only on the GPU, the wall clock and the seed; energy
    also on when the reader was created.
    """

    simulated: bool = True

    def __init__(self, source: int | Path, *, clock: Clock, seed: int = 0, proc: Path = Path("/proc")) -> None:
        """`source`: number of GPUs, or a recording. `proc`: where /proc is mounted, for GPUs that share its memory.

        Raise ValueError for a wrong number, SettingsError for a file that is no recording.
        """
        self._clock = clock
        self._read_until_ms = clock.now_ms()
        now_s = clock.now_ms() // 1000
        if isinstance(source, Path):
            self.gpus = tuple(_build_recorded_gpus(load_recording(source), proc, now_s))
            return
        if not 0 <= source <= MAX_GPUS:
            raise ValueError(f"0 to {MAX_GPUS} GPUs can be simulated, not {source}")
        self.gpus = tuple(_build_gpus(source, seed, proc, now_s - _DRIVER_LOADED_BEFORE_S))

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
        bus_id = f"00000000:{index + 1:02X}:00.0"  # one of its own
        device = _build_device(facts, world, index, f"GPU-{_draw_uuid(random)}", bus_id)
        for instance in find_fact(facts, "mig.instances") or ():
            number, name = count + len(instances), instance["name"]
            part = build_instance(device, number, f"MIG-{_draw_uuid(random)}", name, instance["memory"]["total"])
            instances.append((part, instance, index))
        yield build(device, facts, index)
    yield from (build(*instance) for instance in instances)


def _build_recorded_gpus(world: Mapping[str, Any], proc: Path, now_s: float) -> Iterator[SimulatedGpu]:
    """Yield the GPUs of a recording, then their MIG instances."""
    gpus = world["gpus"]
    instances: list[tuple[Device, Mapping[str, Any], int]] = []

    def build(device: Device, facts: Mapping[str, Any], position: int) -> SimulatedGpu:
        gpu = RecordedGpu(
            device,
            derive_facts(facts, now_s),
            build_role(position),
            Noise(position),
            first_pid=0,
            driver_loaded_s=now_s,
            read_host_memory=build_host_memory_reader(proc),
        )
        gpu.state = find_state(facts) or gpu.state
        return gpu

    for index, facts in enumerate(gpus):
        device = _build_device(facts, world, index, facts["uuid"], facts.get("pci", {}).get("bus_id"))
        for instance in find_fact(facts, "mig.instances") or ():
            number, name = len(gpus) + len(instances), instance.get("name", "MIG instance")
            total = find_fact(instance, "memory.total")
            instances.append((build_instance(device, number, instance["uuid"], name, total), instance, index))
        yield build(device, facts, index)
    yield from (build(*instance) for instance in instances)


def _draw_uuid(random: Random) -> uuid.UUID:
    return uuid.UUID(int=random.getrandbits(128), version=4)


def _build_device(
    facts: Mapping[str, Any], world: Mapping[str, Any], index: int, uuid: str, bus_id: str | None
) -> Device:
    """Return the static facts of a GPU."""
    capability, cuda = facts.get("compute_capability"), world.get("cuda_driver_version")
    total, limit = find_fact(facts, "memory.total"), find_fact(facts, "power.enforced_limit")
    name = facts.get("name", "NVIDIA GPU")
    return Device(
        uuid=uuid,
        index=index,
        name=name,
        memory_total_bytes=total,
        driver_version=world.get("driver_version"),
        cuda_version=format_cuda_version(cuda) if cuda is not None else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability is not None else None,
        pci_bus_id=bus_id,
        power_limit_watts=limit / 1000 if limit is not None else None,
        slowdown_celsius=find_fact(facts, "temperature_thresholds.slowdown") or None,
        shutdown_celsius=find_fact(facts, "temperature_thresholds.shutdown") or None,
        serial=facts.get("serial"),
        vbios=facts.get("vbios"),
        architecture=ARCHITECTURES.get(facts.get("architecture", 0)),
        shares_host_memory=shares_host_memory(name, total),
    )
