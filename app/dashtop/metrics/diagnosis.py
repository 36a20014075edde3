"""What limits a GPU: a table of rules over its loads, each with its evidence. Pure functions.

Most rules judge the last minutes; two judge a quarter of an hour or an hour, since their evidence is in the changes.

A value that is not known never fulfils a condition, and a verdict says which values are missing. Whether a GPU is idle
but held is not judged here: its state (gpu_state.py of the pages) says so. Limits: 95 % utilization, 35 % of the power
limit, 0.5 % tensor and 2 % DRAM activity are those of known hangs (NCCL spins at 100 % utilization with 152 of 700 W:
nccl#1550); 80 % of the time is the share from which alert rules count throttling; the others are our judgement.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.metrics.throttle_reasons import find_throttle_reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_THERMAL_BITS: Final = 0x020 | 0x040
_BRAKE_BIT: Final = 0x080
_CAP_BIT: Final = 0x004
_THROTTLED_SHARE: Final = 0.8
_MIN_COVERAGE: Final = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The loads of a GPU and its host over some time; None: not known. Percent, °C, MB/s, GiB; shares are 0 to 1.

    `low_share`, `high_share`: share of the time with a utilization of at most 10 % and at least 80 %. `thermal_share`,
    `brake_share`, `cap_share`: share of the time with that throttle reason; `flags`: all reasons seen. `power_share`:
    of the power limit. `rx_share`: PCIe RX of the link's bandwidth. Of the present: `full_cores` (at 95 % or more),
    `process_cpu` (the highest CPU use of a process on the GPU; 100 is one core), `tree_share` (the highest CPU use of a
    process and its workers, of the `tree_cpus` that it may use).
    `coverage`: share of the time that is known. `is_idle_held`: whether the state of the GPU is "Idle, held".
    """

    utilization: float | None = None
    low_share: float | None = None
    high_share: float | None = None
    sm: float | None = None
    tensor: float | None = None
    dram: float | None = None
    power_share: float | None = None
    rx_mbps: float | None = None
    rx_share: float | None = None
    tx_mbps: float | None = None
    nvlink_mbps: float | None = None
    cpu: float | None = None
    disk_read_mbps: float | None = None
    temperature: float | None = None
    thermal_share: float | None = None
    brake_share: float | None = None
    cap_share: float | None = None
    flags: int = 0
    full_cores: int | None = None
    process_cpu: float | None = None
    tree_share: float | None = None
    tree_cpus: float | None = None
    vram_gib: float | None = None
    iowait: float | None = None
    coverage: float | None = None
    is_idle_held: bool | None = None


class Span(Enum):
    """What time a rule judges."""

    NOW = "now"
    QUARTER = "quarter"
    HOUR = "hour"


class Evidence(NamedTuple):
    """A piece of evidence, and the id of the chart that shows it."""

    text: str
    chart: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A verdict, when it holds, and the evidence for it by name. `severity`: "warning" if a person should act.

    `unknown`: what it says where SM, tensor and DRAM activity are not reported.
    """

    name: str
    text: str
    holds: Callable[[Load], bool]
    evidence: tuple[str, ...]
    severity: str = ""
    unknown: str = ""
    span: Span = Span.NOW


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict on a GPU with its evidence. `note`: what is not known."""

    rule: Rule
    evidence: tuple[Evidence, ...]
    note: str = ""


def _least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


def _most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit


def _has_activity(load: Load) -> bool:
    return load.sm is not None or load.tensor is not None


def _spins(load: Load) -> bool:
    """Return whether a GPU is occupied but computes nothing, as while it waits for others."""
    if not (_least(load.utilization, 95) and _most(load.power_share, 0.35)):
        return False
    return not _has_activity(load) or (_most(load.tensor, 0.5) and _most(load.dram, 2.0))


def _starves(load: Load) -> bool:
    """Return whether work comes in bursts: idle and busy for at least a fifth of the time each."""
    is_part_load = load.utilization is not None and 5 <= load.utilization <= 60  # noqa: PLR2004 - percent
    return is_part_load and _least(load.low_share, 0.2) and _least(load.high_share, 0.2)


def _is_cpu_full(load: Load) -> bool:
    return _least(load.cpu, 85) or _least(load.process_cpu, 90) or _is_tree_full(load)


def _is_tree_full(load: Load) -> bool:
    """Return whether a process and its workers use all of the CPUs they may use, however idle the machine is."""
    return _least(load.tree_share, 0.85)


def _is_starved_of_data(load: Load) -> bool:
    """Return whether bursts of work alternate with pauses in which the CPU, or a disk, is what works."""
    is_fed_slowly = _least(load.cpu, 85) or _least(load.iowait, 10) or _is_tree_full(load)
    return _starves(load) and is_fed_slowly and _least(load.coverage, _MIN_COVERAGE)


def _is_under_used(load: Load) -> bool:
    has_little_work = _most(load.sm, 40) and _most(load.tensor, 5)
    return _least(load.utilization, 80) and has_little_work and _least(load.coverage, _MIN_COVERAGE)


def _is_underfed(load: Load) -> bool:
    return _starves(load) or (_least(load.utilization, 50) and _most(load.tensor, 15) and _most(load.sm, 60))


RULES: Final = (
    Rule(
        "thermal",
        "throttled: too hot",
        lambda load: _least(load.utilization, 50) and _least(load.thermal_share, _THROTTLED_SHARE),
        ("utilization", "temperature", "throttle"),
        severity="warning",
    ),
    Rule(
        "power_brake",
        "throttled: power brake",
        lambda load: _least(load.utilization, 50) and _least(load.brake_share, _THROTTLED_SHARE),
        ("utilization", "power", "throttle"),
        severity="warning",
    ),
    Rule("idle_held", "idle but held", lambda load: bool(load.is_idle_held), ("utilization", "vram")),
    Rule("not_busy", "not busy", lambda load: _most(load.utilization, 5), ("utilization",)),
    Rule(
        "communication",
        "busy with communication",
        lambda load: _spins(load) and _least(load.nvlink_mbps, 1000),
        ("utilization", "power", "tensor", "nvlink"),
    ),
    Rule("waiting", "waiting for others, or hanging", _spins, ("utilization", "power", "tensor", "dram", "rx")),
    Rule(
        "data_starved",
        "starved of data",
        _is_starved_of_data,
        ("utilization", "bursts", "iowait", "cpu", "tree", "process_cpu", "disk", "rx"),
        span=Span.QUARTER,
    ),
    Rule(
        "input_bound",
        "input-bound",
        lambda load: _is_underfed(load) and _least(load.rx_share, 0.6),
        ("utilization", "tensor", "rx", "cores", "disk"),
    ),
    Rule(
        "cpu_bound",
        "CPU-bound",
        lambda load: (_starves(load) or _most(load.utilization, 60)) and _is_cpu_full(load),
        ("utilization", "cpu", "tree", "process_cpu", "cores"),
    ),
    Rule(
        "starved",
        "work comes in bursts",
        _starves,
        ("utilization", "bursts", "rx", "cpu", "disk"),
    ),
    Rule(
        "memory_bound",
        "memory-bound",
        lambda load: _least(load.utilization, 50) and _least(load.dram, 60) and (load.dram or 0) > (load.tensor or 0),
        ("utilization", "dram", "tensor"),
    ),
    Rule(
        "compute_bound",
        "compute-bound",
        lambda load: _least(load.utilization, 80) and (_least(load.tensor, 25) or _least(load.sm, 60)),
        ("utilization", "sm", "tensor", "power", "cap"),
    ),
    Rule(
        "under_use",
        "busy, but with little work at a time",
        _is_under_used,
        ("utilization", "sm", "tensor", "rx", "cpu"),
        span=Span.HOUR,
    ),
    Rule(
        "computing",
        "computing",
        lambda load: _least(load.utilization, 80) and _least(load.power_share, 0.6),
        ("utilization", "power", "cap", "rx"),
        unknown="compute-bound or memory-bound",
    ),
    Rule(
        "busy",
        "busy",
        lambda load: _least(load.utilization, 50),
        ("utilization", "sm", "tensor", "dram", "power", "rx", "cpu"),
        unknown="what limits it",
    ),
    Rule(
        "part_load",
        "partly busy",
        lambda load: load.utilization is not None and 5 < load.utilization < 50,  # noqa: PLR2004 - percent
        ("utilization", "rx", "cpu"),
    ),
)
"""The first rule that holds is the verdict."""


NO_LOADS: Final[Mapping[Span, Load]] = {}


def _percent(value: float | None, text: str, chart: str) -> Evidence | None:
    return None if value is None else Evidence(f"{value:.0f} % {text}", chart)


def _describe_rx(load: Load) -> Evidence | None:
    if load.rx_mbps is None:
        return None
    if _least(load.rx_share, 0.8):
        return Evidence("PCIe RX saturated", "chart-pcie")
    if _most(load.rx_share, 0.05):
        return None
    if load.rx_share is not None:
        return Evidence(f"PCIe RX at {100 * load.rx_share:.0f} % of the link", "chart-pcie")
    return Evidence(f"PCIe RX {load.rx_mbps:.0f} MB/s", "chart-pcie")


def _describe_cores(load: Load) -> Evidence | None:
    if not load.full_cores:
        return None
    number = {1: "one core", 2: "two cores", 3: "three cores"}.get(load.full_cores, f"{load.full_cores} cores")
    return Evidence(f"{number} at 100 %", "chart-cpu")


def _describe_tree(load: Load) -> Evidence | None:
    if not _is_tree_full(load) or load.tree_share is None or load.tree_cpus is None:
        return None
    cpus = "the CPU" if load.tree_cpus == 1 else f"the {load.tree_cpus:g} CPUs"
    return Evidence(f"its processes use {100 * load.tree_share:.0f} % of {cpus} they may use", "chart-cpu")


def _describe_throttling(load: Load) -> Evidence | None:
    names = [
        reason.name for reason in find_throttle_reasons(load.flags) if reason.bit & (_THERMAL_BITS | _BRAKE_BIT | 0x8)
    ]
    return Evidence(", ".join(names), "chart-clock") if names else None


_EVIDENCE: Final[dict[str, Callable[[Load], Evidence | None]]] = {
    "utilization": lambda load: _percent(load.utilization, "utilization", "chart-utilization"),
    "sm": lambda load: _percent(load.sm, "SM activity", "chart-utilization"),
    "tensor": lambda load: _percent(load.tensor, "tensor activity", "chart-utilization"),
    "dram": lambda load: _percent(load.dram, "of the memory bandwidth", "chart-utilization"),
    "power": lambda load: _percent(
        None if load.power_share is None else 100 * load.power_share, "of the power limit", "chart-power"
    ),
    "cap": lambda load: Evidence("SW Power Cap", "chart-clock") if _least(load.cap_share, 0.5) else None,
    "temperature": lambda load: (
        None if load.temperature is None else Evidence(f"{load.temperature:.0f} °C", "chart-temperature")
    ),
    "throttle": _describe_throttling,
    "rx": _describe_rx,
    "nvlink": lambda load: (
        None if load.nvlink_mbps is None else Evidence(f"NVLink {load.nvlink_mbps / 1000:.1f} GB/s", "chart-nvlink")
    ),
    "cpu": lambda load: _percent(load.cpu, "CPU", "chart-cpu"),
    "iowait": lambda load: Evidence(f"I/O wait {load.iowait:.0f} %", "chart-disk") if _least(load.iowait, 5) else None,
    "cores": _describe_cores,
    "tree": _describe_tree,
    "process_cpu": lambda load: _percent(load.process_cpu, "CPU in its process (100 %: one core)", "chart-cpu"),
    "disk": lambda load: (
        Evidence(f"disk read {load.disk_read_mbps:.0f} MB/s", "chart-disk")
        if load.disk_read_mbps is not None and load.disk_read_mbps >= 50  # noqa: PLR2004 - MB/s worth a mention
        else None
    ),
    "bursts": lambda load: (
        None
        if load.low_share is None
        else Evidence(f"idle {100 * load.low_share:.0f} % of the time", "chart-utilization")
    ),
    "vram": lambda load: (
        None if load.vram_gib is None else Evidence(f"{load.vram_gib:.1f} GiB held", "chart-processes")
    ),
}


def diagnose(load: Load, longer: Mapping[Span, Load] = NO_LOADS) -> Diagnosis | None:
    """Return the verdict of the first rule that holds; None if the utilization is not known.

    `longer`: the loads of the longer times. Without one of them its rules do not hold.
    """
    rule = find_rule(load, longer)
    if rule is None:
        return None
    judged = load if rule.span is Span.NOW else longer[rule.span]
    found = [_EVIDENCE[name](judged) for name in rule.evidence]
    note = ""
    if not _has_activity(load) and rule.unknown:
        note = f"The driver does not report SM activity: {rule.unknown} is not known."
    return Diagnosis(rule, tuple(each for each in found if each is not None), note)


def find_rule(load: Load, longer: Mapping[Span, Load] = NO_LOADS) -> Rule | None:
    """Return the first rule that holds."""
    loads = {Span.NOW: load, **longer}
    return next((rule for rule in RULES if rule.span in loads and rule.holds(loads[rule.span])), None)


def find_start(count: int, load_at: Callable[[int], Load], rule: Rule) -> int:
    """Return the index of the first of the last loads in a row, of `count`, for which `rule` holds.

    It need not be the verdict: a GPU is busy also while it is, for some minutes, known to be compute-bound. One load
    for which it does not hold does not interrupt: a checkpoint or an evaluation takes less than that.
    """
    first = count
    misses = 0
    for index in range(count - 1, -1, -1):
        load = load_at(index)
        if rule.holds(load):
            first, misses = index, 0
        elif (misses := misses + 1) > 1 or _is_empty(load):
            break
    return first


def _is_empty(load: Load) -> bool:
    return all(getattr(load, each.name) is None for each in fields(load) if each.name != "flags")
