"""What a simulated card's load makes of it: load makes power, power makes heat, heat slows the clocks."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from dashtop.sources.simulated.cards import MILLI

if TYPE_CHECKING:
    from dashtop.sources.simulated.cards import Recording, Role
    from dashtop.sources.simulated.load import Load, Noise

# The heat of a card is its power of the last two minutes, the nearest counting most.
_HEAT_STEP_S = 5.0
_HEAT_TIME_S = 30.0
_HEAT_WEIGHTS = tuple(math.exp(-step * _HEAT_STEP_S / _HEAT_TIME_S) for step in range(24))
_HEAT_TOTAL = sum(_HEAT_WEIGHTS)
_ROOM_CELSIUS = 25.0
# What a plausible cooler leaves at full power, and what an idle card draws of its power limit.
_RISE_CELSIUS = 44.0
_IDLE_SHARE = 0.06


class Clocks(NamedTuple):
    """MHz."""

    gpu: float
    memory: float


# What cards of the worlds fall back to when there is nothing to do (nvidia-smi of an RTX 4090).
_RESTING = Clocks(210.0, 405.0)


class Engine:
    """The state of a card at the time given to `begin`; it follows from the load at that time and just before.

    `load`; `watts`, up to `limit`; `celsius`; `clocks`; `throttle`: the share of its speed that a card keeps so that it
    grows no hotter than `slowdown`.
    """

    def __init__(self, role: Role, recording: Recording, noise: Noise, first_pid: int = 0) -> None:
        """`first_pid` is added to the recorded pids, so that two cards have no process in common."""
        self.noise, self.first_pid, self.owner = noise, first_pid, role.owner
        self._job = role.job
        told = recording.told_or_none
        # A part without a power limit was recorded at full load; one without a threshold tells how far it is from it.
        self.limit: float = (told("power", "enforced_limit") or recording.told("power", "usage")) * MILLI
        margin = told("temperature_margin") or 0
        self.slowdown: float = told("temperature_thresholds", "slowdown") or recording.told("temperature") + margin
        self._rise_limit: float = self.slowdown - _ROOM_CELSIUS
        self._fastest = Clocks(recording.told("max_clocks", "graphics"), told("max_clocks", "memory") or 0.0)
        self._heats: tuple[float, float] = (0.0, 0.0)
        self._powers: deque[float] = deque(maxlen=len(_HEAT_WEIGHTS) + 1)
        self._step: int | None = None
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Move to the time `now`, monotonic seconds."""
        self.now = now
        self.load = self._job(self.noise, now)
        self.throttle = self._throttled(self.load)
        self.watts = self._power(now, self.load)
        self.capped = self.watts >= 0.995 * self.limit
        self.celsius = self._temperature(now)
        self.clocks = self._clocks()

    def _clocks(self) -> Clocks:
        """MHz, in the steps of 15 that NVIDIA's clocks have."""
        if self.load.resting:
            return _RESTING
        share = (0.95 - 0.06 * self.load.strain + 0.01 * self.noise.wave(5, self.now, 2.0)) * self.throttle
        return Clocks(15.0 * round(share * self._fastest.gpu / 15.0), self._fastest.memory)

    def _throttled(self, load: Load) -> float:
        return min(1.0, self._rise_limit / (_RISE_CELSIUS * load.creep * max(load.strain, 0.01)))

    def _power(self, t: float, load: Load) -> float:
        strain = load.strain * self._throttled(load)
        share = _IDLE_SHARE + (1.0 - _IDLE_SHARE) * strain
        return round(min(1.0, share * (1.0 + 0.01 * self.noise.wave(4, t, 0.9))) * self.limit, 2)

    def _temperature(self, t: float) -> float:
        step, part = divmod(t / _HEAT_STEP_S, 1.0)
        self._advance(int(step))
        before, after = self._heats
        room = _ROOM_CELSIUS + 1.2 * self.noise.wave(7, t, 90.0)
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
        load = self._job(self.noise, t)
        return _RISE_CELSIUS * load.creep * self._power(t, load) / self.limit


def _mean(newest_first: tuple[float, ...]) -> float:
    pairs = zip(newest_first, _HEAT_WEIGHTS, strict=False)
    return sum(power * weight for power, weight in pairs) / _HEAT_TOTAL
