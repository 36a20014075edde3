"""What an engine has of a fleet: exporters, recording rules, and the facts of each GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dashtop.fleet.dialects import DIALECTS
from dashtop.fleet.queries import RULE_GPU

if TYPE_CHECKING:
    from dashtop.fleet.dialects import Dialect
    from dashtop.fleet.rows import Readings


@dataclass(slots=True)
class Plan:
    """What the engine has: exporters with their jobs, recording rules with theirs."""

    jobs: dict[str, set[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    rules: dict[str, set[str]] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)
    """Metrics that say whether GPUs are free."""
    has_node_exporter: bool = False
    has_user_seconds: bool = False
    vanished: tuple[str, ...] = ()
    exporters: dict[str, Readings] = field(default_factory=dict)
    redundant: set[str] = field(default_factory=set)
    """Exporters all of whose GPUs another one reports."""

    @property
    def gpus(self) -> int:
        """Number of GPUs, at least."""
        return max(self.counts.values(), default=0)

    @property
    def all_jobs(self) -> set[str]:
        """Jobs that scrape exporters of GPUs."""
        return set().union(*self.jobs.values())

    @property
    def dialects(self) -> list[Dialect]:
        """The exporters to read, by priority."""
        return [each for each in DIALECTS if each.name in self.exporters and each.name not in self.redundant]

    def is_recorded(self, dialect: Dialect) -> bool:
        """Whether every job of an exporter has the recording rules."""
        return dialect.has_rules and self.jobs[dialect.name] <= self.rules.get(RULE_GPU, set())
