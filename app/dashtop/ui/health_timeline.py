"""The health timeline: readings and events of a time range in, lanes of a few coloured spans out. Pure functions.

A lane belongs to one GPU. Each of its rows has at most one span at a time: where several things happen in a bucket, the
most severe one is shown and the text names all. Readings are those of the history, in equal buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.model.metric import Severity
from dashtop.model.unavailable import UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.run import Run
    from dashtop.model.sample import Event, Gpu, Series
    from dashtop.ui.charts.resolution import Window

    Codes = NDArray[np.int64]
    Booleans = NDArray[np.bool_]

MAX_SPANS: Final = 400
"""Spans of all lanes together. Beyond it, neighbouring buckets are joined."""

_FLAGS: Final = "gpu.clocks.event_reasons"
_UTILIZATION: Final = "gpu.utilization.gpu"
_MEMORY: Final = "gpu.memory.used_percent"
_TEMPERATURE: Final = "gpu.temperature"
_CORRECTED, _UNCORRECTED = "gpu.ecc.volatile_corrected", "gpu.ecc.volatile_uncorrected"
_PENDING, _FAILED = ("gpu.remapped_rows.pending", "gpu.retired_pages.pending"), "gpu.remapped_rows.failure"
_GENERATION, _WIDTH = "gpu.pcie.generation", "gpu.pcie.width"
_NVLINKS: Final = "gpu.nvlink.active"

METRICS: Final = (
    *(_FLAGS, _UTILIZATION, _MEMORY, _TEMPERATURE, _CORRECTED, _UNCORRECTED, *_PENDING, _FAILED),
    *(_GENERATION, _WIDTH, _NVLINKS),
)
"""The metrics of a GPU that its lane is made of."""
HOST_METRICS: Final = ("system.cpu.usage_percent", "system.memory.used_percent")
"""Metrics of the host that have a value whenever a sample was stored."""
STATE_KINDS: Final = ("gpu_lost", "gpu_back", "gpu_added", "gpu_removed", "driver_silent", "driver_back")
"""Events that say why a GPU has no readings."""
EVENT_KINDS: Final = (
    *STATE_KINDS,
    *("xid", "ecc", "alert_firing", "driver_changed", "restart", "history_replaced", "history_damaged"),
)
"""Events that the timeline shows. Throttling and pending resets are shown from readings, processes not at all."""

# An idle link falls back to a lower generation: only buckets with this mean utilization count.
_MIN_LOAD_PERCENT: Final = 50.0
_MAX_TEXTS: Final = 3
_SEVERITIES: Final = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)

# The code of a span is its position here, the more severe the higher; 0: nothing.
_STATES: Final = ("", "ok", "gap", "absent", "silent", "reset", "lost")
_STATE_TEXTS: Final = {
    "ok": ("Can be read", ""),
    "gap": ("Not recorded", "dashtop was not running, or its history does not go back this far."),
    "absent": ("No reading", "The GPU was asleep, not present, or could not be read."),
    "silent": ("Does not respond", UnavailableReason.DRIVER_SILENT.advice),
    "reset": ("Needs a reset", UnavailableReason.GPU_RESET_REQUIRED.advice),
    "lost": ("Lost", UnavailableReason.GPU_LOST.advice),
}
_XIDS: Final = ("", "xid-info", "xid-warning", "xid-critical")
_ECC: Final = ("", "ecc-corrected", "ecc-uncorrected")
_REMAP: Final = ("", "remap-pending", "remap-failed")
_THROTTLE: Final = ("", "throttle-cap", "throttle-soft", "throttle-hard")
_LINK: Final = ("", "link-slow", "link-down")
_ALERTS: Final = ("", "alert-info", "alert-warning", "alert-critical")
_RUNS: Final = ("", "run", "run-next")
_NOTES: Final = ("", "note-info", "note-warning", "note-critical")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuHistory:
    """What is known of one GPU in the time range: its readings by metric and its events. `gpu`: as it is now.

    `state_events`: those of STATE_KINDS, of this GPU and of the driver, from before the time range as well. `gpu` None:
    it is not present any more.
    """

    label: str
    name: str
    series: Mapping[str, Series]
    events: Sequence[Event]
    state_events: Sequence[Event]
    gpu: Gpu | None = None
    runs: Sequence[Run] = ()

    def get_value(self, metric: str) -> float | None:
        """Return the present value of a metric; None if there is none."""
        return self.gpu.values.get(metric) if self.gpu is not None else None


@dataclass(frozen=True, slots=True)
class Span:
    """A span of one row: bucket `first` to before `end`, its kind, and what the viewer reads."""

    first: int
    end: int
    kind: str
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a lane before its spans are built: a code for each bucket, and the text of a range of buckets."""

    name: str
    kinds: Sequence[str]
    codes: Codes
    describe: Callable[[int, int, str], tuple[str, str]]


def build_timeline(
    window: Window, gpus: Sequence[GpuHistory], is_recorded: Booleans, host_events: Sequence[Event], gap_text: str = ""
) -> dict[str, Any]:
    """Return the timeline as JSON: `lanes`, each with rows of spans `[first bucket, end, kind, text]`.

    `is_recorded`: buckets in which any sample was stored. `gap_text`: why the others are missing, if it is known.
    `texts`: what the spans say, each once, with the advice.
    """
    lanes: list[tuple[str, int | None, str, list[Row]]] = []
    if host_events:
        lanes.append(("Host", None, "", [_build_event_row("events", _NOTES, host_events, window)]))
    lanes += [
        (
            gpu.label,
            gpu.gpu.device.index if gpu.gpu else None,
            gpu.name,
            _build_rows(gpu, window, is_recorded, gap_text),
        )
        for gpu in gpus
    ]
    factor = 1
    while True:
        built = [[(row.name, build_spans(row, factor)) for row in rows] for *_, rows in lanes]
        if sum(len(spans) for rows in built for _, spans in rows) <= MAX_SPANS or factor >= window.count:
            break
        factor *= 2
    texts: dict[tuple[str, str], int] = {}
    body = [
        {
            "label": label,
            "gpu": index,
            "name": name,
            "rows": [
                [row, [[s.first, s.end, s.kind, texts.setdefault((s.text, s.advice), len(texts))] for s in spans]]
                for row, spans in rows
                if spans
            ],
        }
        for (label, index, name, _), rows in zip(lanes, built, strict=True)
    ]
    return {
        "start": window.start_ms,
        "end": window.end_ms,
        "step": window.step_ms,
        "texts": [list(each) for each in texts],
        "lanes": body,
    }


def build_spans(row: Row, factor: int = 1) -> list[Span]:
    """Return the runs of equal codes; `factor` buckets count as one, with the most severe of their codes."""
    count = len(row.codes)
    padded = np.append(row.codes, np.zeros(-count % factor, dtype=np.int64))
    codes = padded.reshape(-1, factor).max(axis=1)
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(codes))
    spans = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if code := int(codes[start]):
            first, last = start * factor, min(end * factor, count)
            spans.append(Span(first, last, row.kinds[code], *row.describe(first, last, row.kinds[code])))
    return spans


def _build_rows(gpu: GpuHistory, window: Window, is_recorded: Booleans, gap_text: str) -> list[Row]:
    return [
        _build_state(gpu, window, is_recorded, gap_text),
        _build_runs(gpu, window),
        _build_event_row("alerts", _ALERTS, [event for event in gpu.events if event.kind == "alert_firing"], window),
        _build_event_row("xid", _XIDS, [event for event in gpu.events if event.kind == "xid"], window),
        _build_ecc(gpu, window),
        _build_remap(gpu, window),
        _build_throttling(gpu, window),
        _build_link(gpu, window),
    ]


# --- state ----------------------------------------------------------------------------------------------------------


def _build_state(gpu: GpuHistory, window: Window, is_recorded: Booleans, gap_text: str) -> Row:
    has_reading = np.zeros(window.count, dtype=bool)
    for metric in (_UTILIZATION, _MEMORY, _TEMPERATURE, _FLAGS):
        if metric in gpu.series:
            has_reading |= np.isfinite(gpu.series[metric].mean)
    codes = np.full(window.count, _STATES.index("gap"), dtype=np.int64)
    codes[is_recorded] = _find_causes(gpu, window, has_reading)[is_recorded]
    codes[has_reading] = _STATES.index("ok")
    # What is over within a bucket counts as well.
    for event in gpu.state_events:
        if event.time_ms >= window.start_ms and event.kind in {"gpu_lost", "driver_silent"}:
            codes[_find_bucket(event.time_ms, window)] = _STATES.index(_classify(event))

    def describe(_first: int, end: int, kind: str) -> tuple[str, str]:
        text, advice = _STATE_TEXTS[kind]
        if kind == "gap" and gap_text:
            return text, gap_text
        if kind in {"lost", "reset", "silent"}:
            before_ms = window.start_ms + end * window.step_ms
            cause = next((each for each in reversed(gpu.state_events) if each.time_ms < before_ms), None)
            if cause is not None and _classify(cause) == kind:
                return cause.text, cause.advice or advice
        return text, advice

    return Row("state", _STATES, codes, describe)


def _find_causes(gpu: GpuHistory, window: Window, has_reading: Booleans) -> Codes:
    """Return the state of each bucket if it has no reading: the last event before decides, else the present state."""
    codes = np.full(window.count, _STATES.index("absent"), dtype=np.int64)
    state = gpu.gpu.state if gpu.gpu is not None else None
    if state is not None and not gpu.state_events:
        codes[_find_trailing(~has_reading)] = _STATES.index(_classify_text(state.text))
    for event in gpu.state_events:
        codes[_find_bucket(event.time_ms, window) :] = _STATES.index(_classify(event))
    return codes


def _classify(event: Event) -> str:
    """Return the state that begins with an event, for times without readings."""
    if event.kind == "driver_silent":
        return "silent"
    if event.kind == "gpu_lost":
        return _classify_text(event.text)
    return "absent"


def _classify_text(text: str) -> str:
    if UnavailableReason.GPU_RESET_REQUIRED.text in text:
        return "reset"
    if UnavailableReason.GPU_LOST.text in text:
        return "lost"
    return "silent" if "does not respond" in text else "absent"


def _find_trailing(mask: Booleans) -> Booleans:
    """Return the part of `mask` that is true without a break until the end."""
    return np.logical_and.accumulate(mask[::-1])[::-1]


# --- events ---------------------------------------------------------------------------------------------------------


def _build_event_row(name: str, kinds: Sequence[str], events: Sequence[Event], window: Window) -> Row:
    codes = np.zeros(window.count, dtype=np.int64)
    for event in events:
        bucket = _find_bucket(event.time_ms, window)
        codes[bucket] = max(codes[bucket], 1 + _SEVERITIES.index(event.severity))

    def describe(first: int, end: int, _kind: str) -> tuple[str, str]:
        return _describe_events([event for event in events if first <= _find_bucket(event.time_ms, window) < end])

    return Row(name, kinds, codes, describe)


def _describe_events(events: Sequence[Event]) -> tuple[str, str]:
    """Return the texts of events, the most severe first, each once with its count; and the advice on the first."""
    counts: dict[str, int] = {}
    for event in sorted(events, key=lambda event: -_SEVERITIES.index(event.severity)):
        counts[event.text] = counts.get(event.text, 0) + 1
    texts = [text if count == 1 else f"{count} × {text}" for text, count in counts.items()]
    more = f" And {len(texts) - _MAX_TEXTS} more kinds." if len(texts) > _MAX_TEXTS else ""
    advice = next((event.advice for event in events if event.text == next(iter(counts))), "")
    return " ".join(texts[:_MAX_TEXTS]) + more, advice


def _find_bucket(time_ms: int, window: Window) -> int:
    return min(max((time_ms - window.start_ms) // window.step_ms, 0), window.count - 1)


# --- runs -----------------------------------------------------------------------------------------------------------


def _build_runs(gpu: GpuHistory, window: Window) -> Row:
    """Return the runs that held the GPU. Two that follow each other have different kinds."""
    codes = np.zeros(window.count, dtype=np.int64)
    spans = [
        (run, _find_bucket(run.begin_ms, window), _find_bucket((run.end_ms or window.end_ms) - 1, window) + 1)
        for run in sorted(gpu.runs, key=lambda run: run.begin_ms)
    ]
    for number, (_, first, end) in enumerate(spans):
        codes[first:end] = 1 + number % 2

    def describe(first: int, end: int, _kind: str) -> tuple[str, str]:
        found = [run for run, begin, over in spans if begin < end and over > first]
        names = [f"{run.name}{f' of {run.user}' if run.user else ''} ({run.status.value})" for run in found]
        more = f" and {len(names) - _MAX_TEXTS} more" if len(names) > _MAX_TEXTS else ""
        return f"Run{'s' if len(names) > 1 else ''} {', '.join(names[:_MAX_TEXTS])}{more}.", ""

    return Row("runs", _RUNS, codes, describe)


# --- memory ---------------------------------------------------------------------------------------------------------


def _build_ecc(gpu: GpuHistory, window: Window) -> Row:
    corrected, uncorrected = (_find_increases(gpu, key, window.count) for key in (_CORRECTED, _UNCORRECTED))
    events = [event for event in gpu.events if event.kind == "ecc"]
    codes = np.where(corrected > 0, 1, 0)
    codes[uncorrected > 0] = 2
    for event in events:
        codes[_find_bucket(event.time_ms, window)] = 2

    def describe(first: int, end: int, _kind: str) -> tuple[str, str]:
        counts = [(int(each[first:end].sum()), name) for each, name in ((uncorrected, "un"), (corrected, ""))]
        texts = [f"{n} {name}corrected memory error{'s' if n > 1 else ''}" for n, name in counts if n]
        found = [event for event in events if first <= _find_bucket(event.time_ms, window) < end]
        text, advice = _describe_events(found) if found else ("", "")
        if counts[0][0] and not advice:
            advice = "Results may be wrong: stop the work on this GPU and reset it."
        return " ".join([*([", ".join(texts) + "."] if texts else []), *([text] if text else [])]), advice

    return Row("ecc", _ECC, codes, describe)


def _find_increases(gpu: GpuHistory, metric: str, count: int) -> NDArray[np.float64]:
    """Return by how much a counter rises in each bucket. A counter that falls was reset, and counts from 0."""
    increases = np.zeros(count)
    if metric not in gpu.series:
        return increases
    values = gpu.series[metric].mean.astype(np.float64)
    known = np.flatnonzero(np.isfinite(values))
    changes = np.diff(values[known])
    increases[known[1:]] = np.where(changes >= 0, changes, values[known[1:]])
    return increases


def _build_remap(gpu: GpuHistory, window: Window) -> Row:
    codes = np.zeros(window.count, dtype=np.int64)
    for code, metrics in enumerate((_PENDING, (_FAILED,)), start=1):
        for metric in metrics:
            if metric in gpu.series:
                codes[gpu.series[metric].maximum > 0] = code

    def describe(_first: int, _end: int, kind: str) -> tuple[str, str]:
        if kind == "remap-failed":
            return "Row remapping failed: no spare rows are left.", "Replace the GPU."
        return "Row remapping or page retirement pending.", "Drain the GPU, then reset it."

    return Row("remap", _REMAP, codes, describe)


# --- clocks and links -----------------------------------------------------------------------------------------------


def _build_throttling(gpu: GpuHistory, window: Window) -> Row:
    flags = np.zeros(window.count, dtype=np.int64)
    if _FLAGS in gpu.series:
        flags = np.nan_to_num(gpu.series[_FLAGS].mean.astype(np.float64)).astype(np.int64)
    codes = np.zeros(window.count, dtype=np.int64)
    for value in np.unique(flags).tolist():
        severities = [1 + _SEVERITIES.index(each.severity) for each in find_throttle_reasons(value) if each.severity]
        codes[flags == value] = max(severities, default=0)

    def describe(first: int, end: int, kind: str) -> tuple[str, str]:
        severity = _SEVERITIES[_THROTTLE.index(kind) - 1]
        found = find_throttle_reasons(int(np.bitwise_or.reduce(flags[first:end])))
        reasons = [each for each in found if each.severity is severity]
        return ", ".join(each.name for each in reasons) + ".", " ".join(each.meaning for each in reasons)

    return Row("throttle", _THROTTLE, codes, describe)


def _build_link(gpu: GpuHistory, window: Window) -> Row:
    load = gpu.series[_UTILIZATION].mean if _UTILIZATION in gpu.series else np.full(window.count, np.nan)
    is_loaded = np.nan_to_num(load) >= _MIN_LOAD_PERCENT
    is_slow = np.zeros(window.count, dtype=bool)
    limits = gpu.get_value("gpu.pcie.max_generation"), gpu.get_value("gpu.pcie.max_width")
    for metric, limit in zip((_GENERATION, _WIDTH), limits, strict=True):
        if metric in gpu.series and limit is not None:
            is_slow |= is_loaded & (gpu.series[metric].maximum < limit)
    codes = is_slow.astype(np.int64)
    links, most = np.full(window.count, np.nan), 0.0
    if _NVLINKS in gpu.series and np.isfinite(gpu.series[_NVLINKS].maximum).any():
        links, most = gpu.series[_NVLINKS].minimum, float(np.nanmax(gpu.series[_NVLINKS].maximum))
    codes[links < most] = 2

    def describe(first: int, end: int, kind: str) -> tuple[str, str]:
        if kind == "link-down":
            down = most - float(np.nanmin(links[first:end]))
            return f"{down:.0f} of {most:.0f} NVLinks down.", "Check NVLink cables and bridges."
        generation, width = (
            float(np.nanmax(gpu.series[metric].maximum[first:end])) if metric in gpu.series else 0.0
            for metric in (_GENERATION, _WIDTH)
        )
        best = f"generation {limits[0] or 0:.0f} x{limits[1] or 0:.0f} possible"
        advice = "Reseat the GPU; check riser, slot and BIOS."
        return f"PCIe generation {generation:.0f} x{width:.0f} under load, {best}.", advice

    return Row("link", _LINK, codes, describe)
