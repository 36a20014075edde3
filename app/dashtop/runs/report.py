"""The report of a run, from the history: what it used, for how long, and what limited it.

A GPU belongs to a run while a process of its tree holds it; values of a GPU are those of that time only. A missing
value is None, with its reason under `unavailable`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.metrics.diagnosis import Load, Span, diagnose
from dashtop.model.metric import MIB
from dashtop.model.run import START_TOLERANCE_MS, TOO_SHORT_MS
from dashtop.model.sample import PROCESSES, EventFilter, GpuProcess, SeriesKey
from dashtop.model.timerange import HOUR_MS, MINUTE_MS, SECOND_MS
from dashtop.usage.calculation import Buckets, find_covering, find_intervals, find_peak, measure_cover

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.ports import History
    from dashtop.model.run import Run
    from dashtop.model.sample import Gpu, ProcessSpan, Series
    from dashtop.usage.calculation import GroupKey, Interval

    Floats = NDArray[np.float64]

MAX_BUCKETS: Final = 4_000
SPAN_LAG_MS: Final = 20_000
"""The end of a process span is written up to 15 s late."""
MAX_EVENTS: Final = 200
_MAX_IDLE_PERCENT: Final = 1.0
_MIN_DIAGNOSIS_MS: Final = MINUTE_MS
_IDLE_SHARE: Final = 0.9
_MIN_SHARED_INTERVALS: Final = 2.0
_LOW_PERCENT, _HIGH_PERCENT = 10.0, 80.0
_MAX_BURST_STEP_MS: Final = 10 * SECOND_MS

_UTILIZATION, _SM, _TENSOR, _DRAM = (f"gpu.utilization.{name}" for name in ("gpu", "compute", "tensor", "dram"))
_POWER, _ENERGY = "gpu.power.current_watts", "gpu.energy.total_wh"
_TEMPERATURE, _FLAGS, _RX = "gpu.temperature", "gpu.clocks.event_reasons", "gpu.pcie.rx_mbps"
_METRICS: Final = (_UTILIZATION, _SM, _TENSOR, _DRAM, _POWER, _ENERGY, _TEMPERATURE, _FLAGS, _RX)
_CPU, _RAM, _IOWAIT = "system.cpu.usage_percent", "system.memory.used_gb", "system.cpu.iowait_percent"
_HOST: Final = (SeriesKey(_CPU), SeriesKey(_RAM), SeriesKey(_IOWAIT))
_THERMAL_BITS, _BRAKE_BIT, _CAP_BIT = 0x060, 0x080, 0x004
_EVENT_KINDS: Final = ("xid", "alert_firing")

NOT_RECORDED: Final = "not recorded in this time"
NOT_HELD: Final = "no process of this run has held a GPU"
TOO_SHORT: Final = "the run was over before dashtop could see whether its processes held a GPU"
OTHER_PIDS: Final = (
    "the driver reports processes by pids of another pid namespace, so that those of this run are not known among them"
)
NOT_LISTED: Final = "the processes of the GPUs are not known"


@dataclass(frozen=True, slots=True)
class _Window:
    """The buckets of a run, the part of each that belongs to it (0 to 1), and the bucket whose reading covers each.

    `interval_ms`: between two samples. `is_recent`: it ended so recently that the ends of its processes need not be
    written yet.
    """

    buckets: Buckets
    weight: Floats
    covering: NDArray[np.int64]
    end_ms: int
    interval_ms: int
    is_recent: bool

    def spread(self, values: NDArray[np.float32]) -> Floats:
        """Return values with each reading in all buckets that it covers, NaN elsewhere."""
        return np.where(self.covering >= 0, values.astype(np.float64)[self.covering], np.nan)


def build_report(run: Run, history: History, gpus: Sequence[Gpu], *, interval_ms: int, now_ms: int) -> dict[str, Any]:
    """Return the report as JSON. `gpus`: those that are present. `interval_ms`: between two samples."""
    end_ms = max(run.end_ms if run.end_ms is not None else now_ms, run.begin_ms + 1)
    step_ms = max(interval_ms, -(-(end_ms - run.begin_ms) // MAX_BUCKETS // SECOND_MS) * SECOND_MS)
    host = history.query(_HOST, run.begin_ms, end_ms, step_ms)
    buckets = Buckets(host.start_ms, host.step_ms, host.count)
    known = np.isfinite(np.array([series.mean for series in host.series])).any(axis=0)
    weight = _measure_weight(run.begin_ms, end_ms, buckets)
    is_recent = now_ms - end_ms < SPAN_LAG_MS
    window = _Window(buckets, weight, find_covering(known, step_ms), end_ms, interval_ms, is_recent)
    covered = float((window.weight * (window.covering >= 0)).sum())
    cpu, ram, iowait = (series for series in host.series)
    missing: dict[str, str] = {}
    means = {_CPU: _mean(window.spread(cpu.mean), window.weight), _IOWAIT: _mean(iowait.mean, window.weight)}
    found = _build_gpus(run, history, gpus, window, means) if run.is_local else None
    is_short = run.end_ms is not None and end_ms - run.begin_ms < TOO_SHORT_MS
    reason = run.no_gpus_reason or (TOO_SHORT if is_short else NOT_HELD)
    if run.is_local and not found and (unknown := _explain_no_gpu(gpus)):
        found, reason = None, unknown
    peak = _highest(ram, window.weight)
    for name, value in (("host.mean_cpu_percent", means[_CPU]), ("host.peak_memory_gb", peak)):
        if value is None:
            missing[name] = NOT_RECORDED
    if not found:
        missing["gpus"] = reason
    return {
        "duration_s": round((end_ms - run.begin_ms) / 1000, 3),
        "coverage": round(min(1.0, covered / max(float(window.weight.sum()), 1e-9)), 4),
        "gpus": found,
        "host": {"peak_memory_gb": _round(peak), "mean_cpu_percent": _round(means[_CPU])},
        "unavailable": missing,
    }


def _explain_no_gpu(gpus: Sequence[Gpu]) -> str:
    """Return why the GPUs of a run cannot be known; "" if they can, so that it has none."""
    if any(process.info.foreign for gpu in gpus for process in gpu.processes):
        return OTHER_PIDS
    is_unlisted = bool(gpus) and all(PROCESSES in gpu.unavailable for gpu in gpus)
    return NOT_LISTED if is_unlisted else ""


def summarize(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the list of runs shows of a report: energy of all GPUs, and the most memory on one of them."""
    gpus = report["gpus"] or []
    energies = [gpu["energy_wh"] for gpu in gpus]
    kinds = {gpu["energy_kind"] for gpu in gpus}
    peaks = [gpu["peak_gpu_memory_mb"] for gpu in gpus if gpu["peak_gpu_memory_mb"] is not None]
    is_known = bool(energies) and None not in energies
    ranks = ("estimated_share", "integrated", "counter")
    return {
        "energy_wh": round(sum(energies), 3) if is_known else None,
        "energy_kind": next(kind for kind in ranks if kind in kinds) if is_known else None,
        "peak_bytes": round(max(peaks) * MIB) if peaks else None,
    }


def is_of_run(run: Run, pid: int, started_ms: int | None) -> bool:
    """Return whether a process is one of those of a run that held a GPU."""
    return any(
        pid == own and (started_ms is None or start is None or abs(started_ms - start) <= START_TOLERANCE_MS)
        for own, start in run.processes
    )


def _measure_weight(begin_ms: int, end_ms: int, buckets: Buckets) -> Floats:
    starts = buckets.start_ms + buckets.step_ms * np.arange(buckets.count, dtype=np.float64)
    parts = np.minimum(starts + buckets.step_ms, end_ms) - np.maximum(starts, begin_ms)
    weight: Floats = np.clip(parts / buckets.step_ms, 0.0, 1.0)
    return weight


# --- GPUs -----------------------------------------------------------------------------------------------------------


def _build_gpus(
    run: Run,
    history: History,
    present: Sequence[Gpu],
    window: _Window,
    host: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """Return a report for each GPU that a process of the run held, by index."""
    now = {gpu.device.uuid: gpu for gpu in present}
    stored = {gpu.uuid: (gpu.index, gpu.name) for gpu in history.gpus()}
    stored |= {uuid: (gpu.device.index, gpu.device.name) for uuid, gpu in now.items()}
    uuids = tuple(uuid for uuid in stored if uuid in run.gpus)
    if not uuids:
        return []
    spans: dict[str, list[ProcessSpan]] = defaultdict(list)
    for span in history.processes(uuids, run.begin_ms, window.end_ms):
        spans[span.gpu_uuid].append(span)
    events = [
        event
        for event in history.events(run.begin_ms, window.end_ms, EventFilter(kinds=_EVENT_KINDS))
        if event.gpu_uuid in uuids
    ]
    buckets = window.buckets
    data = history.query(
        [SeriesKey(metric, uuid) for uuid in uuids for metric in _METRICS],
        buckets.start_ms,
        buckets.end_ms,
        buckets.step_ms,
    )
    series = {each.key: each for each in data.series}
    reports = []
    for uuid in sorted(uuids, key=lambda each: (stored[each][0] is None, stored[each][0], each)):
        own, others = _split(run, spans[uuid], now.get(uuid), window)
        if not own:
            continue
        reading = _GpuReading(
            {metric: series[SeriesKey(metric, uuid)] for metric in _METRICS}, now.get(uuid), window, own, others
        )
        index, name = stored[uuid]
        reports.append(
            {
                "gpu_id": index,
                "gpu_uuid": uuid,
                "gpu_name": name,
                **reading.build(host),
                "xids": _count_xids(event.code for event in events if event.kind == "xid" and event.gpu_uuid == uuid),
                "alerts": [
                    {"time": event.time_ms, "severity": event.severity.value, "text": event.text}
                    for event in events
                    if event.kind == "alert_firing" and event.gpu_uuid == uuid
                ][-MAX_EVENTS:],
            }
        )
    return reports


def _count_xids(codes: Iterable[int | None]) -> list[dict[str, int]]:
    counts: dict[int, int] = defaultdict(int)
    for code in codes:
        if code is not None:
            counts[code] += 1
    return [{"code": code, "count": count} for code, count in sorted(counts.items())]


def _split(
    run: Run, spans: Sequence[ProcessSpan], gpu: Gpu | None, window: _Window
) -> tuple[list[Interval], list[Interval]]:
    """Return when processes of the run held a GPU, and when others did, within the run."""
    running = list(gpu.processes if gpu is not None else ())
    own = [span for span in spans if is_of_run(run, span.pid, span.info.started_ms)]
    others = [span for span in spans if not is_of_run(run, span.pid, span.info.started_ms)]
    if window.is_recent and run.end_ms is not None:
        # They ended with the run, as far as is known.
        running += [
            GpuProcess(pid=span.pid, kind=span.kind, gpu_memory_bytes=None, info=span.info)
            for span in own
            if span.end_ms >= window.end_ms - SPAN_LAG_MS
        ]
    found = []
    for each in (own, others):
        clipped = [
            replace(one, start_ms=max(one.start_ms, run.begin_ms), end_ms=min(one.end_ms, window.end_ms))
            for one in find_intervals(each, running, window.buckets, window.interval_ms)
        ]
        found.append([one for one in clipped if one.start_ms < one.end_ms])
    return found[0], found[1]


class _GpuReading:
    """The readings of one GPU in a run, and who held it. `gpu` None: it is not present any more."""

    def __init__(
        self,
        series: Mapping[str, Series],
        gpu: Gpu | None,
        window: _Window,
        own: Sequence[Interval],
        others: Sequence[Interval],
    ) -> None:
        self._series = series
        self._gpu = gpu
        self._own = own
        self._step_s = window.buckets.step_ms / SECOND_MS
        self._interval_s = window.interval_ms / SECOND_MS
        self._covering = window.covering
        self._held = measure_cover(own, window.buckets)
        covers: dict[GroupKey, list[Interval]] = defaultdict(list)
        for interval in others:
            covers[interval.key].append(interval)
        self._held_by_others = sum(
            (measure_cover(each, window.buckets) for each in covers.values()), np.zeros(window.buckets.count)
        )
        self._values = {metric: window.spread(each.mean) for metric, each in series.items()}
        self._missing: dict[str, str] = {}

    def build(self, host: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the values, each with the reason if it is None."""
        utilization, flags = self._values[_UTILIZATION], np.nan_to_num(self._values[_FLAGS]).astype(np.int64)
        peak = find_peak(self._own)
        energy, kind = self._measure_energy()
        has_flags = bool((np.isfinite(self._values[_FLAGS]) & (self._held > 0)).any())
        values = {
            "peak_gpu_memory_mb": self._note("peak_gpu_memory_mb", None if peak is None else peak / MIB, ""),
            "mean_utilization": self._average("mean_utilization", _UTILIZATION),
            "p95_utilization": self._note("p95_utilization", _percentile(utilization, self._held), _UTILIZATION),
            "mean_sm": self._average("mean_sm", _SM),
            "mean_tensor": self._average("mean_tensor", _TENSOR),
            "max_temperature": self._note(
                "max_temperature", _highest(self._series[_TEMPERATURE], self._held), _TEMPERATURE
            ),
            "idle_s": self._note(
                "idle_s",
                self._sum_s(utilization <= _MAX_IDLE_PERCENT) if np.isfinite(utilization).any() else None,
                _UTILIZATION,
            ),
            "thermal_s": self._note("thermal_s", self._sum_s(flags & _THERMAL_BITS) if has_flags else None, _FLAGS),
            "power_cap_s": self._note("power_cap_s", self._sum_s(flags & _CAP_BIT) if has_flags else None, _FLAGS),
            "energy_wh": self._note("energy_wh", energy, _ENERGY),
        }
        return {
            "held_s": round(float(self._held.sum()) * self._step_s, 3),
            **{name: _round(value) for name, value in values.items()},
            "energy_kind": kind,
            "diagnosis": self._diagnose(host, flags),
            "unavailable": self._missing,
        }

    def _note(self, name: str, value: float | None, metric: str) -> float | None:
        if value is None:
            reason = self._gpu.unavailable.get(metric) if self._gpu is not None else None
            self._missing[name] = reason.text if reason is not None else NOT_RECORDED
        return value

    def _average(self, name: str, metric: str) -> float | None:
        return self._note(name, _mean(self._values[metric], self._held), metric)

    def _sum_s(self, matches: NDArray[Any]) -> float:
        return float(self._held[matches.astype(bool)].sum()) * self._step_s

    def _measure_energy(self) -> tuple[float | None, str | None]:
        """Return Wh and where they come from: the driver's counter, power times time, or an estimated share of these.

        Between readings the counter is taken to rise evenly. One that falls was reset when the driver was loaded.
        """
        counter = self._series[_ENERGY].mean.astype(np.float64)
        known = np.flatnonzero(np.isfinite(counter))
        power = self._values[_POWER]
        if len(known) > 1:
            changes = np.diff(counter[known])
            totals = np.concatenate(([0.0], np.cumsum(np.where(changes >= 0, changes, counter[known[1:]]))))
            used = np.diff(np.interp(np.arange(len(counter) + 1), known + 1, totals))
            kind = "counter"
        elif (np.isfinite(power) & (self._held > 0)).any():
            used, kind = np.nan_to_num(power) * self._step_s / 3600, "integrated"
        else:
            return None, None
        # A process counts until the sample after its last one: one that others follow overlaps with them for as long.
        overlap_s = float(np.minimum(self._held, self._held_by_others).sum()) * self._step_s
        is_shared = overlap_s > _MIN_SHARED_INTERVALS * self._interval_s
        share = self._held / np.maximum(self._held + self._held_by_others, 1.0)
        return float((used * (share if is_shared else self._held)).sum()), "estimated_share" if is_shared else kind

    def _diagnose(self, host: Mapping[str, float | None], flags: NDArray[np.int64]) -> dict[str, Any] | None:
        """Return what limited the run on this GPU; None if it held it for less than a minute."""
        held_ms = 1000 * float(self._held.sum()) * self._step_s
        if held_ms < _MIN_DIAGNOSIS_MS:
            return None
        load = self._build_load(host, flags)
        longer: dict[Span, Load] = {}
        if held_ms >= 15 * MINUTE_MS and 1000 * self._step_s <= _MAX_BURST_STEP_MS:
            longer[Span.QUARTER] = load
        if held_ms >= HOUR_MS:
            longer[Span.HOUR] = load
        found = diagnose(load, longer)
        if found is None:
            return None
        return {
            "name": found.rule.name,
            "verdict": found.rule.text,
            "evidence": [each.text for each in found.evidence],
            "note": found.note,
        }

    def _build_load(self, host: Mapping[str, float | None], flags: NDArray[np.int64]) -> Load:
        utilization, has_flags = self._values[_UTILIZATION], np.isfinite(self._values[_FLAGS])
        idle = self._share(utilization <= _MAX_IDLE_PERCENT, np.isfinite(utilization))
        rx, watts = _mean(self._values[_RX], self._held), _mean(self._values[_POWER], self._held)
        limit, link = (
            self._gpu.values.get(key) if self._gpu is not None else None
            for key in ("gpu.power.max_watts", "gpu.pcie.bandwidth_gbps")
        )
        held = self._held > 0
        return Load(
            utilization=_mean(utilization, self._held),
            low_share=self._share(utilization <= _LOW_PERCENT, np.isfinite(utilization)),
            high_share=self._share(utilization >= _HIGH_PERCENT, np.isfinite(utilization)),
            sm=_mean(self._values[_SM], self._held),
            tensor=_mean(self._values[_TENSOR], self._held),
            dram=_mean(self._values[_DRAM], self._held),
            power_share=watts / limit if watts is not None and limit else None,
            rx_mbps=rx,
            rx_share=rx / (1000 * link) if rx is not None and link else None,
            cpu=host[_CPU],
            iowait=host[_IOWAIT],
            temperature=_mean(self._values[_TEMPERATURE], self._held),
            thermal_share=self._share((flags & _THERMAL_BITS) != 0, has_flags),
            brake_share=self._share((flags & _BRAKE_BIT) != 0, has_flags),
            cap_share=self._share((flags & _CAP_BIT) != 0, has_flags),
            flags=int(np.bitwise_or.reduce(flags[held])) if held.any() else 0,
            coverage=float((self._held * np.isfinite(utilization)).sum() / self._held.sum()),
            is_idle_held=None if idle is None else idle >= _IDLE_SHARE,
        )

    def _share(self, matches: NDArray[np.bool_], known: NDArray[np.bool_]) -> float | None:
        """Return the share of the held time with a reading that matches."""
        total = float(self._held[known].sum())
        return float(self._held[known & matches].sum()) / total if total > 0 else None


def _mean(values: NDArray[Any], weight: Floats) -> float | None:
    known = np.isfinite(values) & (weight > 0)
    return float(np.average(values[known].astype(np.float64), weights=weight[known])) if known.any() else None


def _percentile(values: Floats, weight: Floats, percent: float = 95.0) -> float | None:
    """Return the smallest value that is not exceeded for this share of the time."""
    known = np.isfinite(values) & (weight > 0)
    if not known.any():
        return None
    order = np.argsort(values[known])
    shares = np.cumsum(weight[known][order])
    position = int(np.searchsorted(shares, percent / 100 * shares[-1] - 1e-9))
    return float(values[known][order][min(position, len(order) - 1)])


def _highest(series: Series, weight: Floats) -> float | None:
    known = np.isfinite(series.maximum) & (weight > 0)
    return float(series.maximum[known].max()) if known.any() else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
