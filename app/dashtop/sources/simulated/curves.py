"""Load curves of simulated GPUs: functions of a seed and the time, for one time (floats) or for many (numpy arrays)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Number = Any
"""A float, or an array of floats. Times are epoch seconds."""

HOUR_S, DAY_S, WEEK_S = 3600.0, 86_400.0, 7 * 86_400.0
LOADING_S = 40.0
"""At its start, a job loads data for this long; it holds a part of its memory then."""
OUTAGE_S = 420.0
"""How long a GPU that falls off the bus is lost."""
RESTING_STRAIN = 0.05
MEMORY_BLOCK_BYTES = 2**21

_TABLE_SIZE = 65_536
# Channels of the noise, one for each use.
_PHASE, _PAUSE, _LEVEL, _JITTER, _EPOCH, _STRAIN, _WAIT, _SURGE, _BURST, _ROOM, _DRIFT = range(11)
_IDLE_POWER_SHARE, _THROTTLED_SHARE = 0.06, 0.86
_ROOM_CELSIUS, _RISE_CELSIUS, _WARM_UP_S = 26.0, 44.0, 60.0


class ScalarMath:
    """The functions of numpy that the curves use, for single numbers: numpy takes microseconds for each."""

    exp, cos, floor = math.exp, math.cos, math.floor
    minimum, maximum = min, max

    @staticmethod
    def where(condition: bool, if_true: float, if_false: float) -> float:
        """Return one of two numbers."""
        return if_true if condition else if_false

    @staticmethod
    def round(value: float, digits: int = 0) -> float:
        """Round as numpy does."""
        scale = 10.0**digits
        return round(value * scale) / scale


@cache
def _draw_table() -> tuple[NDArray[np.float64], list[float]]:
    table = np.random.default_rng(0).random(_TABLE_SIZE)
    return table, table.tolist()


class Noise:
    """Numbers that look random and depend only on the key, the channel and `n`."""

    def __init__(self, key: int) -> None:
        self._array, self._list = _draw_table()
        self._key = key

    def get(self, channel: int, n: Number) -> Number:
        """Return the n-th number of a channel, from 0 to 1."""
        offset = self._key * 26_543 + channel * 40_503
        if isinstance(n, np.ndarray):
            return self._array[(n.astype(np.int64) * 7_919 + offset) % _TABLE_SIZE]
        return self._list[(int(n) * 7_919 + offset) % _TABLE_SIZE]

    def wave(self, channel: int, t: Number, period_s: float) -> Number:
        """Return a smooth curve through numbers `period_s` apart, from -1 to 1."""
        n, part = t // period_s, t % period_s / period_s
        before, after = self.get(channel, n), self.get(channel, n + 1)
        return 2.0 * (before + (after - before) * part * part * (3.0 - 2.0 * part)) - 1.0


class Load(NamedTuple):
    """`busy`: percent. `strain`: the share of the power limit that the job needs. `heat`: that of the last minutes."""

    busy: Number
    strain: Number
    heat: Number


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One job after the other: each slot of `slot_s` starts with a pause and ends with the job.

    `memory`: shares of the recorded memory that the smallest and the largest job hold. `slows_down`: clocks are
    throttled for heat in the second half of each job. `is_lost_weekly`: the GPU falls off the bus at the end of one job
    a week. `last_heat`: the heat at the end of a job.
    """

    curve: Callable[[Moment], Load]
    slot_s: float
    pause_s: tuple[float, float]
    last_heat: float
    memory: tuple[float, float] = (1.0, 1.0)
    slows_down: bool = False
    is_lost_weekly: bool = False


class Board(NamedTuple):
    """Limits of a GPU, and the processes recorded on it: (bytes, whether it is a graphics process, which stays)."""

    limit_watts: float
    limit_celsius: float
    total_bytes: int
    processes: tuple[tuple[int, bool], ...]


class Moment:
    """A GPU under a workload at `t`: one time, or an array of times. The attributes have the shape of `t`."""

    def __init__(self, workload: Workload, noise: Noise, board: Board, t: Number) -> None:
        xp: Any = np if isinstance(t, np.ndarray) else ScalarMath
        self.xp, self.t, self.noise, self.board = xp, t, noise, board
        self.jitter = 2.0 * noise.get(_JITTER, t // 1.0) - 1.0
        phase, slots_per_week = noise.get(_PHASE, 0), max(1, round(WEEK_S / workload.slot_s))
        self.job = xp.floor(t / workload.slot_s + phase)
        self.slot_start_s = (self.job - phase) * workload.slot_s
        has_outage = (self.job % slots_per_week == int(slots_per_week * phase)) & workload.is_lost_weekly
        shortest, longest = workload.pause_s
        pause_s = shortest + (longest - shortest) * noise.get(_PAUSE, self.job)
        pause_s = xp.maximum(pause_s, 1.5 * OUTAGE_S * has_outage)
        self.begin_s, self.length_s = self.slot_start_s + pause_s, workload.slot_s - pause_s
        self.elapsed_s = t - self.begin_s
        """Seconds since the job began; negative before it."""
        self.is_lost = has_outage & (t - self.slot_start_s < OUTAGE_S)
        self.is_slowed_down = (self.elapsed_s > 0.5 * self.length_s) & workload.slows_down
        load, is_loading = workload.curve(self), self.elapsed_s < LOADING_S
        is_paused = self.elapsed_s < 0.0
        busy = xp.where(is_paused, 0.0, xp.where(is_loading, 7.0 + 6.0 * self.jitter, load.busy))
        self.busy = xp.minimum(xp.maximum(busy, 0.0), 100.0)
        strain = xp.where(is_paused, 0.01, xp.where(is_loading, 0.14, load.strain))
        self.is_resting = strain < RESTING_STRAIN
        power = strain * xp.where(self.is_slowed_down, _THROTTLED_SHARE, 1.0)
        power = (_IDLE_POWER_SHARE + (1.0 - _IDLE_POWER_SHARE) * power) * (1.0 + 0.01 * self.jitter)
        self.power_share = xp.minimum(1.0, power)
        self.watts = xp.round(self.power_share * board.limit_watts, 1)
        self.celsius = self._compute_celsius(load.heat, workload.last_heat)
        smallest, largest = workload.memory
        share = (smallest + (largest - smallest) * noise.get(_LEVEL, self.job)) * xp.where(is_loading, 0.3, 1.0)
        share = xp.where(is_paused, 0.0, share)
        self.sizes = [
            MEMORY_BLOCK_BYTES * xp.floor(size / MEMORY_BLOCK_BYTES * (share * 0.0 + 1.0 if is_graphics else share))
            for size, is_graphics in board.processes
        ]
        """Bytes of each process."""
        self.used_bytes = sum(self.sizes)
        self.total_bytes = board.total_bytes

    def _compute_celsius(self, heat: Number, last_heat: float) -> Number:
        """Return °C: the last job cools down while this one warms up."""
        xp = self.xp
        warm = 1.0 - xp.exp(-xp.maximum(self.elapsed_s - LOADING_S, 0.0) / _WARM_UP_S)
        cool = xp.exp(-(self.t - self.slot_start_s) / _WARM_UP_S)
        share = _IDLE_POWER_SHARE + (1.0 - _IDLE_POWER_SHARE) * xp.maximum(heat * warm, last_heat * cool)
        room = _ROOM_CELSIUS + 1.5 * self.noise.wave(_ROOM, self.t, 1800.0)
        rise = (_RISE_CELSIUS + 4.0 * self.noise.wave(_DRIFT, self.t, 50.0)) * share
        return xp.minimum(room + rise, self.board.limit_celsius)


def _training(m: Moment) -> Load:
    """Epochs of some minutes: a plateau, sometimes a wait for data; then validation and a checkpoint."""
    where, noise = m.xp.where, m.noise
    epoch_s = 260.0 + 240.0 * noise.get(_EPOCH, m.job)
    left_s = epoch_s - m.elapsed_s % epoch_s
    is_waiting = (m.t % 47.0 < 3.0) & (noise.get(_WAIT, m.t // 47.0) < 0.2)  # noqa: PLR2004 - every fifth
    is_saving, is_validating = left_s < 7.0, left_s < 26.0  # noqa: PLR2004 - seconds
    plateau = 0.78 + 0.15 * noise.get(_STRAIN, m.job) + 0.02 * noise.wave(_STRAIN, m.t, 25.0)
    busy = where(is_saving, 3.0, where(is_validating, 74.0, where(is_waiting, 45.0, 97.5)))
    strain = where(is_saving, 0.12, where(is_validating, 0.58, where(is_waiting, 0.42, plateau)))
    return Load(busy + 2.0 * m.jitter, strain, 0.82)


def _inference(m: Moment) -> Load:
    """Requests of users: a daily pattern (UTC) with calmer weekends, surges of minutes, bursts of seconds."""
    daily = 0.5 + 0.4 * m.xp.cos((m.t % DAY_S / HOUR_S - 14.0) * math.pi / 12.0)
    day = m.t // DAY_S % 7.0  # the epoch began on a Thursday
    daily = daily * m.xp.where((day == 2.0) | (day == 3.0), 0.55, 1.0)  # noqa: PLR2004 - Saturday and Sunday
    smooth = 100.0 * daily * (1.0 + 0.3 * m.noise.wave(_SURGE, m.t, 480.0))
    busy = smooth + 20.0 * daily * m.noise.wave(_BURST, m.t, 20.0) + (4.0 + 14.0 * daily) * m.jitter
    busy = m.xp.minimum(m.xp.maximum(busy, 0.0), 99.0)
    return Load(busy, 0.10 + 0.0068 * busy, 0.10 + 0.0068 * smooth)


def _batch(m: Moment) -> Load:
    """Jobs of an hour or so, each with a level of its own."""
    level = 55.0 + 40.0 * m.noise.get(_STRAIN, m.job)
    busy = level * (1.0 + 0.06 * m.noise.wave(_SURGE, m.t, 90.0)) + 3.0 * m.jitter
    return Load(busy, 0.15 + 0.008 * busy, 0.75)


def _overheating(m: Moment) -> Load:
    """A long rendering on a card whose cooling gets worse."""
    is_between_frames = m.t % 180.0 < 5.0  # noqa: PLR2004 - seconds
    busy = m.xp.where(is_between_frames, 30.0, 98.5) + 1.4 * m.jitter
    strain = m.xp.where(is_between_frames, 0.35, 0.96 + 0.02 * m.noise.wave(_STRAIN, m.t, 30.0))
    return Load(busy, strain, 1.0 + 0.7 * m.xp.minimum(2.0 * m.xp.maximum(m.elapsed_s, 0.0) / m.length_s, 1.0))


def _idle(m: Moment) -> Load:
    """A screen that changes now and then."""
    busy = m.xp.maximum(0.0, 5.0 * m.noise.wave(_BURST, m.t, 9.0) - 1.0)
    return Load(busy, 0.01 + 0.004 * busy, 0.02)


TRAINING = Workload(curve=_training, slot_s=13.0 * HOUR_S, pause_s=(20.0, 60.0), last_heat=0.82)
INFERENCE = Workload(curve=_inference, slot_s=84.0 * HOUR_S, pause_s=(20.0, 40.0), last_heat=0.4)
BATCH = Workload(
    curve=_batch, slot_s=1.75 * HOUR_S, pause_s=(600.0, 2700.0), last_heat=0.75, memory=(0.4, 1.0)
)  # fmt: skip
OVERHEATING = Workload(
    curve=_overheating, slot_s=3.5 * HOUR_S, pause_s=(300.0, 900.0), last_heat=1.7, slows_down=True, is_lost_weekly=True
)
IDLE = Workload(curve=_idle, slot_s=1000.0 * HOUR_S, pause_s=(0.0, 0.0), last_heat=0.02, memory=(0.06, 0.06))
