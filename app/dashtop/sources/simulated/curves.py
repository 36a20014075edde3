"""Load curves of simulated GPUs: pure functions of a seed and the time, vectorised over arrays of times.

Times are epoch seconds in arrays of one dimension or more; every result has the shape of its times.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

Floats = NDArray[np.float64]

LOADING_S = 40.0
"""A job loads data for this long; it holds a part of its memory then."""
OUTAGE_S = 420.0
"""How long a GPU that falls off the bus is lost."""
WEEK_S = 7 * 86_400

# Channels of the noise, one for each use.
_PHASE, _GAP, _LEVEL, _JITTER, _EPOCH, _STRAIN, _WAIT, _SURGE, _BURST, _UUID = range(10)


class Noise:
    """Numbers that look random and depend only on the key, the channel and the argument."""

    def __init__(self, key: int) -> None:
        self._key = key

    @property
    def phase(self) -> float:
        """Return by how much of a slot the jobs are shifted."""
        return self.number(_PHASE, 0)

    def dice(self, channel: int, n: NDArray[np.number]) -> Floats:
        """Return the n-th throws of a channel, 0 to 1 (the finalizer of SplitMix64; Steele, Lea and Flood 2014)."""
        offset = np.uint64((self._key * 0xD1342543DE82EF95 + (channel << 48)) % 2**64)
        mixed = n.astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + offset
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (mixed >> np.uint64(11)) / 2.0**53

    def number(self, channel: int, n: int) -> float:
        """Return one throw."""
        return _throw(self._key, channel, n)

    def wave(self, channel: int, t: Floats, period_s: float) -> Floats:
        """Return a smooth line through throws `period_s` apart, -1 to 1."""
        n = np.floor(t / period_s)
        part = t / period_s - n
        before, after = self.dice(channel, n), self.dice(channel, n + 1)
        return 2.0 * (before + (after - before) * part * part * (3.0 - 2.0 * part)) - 1.0

    def jitter(self, t: Floats) -> Floats:
        """Return a number for each second, -1 to 1."""
        return 2.0 * self.dice(_JITTER, np.floor(t)) - 1.0

    def identity(self, n: int) -> uuid.UUID:
        """Return the n-th UUID of this key."""
        high, low = (int(self.number(_UUID, 2 * n + half) * 2**64) for half in (0, 1))
        return uuid.UUID(int=high << 64 | low, version=4)


@lru_cache(maxsize=4096)
def _throw(key: int, channel: int, n: int) -> float:
    return float(Noise(key).dice(channel, np.array([n]))[0])


class Jobs(NamedTuple):
    """The jobs at some times: numbers, when they begin, seconds since then (negative before it) and lengths."""

    number: Floats
    begin_s: Floats
    into_s: Floats
    length_s: Floats

    @property
    def running(self) -> NDArray[np.bool_]:
        """Whether a job runs."""
        return self.into_s >= 0.0


class Load(NamedTuple):
    """How busy a GPU is (percent), the share of its power that the job wants, and how poor its cooling is (1: good)."""

    busy: Floats
    strain: Floats
    heat: Floats | float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A job after the other: each time slot of `slot_s` begins with a pause and ends with the job.

    `memory`: shares of the recorded memory that the smallest and the largest job hold. `slows_down`: the clocks are
    slowed down for heat in the second half of each job. `is_lost_weekly`: once a week the GPU falls off the bus at a
    job's end.
    """

    curve: Callable[[Noise, Floats, Jobs], Load]
    slot_s: float
    pause_s: tuple[float, float]
    memory: tuple[float, float] = (1.0, 1.0)
    slows_down: bool = False
    is_lost_weekly: bool = False

    def _number(self, noise: Noise, t: Floats) -> Floats:
        """Return the numbers of the slots at these times."""
        return np.floor(t / self.slot_s + noise.phase)

    def _start(self, noise: Noise, number: Floats) -> Floats:
        """Return when these slots begin."""
        return (number - noise.phase) * self.slot_s

    def jobs(self, noise: Noise, t: Floats) -> Jobs:
        """Return the jobs at these times."""
        number = self._number(noise, t)
        least, most = self.pause_s
        pause = least + (most - least) * noise.dice(_GAP, number)
        if self.is_lost_weekly:
            pause = np.maximum(pause, 1.5 * OUTAGE_S * self._has_outage(noise, number))
        begin = self._start(noise, number) + pause
        return Jobs(number, begin, t - begin, self.slot_s - pause)

    def _has_outage(self, noise: Noise, number: Floats) -> NDArray[np.bool_]:
        slots_per_week = round(WEEK_S / self.slot_s)
        has_outage: NDArray[np.bool_] = number % slots_per_week == int(slots_per_week * noise.phase)
        return has_outage

    def is_lost(self, noise: Noise, t: Floats) -> NDArray[np.bool_]:
        """Tell when the GPU is lost: at the beginning of one slot a week."""
        if not self.is_lost_weekly:
            return np.zeros(len(t), dtype=np.bool_)
        number = self._number(noise, t)
        is_lost: NDArray[np.bool_] = self._has_outage(noise, number) & (t - self._start(noise, number) < OUTAGE_S)
        return is_lost

    def is_slowed_down(self, jobs: Jobs) -> NDArray[np.bool_]:
        """Tell when the clocks are slowed down for heat."""
        return (jobs.into_s > 0.5 * jobs.length_s) & self.slows_down

    def memory_share(self, noise: Noise, jobs: Jobs) -> Floats:
        """Return the share of the recorded memory that the job holds."""
        least, most = self.memory
        share = least + (most - least) * noise.dice(_LEVEL, jobs.number)
        return np.where(jobs.running, share * np.where(jobs.into_s < LOADING_S, 0.3, 1.0), 0.0)

    def load(self, noise: Noise, t: Floats, jobs: Jobs) -> Load:
        """Return the load: almost none without a job and while it loads data, else what its curve says."""
        busy, strain, heat = self.curve(noise, t, jobs)
        begins, loads = jobs.into_s < 0.0, jobs.into_s < LOADING_S
        busy = np.where(begins, 0.0, np.where(loads, 7.0 + 6.0 * noise.jitter(t), busy))
        strain = np.where(begins, 0.01, np.where(loads, 0.14, strain))
        return Load(np.minimum(np.maximum(busy, 0.0), 100.0), strain, heat)

    def changes(self, noise: Noise, start_s: float, end_s: float) -> Floats:
        """Return the times at which jobs begin, have loaded their data, slow down and end, or the GPU is lost or back.

        Times are whole seconds; the change has happened by then.
        """
        first, last = self._number(noise, np.array([start_s, end_s]))
        slots = self._start(noise, np.arange(first, last + 2))
        jobs = self.jobs(noise, slots + 0.5 * self.slot_s)
        parts = [slots, jobs.begin_s, jobs.begin_s + LOADING_S]
        if self.slows_down:
            parts.append(jobs.begin_s + 0.5 * jobs.length_s)
        if self.is_lost_weekly:
            parts.append(slots + OUTAGE_S)
        times = np.unique(np.ceil(np.concatenate(parts)))
        return times[(times > start_s) & (times <= end_s)]


def _training(noise: Noise, t: Floats, jobs: Jobs) -> Load:
    """Epochs of some minutes: a plateau, now and then a wait for data, validation, and a checkpoint to disk."""
    jitter = noise.jitter(t)
    epoch_s = 260.0 + 240.0 * noise.dice(_EPOCH, jobs.number)
    left = epoch_s - jobs.into_s % epoch_s
    waits = (t % 47.0 < 3.0) & (noise.dice(_WAIT, np.floor(t / 47.0)) < 0.2)  # noqa: PLR2004 - every fifth
    checkpoint, validation = left < 7.0, left < 26.0  # noqa: PLR2004 - seconds
    plateau = 0.78 + 0.15 * noise.dice(_STRAIN, jobs.number) + 0.02 * noise.wave(_STRAIN, t, 25.0)
    slow = checkpoint | validation | waits
    busy = np.where(checkpoint, 3.0, np.where(validation, 74.0, np.where(waits, 45.0, 97.5)))
    strain = np.where(checkpoint, 0.12, np.where(validation, 0.58, np.where(waits, 0.42, plateau)))
    return Load(busy + np.where(slow & ~checkpoint, 9.0, 2.0) * jitter, strain)


# Requests by the hour of the day (UTC), as a share of what the GPU can serve: few at night, most in office hours.
_HOURS = (0.0, 3.0, 6.0, 8.0, 9.5, 11.5, 13.0, 15.0, 17.5, 19.0, 21.0, 23.0)
_DEMAND = (0.22, 0.07, 0.10, 0.38, 0.78, 0.88, 0.66, 0.90, 0.62, 0.52, 0.60, 0.35)
_WEEKEND_SHARE = 0.55
_WEEKEND = (2, 3)  # days after a Thursday, the day on which the epoch began
_WEEK_HOURS = [24.0 * day + hour for day in range(7) for hour in _HOURS] + [168.0]
_WEEK_DEMAND = [value * (_WEEKEND_SHARE if day in _WEEKEND else 1.0) for day in range(7) for value in _DEMAND] + [
    _DEMAND[0]
]


def _inference(noise: Noise, t: Floats, _jobs: Jobs) -> Load:
    """Requests of users: a daily pattern with calmer weekends, minutes of more and of less, bursts of seconds."""
    daily = np.interp(t % WEEK_S / 3600.0, _WEEK_HOURS, _WEEK_DEMAND)
    busy = 100.0 * daily * (1.0 + 0.3 * noise.wave(_SURGE, t, 480.0) + 0.2 * noise.wave(_BURST, t, 20.0))
    busy = np.clip(busy + (4.0 + 14.0 * daily) * noise.jitter(t), 0.0, 99.0)
    return Load(busy, 0.10 + 0.0068 * busy)


def _batch(noise: Noise, t: Floats, jobs: Jobs) -> Load:
    """Jobs of an hour or so, each with a level of its own; the work swings with what is in the input."""
    level = 55.0 + 40.0 * noise.dice(_STRAIN, jobs.number)
    busy = level * (1.0 + 0.06 * noise.wave(_SURGE, t, 90.0)) + 3.0 * noise.jitter(t)
    return Load(busy, 0.15 + 0.008 * busy)


def _overheating(noise: Noise, t: Floats, jobs: Jobs) -> Load:
    """A long rendering on a card whose cooling fails more and more."""
    between_frames = t % 180.0 < 5.0  # noqa: PLR2004 - seconds
    busy = np.where(between_frames, 30.0, 98.5) + 1.4 * noise.jitter(t)
    strain = np.where(between_frames, 0.35, 0.96 + 0.02 * noise.wave(_STRAIN, t, 30.0))
    return Load(busy, strain, 1.0 + 0.7 * np.minimum(2.0 * np.maximum(jobs.into_s, 0.0) / jobs.length_s, 1.0))


def _idle(noise: Noise, t: Floats, _jobs: Jobs) -> Load:
    """Some drawing on a screen now and then."""
    busy = np.maximum(0.0, 5.0 * noise.wave(_BURST, t, 9.0) - 1.0)
    return Load(busy, 0.01 + 0.004 * busy)


HOUR_S = 3600.0
TRAINING = Workload(curve=_training, slot_s=13.0 * HOUR_S, pause_s=(20.0, 60.0))
INFERENCE = Workload(curve=_inference, slot_s=84.0 * HOUR_S, pause_s=(20.0, 40.0))
BATCH = Workload(curve=_batch, slot_s=1.75 * HOUR_S, pause_s=(600.0, 2700.0), memory=(0.4, 1.0))
OVERHEATING = Workload(
    curve=_overheating, slot_s=3.5 * HOUR_S, pause_s=(300.0, 900.0), slows_down=True, is_lost_weekly=True
)
IDLE = Workload(curve=_idle, slot_s=1000.0 * HOUR_S, pause_s=(0.0, 0.0), memory=(0.06, 0.06))
