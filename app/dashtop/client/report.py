"""The report of a run as an object and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENERGY_WORDS: Final = {"counter": "counter", "integrated": "from power", "estimated_share": "estimated share"}


class RunReport:
    """The report of a run: `print` it, or take its `data`, the JSON of the API. `error` says why there is none."""

    def __init__(self, data: dict[str, Any] | None, error: str | None = None) -> None:
        self.data = data
        self.error = error

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of the API; empty if there is no report."""
        return self.data or {}

    def __str__(self) -> str:
        return f"No report of this run: {self.error}." if self.data is None else format_report(self.data)

    def __repr__(self) -> str:
        return f"<RunReport {self.data['run']['id'] if self.data is not None else self.error}>"


def format_report(data: Mapping[str, Any]) -> str:
    """Return a report as text, a few lines for each GPU."""
    run, report = data["run"], data["report"]
    until = "" if run["end"] is not None else " until now"
    duration = f"{format_duration(report['duration_s'])}{until}"
    lines = [f"{run['name']}: {run['status']}, {duration}, {100 * report['coverage']:.0f} % recorded"]
    for gpu in report["gpus"] or ():
        lines += _format_gpu(gpu)
    if not report["gpus"]:
        lines.append(f"GPUs: {report['unavailable'].get('gpus', 'not known')}")
    host = report["host"]
    lines.append(
        f"Host: {_value(host['peak_memory_gb'], 'GiB', 1)} RAM at most, {_value(host['mean_cpu_percent'], '%')} CPU"
    )
    return "\n".join(lines)


def _format_gpu(gpu: Mapping[str, Any]) -> list[str]:
    title = f"GPU {gpu['gpu_id']}" if gpu["gpu_id"] is not None else gpu["gpu_uuid"]
    memory = gpu["peak_gpu_memory_mb"]
    energy = _value(gpu["energy_wh"], "Wh", 1)
    kind = f" ({_ENERGY_WORDS[gpu['energy_kind']]})" if gpu["energy_kind"] in _ENERGY_WORDS else ""
    used = [
        f"peak VRAM {_value(None if memory is None else memory / 1024, 'GiB', 1)}",
        f"utilization {_value(gpu['mean_utilization'], '%')} (95th percentile {_value(gpu['p95_utilization'], '%')})",
        f"SM {_value(gpu['mean_sm'], '%')}",
        f"tensor {_value(gpu['mean_tensor'], '%')}",
    ]
    limits = [
        f"energy {energy}{kind}",
        f"at most {_value(gpu['max_temperature'], '°C')}",
        f"idle {format_duration(gpu['idle_s'])}",
        f"thermal {format_duration(gpu['thermal_s'])}",
        f"power cap {format_duration(gpu['power_cap_s'])}",
    ]
    lines = [
        f"{title} ({gpu['gpu_name'] or 'unknown model'}): held {format_duration(gpu['held_s'])}",
        f"  {' · '.join(used)}",
        f"  {' · '.join(limits)}",
    ]
    if gpu["xids"]:
        lines.append("  XIDs: " + ", ".join(f"{each['count']} × {each['code']}" for each in gpu["xids"]))
    lines += [f"  Alert: {alert['text']}" for alert in gpu["alerts"]]
    if gpu["diagnosis"] is not None:
        lines.append(f"  {gpu['diagnosis']['verdict']}: {', '.join(gpu['diagnosis']['evidence'])}")
    return lines


def _value(value: float | None, unit: str, digits: int = 0) -> str:
    return "N/A" if value is None else f"{value:.{digits}f} {unit}"


def format_duration(seconds: float | None) -> str:
    """Return "45 s", "12 min 3 s" or "2 h 5 min"."""
    if seconds is None:
        return "N/A"
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004 - an hour
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
