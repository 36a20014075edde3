"""What simulated GPUs are busy with: pure functions of a seed and the time, so nothing needs to be remembered."""

from __future__ import annotations

import uuid
from typing import NamedTuple

_MASK = 2**64 - 1


class Load(NamedTuple):
    """What a job asks of a GPU at one moment.

    `busy` and `memory_busy` in percent; `strain` is the share of the power budget wanted, `fill` the share of memory
    taken; `sent` and `received` in bytes per second over PCIe; `creep` how much worse the cooling is than it should be.
    """

    busy: float
    memory_busy: float
    strain: float
    fill: float
    sent: float = 0.0
    received: float = 0.0
    creep: float = 1.0
    resting: bool = False


class Noise:
    """Numbers that look random and depend on nothing but the key, the channel and the time."""

    def __init__(self, key: int) -> None:
        self._key = key

    def dice(self, channel: int, n: int) -> float:
        """Return the n-th throw of a channel, 0 to 1 (the finalizer of SplitMix64, Steele, Lea and Flood 2014)."""
        mixed = (self._key + (channel << 48) + n * 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) / 2.0**64

    def identity(self, n: int) -> uuid.UUID:
        """Return the n-th UUID of this key."""
        return uuid.UUID(int=int(self.dice(8, 2 * n) * 2**64) << 64 | int(self.dice(8, 2 * n + 1) * 2**64), version=4)

    def wave(self, channel: int, t: float, period_s: float) -> float:
        """Return a smooth line through throws `period_s` apart, -1 to 1."""
        n, part = divmod(t / period_s, 1.0)
        before, after = self.dice(channel, int(n)), self.dice(channel, int(n) + 1)
        return 2.0 * (before + (after - before) * part * part * (3.0 - 2.0 * part)) - 1.0


def training(noise: Noise, t: float) -> Load:
    """Epochs of some minutes: a plateau, now and then a wait for data, validation, and a checkpoint to disk."""
    epoch_s = 240.0 + 120.0 * noise.dice(0, 0)
    into = (t + epoch_s * noise.dice(0, 1)) % epoch_s
    if into > epoch_s - 9.0:
        return Load(3.0 + noise.wave(1, t, 2.0), 1.0, 0.12, 0.87, sent=2.4e9, received=4e6)
    if into > epoch_s - 30.0:
        busy = 78.0 + 12.0 * noise.wave(1, t, 1.5)
        return Load(busy, 0.4 * busy, 0.62 + 0.05 * noise.wave(2, t, 3.0), 0.83, sent=4e7, received=1.4e9)
    if t % 47.0 < 4.0 and noise.dice(3, int(t // 47.0)) < 0.35:  # noqa: PLR2004 - about every third is a wait
        busy = 30.0 + 18.0 * noise.wave(1, t, 1.0)
        return Load(busy, 0.3 * busy, 0.36, 0.87, sent=2e7, received=5e8)
    busy = 97.0 + 2.5 * noise.wave(1, t, 1.7)
    strain = 0.93 + 0.05 * noise.wave(2, t, 4.0)
    return Load(busy, 0.58 * busy, strain, 0.87, sent=9e7, received=2.1e9 * (1.0 + 0.2 * noise.wave(4, t, 2.0)))


def inference(noise: Noise, t: float) -> Load:
    """Requests in bursts, more of them at some times than at others; memory is taken beforehand and kept."""
    rush = 0.5 + 0.45 * noise.wave(1, t, 60.0)
    if noise.dice(2, int(t // 3.0)) < rush:
        busy = 72.0 + 26.0 * noise.wave(3, t, 1.5)
    else:
        busy = 3.0 + 3.0 * noise.wave(3, t, 2.0)
    return Load(busy, 0.75 * busy, 0.14 + 0.0062 * busy, 0.91, sent=2e5 * (busy + 5.0), received=6e5 * (busy + 5.0))


def idle(noise: Noise, t: float) -> Load:
    """Nothing to do but a little drawing now and then."""
    busy = max(0.0, 4.0 * noise.wave(1, t, 7.0) - 1.0)
    return Load(busy, 0.5 * busy, 0.02 + 0.004 * busy, 0.06, sent=1e4 * busy, received=3e4 * busy, resting=True)


def overheating(noise: Noise, t: float) -> Load:
    """A long rendering on a card whose cooling fails more and more, until somebody stops it for a minute."""
    cycle_s = 420.0
    into = (t + cycle_s * noise.dice(0, 1)) % cycle_s
    creep = 1.2 + 0.7 * min(1.0, into / (0.8 * cycle_s))
    if into > cycle_s - 50.0:
        return Load(1.0 + noise.wave(1, t, 3.0), 0.0, 0.08, 0.11)
    busy = 98.5 + 1.4 * noise.wave(1, t, 2.0)
    return Load(busy, 0.5 * busy, 0.97 + 0.02 * noise.wave(2, t, 3.0), 0.71, 3e7, 2.5e8, creep)
