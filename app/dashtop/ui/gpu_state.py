"""The states of GPUs, with their starts from the history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dashtop.metrics.gpu_state import (
    EVENT_REASONS,
    MAX_HELD_LOAD_PERCENT,
    MAX_IDLE_PEAK_PERCENT,
    MEMORY_USED,
    SLOWDOWN_BITS,
    UTILIZATION,
    StateSpan,
    classify_gpus,
    find_throttle_problem,
    is_held,
)
from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.ui.parts import calculate_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dashtop.metrics.gpu_state import GpuState
    from dashtop.model.ports import History
    from dashtop.model.sample import Gpu, ProcessSpan, SeriesSet
    from dashtop.ui.panels.base import PanelContext

    Query = Callable[[Sequence[SeriesKey], int, int, int], SeriesSet]


class _Search(NamedTuple):
    """A time span and the buckets in which the start of a state is looked for."""

    span_ms: int
    step_ms: int


# The last hour is in memory. Of the week before, a query reads the tier of 60 s.
_SEARCHES: Final = (_Search(HOUR_MS, MINUTE_MS), _Search(7 * DAY_MS, 10 * MINUTE_MS))
_SPAN_LAG_MS: Final = 15_000
"""How much the stored end of a running process lags."""


def read_states(context: PanelContext) -> dict[str, GpuState]:
    """Return the state of every GPU by UUID, with its start from the history; the same for all viewers."""
    sample = context.sample
    return context.cache.get_or_create_for_sample(sample, "states", lambda: _classify(context, sample.gpus))


def read_state(context: PanelContext, gpu: Gpu) -> GpuState:
    """Return the state of one GPU, as `read_states` does: that of 16 GPUs takes a sixth of the work of a tick."""
    uuid = gpu.device.uuid
    return context.cache.get_or_create_for_sample(
        context.sample, f"state|{uuid}", lambda: _classify(context, [gpu])[uuid]
    )


def _classify(context: PanelContext, gpus: Sequence[Gpu]) -> dict[str, GpuState]:
    sample = context.sample
    held = [gpu.device.uuid for gpu in gpus if is_held(gpu) and gpu.values.get(UTILIZATION) is not None]
    minute = sample.time_ms // MINUTE_MS
    key = f"idle|{minute}|{calculate_version(','.join(held))}"
    query = _keep_results(context)
    idle = context.cache.get_or_create(key, lambda: find_idle_spans(query, held, minute * MINUTE_MS))
    slowed = [gpu.device.uuid for gpu in gpus if gpu.state is None and find_throttle_problem(gpu)]
    key = f"throttled|{minute}|{calculate_version(','.join(slowed))}"
    throttled = context.cache.get_or_create(key, lambda: find_throttle_spans(query, slowed, minute * MINUTE_MS))
    return classify_gpus(sample, idle, throttled, gpus=gpus)


def _keep_results(context: PanelContext) -> Query:
    """Return the query of the history, which repeats a query of complete buckets only when the next one is complete."""
    history = context.services.history

    def query(keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> SeriesSet:
        names = calculate_version(",".join(f"{key.metric} {key.gpu_uuid}" for key in keys))
        key = f"state-query|{names}|{start_ms}|{end_ms}|{step_ms}|{history.read_status().version}"
        return context.cache.get_or_create(
            key, lambda: history.query(keys, start_ms, end_ms, step_ms), max_age_s=step_ms // SECOND_MS
        )

    return query


def read_last_holders(context: PanelContext) -> dict[str, tuple[ProcessSpan, ...]]:
    """Return by UUID which processes used each lost GPU when it was read last; the same for all viewers."""
    sample = context.sample
    lost = [gpu.device.uuid for gpu in sample.gpus if gpu.state is not None and gpu.state.is_lost]
    if not lost:
        return {}
    minute = sample.time_ms // MINUTE_MS
    key = f"last-holders|{minute}|{calculate_version(','.join(lost))}"
    return context.cache.get_or_create(
        key, lambda: find_last_holders(context.services.history, lost, (minute + 1) * MINUTE_MS)
    )


def find_last_holders(history: History, uuids: Sequence[str], now_ms: int) -> dict[str, tuple[ProcessSpan, ...]]:
    """Return by UUID the processes on GPUs at their last reading of a week, those with most memory first.

    The readings say when that was, and not the event of the loss, which dashtop reports anew when it starts.
    """
    found: dict[str, tuple[ProcessSpan, ...]] = {}
    missing = list(uuids)
    for search in _SEARCHES:
        if not missing:
            break
        keys = [SeriesKey(metric, uuid) for uuid in missing for metric in (UTILIZATION, MEMORY_USED)]
        end_ms = -(-now_ms // search.step_ms) * search.step_ms
        data = history.query(keys, end_ms - search.span_ms, end_ms, search.step_ms)
        last_ms: dict[str, int] = {}
        for series in data.series:
            known, uuid = np.flatnonzero(np.isfinite(series.mean)), series.key.gpu_uuid or ""
            if len(known):
                last_ms[uuid] = max(last_ms.get(uuid, 0), data.start_ms + int(known[-1]) * data.step_ms)
        found |= {uuid: _read_holders(history, uuid, start_ms, data.step_ms) for uuid, start_ms in last_ms.items()}
        missing = [uuid for uuid in missing if uuid not in last_ms]
    return found


def _read_holders(history: History, uuid: str, start_ms: int, step_ms: int) -> tuple[ProcessSpan, ...]:
    """Return the processes that were the last on a GPU in a bucket of its readings."""
    spans = [
        span
        for span in history.processes(uuid, start_ms - _SPAN_LAG_MS, start_ms + step_ms)
        if span.end_ms >= start_ms - _SPAN_LAG_MS
    ]
    last_ms = max((span.end_ms for span in spans), default=0)
    last = {span.pid: span for span in spans if span.end_ms >= last_ms - _SPAN_LAG_MS}
    return tuple(sorted(last.values(), key=lambda span: (-(span.gpu_memory_bytes or 0), span.pid)))


def find_idle_spans(query: Query, uuids: Sequence[str], now_ms: int) -> dict[str, StateSpan]:
    """Return since when GPUs have not computed, by UUID, to the minute; after an hour, to ten minutes.

    Only complete minutes count: a few readings say little of one that has just begun, and those after `now_ms` are the
    future of a moment in the past. A GPU without any reading in a week is missing.
    """
    spans: dict[str, StateSpan] = {}
    missing = list(uuids)
    for search in _SEARCHES:
        if not missing:
            break
        keys = [SeriesKey(UTILIZATION, uuid) for uuid in missing]
        end_ms = now_ms // search.step_ms * search.step_ms
        spans |= _find_last_loads(query(keys, end_ms - search.span_ms, end_ms, search.step_ms), now_ms)
        missing = [uuid for uuid in missing if uuid not in spans or not spans[uuid].is_exact]
    return spans


def _find_last_loads(data: SeriesSet, now_ms: int) -> dict[str, StateSpan]:
    spans: dict[str, StateSpan] = {}
    for series in data.series:
        known = np.flatnonzero(np.isfinite(series.maximum))
        if series.key.gpu_uuid is None or not len(known):
            continue
        has_load = (series.mean > MAX_HELD_LOAD_PERCENT) | (series.maximum > MAX_IDLE_PEAK_PERCENT)
        loaded = known[has_load[known]]
        bucket = int(loaded[-1]) + 1 if len(loaded) else int(known[0])
        since_ms = min(data.start_ms + bucket * data.step_ms, now_ms)
        spans[series.key.gpu_uuid] = StateSpan(since_ms, is_exact=bool(len(loaded)))
    return spans


def find_throttle_spans(query: Query, uuids: Sequence[str], now_ms: int) -> dict[str, StateSpan]:
    """Return since when GPUs are throttled, by UUID, to the minute; after an hour, to ten minutes.

    The readings say it, and not the events: dashtop reports throttling anew when it starts. Only complete minutes
    count. A GPU that was not throttled before is missing: its throttling has just begun.
    """
    spans: dict[str, StateSpan] = {}
    missing = list(uuids)
    for search in _SEARCHES:
        if not missing:
            break
        keys = [SeriesKey(EVENT_REASONS, uuid) for uuid in missing]
        end_ms = now_ms // search.step_ms * search.step_ms
        data = query(keys, end_ms - search.span_ms, end_ms, search.step_ms)
        found = {series.key.gpu_uuid or "": _find_throttle_start(series.mean, data) for series in data.series}
        spans |= {uuid: span for uuid, span in found.items() if span is not None}
        missing = [uuid for uuid in missing if uuid in spans and not spans[uuid].is_exact]
    return spans


def _find_throttle_start(flags: NDArray[np.float32], data: SeriesSet) -> StateSpan | None:
    """Return the start of the last throttled buckets in a row. One without throttling in between does not interrupt."""
    is_throttled = (np.nan_to_num(flags).astype(np.int64) & SLOWDOWN_BITS) != 0
    throttled = np.flatnonzero(is_throttled)
    if not len(throttled) or throttled[-1] < data.count - 2:
        return None
    breaks = np.flatnonzero(np.diff(throttled) > 2)  # noqa: PLR2004 - one bucket between two
    first = int(throttled[breaks[-1] + 1] if len(breaks) else throttled[0])
    return StateSpan(data.start_ms + first * data.step_ms, is_exact=first > 1 and bool(np.isfinite(flags[first - 1])))
