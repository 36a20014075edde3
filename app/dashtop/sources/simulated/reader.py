"""Simulated GPUs behind the GpuReader port, for looking at dashtop on a machine without any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dashtop.metrics import GPU_METRICS
from dashtop.model.sample import Device, Gpu, GpuReading
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.host.memory import host_memory
from dashtop.sources.metric_reader import MetricReader
from dashtop.sources.nvml.device_info import instance_of, silent, split_reason
from dashtop.sources.simulated.cards import ROLES, Recording, recorded_world, static_facts
from dashtop.sources.simulated.device import DemoDevice
from dashtop.sources.simulated.engine import Engine
from dashtop.sources.simulated.load import Noise
from dashtop.sources.simulated.processes import DemoProcesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.model.ports import Clock, GpuDevice, MemoryUse

MAX_GPUS = 64


class SimulatedGpuReader:
    """Implements GpuReader with `count` simulated GPUs (0 to 64), and the MIG instances that some are split into.

    The GPUs are those of the recorded worlds, each with a job. The same seed and times give the same values.
    """

    simulated: bool = True

    def __init__(self, count: int, *, clock: Clock, seed: int = 0, proc: Path = Path("/proc")) -> None:
        """`proc`: where the host's memory is read, which some of the cards share."""
        if not 0 <= count <= MAX_GPUS:
            raise ValueError(f"0 to {MAX_GPUS} GPUs can be simulated, not {count}")
        self._clock = clock
        self._cards = list(_cards(count, seed, _Host(host_memory(proc), clock.now_ms())))

    def read(self, timeout_s: float) -> GpuReading:  # noqa: ARG002 - nothing here waits
        """Return the GPUs as they are now."""
        if not self._cards:
            return GpuReading(error=UnavailableReason.NO_DEVICE)
        now = self._clock.monotonic()
        return GpuReading(gpus=tuple(card.read(now) for card in self._cards))

    def failures(self) -> int:
        """Nothing goes wrong here."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


class _Host(NamedTuple):
    """The machine that the cards are in: how to read its memory, and when they were put in (epoch milliseconds)."""

    memory: Callable[[], MemoryUse]
    now_ms: int


class _Card:
    """A simulated GPU or MIG instance: its facts, its device and the walk over the table."""

    def __init__(self, facts: Device, recording: Recording, engine: Engine, host: _Host) -> None:
        self._facts = facts
        self._engine = engine
        self._device = DemoDevice(recording, engine, host.memory if facts.shares_host_memory else None)
        self._processes = DemoProcesses(recording, engine, host.now_ms)
        self._walk: MetricReader[GpuDevice] = MetricReader(GPU_METRICS)
        self._split = bool(recording.instances())
        self._silence = recording.silence()

    def read(self, now: float) -> Gpu:
        if self._silence is not None:
            return silent(self._facts, self._silence)
        self._engine.begin(now)
        values, unavailable = self._walk.read(self._device, now)
        if self._split:
            unavailable = {key: split_reason(key, reason) for key, reason in unavailable.items()}
        processes = self._processes.read(self._held())
        return Gpu(device=self._facts, values=values, unavailable=unavailable, processes=processes)

    def _held(self) -> int:
        """Bytes of device memory that processes hold: all that is in use, but for memory that the host uses too."""
        used = self._device.memory().used
        return int(used * self._engine.load.fill) if self._facts.shares_host_memory else used


def _cards(count: int, seed: int, host: _Host) -> Iterator[_Card]:
    """Yield the GPUs, then the MIG instances with the next numbers, as NVML's are read."""
    worlds = {role.world: recorded_world(role.world) for role in ROLES[:count]}
    parts: list[tuple[Recording, Device, Engine]] = []
    for index in range(count):
        role = ROLES[index % len(ROLES)]
        world = worlds[role.world]
        recording = Recording(world["gpus"][role.position])
        engine = Engine(role, recording, Noise(seed * 1_000_003 + index * 7_919), 1_000 * index)
        facts = static_facts(recording, world, index, f"GPU-{engine.noise.identity(0)}")
        parts += [(part, facts, engine) for part in recording.instances()]
        yield _Card(facts, recording, engine, host)
    for index, (part, parent, engine) in enumerate(parts, count):
        name, total = part.told("name"), part.told("memory", "total")
        facts = instance_of(parent, index, f"MIG-{engine.noise.identity(index)}", name, total)
        yield _Card(facts, part, engine, host)
