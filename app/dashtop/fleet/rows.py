"""Turns the answers of an engine into GPUs and nodes: identity, names of nodes, units, several exporters of one GPU."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from dashtop.fleet.client import is_finite
from dashtop.fleet.dialects import MEMORY_TOTAL
from dashtop.fleet.views import MAX_INDEX, classify, sort_key
from dashtop.metrics.gpu_state import MAX_IDLE_LOAD_PERCENT, UTILIZATION
from dashtop.model.fleet import FleetGpu, FleetHolder, FleetNode, HolderKind, NodeState
from dashtop.model.sample import Occupancy
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dashtop.fleet.client import Series
    from dashtop.fleet.dialects import Dialect, Holders, Source

Labels = dict[str, str]
Answer = list[tuple[Labels, float]]
Key = tuple[str, ...]
"""Identity of a GPU within an exporter: the instance, and the labels that identify it there."""

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
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
    """The answers about the GPUs of one exporter, by identity.

    `total`, `split`, `idle` and `holders` are read less often. `peak`: of GPUs that were busy and are not now. `taken`:
    GPUs that are idle and not free; None: the exporter does not say.
    """

    dialect: Dialect
    facts: dict[Key, GpuFacts] = field(default_factory=dict)
    total: dict[Key, float] = field(default_factory=dict)
    split: frozenset[Key] = frozenset()
    idle: frozenset[Key] = frozenset()
    values: dict[str, dict[Key, float]] = field(default_factory=dict)
    peak: dict[Key, float] = field(default_factory=dict)
    taken: frozenset[Key] | None = None
    lost: frozenset[Key] = frozenset()
    holders: dict[Key, tuple[FleetHolder, ...]] = field(default_factory=dict)
    age_s: dict[str, float] = field(default_factory=dict)

    def find_present(self) -> frozenset[Key]:
        """Return the GPUs that are there now; facts of those that have gone are kept for a while."""
        return frozenset().union(self.lost, self.taken or (), self.split, *self.values.values())


def index_values(series: list[Series], identity: Sequence[str]) -> dict[Key, float]:
    """Return values by identity. 8,000 series take 5 ms with one label, for which there is a comprehension."""
    if len(identity) == 1:
        (name,) = identity
        return {
            (each["metric"].get("instance", ""), each["metric"].get(name, "")): float(each["value"][1])
            for each in series
            if each["value"][1][-1] <= "9"
        }
    return {
        find_key(each["metric"], identity): float(each["value"][1]) for each in series if is_finite(each["value"][1])
    }


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
    facts: dict[Key, GpuFacts] = {}
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
    return dict(sorted(facts.items(), key=lambda each: _sort_facts(each[1])))


def find_parents(facts: Mapping[Key, GpuFacts]) -> frozenset[Key]:
    """Return the GPUs of which MIG instances are listed as well."""
    parents = {(each.node, each.uuid) for each in facts.values() if each.mig_instance}
    if not parents:
        return frozenset()
    return frozenset(key for key, each in facts.items() if not each.mig_instance and (each.node, each.uuid) in parents)


def _sort_facts(facts: GpuFacts) -> tuple[str, int, str, str]:
    return facts.node, facts.index if facts.index is not None else MAX_INDEX, facts.uuid, facts.mig_instance


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


class GpuTable:
    """The GPUs of all exporters. One GPU that several exporters report is one row."""

    def __init__(self) -> None:
        self._gpus: list[FleetGpu] = []
        self._origins: list[tuple[Readings, Key]] = []
        self._exporters = 0
        self.nodes: dict[str, str] = {}
        """Node of each instance. An exporter whose GPUs are known from another is on the node of that one."""

    def add(self, readings: Readings) -> tuple[int, bool]:
        """Add the GPUs of one exporter, those of higher priority first.

        Return how many were not known yet, and whether there is something new of any.
        """
        known = _Index(self._gpus, self._origins) if self._gpus else None
        build, utilization = _GpuBuilder(readings), readings.values.get(UTILIZATION, {})
        others = readings.find_present() if utilization.keys() != readings.facts.keys() else frozenset()
        added, is_useful = 0, False
        for key, facts in readings.facts.items():
            if key not in utilization and key not in others:
                continue
            gpu = build(key, facts)
            position = known.find(facts) if known is not None else None
            if position is not None:
                self.nodes[facts.instance] = self._gpus[position].node
                is_useful = self._merge(position, gpu, key in readings.idle) or is_useful
            elif known is None or not known.has_parent(facts):
                added += 1
                self.nodes.setdefault(facts.instance, facts.node)
                self._gpus.append(gpu)
                self._origins.append((readings, key))
        self._exporters += added > 0
        return added, is_useful or added > 0

    def build(self) -> tuple[FleetGpu, ...]:
        """Return the GPUs, by node and index. Those of one exporter are in this order already."""
        if self._exporters > 1:
            for position, (readings, key) in enumerate(self._origins):
                gpu, facts = self._gpus[position], readings.facts[key]
                if self.nodes[facts.instance] != gpu.node:
                    self._gpus[position] = replace(gpu, node=self.nodes[facts.instance])
            self._gpus.sort(key=sort_key)
        return tuple(self._gpus)

    def _merge(self, position: int, other: FleetGpu, is_idle: bool) -> bool:
        """Take from an exporter of lower priority what is missing. Return whether something was."""
        gpu, (readings, key) = self._gpus[position], self._origins[position]
        if other.values.keys() <= gpu.values.keys() and (gpu.holders or not other.holders):
            return False
        values, holders = {**other.values, **gpu.values}, gpu.holders or other.holders
        peak = gpu.peak_percent if gpu.peak_percent is not None else other.peak_percent
        self._gpus[position] = replace(
            gpu,
            values=values,
            unavailable={name: reason for name, reason in gpu.unavailable.items() if name not in values},
            peak_percent=peak,
            holders=holders,
            occupancy=_find_occupancy(
                readings, key, values, peak, is_held=bool(holders), is_idle=is_idle or key in readings.idle
            ),
        )
        return True


class _Index:
    """Finds a GPU in the table by its UUID, which simulated machines share."""

    def __init__(self, gpus: Sequence[FleetGpu], origins: Sequence[tuple[Readings, Key]]) -> None:
        self._facts = [readings.facts[key] for readings, key in origins]
        self._positions: dict[tuple[str, str], list[int]] = defaultdict(list)
        for position, gpu in enumerate(gpus):
            if gpu.uuid:
                self._positions[gpu.uuid, gpu.mig_instance].append(position)

    def find(self, facts: GpuFacts) -> int | None:
        """Return the position of the same GPU; None if there is none."""
        positions = self._positions.get((facts.uuid, facts.mig_instance), ())
        if len(positions) <= 1:
            return positions[0] if positions else None
        for name in ("instance", "node"):
            same = [each for each in positions if getattr(self._facts[each], name) == getattr(facts, name)]
            if len(same) == 1:
                return same[0]
        return None

    def has_parent(self, facts: GpuFacts) -> bool:
        """Return whether a MIG instance's GPU is known: its exporter lists the instances under UUIDs of their own."""
        return bool(facts.mig_instance) and (facts.uuid, "") in self._positions


class _GpuBuilder:
    """Builds the GPUs of one exporter. Fast: 8,000 of them are built at each refresh."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._columns = [*readings.values.items(), (MEMORY_TOTAL, readings.total)]
        self._getters = [(name, column.get) for name, column in self._columns]
        self._reasons: dict[tuple[str, ...], dict[str, str]] = {}

    def __call__(self, key: Key, facts: GpuFacts) -> FleetGpu:
        readings = self._readings
        values = {name: value for name, get in self._getters if (value := get(key)) is not None}
        peak = readings.peak.get(key)
        if peak is None:
            peak = values.get(UTILIZATION)
        holders = readings.holders.get(key, ())
        return FleetGpu(
            node=facts.node,
            index=facts.index,
            uuid=facts.uuid,
            device_id=facts.device_id,
            mig_instance=facts.mig_instance,
            name=facts.name,
            values=values,
            unavailable=self._explain(key, values) if len(values) < len(self._columns) else _NOTHING,
            peak_percent=peak,
            occupancy=_find_occupancy(readings, key, values, peak, is_held=bool(holders), is_idle=key in readings.idle),
            holders=holders,
            age_s=readings.age_s.get(facts.instance, 0.0),
        )

    def _explain(self, key: Key, values: Mapping[str, float]) -> dict[str, str]:
        """Return the reason of each value that is missing."""
        readings = self._readings
        text = "the GPU cannot be read" if key in readings.lost else f"not reported by {readings.dialect.title}"
        missing = (text, *(name for name, _ in self._columns if name not in values))
        if missing not in self._reasons:
            self._reasons[missing] = dict.fromkeys(missing[1:], text)
        return self._reasons[missing]


def _find_occupancy(
    readings: Readings, key: Key, values: Mapping[str, float], peak: float | None, *, is_held: bool, is_idle: bool
) -> Occupancy:
    if readings.split and key in readings.split:
        return Occupancy.SPLIT
    if readings.lost and key in readings.lost:
        return Occupancy.UNAVAILABLE
    is_free = key not in readings.taken if readings.taken is not None else None
    if is_free and (peak is None or peak <= MAX_IDLE_LOAD_PERCENT):
        return Occupancy.FREE
    is_mig = bool(readings.dialect.mig_label) and bool(readings.facts[key].mig_instance)
    found = classify(values, peak_percent=peak, is_held=is_held, is_idle=is_idle, is_mig=is_mig)
    if found is Occupancy.FREE and is_free is False:
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
