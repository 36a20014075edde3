"""What an examination found, as text for people and as JSON."""

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
    """How a finding is: warn still works but lacks something, fail does not work; both can be mended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing found. `mend` is the command for it; only a trouble has one."""

    area: str
    text: str
    state: State = State.OK
    mend: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFinding:
    """One GPU: how many metrics it gives, and what each other one is missing for."""

    device: Device
    present: int
    missing: Mapping[str, UnavailableReason]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything found."""

    version: str
    findings: tuple[Finding, ...]
    gpus: tuple[GpuFinding, ...]

    @property
    def troubles(self) -> int:
        """Count what can be mended."""
        return sum(finding.state is not State.OK for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "version": self.version,
            "well": not self.troubles,
            "findings": [
                {"area": each.area, "state": each.state.value, "text": each.text, "mend": each.mend}
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
        """Return the report for people; states are words, not colours."""
        lines = [f"dashtop {self.version}"]
        area = None
        for finding in self.findings:
            if finding.area != area:
                area = finding.area
                lines += ["", area]
            lines += _hanging(f"  {finding.state.value:<4}  ", finding.text)
            if finding.mend is not None:
                # One piece, however long: it is there to be copied.
                lines.append(f"{'':{_INDENT}}mend it with:  {finding.mend}")
            if finding is self._last_of(area):
                lines += self._missing(area)
        verdict = {0: "All is well.", 1: "1 trouble found."}
        return "\n".join([*lines, "", verdict.get(self.troubles, f"{self.troubles} troubles found.")])

    def _last_of(self, area: str | None) -> Finding:
        return [finding for finding in self.findings if finding.area == area][-1]

    def _missing(self, area: str | None) -> list[str]:
        """Return the metrics that a GPU lacks, those with the same reason together; none for one that has no other."""
        gpu = next((each for each in self.gpus if gpu_area(each.device) == area), None)
        by_reason: dict[UnavailableReason, list[str]] = {}
        for key, reason in gpu.missing.items() if gpu is not None and gpu.present else ():
            by_reason.setdefault(reason, []).append(key.partition(".")[2])
        lines = []
        for reason, names in by_reason.items():
            lines.append(f"{'':{_INDENT}}{reason.text}:")
            lines += _hanging(" " * (_INDENT + 2), ", ".join(names))
        return lines


def gpu_area(device: Device) -> str:
    """Return the heading that a GPU's findings stand under."""
    return f"GPU {device.index}: {device.name}"


def _hanging(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
