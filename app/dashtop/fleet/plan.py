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
    covered: set[str] = field(default_factory=set)
    """Exporters all of whose GPUs others report: series of the past leave them out, so that no GPU counts twice."""
    redundant: set[str] = field(default_factory=set)
    """Exporters that add no value either: they are not read."""
    is_built: bool = False
    """Whether both are known."""

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

    @property
    def counted(self) -> list[Dialect]:
        """The exporters that series of the past are made of."""
        return [each for each in self.dialects if each.name not in self.covered]

    def has_rule(self, rule: str) -> bool:
        """Return whether a recording rule has the GPUs of every exporter."""
        jobs = self.rules.get(rule, set())
        return all(each.has_rules and self.jobs[each.name] <= jobs for each in self.counted)

    def is_recorded(self, dialect: Dialect) -> bool:
        """Whether every job of an exporter has the recording rules."""
        return dialect.has_rules and self.jobs[dialect.name] <= self.rules.get(RULE_GPU, set())
