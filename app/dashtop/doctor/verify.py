"""`dashtop doctor --verify`: compares every value that dashtop shows with nvidia-smi and /proc, read at the same time.

dashtop samples before, while and after nvidia-smi runs. A value agrees if it lies within the range of these samples,
widened by a tolerance. What differs is compared again: only a difference that remains is reported.
"""

from __future__ import annotations

import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dashtop.app import build_sampler
from dashtop.doctor import nvidia_smi, procfs
from dashtop.doctor.nvidia_smi import NvidiaSmiError, SmiReport
from dashtop.doctor.report import WIDTH
from dashtop.metrics import METRICS
from dashtop.model.errors import SettingsError
from dashtop.model.metric import MIB, Kind, Unit
from dashtop.model.sample import PROCESSES
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dashtop.collector.sampler import Sampler
    from dashtop.doctor.nvidia_smi import SmiGpu, SmiProcess
    from dashtop.model.sample import Gpu, GpuProcess, Sample
    from dashtop.model.unavailable import UnavailableReason
    from dashtop.settings import Settings

MAX_ROUNDS = 3
GPU_TIMEOUT_S = 5.0
SAMPLE_INTERVAL_S = 0.2
# Rates need a second sample; slow metrics arrive later.
SETTLE_TIMEOUT_S = 5.0

SMI_QUERY, SMI_PMON, PROC = "nvidia-smi -q -x", "nvidia-smi pmon -c 1", "/proc"


class State(str, Enum):
    """Result of a comparison."""

    OK = "ok"
    DIFFERS = "differs"
    ONLY_DASHTOP = "only dashtop"
    ONLY_REFERENCE = "only reference"


class Tolerance(NamedTuple):
    """How far a value may lie outside the range of dashtop's samples: in its unit, plus a share of the value."""

    absolute: float = 0.0
    relative: float = 0.0

    def margin(self, value: float) -> float:
        """Return the tolerance for a value, in its unit."""
        return self.absolute + self.relative * abs(value)


# nvidia-smi rounds: memory to MiB, power to 0.01 W.
ROUNDING = Tolerance(0.01)
# What changes between two readings a second apart: load, clocks, traffic. The driver averages each over a period of its
# own, and nvidia-smi wakes an idle GPU for a moment.
UNIT_TOLERANCES = {
    Unit.PERCENT: Tolerance(15.0),
    Unit.CELSIUS: Tolerance(3.0),
    Unit.CELSIUS_DIFFERENCE: Tolerance(3.0),
    Unit.WATT: Tolerance(5.0, 0.1),
    Unit.MEGAHERTZ: Tolerance(30.0, 0.05),
    Unit.GIBIBYTE: Tolerance(0.02, 0.002),
    Unit.MEGABYTE_PER_SECOND: Tolerance(50.0, 0.5),
    Unit.MEGABIT_PER_SECOND: Tolerance(50.0, 0.5),
    Unit.RPM: Tolerance(100.0, 0.1),
    Unit.LOAD: Tolerance(0.3, 0.1),
    Unit.COUNT: Tolerance(),
    Unit.CORES: Tolerance(),
    Unit.WATT_HOUR: Tolerance(1.0, 0.01),
    Unit.GIGABYTE_PER_SECOND: ROUNDING,
}
# Metrics that change less than others of their unit, or more.
KEY_TOLERANCES = {
    "gpu.memory.used_percent": Tolerance(0.5),
    "gpu.power.max_watts": ROUNDING,
    "gpu.power.usage_percent": Tolerance(5.0),
    "gpu.fan_speed": Tolerance(5.0),
    "system.cpu.frequency_mhz": Tolerance(100.0, 0.4),
    "system.memory.used_gb": Tolerance(0.25, 0.01),
    "system.memory.available_gb": Tolerance(0.25, 0.01),
    "system.memory.used_percent": Tolerance(2.0),
}
PROCESS_MEMORY_MIB = Tolerance(16.0, 0.01)
PROCESS_PERCENT = Tolerance(20.0)
RESIDENT_MIB = Tolerance(64.0, 0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One value of dashtop beside that of the reference. None: that side has no value.

    `gpu` None: the host. `reason`: why dashtop has no value. `tolerance`: in the metric's unit; None for texts.
    """

    gpu: int | None
    metric: str
    source: str
    state: State
    dashtop: float | str | None
    reference: float | str | None
    tolerance: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """All comparisons. `error`: why nvidia-smi could not be read; then only the host is compared."""

    comparisons: tuple[Comparison, ...]
    gpu_names: Mapping[int, str]
    error: str | None = None
    rounds: int = 1

    @property
    def differences(self) -> tuple[Comparison, ...]:
        """The comparisons that differ."""
        return tuple(each for each in self.comparisons if each.state is State.DIFFERS)

    @property
    def ok(self) -> bool:
        """Whether nothing differs and nothing is missing to compare with."""
        return self.error is None and not self.differences

    def as_json(self) -> dict[str, Any]:
        """Return the verification as a JSON object."""
        return {
            "version": __version__,
            "ok": self.ok,
            "error": self.error,
            "rounds": self.rounds,
            "gpus": [{"id": index, "name": name} for index, name in self.gpu_names.items()],
            "comparisons": [
                {
                    "gpu": each.gpu,
                    "metric": each.metric,
                    "source": each.source,
                    "state": each.state.value,
                    "dashtop": each.dashtop,
                    "reference": each.reference,
                    "tolerance": each.tolerance,
                    "reason": each.reason,
                }
                for each in self.comparisons
            ],
        }

    def as_text(self) -> str:
        """Return a table of metrics and GPUs, then the differences with their values."""
        lines = [f"dashtop {__version__}: comparison with nvidia-smi and /proc"]
        lines += [f"Cells: {', '.join(f'{cell} ({meaning})' for cell, meaning in _CELLS.values())}."]
        lines += [*self._build_table([*self.gpu_names]), *self._build_table([None])]
        for each in self.differences:
            lines += [
                "",
                f"{each.state.value}: {_name_gpu(each.gpu)}, {each.metric}",
                f"  dashtop {_format_value(each.dashtop)}, {each.source} {_format_value(each.reference)}"
                + (f" (tolerance {each.tolerance:.3g})" if each.tolerance is not None else ""),
            ]
        if self.error is not None:
            lines += ["", *textwrap.wrap(self.error, WIDTH)]
        return "\n".join([*lines, "", self._build_summary()])

    def _build_summary(self) -> str:
        counts = [(sum(each.state is state for each in self.comparisons), state) for state in State]
        return ", ".join(f"{count} {state.value}" for count, state in counts) + "."

    def _build_table(self, columns: Sequence[int | None]) -> list[str]:
        cells = {(each.metric, each.gpu): _CELLS[each.state][0] for each in self.comparisons if each.gpu in columns}
        metrics = list(dict.fromkeys(metric for metric, _ in cells))
        if not metrics:
            return []
        width = max(len(metric) for metric in metrics)
        size = max(len(text) for text in (*cells.values(), *map(_name_gpu, columns)))
        per_line = max(1, (WIDTH - width) // (size + 1))
        lines = []
        for start in range(0, len(columns), per_line):
            some = columns[start : start + per_line]
            rows = [("", *map(_name_gpu, some)), *((metric, *(cells.get((metric, gpu), "-") for gpu in some))
                    for metric in metrics)]  # fmt: skip
            lines += ["", *(" ".join([f"{row[0]:<{width}}", *(f"{cell:<{size}}" for cell in row[1:])]) for row in rows)]
        return [line.rstrip() for line in lines]


_CELLS = {
    State.OK: ("ok", "both agree"),
    State.DIFFERS: ("differs", "see below"),
    State.ONLY_DASHTOP: ("dashtop", "only dashtop has a value"),
    State.ONLY_REFERENCE: ("reference", "only nvidia-smi or /proc has one"),
}
"""How each state is shown in the table, and what it means."""


def _name_gpu(index: int | None) -> str:
    return "host" if index is None else f"GPU {index}"


def _format_value(value: float | str | None) -> str:
    if value is None:
        return "has no value"
    return f"'{value}'" if isinstance(value, str) else f"{value:.6g}"


class _Readings(NamedTuple):
    """What was read at the same time. `smi`: the report, the error, or None if there are no GPUs to compare."""

    samples: Sequence[Sample]
    smi: SmiReport | NvidiaSmiError | None
    host: Mapping[str, float]


def verify(settings: Settings, *, proc: Path = Path("/proc"), sys_root: Path = Path("/sys")) -> Verification:
    """Compare, up to three times while something differs. Takes about five seconds each. Raise SettingsError."""
    if settings.demo:
        raise SettingsError("--verify compares with real GPUs: leave out --demo.")
    verification = _verify_once(settings, proc, sys_root)
    while verification.differences and verification.rounds < MAX_ROUNDS:
        known = {(each.gpu, each.metric) for each in verification.differences}
        again = _verify_once(settings, proc, sys_root)
        comparisons = tuple(_keep_agreed(each, known) for each in again.comparisons)
        verification = replace(again, comparisons=comparisons, rounds=verification.rounds + 1)
    return verification


def _keep_agreed(comparison: Comparison, known: set[tuple[int | None, str]]) -> Comparison:
    """Return a comparison as OK if it differs in this round but agreed in the last one."""
    is_new = comparison.state is State.DIFFERS and (comparison.gpu, comparison.metric) not in known
    return replace(comparison, state=State.OK) if is_new else comparison


def _verify_once(settings: Settings, proc: Path, sys_root: Path) -> Verification:
    readings = _read_all(settings, proc, sys_root)
    gpus = readings.samples[-1].gpus
    comparisons = [*_compare_host(readings)]
    error = None
    if isinstance(readings.smi, SmiReport):
        comparisons += _compare_gpus(readings.samples, readings.smi, proc)
    elif readings.smi is not None:
        error = str(readings.smi)
    return Verification(
        comparisons=tuple(comparisons), gpu_names={gpu.device.index: gpu.device.name for gpu in gpus}, error=error
    )


def _read_all(settings: Settings, proc: Path, sys_root: Path) -> _Readings:
    sampler = build_sampler(settings)
    try:
        _settle(sampler)
        before = procfs.read_snapshot(proc)
        samples = [sampler.sample(GPU_TIMEOUT_S)]
        with ThreadPoolExecutor(1) as executor:
            smi = executor.submit(_query_smi) if settings.gpu else None
            deadline = time.monotonic() + SAMPLE_INTERVAL_S
            while (smi is not None and not smi.done()) or time.monotonic() < deadline:
                time.sleep(SAMPLE_INTERVAL_S)
                samples.append(sampler.sample(GPU_TIMEOUT_S))
            samples.append(sampler.sample(GPU_TIMEOUT_S))
        host = procfs.read_values(before, procfs.read_snapshot(proc), proc, sys_root)
        return _Readings(samples, smi.result() if smi is not None else None, host)
    finally:
        sampler.close()


def _query_smi() -> SmiReport | NvidiaSmiError:
    try:
        return nvidia_smi.query()
    except NvidiaSmiError as error:
        return error


def _settle(sampler: Sampler) -> None:
    """Sample until no metric waits for its first value."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        sample = sampler.sample(GPU_TIMEOUT_S)
        reasons = {reason for gpu in sample.gpus for reason in gpu.unavailable.values()}
        if time.monotonic() > deadline or not any(reason.is_pending for reason in reasons):
            return
        time.sleep(SAMPLE_INTERVAL_S)


def get_tolerance(metric: str) -> Tolerance:
    """Return the tolerance of a metric."""
    row = METRICS[metric]
    return KEY_TOLERANCES.get(metric) or (ROUNDING if row.constant else UNIT_TOLERANCES[row.unit])


def compare_numbers(
    values: Sequence[float | None], reference: float | None, tolerance: Tolerance
) -> tuple[State, float | None] | None:
    """Return the state, and dashtop's value that is the closest. None: neither side has a value."""
    known = [value for value in values if value is not None]
    if reference is None:
        return (State.ONLY_DASHTOP, known[-1]) if known else None
    if not known:
        return State.ONLY_REFERENCE, None
    margin = tolerance.margin(reference)
    is_ok = min(known) - margin <= reference <= max(known) + margin
    return State.OK if is_ok else State.DIFFERS, min(known, key=lambda value: abs(value - reference))


class _Subject(NamedTuple):
    """What is compared: the metric of a GPU (None: the host), and where the reference is from."""

    gpu: int | None
    metric: str
    source: str


def _build(
    subject: _Subject,
    values: Sequence[float | None],
    reference: float | None,
    tolerance: Tolerance,
    reason: UnavailableReason | None = None,
) -> Iterator[Comparison]:
    """Yield the comparison of numbers, unless neither side has one."""
    found = compare_numbers(values, reference, tolerance)
    if found is not None:
        state, value = found
        yield Comparison(
            **subject._asdict(),
            state=state,
            dashtop=value,
            reference=reference,
            tolerance=tolerance.margin(reference or 0.0),
            reason=reason.text if reason is not None else None,
        )


def _build_text(subject: _Subject, text: str | None, reference: str | None, *, is_equal: bool) -> Iterator[Comparison]:
    """Yield the comparison of texts, unless neither side has one."""
    if text is None and reference is None:
        return
    state = State.OK if is_equal else State.DIFFERS
    if text is None or reference is None:
        state = State.ONLY_DASHTOP if reference is None else State.ONLY_REFERENCE
    yield Comparison(**subject._asdict(), state=state, dashtop=text, reference=reference)


def _compare_host(readings: _Readings) -> Iterator[Comparison]:
    last = readings.samples[-1].host
    for metric in last.values:
        values = [sample.host.values[metric] for sample in readings.samples]
        reference, reason = readings.host.get(metric), last.unavailable.get(metric)
        yield from _build(_Subject(None, metric, PROC), values, reference, get_tolerance(metric), reason)


def _compare_gpus(samples: Sequence[Sample], report: SmiReport, proc: Path) -> Iterator[Comparison]:
    by_key = {(gpu.uuid, gpu.instance): gpu for gpu in report.gpus}
    positions = {
        gpu.uuid: position for position, gpu in enumerate(each for each in report.gpus if each.instance is None)
    }
    counts: dict[str, int] = {}
    for gpu in samples[-1].gpus:
        parent = gpu.device.mig_parent_uuid
        number = None
        if parent is not None:
            number = counts[parent] = counts.get(parent, -1) + 1
        smi = by_key.get((parent or gpu.device.uuid, number))
        history = [each for sample in samples for each in sample.gpus if each.device.uuid == gpu.device.uuid]
        yield from _compare_values(history, smi)
        if parent is None and smi is not None:
            yield from _compare_texts(gpu, smi)
            pmon = report.pmon.get(positions[smi.uuid]) if report.pmon is not None else None
            yield from _compare_processes(history, smi, pmon, proc)
    shown = {gpu.device.uuid for gpu in samples[-1].gpus}
    for uuid, position in positions.items():
        state = State.OK if uuid in shown else State.DIFFERS
        yield Comparison(
            gpu=position,
            metric="gpu.uuid",
            source=SMI_QUERY,
            state=state,
            dashtop=uuid if uuid in shown else None,
            reference=uuid,
        )


def _compare_values(history: Sequence[Gpu], smi: SmiGpu | None) -> Iterator[Comparison]:
    gpu = history[-1]
    for key in gpu.values:
        values = [each.values[key] for each in history]
        reference = smi.values.get(key) if smi is not None else None
        if METRICS[key].kind is Kind.FLAGS and reference is not None:
            # Flags are no quantities: one of the samples must have the same.
            masked = [None if value is None else float(int(value) & nvidia_smi.KNOWN_REASONS) for value in values]
            values = [reference] if reference in masked else masked
        subject, reason = _Subject(gpu.device.index, key, SMI_QUERY), gpu.unavailable.get(key)
        yield from _build(subject, values, reference, get_tolerance(key), reason)


def _compare_texts(gpu: Gpu, smi: SmiGpu) -> Iterator[Comparison]:
    for name, text in nvidia_smi.read_device_texts(gpu.device).items():
        reference = smi.texts.get(name)
        # nvidia-smi: "Ada Lovelace"; dashtop: "Ada".
        is_equal = reference == text or (name == "architecture" and (reference or " ").split()[0] == text)
        yield from _build_text(_Subject(gpu.device.index, f"gpu.{name}", SMI_QUERY), text, reference, is_equal=is_equal)


def _compare_processes(
    history: Sequence[Gpu], smi: SmiGpu, pmon: Sequence[SmiProcess] | None, proc: Path
) -> Iterator[Comparison]:
    index = history[-1].device.index
    is_listed = PROCESSES not in history[-1].unavailable
    counts = [float(len(gpu.processes)) for gpu in history] if is_listed else []
    listed = nvidia_smi.join_processes(smi.processes)
    yield from _build(_Subject(index, "gpu.process_count", SMI_QUERY), counts, float(len(listed)), Tolerance())
    sampled = nvidia_smi.join_processes(pmon or ())
    shown: dict[int, list[GpuProcess]] = {}
    for process in (each for gpu in history for each in gpu.processes):
        shown.setdefault(process.pid, []).append(process)
    for pid in sorted({*shown, *listed}):
        processes = shown.get(pid, [])
        yield from _compare_process_list(index, processes, listed.get(pid), pid)
        if pid in sampled:
            yield from _compare_process_load(index, processes, sampled[pid])
        if processes and not processes[-1].info.foreign:
            yield from _compare_process_host(index, processes, proc)


def _compare_process_list(
    index: int, shown: Sequence[GpuProcess], listed: SmiProcess | None, pid: int
) -> Iterator[Comparison]:
    reference = listed.memory_mib if listed is not None else None
    memory = [_to_mib(each.gpu_memory_bytes) for each in shown]
    yield from _build(_name_process(index, pid, "gpu_memory_mib", SMI_QUERY), memory, reference, PROCESS_MEMORY_MIB)
    kind, smi_kind = (shown[-1].kind if shown else None), (listed.kind if listed is not None else None)
    subject, is_equal = _name_process(index, pid, "type", SMI_QUERY), {*(kind or "")} == {*(smi_kind or "")}
    yield from _build_text(subject, kind, smi_kind, is_equal=is_equal)


def _compare_process_load(index: int, shown: Sequence[GpuProcess], sampled: SmiProcess) -> Iterator[Comparison]:
    for field, reference in (
        ("sm_percent", sampled.sm),
        ("memory_percent", sampled.memory),
        ("encoder_percent", sampled.encoder),
        ("decoder_percent", sampled.decoder),
    ):
        values = [getattr(each, field) for each in shown]
        yield from _build(_name_process(index, sampled.pid, field, SMI_PMON), values, reference, PROCESS_PERCENT)


def _compare_process_host(index: int, shown: Sequence[GpuProcess], proc: Path) -> Iterator[Comparison]:
    last = shown[-1]
    if (found := procfs.read_process(proc, last.pid)) is None:
        return
    user, resident_bytes = found
    subject, is_equal = _name_process(index, last.pid, "username", PROC), user == last.info.username
    yield from _build_text(subject, last.info.username, user, is_equal=is_equal)
    sizes = [_to_mib(each.host_memory_bytes) for each in shown]
    subject = _name_process(index, last.pid, "host_memory_mib", PROC)
    yield from _build(subject, sizes, resident_bytes / MIB, RESIDENT_MIB)


def _name_process(index: int, pid: int, field: str, source: str) -> _Subject:
    return _Subject(index, f"process {pid} {field}", source)


def _to_mib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / MIB
