"""What a chart shows beside its lines: ticks of events, spans of alerts, runs and throttle reasons. Pure functions."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import numpy as np

from dashtop.metrics.throttle_reasons import THROTTLE_REASONS
from dashtop.model.metric import Severity
from dashtop.model.sample import ALERT_KINDS
from dashtop.ui.charts.base_figure import Band, Mark
from dashtop.ui.theme import ACCENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dashtop.model.run import Run, RunMark
    from dashtop.model.sample import Event, ProcessSpan, Series, SeriesSet
    from dashtop.ui.theme import ChartTheme

EVENT_KINDS: Final = (
    *("xid", "ecc", "reset_pending", "remap_failed", "gpu_lost", "gpu_back", "driver_silent", "driver_back"),
    *("throttle_begin", "throttle_end", "restart"),
)
"""Events that are ticks in the charts of a GPU, beside those of processes that hold much memory."""

"""Events that begin and end a span in the charts of a GPU."""

MAX_MARKS: Final = 60
MAX_ALERT_BANDS: Final = 60
MAX_RUN_BANDS: Final = 40
PX_PER_RUN_MARK: Final = 16
MIN_HOLDER_SHARE: Final = 0.1
"""Share of the memory of a GPU from which the start and the end of a process are ticks."""

_SEVERITY_ORDER: Final = (Severity.CRITICAL, Severity.WARNING, Severity.INFO)
# Reasons that lower clocks under load; idle, application clocks and sync boost are normal.
_POWER_CAP_BIT: Final = 0x004
_MAX_BANDS: Final = 120


def build_marks(
    events: Iterable[Event], spans: Sequence[ProcessSpan], running: Iterable[int], total_bytes: float | None
) -> list[Mark]:
    """Return the ticks of events and of large processes, by time. Of too many, the most severe ones stay.

    `running`: pids that run now. `total_bytes`: memory of the GPU.
    """
    ticks = (event for event in events if event.kind not in ALERT_KINDS)
    found = [(event.severity, Mark(event.time_ms, event.text, event.severity.value)) for event in ticks]
    found += [(Severity.INFO, mark) for mark in _holder_marks(spans, set(running), total_bytes)]
    found.sort(key=lambda each: (_SEVERITY_ORDER.index(each[0]), -each[1].time_ms))
    return sorted((mark for _, mark in found[:MAX_MARKS]), key=lambda mark: mark.time_ms)


def _holder_marks(spans: Sequence[ProcessSpan], running: set[int], total_bytes: float | None) -> list[Mark]:
    if not total_bytes:
        return []
    marks = []
    by_process: dict[tuple[int, str | None], list[ProcessSpan]] = {}
    for span in spans:
        by_process.setdefault((span.pid, span.info.name), []).append(span)
    for (pid, _), parts in by_process.items():
        peak = max((part.peak_gpu_memory_bytes or part.gpu_memory_bytes or 0) for part in parts)
        if peak < MIN_HOLDER_SHARE * total_bytes:
            continue
        info = parts[-1].info
        name = f"{info.name or f'pid {pid}'}{f' of {info.username}' if info.username else ''}"
        if info.started_ms is not None:
            marks.append(Mark(info.started_ms, f"{name} started"))
        if pid not in running:
            marks.append(Mark(parts[-1].end_ms, f"{name} ended"))
    return marks


def build_alert_bands(events: Iterable[Event], data: SeriesSet, theme: ChartTheme) -> list[Band]:
    """Return the spans in which alerts fired, as strips. One without an end lasts until the end of the chart.

    The beginning and the end of an alert have the same `code`. Those of earlier versions have none, and no strip.
    """
    colours = {Severity.CRITICAL: theme.critical, Severity.WARNING: theme.warning, Severity.INFO: theme.neutral}
    end_ms = data.start_ms + data.count * data.step_ms
    firing: dict[int, Event] = {}
    spans: list[tuple[Event, int]] = []
    for event in events:
        if event.code is None or event.kind not in ALERT_KINDS:
            continue
        begun = firing.pop(event.code, None)
        if begun is not None:
            spans.append((begun, event.time_ms))
        if event.kind == "alert_firing":
            firing[event.code] = event
    spans += [(event, end_ms) for event in firing.values()]
    bands = [
        Band(max(event.time_ms, data.start_ms), min(end, end_ms), event.text, colours[event.severity], strip="top")
        for event, end in spans
        if end > data.start_ms and event.time_ms < end_ms
    ]
    longest = sorted(bands, key=lambda band: band.start_ms - band.end_ms)[:MAX_ALERT_BANDS]
    return sorted(longest, key=lambda band: band.start_ms)


def build_run_bands(runs: Iterable[Run], data: SeriesSet) -> list[Band]:
    """Return the spans of runs, as strips. One that is running lasts until the end of the chart."""
    end_ms = data.start_ms + data.count * data.step_ms
    bands = [
        Band(max(run.begin_ms, data.start_ms), min(run.end_ms or end_ms, end_ms), _name_run(run), ACCENT, strip="axis")
        for run in runs
    ]
    shown = [band for band in bands if band.start_ms < band.end_ms]
    return sorted(shown, key=lambda band: band.start_ms - band.end_ms)[:MAX_RUN_BANDS]


def _name_run(run: Run) -> str:
    return f"Run {run.name}{f' of {run.user}' if run.user else ''}"


def build_run_marks(runs: Iterable[tuple[Run, Sequence[RunMark]]], data: SeriesSet, width_px: int) -> list[Mark]:
    """Return the marks of runs within the chart, by time. Those that would touch each other are one mark.

    The marks of each run are sorted by time.
    """
    start_ms, end_ms = data.start_ms, data.start_ms + data.count * data.step_ms
    step_ms = max(1, -(-(end_ms - start_ms) * PX_PER_RUN_MARK // max(width_px, PX_PER_RUN_MARK)))
    found: dict[int, list[tuple[str, Sequence[RunMark]]]] = {}
    for run, marks in runs:
        first = bisect_left(marks, start_ms, key=_get_time)
        while first < len(marks) and marks[first].time_ms < end_ms:
            number = marks[first].time_ms // step_ms  # of a time that does not move with the chart
            last = bisect_left(marks, min((number + 1) * step_ms, end_ms), first, key=_get_time)
            found.setdefault(number, []).append((run.name, marks[first:last]))
            first = last
    return [_merge_marks(found[number]) for number in sorted(found)]


def _get_time(mark: RunMark) -> int:
    return mark.time_ms


def _merge_marks(groups: Sequence[tuple[str, Sequence[RunMark]]]) -> Mark:
    """Return one mark at the time of the first, with a text that says how many it stands for."""
    count = sum(len(marks) for _, marks in groups)
    time_ms = min(marks[0].time_ms for _, marks in groups)
    (name, marks), *others = groups
    if others:
        return Mark(time_ms, f"{count} marks of {len(groups)} runs")
    text = marks[0].text if count == 1 else f"{marks[0].text} … {marks[-1].text} ({count} marks)"
    return Mark(time_ms, f"{name}: {text}")


def build_throttle_bands(flags: Series | None, data: SeriesSet, theme: ChartTheme) -> list[Band]:
    """Return the spans in which each throttle reason was active, from the bits of `flags`.

    A power cap is normal at full load: it is grey.
    """
    if flags is None:
        return []
    bits = np.nan_to_num(flags.mean, nan=0.0).astype(np.int64)
    bands: list[Band] = []
    for reason in THROTTLE_REASONS:
        if reason.severity is None:
            continue
        is_cap = reason.bit == _POWER_CAP_BIT
        colour = theme.neutral if is_cap else theme.critical if reason.severity is Severity.CRITICAL else theme.warning
        active = np.concatenate(([0], ((bits & reason.bit) != 0).astype(np.int8), [0]))
        edges = np.flatnonzero(np.diff(active))
        bands += [
            Band(
                data.start_ms + int(first) * data.step_ms, data.start_ms + int(last) * data.step_ms, reason.name, colour
            )
            for first, last in zip(edges[::2], edges[1::2], strict=True)
        ]
    longest = sorted(bands, key=lambda band: band.start_ms - band.end_ms)[:_MAX_BANDS]
    return sorted(longest, key=lambda band: band.start_ms)
