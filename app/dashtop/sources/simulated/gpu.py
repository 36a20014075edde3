"""A simulated GPU: a recorded one (`worlds/*.json`, which name their sources), moved by a workload."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.metrics import GPU_METRICS
from dashtop.metrics.xid import xid_event
from dashtop.model.metric import GIB
from dashtop.model.sample import Gpu, GpuProcess, ProcessInfo
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.gpu_records import get_mig_parent_reason, mark_unavailable
from dashtop.sources.simulated.curves import BATCH, IDLE, INFERENCE, OVERHEATING, TRAINING, Noise
from dashtop.sources.simulated.metric_curves import CURVES, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.ports import MemoryUse
    from dashtop.model.sample import Device, Event
    from dashtop.sources.simulated.curves import Floats, Jobs, Load, Workload
    from dashtop.sources.simulated.metric_curves import Curve

_MEMORY_BLOCK_BYTES = 2**21
_RESTING_STRAIN = 0.05
_IDLE_SHARE = 0.06
_THROTTLED_STRAIN = 0.86
_ROOM_CELSIUS, _RISE_CELSIUS = 26.0, 44.0
# Heat is the power of the last two minutes, the newest counting most, on a grid of times.
_GRID_S, _DECAY_S = 5.0, 30.0
_HEAT_WEIGHTS: Final = np.exp(-_GRID_S / _DECAY_S * np.arange(24))
_XID_SLOT_S = 2.5 * 86_400
_XIDS = (31, 13, 43, 45)
_FALLEN_OFF_THE_BUS = 79
_MONTH_S = 30.0 * 86_400
# Channels of the noise beside those of the curves.
_CPU, _RAM, _OWNER, _ROOM, _XID = range(20, 25)

_ADA = ProcessInfo(username="ada", environment="train")
_GRACE = ProcessInfo(username="grace", slurm_job="4711", environment="llm")
_ALAN = ProcessInfo(username="alan", environment="render")
_BARBARA = ProcessInfo(username="barbara", container="5d1f0c7be2a4", container_runtime="docker")
_EDSGER = ProcessInfo(username="edsger")
_SERVICE = ProcessInfo(
    username="triton",
    container="c08e41d96f37",
    container_runtime="containerd",
    kubernetes_pod="3e0c9a1e-5f0b-4b52-9d0e-7c1a2b3d4e5f",
)


@dataclass(frozen=True, slots=True)
class Role:
    """Which recorded GPU a simulated one is, its workload, and the invented owners of its jobs."""

    world: str
    position: int
    workload: Workload
    owners: tuple[ProcessInfo, ...]


ROLES = (
    Role("rtx4090", 0, TRAINING, (_ADA,)),
    Role("h100x8", 0, INFERENCE, (_SERVICE,)),
    Role("rtx3090", 0, OVERHEATING, (_ALAN,)),
    Role("t4", 0, BATCH, (_BARBARA, _GRACE, _ADA)),
    Role("v100", 0, TRAINING, (_GRACE,)),
    Role("t4", 0, INFERENCE, (_BARBARA,)),
    Role("rtx4090", 0, IDLE, (_ADA,)),
    Role("h100x8", 1, TRAINING, (_GRACE,)),
    Role("a100_mig", 0, TRAINING, (_SERVICE,)),
    Role("lost_gpu", 1, IDLE, (_ADA,)),
    Role("rtx4090_laptop_awake", 0, BATCH, (_ALAN,)),
    Role("rtx4090_laptop_asleep", 0, IDLE, (_ALAN,)),
    Role("gb10", 0, TRAINING, (_ADA,)),
)


@cache
def load_world(name: str) -> dict[str, Any]:
    """Return a recorded world: what NVML answered on some machine. An absent key is not supported there."""
    world: dict[str, Any] = json.loads((files("dashtop.sources.simulated") / "worlds" / f"{name}.json").read_text())
    return world


def find_fact(facts: Mapping[str, Any], path: str) -> Any:
    """Return what is recorded under these keys, joined by dots, or None."""
    found: Any = facts
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


class SimulatedGpu:
    """A simulated GPU or MIG instance. What its recording does not hold is unavailable here, too."""

    def __init__(
        self,
        device: Device,
        facts: Mapping[str, Any],
        role: Role,
        noise: Noise,
        *,
        first_pid: int,
        read_host_memory: Callable[[], MemoryUse],
    ) -> None:
        self.device = device
        self._workload = role.workload
        self._owners = role.owners
        self._noise = noise
        self._first_pid = first_pid
        self._processes: list[dict[str, Any]] = facts["processes"]
        self._is_split = bool(find_fact(facts, "mig.instances"))
        self._limit = (find_fact(facts, "power.enforced_limit") or find_fact(facts, "power.usage") or 0.0) / 1000
        self._heat: tuple[int, Floats] = (0, np.zeros(0))
        self.state: UnavailableReason | None = None
        if facts.get("runtime_status") == "suspended":
            self.state = UnavailableReason.ASLEEP
        elif "*" in facts.get("returns", ()):
            self.state = UnavailableReason.GPU_LOST
        self._constants: dict[str, float] = {}
        self._curves: list[tuple[str, Any, Curve]] = []
        self.unavailable: dict[str, UnavailableReason] = {}
        self._shared_memory = read_host_memory if device.shares_host_memory and _is_readable(read_host_memory) else None
        self._choose_curves(
            {**facts, **_derived_facts(facts), **({"memory": {"total": 0}} if self._shared_memory else {})}
        )

    def _choose_curves(self, facts: Mapping[str, Any]) -> None:
        for metric in GPU_METRICS:
            path, curve = CURVES.get(metric.key, ("", None))
            fact = find_fact(facts, path)
            # A GPU without the sensor of its memory's temperature answers 0.
            if curve is None or fact is None or (fact == 0 and path == "memory_temperature"):
                self.unavailable[metric.key] = self._missing(metric.key)
            elif callable(curve):
                self._curves.append((metric.key, fact, curve))
            else:
                self._constants[metric.key] = fact * curve

    def _missing(self, key: str) -> UnavailableReason:
        if self.device.mig_parent_uuid is not None:
            return UnavailableReason.MIG_INSTANCE
        if self.device.shares_host_memory and CURVES.get(key, ("", 0.0))[0].startswith("memory."):
            return UnavailableReason.UNIFIED_MEMORY
        return (
            get_mig_parent_reason(key, UnavailableReason.NOT_SUPPORTED)
            if self._is_split
            else UnavailableReason.NOT_SUPPORTED
        )

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """Keys of the metrics that the GPU has."""
        return tuple(metric.key for metric in GPU_METRICS if metric.key not in self.unavailable)

    def is_lost(self, t: Floats) -> NDArray[np.bool_]:
        """Tell at which times (epoch seconds) the GPU has fallen off the bus."""
        return self._workload.is_lost(self._noise, t)

    def read(self, time_ms: int) -> Gpu:
        """Return the GPU at one time."""
        return self.read_states([time_ms])[0]

    def read_states(self, times_ms: Sequence[int], only: Container[str] | None = None) -> list[Gpu]:
        """Return the GPU at each of ascending times. `only`: the keys of the metrics to compute, None for all."""
        t = np.array(times_ms) / 1000
        moment = self.moment(t)
        columns = self.compute_values(moment, only)
        states = [UnavailableReason.GPU_LOST if lost else self.state for lost in self.is_lost(t)]
        return [
            Gpu(
                device=self.device,
                values={key: None if column is None else float(column[row]) for key, column in columns.items()},
                unavailable=self.unavailable,
                processes=self._read_processes(moment, row),
            )
            if state is None
            else mark_unavailable(self.device, state)
            for row, state in enumerate(states)
        ]

    def compute_values(self, moment: Moment, only: Container[str] | None = None) -> dict[str, Floats | None]:
        """Return the values of each metric at these times; None if the GPU does not have it."""
        columns: dict[str, Floats | None] = dict.fromkeys(
            metric.key for metric in GPU_METRICS if only is None or metric.key in only
        )
        for key, fact, curve in self._curves:
            if key in columns:
                columns[key] = curve(fact, moment)
        for key, value in self._constants.items():
            if key in columns:
                columns[key] = np.broadcast_to(np.float64(value), len(moment.t))
        return columns

    def moment(self, t: Floats) -> Moment:
        """Return the state at ascending times, epoch seconds."""
        jobs = self._workload.jobs(self._noise, t)
        load = self._workload.load(self._noise, t, jobs)
        jitter = self._noise.jitter(t)
        sizes = self._sizes(jobs)
        memory = self._shared_memory() if self._shared_memory is not None else None
        return Moment(
            t=t,
            jobs=jobs,
            jitter=jitter,
            busy=load.busy,
            power_share=np.minimum(1.0, self._power_share(load, jobs) * (1.0 + 0.01 * jitter)),
            is_slowed_down=self._workload.is_slowed_down(jobs),
            is_resting=load.strain < _RESTING_STRAIN,
            sizes=sizes,
            used=np.sum(sizes, axis=0) if memory is None else np.full(len(t), float(memory.used)),
            total=(self.device.memory_total_bytes or 0) if memory is None else memory.total,
            limit=self._limit,
            compute_celsius=self._celsius,
        )

    def _power_share(self, load: Load, jobs: Jobs) -> Floats:
        """Return the share of the power limit that is drawn."""
        slowdown = np.where(self._workload.is_slowed_down(jobs), _THROTTLED_STRAIN, 1.0)
        share: Floats = _IDLE_SHARE + (1.0 - _IDLE_SHARE) * load.strain * slowdown
        return share

    def _celsius(self, t: Floats) -> Floats:
        first = math.floor(t[0] / _GRID_S) - len(_HEAT_WEIGHTS)
        count = math.floor(t[-1] / _GRID_S) + 2 - first
        if self._heat[0] != first or len(self._heat[1]) != count:
            grid = _GRID_S * np.arange(first, first + count)
            jobs = self._workload.jobs(self._noise, grid)
            load = self._workload.load(self._noise, grid, jobs)
            power = self._power_share(load, jobs) * load.heat
            self._heat = first, np.convolve(power, _HEAT_WEIGHTS / _HEAT_WEIGHTS.sum())[:count]
        grid = _GRID_S * np.arange(first, first + count)
        room = _ROOM_CELSIUS + 1.5 * self._noise.wave(_ROOM, t, 1800.0)
        limit = float(self.device.slowdown_celsius or 90.0)
        celsius: Floats = np.minimum(room + _RISE_CELSIUS * np.interp(t, grid, self._heat[1]), limit)
        return celsius

    def _sizes(self, jobs: Jobs) -> list[Floats]:
        """Return the bytes that each recorded process holds; graphics processes stay, the others belong to jobs."""
        share = self._workload.memory_share(self._noise, jobs)
        return [
            _MEMORY_BLOCK_BYTES
            * np.floor(
                each["used_memory"] / _MEMORY_BLOCK_BYTES * (share if each["type"] != "G" else share * 0.0 + 1.0)
            )
            for each in self._processes
        ]

    def _read_processes(self, moment: Moment, row: int) -> tuple[GpuProcess, ...]:
        return tuple(
            self._process(position, recorded, int(size[row]), moment, row)
            for position, (recorded, size) in enumerate(zip(self._processes, moment.sizes, strict=True))
            if size[row] > 0.0
        )

    def _process(self, position: int, recorded: Mapping[str, Any], size: int, moment: Moment, row: int) -> GpuProcess:
        """Names and proportions are recorded, owners and ages invented."""
        is_graphics = recorded["type"] == "G"
        t, busy = float(moment.t[row]), float(moment.busy[row])
        job = int(t // _MONTH_S) if is_graphics else int(moment.jobs.number[row])
        started_s = job * _MONTH_S if is_graphics else float(moment.jobs.begin_s[row])
        owners = (_EDSGER,) if is_graphics else self._owners
        cpu = 160.0 * self._noise.number(_CPU, position) * (0.1 + 0.9 * busy / 100.0)
        memory = (0.3 + 2.5 * self._noise.number(_RAM, position)) * GIB * (0.1 if is_graphics else 1.0)

        def percent(name: str) -> float | None:
            return float(round(recorded[name] * busy / 100.0)) if name in recorded else None

        return GpuProcess(
            pid=self._first_pid + recorded["pid"] % 5_000 + job * 37 % 30_000,
            kind=recorded["type"],
            gpu_memory_bytes=size,
            sm_percent=percent("sm_util"),
            memory_percent=percent("mem_util"),
            encoder_percent=percent("enc_util"),
            decoder_percent=percent("dec_util"),
            cpu_percent=round(cpu * (1.0 + 0.1 * float(moment.jitter[row])), 1),
            host_memory_bytes=int(memory),
            info=replace(
                owners[int(self._noise.number(_OWNER, job) * len(owners))],
                name=recorded["name"].rpartition("/")[2],
                started_ms=round(1000 * started_s),
            ),
        )

    def changes(self, start_ms: int, end_ms: int) -> list[int]:
        """Return the times (epoch milliseconds) in (start_ms, end_ms] at which an event is due or processes change."""
        if self.state is not None:
            return []
        return [round(1000 * t) for t in self._workload.changes(self._noise, start_ms / 1000, end_ms / 1000)]

    def xids(self, start_ms: int, end_ms: int) -> Iterator[Event]:
        """Yield the driver's errors in (start_ms, end_ms]: one now and then, and one when the GPU is lost."""
        if self.state is not None or self.device.mig_parent_uuid is not None:
            return
        for time_ms, code in sorted([*self._job_xids(start_ms, end_ms), *self._bus_xids(start_ms, end_ms)]):
            if start_ms < time_ms <= end_ms:
                yield xid_event(code, time_ms=time_ms, gpu_uuid=self.device.uuid)

    def _job_xids(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        for slot in range(int(start_ms / 1000 // _XID_SLOT_S), int(end_ms / 1000 // _XID_SLOT_S) + 1):
            kind, part = (self._noise.number(_XID, 2 * slot + which) for which in (0, 1))
            if kind < len(_XIDS) / 10 and self._workload is not IDLE:
                yield round(1000 * _XID_SLOT_S * (slot + part)), _XIDS[int(10 * kind)]

    def _bus_xids(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        if self._workload.is_lost_weekly:
            times = np.array(self.changes(start_ms, end_ms), dtype=np.int64)
            falls = self.is_lost(times / 1000) & ~self.is_lost(times / 1000 - 1.0)
            yield from ((int(time_ms), _FALLEN_OFF_THE_BUS) for time_ms in times[falls])


def _is_readable(read_host_memory: Callable[[], MemoryUse]) -> bool:
    try:
        read_host_memory()
    except Unavailable:
        return False
    return True


def _derived_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that follow from several recorded ones."""
    derived: dict[str, Any] = {}
    if (margin := facts.get("temperature_margin")) is not None:
        derived["hottest"] = margin + facts["temperature"]
    for way in ("tx", "rx"):
        per_second = find_fact(facts, f"nvlink.link.{way}_bytes.per_second")
        if per_second is not None:
            derived[f"nvlink_{way}"] = per_second * facts["nvlink"]["link_count"] * facts["nvlink"]["link"]["active"]
    return derived
