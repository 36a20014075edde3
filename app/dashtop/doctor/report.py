"""The report of `dashtop doctor`, as text and as JSON."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashtop.model.sample import Device
    from dashtop.model.unavailable import UnavailableReason

WIDTH = 110
_INDENT = 8


class State(str, Enum):
    """State of a finding. WARN: works in part. FAIL: does not work. Both have a fix."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One finding. `fix` is the command that removes the problem; None if there is no problem."""

    area: str
    text: str
    state: State = State.OK
    fix: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFinding:
    """One GPU: the number of available metrics, and the reason for each missing one."""

    device: Device
    present: int
    missing: Mapping[str, UnavailableReason]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All findings, in the order they are printed."""

    version: str
    findings: tuple[Finding, ...]
    gpus: tuple[GpuFinding, ...]

    @property
    def problems(self) -> int:
        """Number of findings that are not OK."""
        return sum(finding.state is not State.OK for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "version": self.version,
            "ok": not self.problems,
            "findings": [
                {"area": each.area, "state": each.state.value, "text": each.text, "fix": each.fix}
                for each in self.findings
            ],
            "gpus": [
                {
                    "id": each.device.index,
                    "name": each.device.name,
                    "uuid": each.device.uuid,
                    "metrics_present": each.present,
                    "missing": {key: reason.text for key, reason in each.missing.items()},
                }
                for each in self.gpus
            ],
        }

    def as_text(self) -> str:
        """Return the report as text. States are words, so that they can be read without colour."""
        lines = [f"dashtop {self.version}"]
        area = None
        for finding in self.findings:
            if finding.area != area:
                area = finding.area
                lines += ["", area]
            lines += _wrap(f"  {finding.state.value:<4}  ", finding.text)
            if finding.fix is not None:
                # Never wrapped, so that it can be copied.
                lines.append(f"{'':{_INDENT}}Fix:  {finding.fix}")
            if finding is self._last_finding(area):
                lines += self._list_missing(area)
        verdict = {0: "No problems found.", 1: "1 problem found."}
        return "\n".join([*lines, "", verdict.get(self.problems, f"{self.problems} problems found.")])

    def _last_finding(self, area: str | None) -> Finding:
        return [finding for finding in self.findings if finding.area == area][-1]

    def _list_missing(self, area: str | None) -> list[str]:
        """List the missing metrics of a GPU by reason; nothing if every metric is missing."""
        gpu = next((each for each in self.gpus if gpu_area(each.device) == area), None)
        by_reason: dict[UnavailableReason, list[str]] = {}
        for key, reason in gpu.missing.items() if gpu is not None and gpu.present else ():
            by_reason.setdefault(reason, []).append(key.partition(".")[2])
        lines = []
        for reason, names in by_reason.items():
            lines.append(f"{'':{_INDENT}}{reason.text}:")
            lines += _wrap(" " * (_INDENT + 2), ", ".join(names))
        return lines


def gpu_area(device: Device) -> str:
    """Return the heading of a GPU's findings."""
    return f"GPU {device.index}: {device.name}"


def _wrap(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
