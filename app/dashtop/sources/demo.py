"""Simulated GPUs behind the GpuReader port, for looking at dashtop on a machine without any."""

from __future__ import annotations

import math
import uuid
from collections import deque
from typing import TYPE_CHECKING

from dashtop.catalog import GPU_METRICS
from dashtop.catalog.walk import Walk
from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.readings import ByteRates, GpuUtilization, MemoryUse
from dashtop.domain.sample import Device, Gpu, GpuProcess, GpuReading
from dashtop.sources.demo_cards import HOPPER, ROLES, Clocks
from dashtop.sources.demo_load import Noise
from dashtop.sources.demo_rest import DemoRest

if TYPE_CHECKING:
    from dashtop.domain.ports import Clock, GpuDevice
    from dashtop.sources.demo_cards import Model, Role
    from dashtop.sources.demo_load import Load

MIB = 2**20
MAX_GPUS = 64

# The heat of a card is its power of the last two minutes, the nearest counting most.
_HEAT_STEP_S = 5.0
_HEAT_TIME_S = 30.0
_HEAT_WEIGHTS = tuple(math.exp(-step * _HEAT_STEP_S / _HEAT_TIME_S) for step in range(24))
_HEAT_TOTAL = sum(_HEAT_WEIGHTS)
_ROOM_CELSIUS = 25.0


class DemoGpus:
    """Implements GpuReader with `count` simulated GPUs (0 to 64). The same seed and times give the same values."""

    simulated: bool = True

    def __init__(self, count: int, *, clock: Clock, seed: int = 0) -> None:
        if not 0 <= count <= MAX_GPUS:
            raise ValueError(f"0 to {MAX_GPUS} GPUs can be simulated, not {count}")
        self._clock = clock
        self._cards = [_Card(index, seed) for index in range(count)]

    def read(self, timeout_s: float) -> GpuReading:  # noqa: ARG002 - nothing here waits
        """Return the GPUs as they are now."""
        if not self._cards:
            return GpuReading(trouble=Reason.NO_DEVICE)
        now = self._clock.monotonic()
        return GpuReading(gpus=tuple(card.read(now) for card in self._cards))

    def failures(self) -> int:
        """Nothing goes wrong here."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


class _Card:
    """One simulated GPU: its facts, its device and the walk over the table."""

    def __init__(self, index: int, seed: int) -> None:
        role = ROLES[index % len(ROLES)]
        noise = Noise(seed * 1_000_003 + index * 7_919)
        self._facts = _facts(role.model, index, noise)
        self._device = DemoDevice(role, noise)
        self._walk: Walk[GpuDevice] = Walk(GPU_METRICS)
        first_pid = 2_000 + int(30_000 * noise.dice(9, 0)) + 40 * index
        self._pids = tuple(first_pid + 7 * position for position in range(len(role.processes)))

    def read(self, now: float) -> Gpu:
        self._device.begin(now)
        values, unavailable = self._walk.read(self._device, now)
        processes = self._device.processes(self._pids)
        return Gpu(device=self._facts, values=values, unavailable=unavailable, processes=processes)


def _facts(model: Model, index: int, noise: Noise) -> Device:
    digits = int(noise.dice(8, 0) * 2**64) << 64 | int(noise.dice(8, 1) * 2**64)
    return Device(
        uuid=f"GPU-{uuid.UUID(int=digits, version=4)}",
        index=index,
        name=model.name,
        memory_total_bytes=model.memory_mib * MIB,
        driver_version="550.90.07",
        cuda_version="12.4",
        compute_capability=model.capability,
        pci_bus_id=f"00000000:{index + 1:02X}:00.0",
        power_limit_watts=model.watts,
        slowdown_celsius=model.slowdown,
        shutdown_celsius=model.shutdown,
    )


class DemoDevice(DemoRest):
    """Implements GpuDevice. Everything follows from the load at the time given to `begin`, as in a real card:
    load makes power, power makes heat, heat drives the fan and, past the card's own limit, slows the clocks."""

    def __init__(self, role: Role, noise: Noise) -> None:
        self._role, self._model, self._noise = role, role.model, noise
        self._powers: deque[float] = deque(maxlen=len(_HEAT_WEIGHTS) + 1)
        self._step: int | None = None
        self._heats = (0.0, 0.0)
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Move to the time `now`, monotonic seconds."""
        self._now = now
        self._load = self._role.job(self._noise, now)
        self._throttle = self._throttled(self._load)
        self._watts = self._power(now, self._load)
        self._celsius = self._temperature(now)

    def utilization(self) -> GpuUtilization:
        """Whole percent, as NVML gives it."""
        return GpuUtilization(_percent(self._load.busy), _percent(self._load.memory_busy))

    def sm_activity(self) -> float:
        """Percent; only Hopper reports it."""
        if self._model.capability != HOPPER:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return round(0.93 * self._load.busy, 1)

    def memory(self) -> MemoryUse:
        """Bytes; jobs take memory in steps of 2 MiB."""
        total = self._model.memory_mib * MIB
        used = int(self._load.fill * self._model.memory_mib / 2) * 2 * MIB
        return MemoryUse(used, total, total - used)

    def temperature(self) -> float:
        """Whole °C, as NVML gives it."""
        return float(round(self._celsius))

    def power_usage(self) -> float:
        """Watts."""
        return self._watts

    def power_limit(self) -> float:
        """Watts."""
        return self._model.watts

    def fan_speed(self) -> float:
        """Percent; stands still below 50 °C, full at 88 °C."""
        if not self._model.fan:
            raise Unavailable(Reason.NOT_SUPPORTED)
        return _percent(30.0 + 70.0 * (self._celsius - 50.0) / 38.0) if self._celsius >= 50.0 else 0.0  # noqa: PLR2004

    def clocks(self) -> Clocks:
        """MHz, in the steps of 15 that NVIDIA's clocks have."""
        if self._load.resting:
            return self._model.resting
        share = (0.95 - 0.06 * self._load.strain + 0.01 * self._noise.wave(5, self._now, 2.0)) * self._throttle
        return Clocks(15.0 * round(share * self._model.clocks.gpu / 15.0), self._model.clocks.memory)

    def pcie_rates(self) -> ByteRates:
        """Bytes per second."""
        return ByteRates(self._load.sent, self._load.received)

    def encoder_utilization(self) -> float:
        """Whole percent."""
        return _percent(self._role.encoder * self._load.busy / 100.0)

    def decoder_utilization(self) -> float:
        """Whole percent."""
        return _percent(self._role.decoder * self._load.busy / 100.0)

    def processes(self, pids: tuple[int, ...]) -> tuple[GpuProcess, ...]:
        """Return the processes that share the memory in use; the last one has what the others leave."""
        left, found = self.memory().used, []
        for position, (name, kind, share, cpu) in enumerate(self._role.processes):
            last = position == len(pids) - 1
            size = left if last else int(share * self._load.fill * self._model.memory_mib) * MIB
            left -= size
            effort = (0.1 + 0.9 * self._load.busy / 100.0) * (
                1.0 + 0.1 * self._noise.wave(10 + position, self._now, 3.0)
            )
            found.append(
                GpuProcess(
                    pid=pids[position],
                    kind=kind,
                    gpu_memory_bytes=size,
                    name=name,
                    cpu_percent=round(cpu * effort, 1),
                )
            )
        return tuple(found)

    def _throttled(self, load: Load) -> float:
        """Return the share of its speed a card keeps so that it grows no hotter than its slowdown temperature."""
        limit = (self._model.slowdown or 90.0) - _ROOM_CELSIUS
        return min(1.0, limit / (self._model.rise * load.creep * max(load.strain, 0.01)))

    def _power(self, t: float, load: Load) -> float:
        strain = load.strain * self._throttled(load)
        watts = self._model.idle_watts + (self._model.watts - self._model.idle_watts) * strain
        return round(min(self._model.watts, watts * (1.0 + 0.01 * self._noise.wave(4, t, 0.9))), 2)

    def _temperature(self, t: float) -> float:
        step, part = divmod(t / _HEAT_STEP_S, 1.0)
        self._advance(int(step))
        before, after = self._heats
        room = _ROOM_CELSIUS + 1.2 * self._noise.wave(7, t, 90.0)
        return room + before + (after - before) * part

    def _advance(self, step: int) -> None:
        """Take the heating up to the end of `step` into account; what is kept is a window, never a sum since the start,
        so the temperature at a time is the same whichever times were asked before."""
        if self._step == step:
            return
        new = len(_HEAT_WEIGHTS) + 1
        if self._step is not None and 0 < step - self._step < new:
            new = step - self._step
        self._powers.extend(self._heating(_HEAT_STEP_S * n) for n in range(step + 2 - new, step + 2))
        self._step = step
        powers = tuple(self._powers)[::-1]
        self._heats = (_mean(powers[1:]), _mean(powers))

    def _heating(self, t: float) -> float:
        """Return the °C above the room that the card would settle at if it went on as at `t`."""
        load = self._role.job(self._noise, t)
        return self._model.rise * load.creep * self._power(t, load) / self._model.watts


def _mean(newest_first: tuple[float, ...]) -> float:
    pairs = zip(newest_first, _HEAT_WEIGHTS, strict=False)
    return sum(power * weight for power, weight in pairs) / _HEAT_TOTAL


def _percent(value: float) -> float:
    return float(round(min(100.0, max(0.0, value))))
