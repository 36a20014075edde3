"""Turns the answers of an engine into GPUs and nodes: identity, names of nodes, units, several exporters of one GPU."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from dashtop.fleet.dialects import LIVE_KEYS, MEMORY_TOTAL
from dashtop.fleet.views import classify
from dashtop.metrics.gpu_state import MAX_IDLE_LOAD_PERCENT, UTILIZATION
from dashtop.model.fleet import FleetGpu, FleetHolder, FleetNode, HolderKind, NodeState
from dashtop.model.sample import Occupancy
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dashtop.fleet.dialects import Dialect, Holders, Source

Labels = dict[str, str]
Answer = list[tuple[Labels, float]]
Key = tuple[str, ...]
"""Identity of a GPU within an exporter: the instance, and the labels that identify it there."""

MAX_NODE_NAME_LENGTH: Final = 128
MAX_PLAUSIBLE_RATIO: Final = 1.5
STALE_S: Final = 180.0
"""Three scrapes of a minute. Prometheus drops a target that does not answer at once; series that are pushed linger."""

_EXPORTER_POD: Final = re.compile(r"(nvidia-)?dcgm-exporter(-.*)?")
_UUID: Final = re.compile(r"(GPU-|MIG-)?(GPU-)?([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(/.*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFacts:
    """What does not change from reading to reading."""

    instance: str
    node: str
    index: int | None
    uuid: str
    device_id: str
    mig_instance: str
    name: str


@dataclass(slots=True)
class Readings:
    """The answers about the GPUs of one exporter, by identity. `total`, `split`, `idle` are read less often."""

    dialect: Dialect
    facts: dict[Key, GpuFacts] = field(default_factory=dict)
    total: dict[Key, float] = field(default_factory=dict)
    split: frozenset[Key] = frozenset()
    idle: frozenset[Key] = frozenset()
    values: dict[str, dict[Key, float]] = field(default_factory=dict)
    peak: dict[Key, float] = field(default_factory=dict)
    free: frozenset[Key] = frozenset()
    lost: frozenset[Key] = frozenset()
    holders: dict[Key, tuple[FleetHolder, ...]] = field(default_factory=dict)
    age_s: dict[str, float] = field(default_factory=dict)


def index_values(rows: Answer, identity: Sequence[str]) -> dict[Key, float]:
    """Return values by identity."""
    if len(identity) == 1:  # most exporters, and half the time
        name = identity[0]
        return {(labels.get("instance", ""), labels.get(name, "")): value for labels, value in rows}
    return {find_key(labels, identity): value for labels, value in rows}


def find_key(labels: Labels, identity: Sequence[str]) -> Key:
    """Return the identity of a GPU."""
    return labels.get("instance", ""), *[labels.get(name, "") for name in identity]


def convert(values: dict[Key, float], source: Source, percent_instances: set[str]) -> dict[Key, float]:
    """Return values in the unit of dashtop's metric.

    A ratio that is beyond 1.5 shows that its exporter sends 0 to 100: then all ratios of this instance are divided by
    100, also 1 %. `percent_instances` keeps such instances from reading to reading.
    """
    factor = source.factor
    if not source.may_be_percent:
        return values if factor == 1 else {key: value * factor for key, value in values.items()}
    percent_instances.update(key[0] for key, value in values.items() if value > MAX_PLAUSIBLE_RATIO)
    return {key: value * (factor / 100 if key[0] in percent_instances else factor) for key, value in values.items()}


def build_facts(rows: Answer, dialect: Dialect, names: Mapping[str, str]) -> dict[Key, GpuFacts]:
    """Return the facts of each GPU. `names`: the node of each instance."""
    facts = {}
    for labels, _ in rows:
        uuid, device_id = normalize_uuid(_find_label(labels, dialect.uuid_labels))
        mig_instance = labels.get(dialect.mig_label, "") if dialect.mig_label else ""
        instance, index = labels.get("instance", ""), _find_label(labels, dialect.index_labels)
        name = sanitize_text(_find_label(labels, dialect.name_labels))
        profile = labels.get("GPU_I_PROFILE", "")
        facts[find_key(labels, dialect.identity)] = GpuFacts(
            instance=instance,
            node=names[instance],
            index=int(index) if index.isdecimal() else None,
            uuid=uuid,
            device_id="" if mig_instance else device_id,
            mig_instance=mig_instance,
            name=f"{name} MIG {profile}" if profile else name,
        )
    return facts


def normalize_uuid(text: str) -> tuple[str, str]:
    """Return a UUID in lower case without its prefix, and as CUDA takes it. nvidia_gpu_exporter drops the prefix."""
    match = _UUID.fullmatch(text)
    if match is None:
        return text.lower(), text if text.startswith(("GPU-", "MIG-")) else ""
    if match[2]:
        return text.lower(), text  # a MIG instance of an old driver: MIG-GPU-…/1/0
    return match[3].lower(), f"{match[1] or 'GPU-'}{match[3]}"


def _find_label(labels: Labels, names: Iterable[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


def find_node_name(labels: Labels, node_labels: Sequence[str]) -> str:
    """Return the name that the labels give the machine; "" if they do not.

    On Kubernetes, Hostname is the exporter's pod. The address of nvitop-exporter's hostname names nothing.
    """
    for label in node_labels:
        name = labels.get(label, "")
        if name and not _EXPORTER_POD.fullmatch(name) and not (label.lower() == "hostname" and _is_address(name)):
            return sanitize_text(name, MAX_NODE_NAME_LENGTH)
    return ""


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def find_host(instance: str) -> str:
    """Return the host of an instance, which is host:port unless it was relabelled."""
    try:
        host = urlsplit(f"//{instance}").hostname
    except ValueError:
        host = None
    return sanitize_text(host or instance, MAX_NODE_NAME_LENGTH)


def name_nodes(rows: Answer, node_labels: Sequence[str]) -> dict[str, str]:
    """Return the node of each instance of one exporter.

    Two instances of an exporter that have the same host and no other name are two nodes, such as containers.
    """
    by_label: dict[str, str] = {}
    for labels, _ in rows:
        instance = labels.get("instance", "")
        if not by_label.get(instance):
            by_label[instance] = find_node_name(labels, node_labels)
    by_host = defaultdict(list)
    for instance, name in by_label.items():
        if not name:
            by_host[find_host(instance)].append(instance)
    names = {instance: name for instance, name in by_label.items() if name}
    for host, instances in by_host.items():
        for instance in instances:
            names[instance] = host if len(instances) == 1 else sanitize_text(instance, MAX_NODE_NAME_LENGTH)
    return names


def build_holders(rows: Answer, dialect: Dialect, holders: Holders) -> dict[Key, tuple[FleetHolder, ...]]:
    """Return the holders of each GPU, those with most memory first."""
    found: dict[Key, dict[tuple[str, HolderKind], float]] = defaultdict(dict)
    for labels, value in rows:
        for label, kind in holders.labels:
            pod = labels.get(holders.pod_labels.get(label, ""), "") if label in holders.pod_labels else "-"
            name = labels.get(label, "")
            if name and pod and not _EXPORTER_POD.fullmatch(pod):
                found[find_key(labels, dialect.identity)][sanitize_text(name), kind] = value * (holders.factor or 0.0)
                break
    has_size = holders.factor is not None
    return {
        key: tuple(
            FleetHolder(name, kind, memory_gb if has_size else None)
            for (name, kind), memory_gb in sorted(theirs.items(), key=lambda each: (-each[1], each[0][0]))
        )
        for key, theirs in found.items()
    }


class _Row:
    """A GPU as it is put together from one exporter or several."""

    __slots__ = ("exporter", "facts", "holders", "is_free", "is_idle", "is_lost", "is_split", "peak", "values")

    def __init__(self, readings: Readings, key: Key, facts: GpuFacts) -> None:
        self.exporter, self.facts = readings, facts
        self.values = {name: column[key] for name, column in readings.values.items() if key in column}
        if key in readings.total:
            self.values[MEMORY_TOTAL] = readings.total[key]
        self.peak = readings.peak.get(key)
        self.holders = readings.holders.get(key, ())
        self.is_idle = key in readings.idle
        self.is_lost = key in readings.lost
        self.is_split = key in readings.split
        self.is_free = key in readings.free if readings.dialect.free else None

    def add(self, other: _Row) -> bool:
        """Take from an exporter of lower priority what is missing. Return whether something was."""
        is_useful = not other.values.keys() <= self.values.keys() or bool(other.holders and not self.holders)
        self.values = other.values | self.values
        self.peak = self.peak if self.peak is not None else other.peak
        self.holders = self.holders or other.holders
        self.is_idle = self.is_idle or other.is_idle
        return is_useful


class GpuTable:
    """The GPUs of all exporters. One GPU that several exporters report is one row."""

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._by_uuid: dict[tuple[str, str], list[_Row]] = defaultdict(list)
        self._reasons: dict[tuple[str, ...], dict[str, str]] = {}
        self.nodes: dict[str, str] = {}
        """Node of each instance. An exporter whose GPUs are known from another is on the node of that one."""

    def add(self, readings: Readings) -> bool:
        """Add the GPUs of one exporter, those of higher priority first. Return whether it has something new."""
        is_useful, added, known_before = False, [], {uuid: list(rows) for uuid, rows in self._by_uuid.items()}
        utilization = readings.values.get(UTILIZATION, {})
        for key, facts in readings.facts.items():
            if key not in utilization and not _is_present(readings, key):
                continue
            row = _Row(readings, key, facts)
            known = _find_same(known_before.get((facts.uuid, facts.mig_instance), ()), facts) if facts.uuid else None
            if known is not None:
                is_useful = known.add(row) or is_useful
                self.nodes[facts.instance] = known.facts.node
            elif facts.mig_instance and (facts.uuid, "") in known_before:
                continue  # the other exporter lists the MIG instances of this GPU under UUIDs of their own
            else:
                added.append(row)
                self._by_uuid[facts.uuid, facts.mig_instance].append(row)
        for row in added:
            self.nodes.setdefault(row.facts.instance, row.facts.node)
        parents = {(row.facts.node, row.facts.uuid) for row in added if row.facts.mig_instance}
        if parents:
            for row in added:
                row.is_split = row.is_split or (
                    not row.facts.mig_instance and (row.facts.node, row.facts.uuid) in parents
                )
        self._rows += added
        return is_useful or bool(added)

    def build(self) -> tuple[FleetGpu, ...]:
        """Return the GPUs, by node and index."""
        gpus = [self._build_gpu(row) for row in self._rows]
        gpus.sort(
            key=lambda gpu: (gpu.node, gpu.index if gpu.index is not None else 1 << 20, gpu.uuid, gpu.mig_instance)
        )
        return tuple(gpus)

    def _build_gpu(self, row: _Row) -> FleetGpu:
        facts, values = row.facts, row.values
        missing = tuple(key for key in (*LIVE_KEYS, MEMORY_TOTAL) if key not in values)
        return FleetGpu(
            node=self.nodes.get(facts.instance, facts.node),
            index=facts.index,
            uuid=facts.uuid,
            device_id=facts.device_id,
            mig_instance=facts.mig_instance,
            name=facts.name,
            values=values,
            unavailable=self._explain(missing, row) if missing else {},
            peak_percent=row.peak,
            occupancy=_find_occupancy(row),
            holders=row.holders,
            age_s=row.exporter.age_s.get(facts.instance, 0.0),
        )

    def _explain(self, missing: tuple[str, ...], row: _Row) -> dict[str, str]:
        title = row.exporter.dialect.title
        text = "the GPU cannot be read" if row.is_lost else f"not reported by {title}"
        reasons = self._reasons.get((text, *missing))
        if reasons is None:
            reasons = self._reasons[(text, *missing)] = dict.fromkeys(missing, text)
        return reasons


def _is_present(readings: Readings, key: Key) -> bool:
    conditions = (readings.lost, readings.free, readings.split, *readings.values.values())
    return any(key in column for column in conditions)


def _find_same(rows: Sequence[_Row], facts: GpuFacts) -> _Row | None:
    """Return the row of the same GPU; simulated machines have GPUs with the same UUIDs."""
    if len(rows) <= 1:
        return rows[0] if rows else None
    for name in ("instance", "node"):
        same = [row for row in rows if getattr(row.facts, name) == getattr(facts, name)]
        if len(same) == 1:
            return same[0]
    return None


def _find_occupancy(row: _Row) -> Occupancy:
    if row.is_split:
        return Occupancy.SPLIT
    if row.is_lost:
        return Occupancy.UNAVAILABLE
    peak = row.peak if row.peak is not None else row.values.get(UTILIZATION)
    if row.is_free and (peak is None or peak <= MAX_IDLE_LOAD_PERCENT):
        return Occupancy.FREE
    found = classify(
        row.values,
        peak_percent=row.peak,
        is_held=bool(row.holders),
        is_idle=row.is_idle,
        is_mig=bool(row.facts.mig_instance),
    )
    if found is Occupancy.FREE and row.is_free is False:
        return Occupancy.UNAVAILABLE  # its memory is faulty, or a process of which no user is known holds it
    return found


class TargetState(NamedTuple):
    """A scrape target: whether the engine reaches it; None: it is pushed, and has no such series."""

    instance: str
    is_up: bool | None
    exporter: str
    has_page: bool
    priority: int = 0


def build_nodes(
    targets: Iterable[TargetState],
    vanished: Iterable[str],
    nodes: Mapping[str, str],
    ages_s: Mapping[str, float],
    host: Mapping[str, Mapping[str, float]],
) -> tuple[FleetNode, ...]:
    """Return the nodes by name. `nodes`: of each instance. `host`: values of each node by metric key."""
    by_node: dict[str, list[TargetState]] = defaultdict(list)
    for target in targets:
        by_node[nodes.get(target.instance) or find_host(target.instance)].append(target)
    built = {name: _build_node(name, theirs, ages_s, host.get(name, {})) for name, theirs in by_node.items()}
    for instance in vanished:
        name = nodes.get(instance) or find_host(instance)
        if name not in built:
            built[name] = FleetNode(
                name=name,
                instance=instance,
                state=NodeState.VANISHED,
                reason="scraped in the last day, and not any more",
            )
    return tuple(built[name] for name in sorted(built))


def _build_node(
    name: str, targets: Sequence[TargetState], ages_s: Mapping[str, float], host: Mapping[str, float]
) -> FleetNode:
    targets = sorted(targets, key=lambda target: target.priority)
    up = [target for target in targets if target.is_up is not False]
    down = [target for target in targets if target.is_up is False]
    first = (up or down)[0]
    known = [ages_s[target.instance] for target in up if target.instance in ages_s]
    age_s = min(known) if known else None
    state, reason = (NodeState.UP, "") if up else (NodeState.DOWN, "the engine cannot scrape it")
    if up and down:
        reason = f"{', '.join(target.instance for target in down)} cannot be scraped"
    if up and age_s is not None and age_s > STALE_S:
        state, reason = NodeState.STALE, "no new values"
    page = next((target.instance for target in targets if target.has_page and _has_port(target.instance)), None)
    return FleetNode(
        name=name,
        instance=first.instance,
        state=state,
        reason=reason,
        exporter=", ".join(dict.fromkeys(target.exporter for target in targets if target.exporter)),
        url=f"http://{page}/" if page is not None else None,
        age_s=age_s,
        values=host,
    )


def _has_port(instance: str) -> bool:
    return re.fullmatch(r"[\w.-]+:\d+|\[[0-9a-fA-F:]+\]:\d+", instance, re.ASCII) is not None


def merge_hosts(columns: Iterable[tuple[str, Answer, float]], nodes: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return the values of machines by node. `columns`: metric key, answer, factor; the first with a value counts."""
    values: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, rows, factor in columns:
        for labels, value in rows:
            instance = labels.get("instance", "")
            values[nodes.get(instance) or find_host(instance)].setdefault(key, value * factor)
    return dict(values)
