"""Which process held how much of a GPU's memory in each bucket: spans of processes in, layers out. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from dashtop.model.sample import Owner

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from dashtop.model.sample import GpuProcess, ProcessSpan, SeriesSet

    Floats = NDArray[np.float64]

MOST_LAYERS: Final = 8
"""Processes that have a layer of their own: those that held the most. The others share one."""

_GIB: Final = 2**30
# The end of a stretch that goes on is written down this seldom.
_BEHIND_MS: Final = 15_000
# A bucket is covered from here on: clocks are rounded.
_WHOLE: Final = 0.99
# Less than this beside the processes is rounding.
_NOTHING_GIB: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layer:
    """What a process held, in GiB by bucket: mean over the bucket, least and most. All 0 where it did not run.

    `covered` is the share of each bucket in which it ran.
    """

    name: str
    detail: str
    held: Floats
    least: Floats
    most: Floats
    covered: Floats


def where(of: GpuProcess | ProcessSpan) -> str:
    """Say in what a process runs, as far as it is known: container, pod, job, environment."""
    if of.foreign:
        return "outside this container"
    owner = of.owner or Owner()
    named = (
        (owner.runtime or "container", owner.container),
        ("pod", owner.kubernetes_pod),
        ("Slurm job", owner.slurm_job),
        ("env", owner.environment),
    )
    return ", ".join(f"{kind} {name}" for kind, name in named if name)


def layers(
    spans: Sequence[ProcessSpan],
    running: Collection[int],
    data: SeriesSet,
    used: Floats,
    *,
    interval_ms: int,
) -> list[Layer]:
    """Return a layer for each of the largest processes, the oldest first, and one for all others.

    `used`: GiB in use by bucket, NaN where it is not known. A reading stands for the `interval_ms` until the next. What
    is `running` (pids) still holds what it held when that was last written down.
    """
    of_process: dict[tuple[int, str | None], list[ProcessSpan]] = defaultdict(list)
    for span in spans:
        if span.gpu_memory_bytes is not None:
            of_process[span.pid, span.name].append(span)
    newest = {span.pid: span for span in spans}  # they are in the order of their start
    plain = Counter(_name(parts[-1]) for parts in of_process.values())
    found = [
        _layer(
            parts,
            data,
            interval_ms,
            name=_name(parts[-1], with_pid=plain[_name(parts[-1])] > 1),
            goes_on=pid in running and parts[-1] is newest[pid],
        )
        for (pid, _), parts in of_process.items()
    ]
    found = _observed([layer for layer in found if layer.most.any()], used)
    by_size = sorted(found, key=lambda layer: -float(layer.held.sum()))
    named, others = by_size[:MOST_LAYERS], by_size[MOST_LAYERS:]
    together = [_together(others)] if others else []
    return [*(layer for layer in found if any(layer is each for each in named)), *together]


def remainder(found: Iterable[Layer], used: Floats) -> Layer | None:
    """Return what is in use beside the layers: the driver's own, and processes that it does not tell of.

    What stands for one bucket alone is how far the moments of readings and of buckets differ, and nothing in use.
    """
    told = sum((layer.held for layer in found), np.zeros(len(used)))
    rest = np.nan_to_num(np.maximum(used - told, 0.0))
    before, after = np.append(0.0, rest[:-1]), np.append(rest[1:], 0.0)
    rest = np.maximum(np.minimum(rest, before), np.minimum(rest, after))
    if rest.max(initial=0.0) < _NOTHING_GIB:
        return None
    return Layer(name="driver and others", detail="", held=rest, least=rest, most=rest, covered=np.sign(rest))


def _observed(found: Sequence[Layer], used: Floats) -> list[Layer]:
    """Return the layers as they were while somebody looked: a bucket in which that began or ended is a shorter one.

    Such a bucket has more in use than all processes held, by the share of time in which none was seen.
    """
    told = sum((layer.held for layer in found), np.zeros(len(used)))
    seen = np.max([layer.covered for layer in found], axis=0, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        longer = np.nan_to_num(np.clip(np.minimum(used / told, 1.0 / seen), 1.0, None), nan=1.0, posinf=1.0)
    return [
        replace(
            layer,
            held=layer.held * longer,
            covered=layer.covered * longer,
            # Part of a bucket without the process is part of it with nothing held.
            least=np.where(layer.covered * longer < _WHOLE, 0.0, layer.least),
        )
        for layer in found
    ]


def _name(of: ProcessSpan, *, with_pid: bool = False) -> str:
    """Say which process of whom; the pid too where another is called the same."""
    user = of.owner.user if of.owner is not None else None
    name = f"{of.name} {of.pid}" if of.name and with_pid else of.name or f"pid {of.pid}"
    return f"{name} ({user})" if user else name


def _layer(parts: Sequence[ProcessSpan], data: SeriesSet, interval_ms: int, *, name: str, goes_on: bool) -> Layer:
    step, count = data.step_ms, data.count
    end_of_data = data.start_ms + count * step
    share, covered = np.zeros(count), np.zeros(count)
    least, most = np.full(count, np.inf), np.zeros(count)
    for part in parts:
        size = (part.gpu_memory_bytes or 0) / _GIB
        peak = max(size, (part.peak_gpu_memory_bytes or 0) / _GIB)
        start_ms, end_ms = max(part.start_ms, data.start_ms), part.end_ms + interval_ms
        if goes_on and part is parts[-1]:
            end_ms += _BEHIND_MS
        end_ms = min(end_ms, end_of_data)
        if end_ms <= start_ms:
            continue
        first, last = (start_ms - data.start_ms) // step, (end_ms - 1 - data.start_ms) // step
        edges = data.start_ms + np.arange(first, last + 2) * step
        overlap: Floats = np.diff(np.clip(edges, start_ms, end_ms).astype(np.float64)) / step
        reached = slice(first, last + 1)
        share[reached] += size * overlap
        covered[reached] += overlap
        np.minimum(least[reached], size, out=least[reached])
        np.maximum(most[reached], peak, out=most[reached])
    newest = parts[-1]
    return Layer(
        name=name,
        detail=", ".join(filter(None, (f"pid {newest.pid}" if newest.name else "", where(newest)))),
        held=share / np.maximum(covered, 1.0),
        least=np.where(covered > 0, least, 0.0),
        most=most,
        covered=np.minimum(covered, 1.0),
    )


def _together(others: Sequence[Layer]) -> Layer:
    held, least, most = (
        np.sum([getattr(layer, name) for layer in others], axis=0) for name in ("held", "least", "most")
    )
    covered = np.max([layer.covered for layer in others], axis=0)
    return Layer(name=f"{len(others)} smaller ones", detail="", held=held, least=least, most=most, covered=covered)
