"""PromQL for the views of a fleet. Pure: builds text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dashtop.fleet.dialects import DIALECTS, NODE_EXPORTER_PROBE, NODE_LABELS
from dashtop.metrics.gpu_state import (
    MAX_FREE_MEMORY_PERCENT,
    MAX_HELD_LOAD_PERCENT,
    MAX_IDLE_LOAD_PERCENT,
    MAX_IDLE_PEAK_PERCENT,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dashtop.fleet.dialects import Dialect, Holders, Source

SENTINEL: Final = "1e15"
"""DCGM's blank values are 9223372036854775792 and above."""
PEAK_RANGE: Final = "2m"
IDLE_RANGE: Final = "1h"
RULE_GPU: Final = "dashtop:gpu_utilization:avg5m"
RULE_NODE: Final = "dashtop:node_gpu_utilization:avg5m"
RULE_HELD: Final = "dashtop:node_gpus_held:count"
RULE_POWER: Final = "dashtop:node_power_watts:sum"
RULE_USER: Final = "dashtop:user_gpu_seconds:rate5m"
RULES: Final = (RULE_GPU, RULE_NODE, RULE_HELD, RULE_POWER, RULE_USER)
USER_SECONDS: Final = "dashtop_user_gpu_seconds_total"

_MATCHER: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\\n]|\\.)*)"\s*')


def parse_matchers(text: str) -> tuple[str, ...]:
    """Return the matchers in `text`, which are separated by commas. Raises ValueError with what they must be."""
    found, position = [], 0
    stripped = text.strip().removeprefix("{").removesuffix("}")
    while position < len(stripped):
        match = _MATCHER.match(stripped, position)
        position = match.end() if match is not None else -1
        if match is None or (position < len(stripped) and stripped[position] != ","):
            raise ValueError('must be matchers of labels such as cluster="lab",job=~"dashtop|dcgm"')
        found.append(f'{match[1]}{match[2]}"{match[3]}"')
        position += 1
    return tuple(found)


def quote(text: str) -> str:
    """Return a PromQL string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def match_any(label: str, values: Iterable[str]) -> str:
    """Return a matcher for any of the values."""
    escaped = (re.sub(r"[.\\+*?()|\[\]{}^$]", r"\\\g<0>", value) for value in sorted(values))
    return f"{label}=~{quote('|'.join(escaped))}"


class QueryBuilder:
    """Builds the queries of one fleet. `select`: matchers that are part of every selector."""

    def __init__(self, select: Sequence[str] = (), node_label: str | None = None) -> None:
        self._select = tuple(select)
        self._node_labels = (node_label, *NODE_LABELS) if node_label is not None else NODE_LABELS

    @property
    def node_labels(self) -> tuple[str, ...]:
        """Labels that name a node, tried in order."""
        return self._node_labels

    def select(self, metric: str, *matchers: str) -> str:
        """Return a selector."""
        inside = ",".join((*self._select, *(each for each in matchers if each)))
        return f"{metric}{{{inside}}}" if inside else metric

    def fill(self, template: str, *matchers: str) -> str:
        """Return a condition with the matchers in place of each `@`; `@idle` also selects the idle mode of a CPU."""
        filled = re.sub(r"@idle", lambda _: self.select("", *matchers, 'mode="idle"'), template)
        return re.sub(r"@", lambda _: self.select("", *matchers), filled)

    def discover(self) -> str:
        """Return the query for exporters and recording rules that exist, by job."""
        free = [dialect.free for dialect in DIALECTS if dialect.free]
        names = [*(dialect.probe for dialect in DIALECTS), *free, NODE_EXPORTER_PROBE, USER_SECONDS, *RULES]
        return f"count by (__name__, job) ({self.select('', match_any('__name__', names))})"

    def facts(self, dialect: Dialect) -> str:
        """Return the query for the labels of each GPU."""
        labels = dict.fromkeys(
            (
                "instance",
                *dialect.identity,
                *dialect.index_labels,
                *dialect.uuid_labels,
                *dialect.name_labels,
                *self._node_labels,
                "GPU_I_PROFILE",
            )
        )
        return f"max by ({', '.join(labels)}) ({self.select(dialect.facts or dialect.probe)})"

    def value(self, dialect: Dialect, source: Source, *matchers: str) -> str:
        """Return the query for a value of each GPU, in the exporter's unit. Several series of a GPU are one."""
        first, *rest = (
            f"{self.by(dialect)} ({self.select(metric, source.matcher, *matchers)} < {SENTINEL})"
            for metric in (source.metric, *source.plus)
        )
        total = first
        for number, each in enumerate(rest):
            total = f"({total}) + ({each})" if number == 0 else f"({total}) + (({each}) or 0 * ({first}))"
        return total

    def by(self, dialect: Dialect, function: str = "max") -> str:
        """Return an aggregation that keeps a GPU's identity."""
        return f"{function} by (instance, {', '.join(dialect.identity)})"

    def peak(self, dialect: Dialect, source: Source) -> str:
        """Return the query for the highest value of the last two minutes, of the GPUs that are idle now.

        Of those that compute now it does not matter, and half as many series are sent.
        """
        limit = f"{MAX_IDLE_LOAD_PERCENT / source.factor:g}"
        return (
            f"{self._over_time(dialect, source, PEAK_RANGE)} > {limit} unless {self.value(dialect, source)} > {limit}"
        )

    def _over_time(self, dialect: Dialect, source: Source, span: str) -> str:
        selector = self.select(source.metric, source.matcher)
        return f"{self.by(dialect)} (max_over_time({selector}[{span}]) < {SENTINEL})"

    def condition(self, dialect: Dialect, template: str) -> str:
        """Return the query for the GPUs that meet a condition of the dialect."""
        return f"{self.by(dialect)} ({self.fill(template)})"

    def holders(self, dialect: Dialect, holders: Holders) -> str:
        """Return the query for the holders of each GPU, in the exporter's unit. Series without any are left out."""
        names = [label for label, _ in holders.labels]
        labels = dict.fromkeys(("instance", *dialect.identity, *names, *holders.pod_labels.values()))
        series = " or ".join(self.select(holders.metric, f'{name}!=""') for name in names)
        return f"{holders.function} by ({', '.join(labels)}) ({series})"

    def age(self, dialect: Dialect) -> str:
        """Return the query for the age of the newest sample of each instance, in seconds."""
        return f"min by (instance) (time() - timestamp({self.select(dialect.heartbeat or dialect.probe)}))"

    def idle(self, dialect: Dialect, source: Source, *, is_recorded: bool) -> str:
        """Return the query for the GPUs that have not computed in the last hour.

        A mean of 5 min is compared with the limit for means, single readings with that for peaks.
        """
        if is_recorded:
            recorded = f"{self.by(dialect)} (max_over_time({self.select(RULE_GPU)}[{IDLE_RANGE}]))"
            return f"{recorded} < {MAX_HELD_LOAD_PERCENT / 100:g}"
        return f"{self._over_time(dialect, source, IDLE_RANGE)} < {MAX_IDLE_PEAK_PERCENT / source.factor:g}"

    def up(self, jobs: Iterable[str]) -> str:
        """Return the query for the scrape targets of some jobs, 1 or 0."""
        return f"max by (instance, job) ({self.select('up', match_any('job', jobs))})"

    def vanished(self, jobs: Iterable[str]) -> str:
        """Return the query for instances that were scraped in the last day, and are not any more."""
        selector = self.select("up", match_any("job", jobs))
        return (
            f"count by (instance) (last_over_time({selector}[1d]))"
            f" unless on (instance) count by (instance) ({self.select('up')})"
        )

    def last_seen(self, by_instance: str) -> str:
        """Return the query for the seconds since some instances were up, within the last day."""
        return f"min(time() - max_over_time(timestamp({self.select('up', by_instance)} == 1)[1d:1m]))"

    def host(self, source: Source) -> str:
        """Return the query for a value of each machine, in the exporter's unit."""
        return f"max by (instance) ({self.select(source.metric)})"

    def node_exporter(self, template: str) -> str:
        """Return the query for a value of node_exporter of each machine."""
        return f"max by (instance) ({self.fill(template)})"

    def scaled(
        self, sources: Sequence[tuple[Dialect, Source]], percent_instances: Iterable[str] = (), *matchers: str
    ) -> str:
        """Return values in dashtop's unit of the GPUs of several exporters; the first that has a GPU counts.

        `percent_instances` send 0 to 100 under names that say ratio.
        """
        parts = []
        for dialect, source in sources:
            wrong = match_any("instance", percent_instances) if source.may_be_percent and percent_instances else ""
            if not wrong:
                parts.append(f"({self.value(dialect, source, *matchers)}) * {source.factor:g}")
                continue
            right = wrong.replace("=~", "!~", 1)
            parts.append(f"({self.value(dialect, source, right, *matchers)}) * {source.factor:g}")
            parts.append(f"({self.value(dialect, source, wrong, *matchers)}) * {source.factor / 100:g}")
        return " or ".join(parts)

    def is_held(self, dialect: Dialect, used: Source, total: Source) -> str:
        """Return the GPUs whose memory is in use."""
        ratio = f"({self.value(dialect, used)}) * {used.factor / total.factor:g} / ({self.value(dialect, total)})"
        return f"({ratio} > {MAX_FREE_MEMORY_PERCENT / 100:g})"
