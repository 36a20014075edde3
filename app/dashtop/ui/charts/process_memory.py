"""The chart of GPU memory by process: process spans in, stacked layers and their Plotly figure out. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.model.metric import GIB, Unit
from dashtop.ui.charts.base_figure import annotation, base_figure, capacity_axis, encode_float32, hline
from dashtop.ui.theme import SERIES, with_alpha

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from dashtop.model.sample import GpuProcess, ProcessSpan, SeriesSet
    from dashtop.ui.charts.base_figure import Band, ChartStyle, Figure, Mark

    Floats = NDArray[np.float64]

MAX_LAYERS: Final = 8
"""Number of processes with a layer of their own: the largest ones. All others share one layer."""

# The end of a span is stored at most this late while the process runs.
_STORE_INTERVAL_MS: Final = 15_000
# A bucket counts as covered from this share on, because of rounded timestamps.
_FULL_COVERAGE: Final = 0.99
# A smaller difference between the memory in use and the sum of the processes is rounding.
_MIN_REMAINDERGIB: Final = 0.05

_DENOMINATOR: Final = 256
# A hue for each user; the processes of one user differ in lightness, which is visible with any colour vision.
_OPACITIES: Final = (0.7, 0.35, 0.55, 0.2)
_REMAINDER_OPACITY: Final = 0.2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layer:
    """The memory of one process in GiB by bucket: mean, minimum and maximum. 0 where it did not run.

    `coverage` is the share of each bucket in which it ran, 0 to 1. `user` None: not known.
    """

    name: str
    details: str
    user: str | None = None
    mean: Floats
    minimum: Floats
    maximum: Floats
    coverage: Floats


def describe_context(process: GpuProcess | ProcessSpan) -> str:
    """Return what a process runs in, as far as it is known: notebook, container, pod, Slurm job, environment."""
    info = process.info
    if info.foreign:
        return "outside this container"
    contexts = (
        ("notebook", info.notebook),
        (info.container_runtime or "container", info.container),
        ("pod", info.kubernetes_pod),
        ("Slurm job", info.slurm_job),
        ("env", info.environment),
    )
    return ", ".join(f"{kind} {name}" for kind, name in contexts if name)


def build_layers(
    spans: Sequence[ProcessSpan],
    running: Collection[int],
    data: SeriesSet,
    used: Floats,
    *,
    interval_ms: int,
) -> list[Layer]:
    """Return a layer for each of the largest processes, by start time, and one for all others.

    `used` is the memory in use in GiB by bucket, NaN where it is not known. A sample covers the `interval_ms` until the
    next one. A process whose pid is in `running` still uses what was last stored for it.
    """
    spans_of: dict[tuple[int, str | None], list[ProcessSpan]] = defaultdict(list)
    for span in spans:
        if span.gpu_memory_bytes is not None:
            spans_of[span.pid, span.info.name].append(span)
    newest = {span.pid: span for span in spans}  # spans are sorted by start time
    name_counts = Counter(_name(parts[-1]) for parts in spans_of.values())
    layers = [
        _layer(
            parts,
            data,
            interval_ms,
            name=_name(parts[-1], with_pid=name_counts[_name(parts[-1])] > 1),
            is_running=pid in running and parts[-1] is newest[pid],
        )
        for (pid, _), parts in spans_of.items()
    ]
    layers = _correct_coverage([layer for layer in layers if layer.maximum.any()], used)
    by_size = sorted(layers, key=lambda layer: -float(layer.mean.sum()))
    largest, others = by_size[:MAX_LAYERS], by_size[MAX_LAYERS:]
    merged = [_merge(others)] if others else []
    return [*(layer for layer in layers if any(layer is each for each in largest)), *merged]


def build_remainder(layers: Iterable[Layer], used: Floats) -> Layer | None:
    """Return the memory in use beside the layers: of the driver, and of processes without a known size.

    A difference in one bucket only is ignored: samples and buckets do not begin at the same moment.
    """
    by_processes = sum((layer.mean for layer in layers), np.zeros(len(used)))
    rest = np.nan_to_num(np.maximum(used - by_processes, 0.0))
    before, after = np.append(0.0, rest[:-1]), np.append(rest[1:], 0.0)
    rest = np.maximum(np.minimum(rest, before), np.minimum(rest, after))
    if rest.max(initial=0.0) < _MIN_REMAINDERGIB:
        return None
    return Layer(name="driver and others", details="", mean=rest, minimum=rest, maximum=rest, coverage=np.sign(rest))


def figure(
    data: SeriesSet,
    layers: Sequence[Layer],
    remainder: Layer | None,
    known: NDArray[np.bool_],
    style: ChartStyle,
    *,
    total: float | None,
    marks: Sequence[Mark] = (),
    bands: Sequence[Band] = (),
) -> Figure:
    """Return the stacked area chart in GiB, with `remainder` on top in grey.

    `known` is True in buckets in which the memory in use is known, `total` is the memory of the GPU in GiB.
    """
    shades = [*choose_shades([layer.user for layer in layers]), (style.theme.neutral, _REMAINDER_OPACITY)]
    stack = [*layers, *([] if remainder is None else [remainder])]
    tops = np.cumsum([layer.mean for layer in stack], axis=0) if stack else np.zeros((0, data.count))
    areas, edges = [], []
    for number, (layer, top, (tint, opacity)) in enumerate(zip(stack, tops, shades, strict=False)):
        visible = np.where(known & (layer.coverage > 0), top, np.nan)
        areas.append(_area(data, np.where(known, top, 0.0), with_alpha(tint, opacity), is_first=number == 0))
        edges.append(_edge(data, layer, visible, with_alpha(tint, min(opacity + 0.3, 1.0))))
    capacity = total or max(float(tops.max(initial=0.0)) * 1.25, 1.0)
    shapes = [] if total is None else [hline(total, style.theme.neutral)]
    annotations = [] if total is None else [annotation(f"VRAM {total:.1f} GiB", total, style.theme.muted)]
    axes = {"yaxis": capacity_axis(capacity)}
    units = {"y": Unit.GIBIBYTE}
    notes: dict[str, Any] = {"shapes": shapes, "annotations": annotations, "marks": marks, "bands": bands}
    return base_figure(data, [*areas, *edges], units, axes, style, **notes)


def choose_shades(users: Sequence[str | None]) -> list[tuple[str, float]]:
    """Return colour and opacity of each layer: a hue for each user, and shades of it for the processes of that user.

    Hues follow the order of the names, so that a user keeps a hue while others come and go above it in the stack.
    """
    names = sorted({user or "" for user in users}, key=lambda name: (not name, name))
    hues = {user: SERIES[at % len(SERIES)] for at, user in enumerate(names)}
    counts: Counter[str] = Counter()
    shades = []
    for user in (each or "" for each in users):
        shades.append((hues[user], _OPACITIES[counts[user] % len(_OPACITIES)]))
        counts[user] += 1
    return shades


def _name(span: ProcessSpan, *, with_pid: bool = False) -> str:
    """Return the process and user name; with the pid where several have the same name."""
    info = span.info
    name = f"{info.name} {span.pid}" if info.name and with_pid else info.name or f"pid {span.pid}"
    return f"{name} ({info.username})" if info.username else name


def _layer(parts: Sequence[ProcessSpan], data: SeriesSet, interval_ms: int, *, name: str, is_running: bool) -> Layer:
    step, count = data.step_ms, data.count
    end_of_data = data.start_ms + count * step
    weighted, coverage = np.zeros(count), np.zeros(count)
    minimum, maximum = np.full(count, np.inf), np.zeros(count)
    for part in parts:
        size = (part.gpu_memory_bytes or 0) / GIB
        peak = max(size, (part.peak_gpu_memory_bytes or 0) / GIB)
        start_ms, end_ms = max(part.start_ms, data.start_ms), part.end_ms + interval_ms
        if is_running and part is parts[-1]:
            end_ms += _STORE_INTERVAL_MS
        end_ms = min(end_ms, end_of_data)
        if end_ms <= start_ms:
            continue
        first, last = (start_ms - data.start_ms) // step, (end_ms - 1 - data.start_ms) // step
        edges = data.start_ms + np.arange(first, last + 2) * step
        overlap: Floats = np.diff(np.clip(edges, start_ms, end_ms).astype(np.float64)) / step
        buckets = slice(first, last + 1)
        weighted[buckets] += size * overlap
        coverage[buckets] += overlap
        np.minimum(minimum[buckets], size, out=minimum[buckets])
        np.maximum(maximum[buckets], peak, out=maximum[buckets])
    newest = parts[-1]
    return Layer(
        name=name,
        details=", ".join(filter(None, (f"pid {newest.pid}" if newest.info.name else "", describe_context(newest)))),
        user=newest.info.username,
        mean=weighted / np.maximum(coverage, 1.0),
        minimum=np.where(coverage > 0, minimum, 0.0),
        maximum=maximum,
        coverage=np.minimum(coverage, 1.0),
    )


def _correct_coverage(layers: Sequence[Layer], used: Floats) -> list[Layer]:
    """Scale up buckets that were sampled only in part, at the start or the end of a recording.

    In such a bucket more memory is in use than the sum of all processes, by the share of time without samples.
    """
    by_processes = sum((layer.mean for layer in layers), np.zeros(len(used)))
    sampled = np.max([layer.coverage for layer in layers], axis=0, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.clip(np.minimum(used / by_processes, 1.0 / sampled), 1.0, None)
    factor = np.nan_to_num(factor, nan=1.0, posinf=1.0)
    return [
        replace(
            layer,
            mean=layer.mean * factor,
            coverage=layer.coverage * factor,
            # A process that ran in part of a bucket only used nothing in the rest of it.
            minimum=np.where(layer.coverage * factor < _FULL_COVERAGE, 0.0, layer.minimum),
        )
        for layer in layers
    ]


def _merge(layers: Sequence[Layer]) -> Layer:
    mean, minimum, maximum = (
        np.sum([getattr(layer, name) for layer in layers], axis=0) for name in ("mean", "minimum", "maximum")
    )
    coverage = np.max([layer.coverage for layer in layers], axis=0)
    name = f"{len(layers)} smaller processes"
    return Layer(name=name, details="", mean=mean, minimum=minimum, maximum=maximum, coverage=coverage)


def _area(data: SeriesSet, top: Floats, fill: str, *, is_first: bool) -> dict[str, Any]:
    """Return the filled area from the layer below up to `top`; an area without height is invisible."""
    return {
        **_common(data),
        "y": encode_float32(top, _DENOMINATOR),
        "fill": "tozeroy" if is_first else "tonexty",
        "fillcolor": fill,
        "line": {"width": 0, "shape": "hv"},
    }


def _edge(data: SeriesSet, layer: Layer, top: Floats, colour: str) -> dict[str, Any]:
    """Return the upper edge of a layer. `meta` is for legend and cursor; the name in it comes from a process."""
    values = np.stack([layer.mean, layer.minimum, layer.maximum], axis=1)
    return {
        **_common(data),
        "y": encode_float32(top, _DENOMINATOR),
        "customdata": {**encode_float32(values, _DENOMINATOR), "shape": f"{len(values)},3"},
        "line": {"width": 1.5, "shape": "hv", "color": colour},
        "connectgaps": False,
        "meta": {"label": layer.name, "details": layer.details, "unit": Unit.GIBIBYTE.symbol, "digits": 2},
    }


def _common(data: SeriesSet) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "x0": data.start_ms, "dx": data.step_ms, "yaxis": "y"}
