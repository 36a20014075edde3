"""What the overview shows: problems, totals of the machine, a row for each GPU, and the newest events.

All of it is the same for every viewer: it is built once per sample.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.events import find_event_code
from dashtop.alerts.rules import TITLES
from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import Condition, GpuCounts, count_gpus
from dashtop.metrics.thresholds import DISK_USAGE
from dashtop.model.metric import Severity
from dashtop.model.sample import ALERT_KINDS, EventFilter, Occupancy
from dashtop.model.text import sanitize_text
from dashtop.model.timerange import DAY_MS, MINUTE_MS, SECOND_MS
from dashtop.model.unavailable import Scope
from dashtop.ui import ids
from dashtop.ui.gpu_state import read_last_holders, read_states
from dashtop.ui.parts import Table, calculate_version
from dashtop.ui.snapshot import find_level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dashtop.metrics.gpu_state import GpuState
    from dashtop.model.alert import Alert
    from dashtop.model.ports import History
    from dashtop.model.sample import Device, Event, Gpu, ProcessSpan, Sample
    from dashtop.model.unavailable import UnavailableReason
    from dashtop.ui.panels.base import PanelContext

Json = Any

UTILIZATION: Final = "gpu.utilization.gpu"
MEMORY_USED: Final = "gpu.memory.used_gb"
MEMORY_TOTAL: Final = "gpu.memory.total_gb"
MEMORY_PERCENT: Final = "gpu.memory.used_percent"
TEMPERATURE: Final = "gpu.temperature"
POWER: Final = "gpu.power.current_watts"
POWER_LIMIT: Final = "gpu.power.max_watts"

LIVE_METRICS: Final = (UTILIZATION, MEMORY_USED, TEMPERATURE, POWER)
"""What changes with every sample; everything else of a row is sent when it has changed."""

TOTAL_COLUMNS: Final = (
    *GpuCounts._fields,
    *("memory_used", "memory_total", "power", "power_limit"),
    *("hottest", "temperature", "temperature_limit", "temperature_level"),
    *("disk", "disk_percent", "disk_level"),
)
MAX_EVENTS: Final = 5
_EVENTS_SPAN_MS: Final = 7 * DAY_MS
_MAX_STARTS: Final = 2_000
"""Events that are searched for the start of a problem."""
_EVENTS_INTERVAL_MS: Final = 5 * SECOND_MS
_STATUS_INTERVAL_MS: Final = 5 * SECOND_MS

_SEVERITIES: Final = (Severity.CRITICAL, Severity.WARNING)
# The events with which a problem begins.
_FIRST_EVENTS: Final = {
    Condition.THROTTLED: ("throttle_begin",),
    Condition.UNHEALTHY: ("reset_pending", "remap_failed", "ecc"),
    Condition.LOST: ("gpu_lost",),
    Condition.NOT_RESPONDING: ("gpu_lost",),
}
# The alerts about them.
_ALERT_RULES: Final = {
    **dict.fromkeys(("remap_pending", "pages_pending", "remap_failed", "ecc_uncorrected"), (Condition.UNHEALTHY,)),
    "gpu_lost": (Condition.LOST, Condition.NOT_RESPONDING),
}
_HOST_METRICS: Final = ("system.memory.used_percent", "system.swap.used_percent")
_LATE_INTERVALS: Final = 3
_DRIVER: Final = "Driver"
_DRIVER_RULE: Final = "driver_silent"
_RULES_WITH_EVENTS: Final = ("gpu_lost", _DRIVER_RULE)
"""Alert rules whose beginning and end are events of their own."""


def build_overview(context: PanelContext) -> dict[str, Json]:
    """Return the data of the overview for the browser; see assets/overview.js and assets/gpu-table.js."""
    sample = context.sample

    def build() -> dict[str, Json]:
        states = read_states(context)
        problems = read_problems(context)
        starts = {problem["gpu"]: problem["since"] for problem in reversed(problems)}
        if _find_common_problem(sample) is not None:
            starts = dict.fromkeys((gpu.device.index for gpu in sample.gpus), _find_driver_start(context))
        last_holders = read_last_holders(context)
        indices = {gpu.device.uuid: gpu.device.index for gpu in sample.gpus}

        def build_facts(gpu: Gpu) -> Json:
            return _build_facts(
                gpu,
                states[gpu.device.uuid],
                problem_since_ms=starts.get(gpu.device.index),
                parent=indices.get(gpu.device.mig_parent_uuid or ""),
                last_holders=last_holders.get(gpu.device.uuid, ()),
            )

        return {
            "problems": problems,
            "gpu_facts": [build_facts(gpu) for gpu in sample.gpus],
            "gpu_rows": [_build_row(gpu) for gpu in sample.gpus],
        }

    built = dict(context.cache.get_or_create_for_sample(sample, "overview", build))
    built["gpu_rows"] = Table(LIVE_METRICS, built["gpu_rows"])
    return built | {"totals": read_totals(context), "recent_events": read_recent_events(context)}


def build_status(context: PanelContext) -> dict[str, int]:
    """Return what the title of the document says on every page: numbers of free GPUs and of problems.

    They are those of the present, also on a page that shows the past. A page that shows only one GPU has those of the
    last five seconds: the states of all GPUs would be most of what 16 GPUs cost there.
    """
    present = context
    if context.is_past:
        sample = context.services.latest.latest() or context.sample
        present = replace(context, sample=sample, is_past=False)

    def count() -> dict[str, int]:
        return {"free": count_gpus(read_states(present).values()).free, "problems": len(read_problems(present))}

    if not context.request.is_visible(ids.GPU_HEADING):
        return count()
    moment = present.sample.time_ms // _STATUS_INTERVAL_MS
    return context.cache.get_or_create(f"status|{moment}", count, max_age_s=_STATUS_INTERVAL_MS // SECOND_MS)


# --- problems ---------------------------------------------------------------------------------------------------------


def read_problems(context: PanelContext) -> list[Json]:
    """Return the problems of GPUs and host, the worst first; the same for all viewers.

    Each is a dictionary of gpu (its index or None), name, severity, text, advice, since (or None), is_since_exact.
    """

    def build() -> list[Json]:
        states = read_states(context)
        # What keeps dashtop from working is not stored.
        own = [] if context.is_past else [*_list_own_problems(context)]
        of_gpus = _list_gpu_problems(context.sample, states, _find_problem_starts(context, states))
        found = [*own, *_list_host_problems(context), *of_gpus]
        if not context.is_past:
            found += _list_critical_alerts(context, states, {each["gpu"] for each in found if _is_critical(each)})
        return sorted(found, key=lambda each: _SEVERITIES.index(Severity(each["severity"])))

    return context.cache.get_or_create_for_sample(context.sample, "problems", build)


def _build_problem(
    name: str,
    severity: Severity,
    text: str,
    advice: str = "",
    *,
    gpu: int | None = None,
    since_ms: int | None = None,
    is_since_exact: bool = True,
) -> Json:
    return {
        "gpu": gpu,
        "name": name,
        "severity": severity.value,
        "text": text,
        "advice": advice,
        "since": since_ms,
        "is_since_exact": is_since_exact,
    }


def _list_gpu_problems(sample: Sample, states: Mapping[str, GpuState], starts: Mapping[str, int]) -> Iterator[Json]:
    if _find_common_problem(sample) is None:
        for gpu in sample.gpus:
            for problem in states[gpu.device.uuid].problems:
                since_ms = problem.since_ms or starts.get(f"{gpu.device.uuid} {problem.condition.name}")
                yield _build_problem(
                    states[gpu.device.uuid].name,
                    problem.severity,
                    problem.text,
                    problem.advice,
                    gpu=gpu.device.index,
                    since_ms=since_ms,
                    is_since_exact=problem.is_since_exact,
                )


def _is_critical(problem: Json) -> bool:
    return bool(problem["severity"] == Severity.CRITICAL.value)


def _list_critical_alerts(
    context: PanelContext, states: Mapping[str, GpuState], covered: set[int | None]
) -> Iterator[Json]:
    """Yield one critical alert about each GPU, or the machine (None), of which nothing critical is listed yet."""
    for alert in context.services.alerts.current():
        is_shown = alert.state.is_active and alert.silenced_by is None and alert.inhibited_by is None
        if is_shown and alert.severity is Severity.CRITICAL and alert.gpu_id not in covered:
            state = states.get(alert.gpu_uuid or "")
            name = state.name if state is not None else "Host" if alert.gpu_id is None else f"GPU {alert.gpu_id}"
            text = TITLES.get(alert.rule, alert.rule)
            since_ms = alert.pending_ms
            yield _build_problem(name, alert.severity, text, alert.advice, gpu=alert.gpu_id, since_ms=since_ms)
            covered.add(alert.gpu_id)


def _find_common_problem(sample: Sample) -> UnavailableReason | None:
    """Return why no GPU can be read, if a person should act on it and it is not one of each GPU."""
    reason = sample.common_error
    if reason is None or reason.severity not in _SEVERITIES:
        return None
    return reason if reason is sample.gpu_error or reason.scope is Scope.DRIVER else None


def _list_own_problems(context: PanelContext) -> Iterator[Json]:
    services = context.services
    if not services.latest.alive():
        yield _build_problem("dashtop", Severity.CRITICAL, "Collection has stopped", "Restart dashtop.")
    if status := services.history.status_message():
        yield _build_problem("History", Severity.WARNING, sanitize_text(status, 300))


def _list_host_problems(context: PanelContext) -> Iterator[Json]:
    sample, services = context.sample, context.services
    if (reason := _find_common_problem(sample)) is not None:
        name = _DRIVER if reason.scope is Scope.DRIVER else "GPUs"
        text = f"{reason.text[:1].upper()}{reason.text[1:]}"
        yield _build_problem(name, reason.severity, text, reason.advice, since_ms=_find_driver_start(context))
    elif sample.gpu_age_s > _LATE_INTERVALS * max(services.latest.interval_s, 1.0):
        yield _build_problem(_DRIVER, Severity.WARNING, "GPU readings are late")
    yield from _list_host_shortages(sample)


def _find_driver_start(context: PanelContext) -> int | None:
    """Return since when no GPU can be read; None if nothing knows it. An alert goes on when dashtop starts again."""
    known = [gpu.state_since_ms for gpu in context.sample.gpus]
    if not context.is_past:
        known += (alert.pending_ms for alert in context.services.alerts.current() if alert.rule == _DRIVER_RULE)
    return min((since_ms for since_ms in known if since_ms is not None), default=None)


def _list_host_shortages(sample: Sample) -> Iterator[Json]:
    for key in _HOST_METRICS:
        value, thresholds = sample.host.values.get(key), METRICS[key].thresholds
        severity = thresholds.severity(value) if thresholds is not None and value is not None else None
        if severity in _SEVERITIES and value is not None and thresholds is not None:
            yield _build_problem("Host", severity, f"{thresholds.message} ({value:.0f} %)")
    for mount in sample.host.mounts:
        point = sanitize_text(mount.mount_point)
        if mount.total_bytes is None:
            yield _build_problem("Host", Severity.WARNING, f"{point} does not respond")
        elif mount.used_percent is not None and (severity := DISK_USAGE.severity(mount.used_percent)) is not None:
            yield _build_problem("Host", severity, f"{point} is nearly full ({mount.used_percent:.0f} %)")


def _find_problem_starts(context: PanelContext, states: Mapping[str, GpuState]) -> Mapping[str, int]:
    """Return when problems began by "UUID CONDITION", as far as the events of a week say.

    They are read once a minute; every five seconds while the start of a problem is not known.
    """
    wanted = sorted(
        f"{uuid} {problem.condition.name}"
        for uuid, state in states.items()
        for problem in state.problems
        if problem.since_ms is None and problem.condition in _FIRST_EVENTS
    )
    sample, names = context.sample, ",".join(wanted)
    # A problem may end and begin again within the minute.
    version = calculate_version(names) if context.is_past else context.cache.count_changes("problems", names)
    if not wanted:
        return {}

    def read(interval_ms: int) -> dict[str, int]:
        return context.cache.get_or_create(
            f"starts|{interval_ms}|{sample.time_ms // interval_ms}|{version}",
            lambda: _read_problem_starts(context.services.history, wanted, sample) | just_begun,
        )

    just_begun = _find_starts(sample.events, wanted)  # what begins with this sample is not in the history yet
    starts = read(MINUTE_MS)
    if len(starts) < len(wanted):
        starts = read(_EVENTS_INTERVAL_MS) | just_begun
    return starts if context.is_past else _extend_by_alerts(starts, context.services.alerts.current(), wanted)


def _extend_by_alerts(starts: Mapping[str, int], alerts: Sequence[Alert], wanted: Sequence[str]) -> dict[str, int]:
    """Return the starts, earlier where an alert knows it: events are written anew when dashtop starts, alerts go on."""
    extended = dict(starts)
    for alert in alerts:
        for condition in _ALERT_RULES.get(alert.rule, ()):
            name = f"{alert.gpu_uuid} {condition.name}"
            if name in wanted:
                extended[name] = min(extended.get(name, alert.pending_ms), alert.pending_ms)
    return extended


def _read_problem_starts(history: History, wanted: Sequence[str], sample: Sample) -> dict[str, int]:
    now_ms = sample.time_ms
    kinds = tuple(kind for each in _FIRST_EVENTS.values() for kind in each)
    events = history.events(now_ms - _EVENTS_SPAN_MS, now_ms + 1, EventFilter(kinds=kinds, limit=_MAX_STARTS))
    return _find_starts(events, wanted)


def _find_starts(events: Sequence[Event], wanted: Sequence[str]) -> dict[str, int]:
    starts: dict[str, int] = {}
    for event in events:
        for condition, kinds in _FIRST_EVENTS.items():
            name = f"{event.gpu_uuid} {condition.name}"
            if event.kind in kinds and name in wanted:
                starts[name] = event.time_ms
    return starts


# --- totals -----------------------------------------------------------------------------------------------------------


def read_totals(context: PanelContext) -> Table:
    """Return the totals of the machine as a table with one row; the same for all viewers."""
    sample = context.sample
    row = context.cache.get_or_create_for_sample(sample, "totals", lambda: build_totals(sample, read_states(context)))
    return Table(TOTAL_COLUMNS, [row])


def build_totals(sample: Sample, states: Mapping[str, GpuState]) -> list[Json]:
    """Return the values of `TOTAL_COLUMNS`; null for what no GPU reports.

    Memory is that of GPUs which have their own. The hottest GPU is the one that is nearest to its limit.
    """
    whole = [gpu for gpu in sample.gpus if gpu.device.mig_parent_uuid is None]
    own_memory = [gpu for gpu in whole if not gpu.device.shares_host_memory]
    return [
        *count_gpus(states.values()),
        *_sum_pairs(own_memory, MEMORY_USED, MEMORY_TOTAL),
        *_sum_pairs(whole, POWER, POWER_LIMIT),
        *_find_hottest(whole),
        *_find_fullest_disk(sample),
    ]


def _sum_pairs(gpus: Sequence[Gpu], part: str, total: str) -> tuple[float | None, float | None]:
    """Return the sums of two metrics over the GPUs that report both; of the first one alone if none reports both."""
    parts = [(gpu.values.get(part), gpu.values.get(total)) for gpu in gpus]
    pairs = [(value, whole) for value, whole in parts if value is not None and whole is not None]
    if pairs:
        return round(sum(value for value, _ in pairs), 1), round(sum(whole for _, whole in pairs), 1)
    known = [value for value, _ in parts if value is not None]
    return (round(sum(known), 1), None) if known else (None, None)


def _find_limit(gpu: Gpu) -> float | None:
    """Return the temperature at which a GPU throttles, else the general critical temperature."""
    thresholds = METRICS[TEMPERATURE].thresholds_for(gpu.device)
    return thresholds.critical if thresholds is not None else None


def _find_hottest(gpus: Sequence[Gpu]) -> tuple[int | None, float | None, float | None, str]:
    hottest, least = None, 0.0
    for gpu in gpus:
        value, limit = gpu.values.get(TEMPERATURE), _find_limit(gpu)
        if value is not None and limit is not None and (hottest is None or limit - value < least):
            hottest, least = gpu, limit - value
    if hottest is None:
        return None, None, None, ""
    value = hottest.values.get(TEMPERATURE)
    return hottest.device.index, value, _find_limit(hottest), _find_temperature_level(hottest)


def _find_temperature_level(gpu: Gpu) -> str:
    return find_level(METRICS[TEMPERATURE].thresholds_for(gpu.device), gpu.values.get(TEMPERATURE))


def _find_fullest_disk(sample: Sample) -> tuple[str | None, float | None, str]:
    known = [(mount.used_percent, mount.mount_point) for mount in sample.host.mounts if mount.used_percent is not None]
    if not known:
        return None, None, ""
    percent, point = max(known)
    return sanitize_text(point), round(percent, 1), find_level(DISK_USAGE, percent)


# --- rows of GPUs -----------------------------------------------------------------------------------------------------


def _build_row(gpu: Gpu) -> list[float | None]:
    return [_round(gpu.values.get(key), METRICS[key].unit.digits) for key in LIVE_METRICS]


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) if digits else round(value)


def _build_facts(
    gpu: Gpu,
    state: GpuState,
    *,
    problem_since_ms: int | None,
    parent: int | None,
    last_holders: Sequence[ProcessSpan],
) -> Json:
    """Return what of a row seldom changes. `parent`: the index of the GPU that a MIG instance is a part of."""
    largest = max(gpu.processes, key=lambda each: each.gpu_memory_bytes or 0, default=None)
    # The values of a live column are missing for one reason at a time, as a rule.
    missing = {key: gpu.unavailable[key].text for key in LIVE_METRICS if key in gpu.unavailable}
    return {
        "index": gpu.device.index,
        "name": state.name,
        "condition": state.condition.name.lower(),
        "label": state.label,
        "severity": state.severity.value if state.severity is not None else "",
        "detail": state.detail,
        "since": state.since_ms or problem_since_ms or _find_first_start(gpu, state),
        "is_since_exact": state.is_since_exact,
        "users": state.holders,
        "process": None if largest is None else sanitize_text(largest.info.name or f"pid {largest.pid}"),
        "process_count": len(gpu.processes),
        "memory_total": _round(gpu.values.get(MEMORY_TOTAL), 1),
        "power_limit": _round(gpu.values.get(POWER_LIMIT), 0),
        "memory_level": find_level(METRICS[MEMORY_PERCENT].thresholds_for(gpu.device), gpu.values.get(MEMORY_PERCENT)),
        "temperature_level": _find_temperature_level(gpu),
        "missing": missing,
        "parent": parent,
        "last_holder": _describe_last_holder(last_holders),
    }


def _describe_last_holder(spans: Sequence[ProcessSpan]) -> Json:
    """Return user and process that held most of a lost GPU, and how many there were; None if there was none."""
    if not spans:
        return None
    info = spans[0].info
    return {
        "user": info.username,
        "process": sanitize_text(info.name or f"pid {spans[0].pid}"),
        "process_count": len(spans),
    }


def _find_first_start(gpu: Gpu, state: GpuState) -> int | None:
    """Return since when a busy GPU is in use: when the first of its processes started."""
    if state.occupancy is not Occupancy.BUSY or state.problems:
        return None
    started = [process.info.started_ms for process in gpu.processes if process.info.started_ms is not None]
    return min(started, default=None)


# --- events -----------------------------------------------------------------------------------------------------------


def read_recent_events(context: PanelContext) -> list[Json]:
    """Return the newest events, the newest first; read every five seconds for all viewers."""
    sample = context.sample
    moment = sample.time_ms // _EVENTS_INTERVAL_MS
    return context.cache.get_or_create(
        f"events|{moment}", lambda: _read_newest_events(context.services.history, sample)
    )


def _read_newest_events(history: History, sample: Sample) -> list[Json]:
    devices = {gpu.device.uuid: gpu.device for gpu in sample.gpus}
    end_ms = sample.time_ms + 1
    events = history.events(end_ms - _EVENTS_SPAN_MS, end_ms, EventFilter(limit=3 * MAX_EVENTS))
    newest = [event for event in reversed(events) if not _is_reported_twice(event)][:MAX_EVENTS]
    return [_encode_event(event, devices.get(event.gpu_uuid or "")) for event in newest]


def _is_reported_twice(event: Event) -> bool:
    """Return whether an event of an alert repeats an event of the GPU or driver itself."""
    return event.kind in ALERT_KINDS and event.code in {
        find_event_code(rule, event.gpu_uuid) for rule in _RULES_WITH_EVENTS
    }


def _encode_event(event: Event, device: Device | None) -> Json:
    """Return an event; its text does not repeat the GPU, which is in a column of its own."""
    text = event.text
    if device is not None:
        text = text.replace(f" ({device.name})", "")
        if text.startswith(prefix := f"GPU {device.index}: "):
            text = f"{text[len(prefix)].upper()}{text[len(prefix) + 1 :]}"
    return {
        "time": event.time_ms,
        "gpu": device.index if device is not None else None,
        "severity": event.severity.value,
        "text": sanitize_text(text, 300),
    }
