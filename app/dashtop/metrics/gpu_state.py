"""The state of each GPU: free, held but idle, busy, throttled, unhealthy, lost, asleep; since when, and what to do.

All pages, the API and the exporter take it from here. Texts and advice come from the tables of metrics, throttle
reasons, XIDs and unavailable reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.metrics import METRICS
from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.metrics.xid import XIDS
from dashtop.model.metric import Kind, Severity
from dashtop.model.sample import PROCESSES, Occupancy, is_holding
from dashtop.model.timerange import MINUTE_MS
from dashtop.model.unavailable import UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dashtop.model.sample import Gpu, Sample

UTILIZATION: Final = "gpu.utilization.gpu"
MEMORY_USED: Final = "gpu.memory.used_percent"
EVENT_REASONS: Final = "gpu.clocks.event_reasons"

MAX_FREE_MEMORY_PERCENT: Final = 5.0
MAX_IDLE_LOAD_PERCENT: Final = 1.0
MAX_HELD_LOAD_PERCENT: Final = 5.0
"""A mean of a minute up to here is not work of a held GPU: drivers report 2 to 4 % of idle ones, for minutes."""
MAX_IDLE_PEAK_PERCENT: Final = 10.0
"""A peak up to here, in a minute with next to no load on average, is not work."""
MIN_IDLE_MS: Final = 2 * MINUTE_MS
"""A GPU that has computed this recently is busy: training pauses for seconds while it loads data."""

# HW Slowdown, SW and HW Thermal Slowdown, HW Power Brake. A power cap is normal at full load.
SLOWDOWN_BITS: Final = 0x008 | 0x020 | 0x040 | 0x080
_GENERAL_SLOWDOWN_BIT: Final = 0x008

# What a GPU reports of its memory until it is reset or replaced, and the XID whose advice applies.
_MEMORY_FAULTS: Final = {
    "gpu.remapped_rows.failure": 64,
    "gpu.ecc.volatile_uncorrected": 48,
    "gpu.remapped_rows.pending": 63,
    "gpu.retired_pages.pending": 63,
}
_PROBLEM_SEVERITIES: Final = (Severity.CRITICAL, Severity.WARNING)


class Condition(Enum):
    """What a GPU is shown as: its worst problem, else its occupancy. The value is the label."""

    FREE = "Free"
    IDLE_HELD = "Idle, held"
    BUSY = "Busy"
    THROTTLED = "Throttled"
    UNHEALTHY = "Unhealthy"
    LOST = "Lost"
    NOT_RESPONDING = "Not responding"
    ASLEEP = "Asleep"
    UNAVAILABLE = "Unavailable"
    SPLIT = "MIG"


_CONDITION_BY_OCCUPANCY: Final = {
    Occupancy.FREE: Condition.FREE,
    Occupancy.IDLE_HELD: Condition.IDLE_HELD,
    Occupancy.BUSY: Condition.BUSY,
    Occupancy.UNAVAILABLE: Condition.UNAVAILABLE,
    Occupancy.SPLIT: Condition.SPLIT,
}
_CONDITION_BY_REASON: Final = {
    UnavailableReason.ASLEEP: Condition.ASLEEP,
    UnavailableReason.IDLE: Condition.ASLEEP,
    UnavailableReason.GPU_LOST: Condition.LOST,
    UnavailableReason.GPU_RESET_REQUIRED: Condition.LOST,
    UnavailableReason.NOT_RESPONDING: Condition.NOT_RESPONDING,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something that a person should act on. `severity`: warning or critical. `advice` may be empty.

    `metric`: the key of the metric that says so, where it is one of the memory.
    """

    severity: Severity
    condition: Condition
    text: str
    advice: str
    since_ms: int | None = None
    is_since_exact: bool = True
    metric: str = ""


class StateSpan(NamedTuple):
    """Since when a GPU has not computed, or is throttled. `is_exact` False: then or earlier."""

    since_ms: int
    is_exact: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuState:
    """The state of one GPU. `name`: "GPU 8", or "GPU 8 · MIG 3g.20gb" for a MIG instance.

    `problems`: the worst first. `detail`: the first problem, else what is special about the GPU; may be empty.
    `since_ms`: when the condition began, None: not known; `is_since_exact` False: then or earlier. `holders`: users of
    the processes that hold the GPU, those with most memory first.
    """

    name: str
    condition: Condition
    occupancy: Occupancy
    problems: tuple[Problem, ...] = ()
    detail: str = ""
    since_ms: int | None = None
    is_since_exact: bool = True
    holders: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The condition in a word or two."""
        return self.condition.value

    @property
    def severity(self) -> Severity | None:
        """The severity of the worst problem; None if there is none."""
        return self.problems[0].severity if self.problems else None

    @property
    def is_counted(self) -> bool:
        """Whether the GPU is one of the m in "n of m free"."""
        return self.occupancy in {Occupancy.FREE, Occupancy.IDLE_HELD, Occupancy.BUSY}


class GpuCounts(NamedTuple):
    """Numbers of GPUs and MIG instances. A GPU with MIG instances is not counted itself."""

    free: int
    idle_held: int
    busy: int
    unavailable: int

    @property
    def usable(self) -> int:
        """The m in "n of m free": without GPUs that are lost, asleep or unavailable."""
        return self.free + self.idle_held + self.busy


def count_gpus(states: Iterable[GpuState]) -> GpuCounts:
    """Return how many GPUs are free, idle but held, busy, and unavailable."""
    found = [state.occupancy for state in states]
    return GpuCounts(
        free=found.count(Occupancy.FREE),
        idle_held=found.count(Occupancy.IDLE_HELD),
        busy=found.count(Occupancy.BUSY),
        unavailable=found.count(Occupancy.UNAVAILABLE),
    )


def is_free(gpu: Gpu) -> bool:
    """Return whether a GPU is free to use: it is known to have no process, next to no load and no memory in use.

    The driver does not report a MIG instance's load: its memory and processes decide. The memory of a GPU that shares
    the host's is always in use.
    """
    load, memory = gpu.values.get(UTILIZATION), gpu.values.get(MEMORY_USED)
    if gpu.state is not None or gpu.processes or PROCESSES in gpu.unavailable:
        return False
    if not gpu.device.shares_host_memory and (memory is None or memory > MAX_FREE_MEMORY_PERCENT):
        return False
    if load is None:
        return gpu.device.mig_profile is not None
    return load <= MAX_IDLE_LOAD_PERCENT


def is_held(gpu: Gpu) -> bool:
    """Return whether processes, or memory in use, occupy a GPU."""
    memory = gpu.values.get(MEMORY_USED)
    uses_memory = memory is not None and memory > MAX_FREE_MEMORY_PERCENT and not gpu.device.shares_host_memory
    return gpu.state is None and (bool(gpu.processes) or uses_memory)


def describe_state(gpu: Gpu) -> str:
    """Return what is special about a GPU, in words; "" if it simply works."""
    if gpu.state is not None:
        return gpu.state_text
    if _is_split(gpu):
        return UnavailableReason.MIG_PARENT.text
    if problems := find_problems(gpu):
        return problems[0].text
    if gpu.device.mig_profile is not None:
        return f"MIG instance {gpu.device.mig_profile}"
    return ""


def find_problems(gpu: Gpu) -> tuple[Problem, ...]:
    """Return what a person should act on, the worst first."""
    if gpu.state is not None:
        found = [_build_state_problem(gpu.state, gpu.state_since_ms)]
    else:
        throttle = find_throttle_problem(gpu)
        faults = [key for key in _MEMORY_FAULTS if gpu.values.get(key)]
        if throttle is None and not faults:
            return ()
        found = [*(_build_memory_problem(gpu, key) for key in faults), throttle]
    problems = [problem for problem in found if problem is not None]
    return tuple(sorted(problems, key=lambda each: _PROBLEM_SEVERITIES.index(each.severity)))


def _build_state_problem(reason: UnavailableReason, since_ms: int | None) -> Problem | None:
    if reason.severity not in _PROBLEM_SEVERITIES:
        return None
    condition = _CONDITION_BY_REASON.get(reason, Condition.UNAVAILABLE)
    return Problem(
        severity=reason.severity,
        condition=condition,
        text=f"{reason.text[:1].upper()}{reason.text[1:]}",
        advice=reason.advice,
        since_ms=since_ms,
    )


def _build_memory_problem(gpu: Gpu, key: str) -> Problem | None:
    metric, value = METRICS[key], gpu.values.get(key)
    severity = metric.thresholds.severity(value) if metric.thresholds is not None and value is not None else None
    if value is None or severity is None:
        return None
    text = f"{metric.title}: {value:.0f}" if metric.kind is Kind.COUNTER else metric.title
    advice = XIDS[_MEMORY_FAULTS[key]].advice
    return Problem(severity=severity, condition=Condition.UNHEALTHY, text=text, advice=advice, metric=key)


def find_throttle_problem(gpu: Gpu) -> Problem | None:
    """Return what slows a GPU down beyond the power cap that is normal at full load; None: nothing."""
    flags = int(gpu.values.get(EVENT_REASONS) or 0) & SLOWDOWN_BITS
    if not flags:
        return None
    if specific := flags & ~_GENERAL_SLOWDOWN_BIT:
        flags = specific
    reasons = sorted(
        (reason for reason in find_throttle_reasons(flags) if reason.severity is not None),
        key=lambda each: each.severity is not Severity.CRITICAL,
    )
    if not reasons or reasons[0].severity is None:
        return None
    return Problem(
        severity=reasons[0].severity,
        condition=Condition.THROTTLED,
        text=", ".join(reason.name for reason in reasons),
        advice=reasons[0].meaning,
    )


def classify_gpus(
    sample: Sample,
    idle: Mapping[str, StateSpan] | None = None,
    throttled: Mapping[str, StateSpan] | None = None,
    *,
    gpus: Sequence[Gpu] | None = None,
) -> dict[str, GpuState]:
    """Return the state of every GPU, or of some `gpus`, by UUID.

    `idle`, `throttled`: by UUID since when GPUs have not computed, and are throttled, as far as known.
    """
    indices = {gpu.device.uuid: gpu.device.index for gpu in sample.gpus}
    parents = {gpu.device.mig_parent_uuid for gpu in sample.gpus}
    idle, throttled = idle or {}, throttled or {}
    return {
        gpu.device.uuid: _classify(
            gpu,
            _build_name(gpu, indices.get(gpu.device.mig_parent_uuid or "")),
            idle.get(gpu.device.uuid),
            throttled.get(gpu.device.uuid),
            sample.time_ms,
            is_parent=gpu.device.uuid in parents,
        )
        for gpu in (sample.gpus if gpus is None else gpus)
    }


def _build_name(gpu: Gpu, parent_index: int | None) -> str:
    device = gpu.device
    if device.mig_parent_uuid is None:
        return f"GPU {device.index}"
    whole = f"GPU {parent_index if parent_index is not None else device.index}"
    return f"{whole} · MIG {device.mig_profile or device.index}"


def _classify(
    gpu: Gpu, name: str, idle: StateSpan | None, throttled: StateSpan | None, now_ms: int, *, is_parent: bool
) -> GpuState:
    problems = tuple(_add_start(problem, throttled) for problem in find_problems(gpu))
    occupancy = _find_occupancy(gpu, problems, idle, now_ms)
    since_ms, is_exact = None, True
    if problems:
        condition, detail = problems[0].condition, problems[0].text
        since_ms, is_exact = problems[0].since_ms, problems[0].is_since_exact
    elif gpu.state is not None:
        condition = _CONDITION_BY_REASON.get(gpu.state, Condition.UNAVAILABLE)
        detail, since_ms = f"{gpu.state.text[:1].upper()}{gpu.state.text[1:]}", gpu.state_since_ms
    else:
        condition, detail = _CONDITION_BY_OCCUPANCY[occupancy], _describe_occupancy(gpu, occupancy)
    if condition is Condition.IDLE_HELD and idle is not None:
        since_ms, is_exact = _find_hold(gpu, idle)
    return GpuState(
        name=name,
        condition=condition,
        occupancy=Occupancy.SPLIT if is_parent else occupancy,  # also one that cannot be read, and so does not say it
        problems=problems,
        detail=detail,
        since_ms=since_ms,
        is_since_exact=is_exact,
        holders=tuple(measure_holders(gpu)),
    )


def _add_start(problem: Problem, throttled: StateSpan | None) -> Problem:
    if problem.condition is not Condition.THROTTLED or throttled is None:
        return problem
    return replace(problem, since_ms=throttled.since_ms, is_since_exact=throttled.is_exact)


def find_occupancy(gpu: Gpu) -> Occupancy:
    """Return whether work can start on a GPU, by one sample: a busy GPU that pauses for a moment is idle but held."""
    return _find_occupancy(gpu, find_problems(gpu), None, 0)


def _find_occupancy(gpu: Gpu, problems: Sequence[Problem], idle: StateSpan | None, now_ms: int) -> Occupancy:
    if gpu.state is not None:
        return Occupancy.UNAVAILABLE
    if _is_split(gpu):
        return Occupancy.SPLIT
    if is_free(gpu):
        is_unhealthy = bool(problems) and problems[0].condition is Condition.UNHEALTHY
        return Occupancy.UNAVAILABLE if is_unhealthy else Occupancy.FREE
    load = gpu.values.get(UTILIZATION)
    if not is_held(gpu):
        is_loaded = load is not None and load > MAX_IDLE_LOAD_PERCENT
        return Occupancy.BUSY if is_loaded else Occupancy.UNAVAILABLE
    # One reading may be higher than the mean of a minute, if minutes are known.
    if load is None or load > (MAX_HELD_LOAD_PERCENT if idle is None else MAX_IDLE_PEAK_PERCENT):
        return Occupancy.BUSY
    has_just_computed = idle is not None and idle.is_exact and now_ms - idle.since_ms < MIN_IDLE_MS
    return Occupancy.BUSY if has_just_computed else Occupancy.IDLE_HELD


def _describe_occupancy(gpu: Gpu, occupancy: Occupancy) -> str:
    """Return why it is not known whether a GPU is free, or that its MIG instances are in its place."""
    if occupancy is Occupancy.SPLIT:
        return f"{UnavailableReason.MIG_PARENT.text[:1].upper()}{UnavailableReason.MIG_PARENT.text[1:]}"
    if occupancy is not Occupancy.UNAVAILABLE:
        return ""
    key = next((each for each in (PROCESSES, UTILIZATION, MEMORY_USED) if each in gpu.unavailable), "")
    title = "Processes" if key == PROCESSES else METRICS[key].title if key else ""
    return f"{title}: {gpu.unavailable[key].text}" if key else ""


def _find_hold(gpu: Gpu, idle: StateSpan) -> StateSpan:
    """Return since when an idle GPU is held: since it last computed, or since its first process started."""
    started = [process.info.started_ms for process in gpu.processes if process.info.started_ms is not None]
    if started and min(started) > idle.since_ms:
        return StateSpan(min(started), is_exact=True)
    return idle


def measure_holders(gpu: Gpu) -> dict[str, int | None]:
    """Return the users who hold a GPU with the bytes they hold, most first. None: a size is not reported."""
    known: dict[str, int] = {}
    unknown: set[str] = set()
    for process in gpu.processes:
        user, size = process.info.username, process.gpu_memory_bytes
        if user and is_holding(process.kind):
            known[user] = known.get(user, 0) + (size or 0)
            if size is None:
                unknown.add(user)
    order = sorted(known, key=lambda user: (-known[user], user)) if len(known) > 1 else known
    return {user: None if user in unknown else known[user] for user in order}


def _is_split(gpu: Gpu) -> bool:
    return gpu.unavailable.get(UTILIZATION) is UnavailableReason.MIG_PARENT
