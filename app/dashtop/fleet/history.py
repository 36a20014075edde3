"""Reads series of a fleet's past from an engine."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.fleet import rows as fleet_rows
from dashtop.fleet.client import LIVE_TIMEOUT_S, RequestFailedError, fail
from dashtop.fleet.dialects import MEMORY_TOTAL, MEMORY_USED, POWER
from dashtop.fleet.queries import RULE_GPU, RULE_HELD, RULE_NODE, RULE_POWER, RULE_USER, USER_SECONDS, match_any
from dashtop.fleet.views import sort_naturally
from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import UTILIZATION
from dashtop.model.fleet import FleetFailure, FleetRow, FleetSeries, SeriesKind
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.fleet.client import EngineClient, Matrix
    from dashtop.fleet.plan import Plan
    from dashtop.fleet.queries import QueryBuilder
    from dashtop.model.fleet import FleetError, FleetQuery

MAX_POINTS: Final = 300
MIN_STEP_S: Final = 60
WIDER_STEP: Final = 4
"""If the engine refuses a query for its size, the query is repeated once with steps this much longer."""
MAX_NODE_ROWS: Final = 1000
MAX_RAW_GPUS: Final = 500
MAX_RAW_SPAN_S: Final = 86_400
HOUR_S: Final = 3600
RULES_FILE: Final = "docs/fleet/recording-rules.yaml"


@dataclass(frozen=True, slots=True)
class _Axis:
    """The times of a range query, by the engine's clock; both ends are included."""

    start_s: int
    end_s: int
    step_s: int

    @classmethod
    def create(cls, now_s: float, span_s: int, step_s: int) -> _Axis:
        """Return an axis that ends at the last full step, so that all viewers of a step ask the same."""
        step_s = max(MIN_STEP_S, step_s)
        end_s = int(now_s // step_s * step_s)
        return cls(end_s - span_s // step_s * step_s, end_s, step_s)

    @property
    def count(self) -> int:
        return (self.end_s - self.start_s) // self.step_s + 1


def build_failed_series(error: FleetError) -> FleetSeries:
    """Return series without rows."""
    return FleetSeries(times_ms=np.empty(0, np.int64), error=error)


class HistoryReader:
    """Reads one FleetQuery."""

    def __init__(
        self,
        client: EngineClient,
        builder: QueryBuilder,
        plan: Plan,
        *,
        nodes: Mapping[str, str],
        percent_instances: Iterable[str],
        find_time: Callable[[], float],
    ) -> None:
        self._client, self._builder, self._plan, self._nodes = client, builder, plan, nodes
        self._percent_instances, self._find_time = tuple(percent_instances), find_time
        self._notes: list[str] = []
        self._warnings: dict[str, None] = {}

    def read(self, query: FleetQuery) -> FleetSeries:
        """Return the series. Raises RequestFailedError."""
        if query.kind is SeriesKind.USERS:
            return self._read_users(query.span_s)
        if query.kind is SeriesKind.LAST_SEEN:
            return self._read_last_seen(query.node)
        expression, name, unit = self._build(query)
        rule = {SeriesKind.TREND: RULE_NODE, SeriesKind.NODES: RULE_NODE, SeriesKind.HELD: RULE_HELD}.get(
            query.kind, RULE_POWER if query.kind is SeriesKind.POWER else ""
        )
        span_s = query.span_s
        if rule and not self._has_rule(rule):
            span_s = self._limit_span(span_s)
        axis = _Axis.create(self._find_time(), span_s, math.ceil(span_s / min(max(query.points, 2), MAX_POINTS)))
        try:
            matrix = self._ask(expression, axis)
        except RequestFailedError as error:
            if error.error.failure is not FleetFailure.TOO_MANY_SAMPLES:
                raise
            axis = _Axis.create(axis.end_s, span_s, axis.step_s * WIDER_STEP)
            matrix = self._ask(expression, axis)
            self._notes.append(f"The engine refused finer steps than {axis.step_s} s: {error}")
        self._warnings.update(dict.fromkeys(matrix.warnings))
        with self._client.collection.pause():
            return self._build_series(matrix, axis, name, unit)

    def _ask(self, expression: str, axis: _Axis) -> Matrix:
        return self._client.query_range(expression, axis.start_s, axis.end_s, axis.step_s)

    def _has_rule(self, rule: str) -> bool:
        return rule in self._plan.rules if rule == RULE_USER else self._plan.has_rule(rule)

    def _limit_span(self, span_s: int) -> int:
        if self._plan.gpus <= MAX_RAW_GPUS or span_s <= MAX_RAW_SPAN_S:
            return span_s
        self._notes.append(
            f"Without recording rules the last 24 h are shown for more than {MAX_RAW_GPUS} GPUs: load {RULES_FILE}."
        )
        return MAX_RAW_SPAN_S

    def _build(self, query: FleetQuery) -> tuple[str, Callable[[Mapping[str, str]], str], str]:
        """Return the expression, the name of a row by its labels, and the unit."""
        build = {
            SeriesKind.TREND: self._build_trend,
            SeriesKind.NODES: self._build_nodes,
            SeriesKind.HELD: self._build_held,
            SeriesKind.POWER: self._build_power,
        }.get(query.kind)
        return build() if build is not None else self._build_metric(query)

    def _scale(self, key: str, *matchers: str) -> str:
        """Return the values of a metric in its unit; "" if no exporter has it."""
        dialects = self._plan.dialects if matchers else self._plan.counted
        sources = [(dialect, source) for dialect in dialects for source in dialect.sources.get(key, ())]
        return self._builder.scaled(sources, self._percent_instances, *matchers)

    def _build_trend(self) -> tuple[str, Callable[[Mapping[str, str]], str], str]:
        if self._has_rule(RULE_NODE):
            return f"100 * avg({self._builder.select(RULE_GPU)})", lambda _: "utilization", "%"
        return f"avg({self._scale(UTILIZATION)})", lambda _: "utilization", "%"

    def _build_nodes(self) -> tuple[str, Callable[[Mapping[str, str]], str], str]:
        if self._has_rule(RULE_NODE):
            return f"100 * max by (instance) ({self._builder.select(RULE_NODE)})", self._find_node, "%"
        raw = self._scale(UTILIZATION)
        return f"avg by (instance) ({raw})", self._find_node, "%"

    def _build_held(self) -> tuple[str, Callable[[Mapping[str, str]], str], str]:
        if self._has_rule(RULE_HELD):
            return f"sum(max by (instance) ({self._builder.select(RULE_HELD)}))", lambda _: "held", ""
        held = " or ".join(
            self._builder.is_held(dialect, dialect.sources[MEMORY_USED][0], dialect.sources[MEMORY_TOTAL][0])
            for dialect in self._plan.counted
        )
        return f"count({held})", lambda _: "held", ""

    def _build_power(self) -> tuple[str, Callable[[Mapping[str, str]], str], str]:
        if self._has_rule(RULE_POWER):
            return f"sum(max by (instance) ({self._builder.select(RULE_POWER)}))", lambda _: "power", "W"
        return f"sum({self._scale(POWER)})", lambda _: "power", "W"

    def _build_metric(self, query: FleetQuery) -> tuple[str, Callable[[Mapping[str, str]], str], str]:
        by_instance = self._match_node(query.node)
        expression = self._scale(query.metric, by_instance)
        if not expression:
            raise fail(FleetFailure.BAD_QUERY, f"No exporter of this fleet has {query.metric}.")
        indices = {
            key: facts.index
            for readings in self._plan.exporters.values()
            for key, facts in readings.facts.items()
            if facts.node == query.node
        }
        by_name = {dialect.name: dialect for dialect in self._plan.dialects}

        def name(labels: Mapping[str, str]) -> str:
            for dialect in by_name.values():
                index = indices.get(fleet_rows.find_key(dict(labels), dialect.identity))
                if index is not None:
                    instance = labels.get(dialect.mig_label, "")
                    return f"GPU {index} · MIG {instance}" if instance else f"GPU {index}"
            return " ".join(value for label, value in labels.items() if label != "instance")

        return expression, name, METRICS[query.metric].unit.symbol

    def _match_node(self, node: str) -> str:
        instances = [instance for instance, name in self._nodes.items() if name == node]
        return match_any("instance", instances or [node])

    def _read_last_seen(self, node: str) -> FleetSeries:
        answer = self._client.query(self._builder.last_seen(self._match_node(node)))
        end_s = answer.time_s if answer.time_s is not None else self._find_time()
        return FleetSeries(
            times_ms=np.array([round(end_s * 1000)], np.int64),
            rows=tuple(FleetRow(node, np.array([value])) for _, value in answer.rows),
            unit="s",
            warnings=answer.warnings,
        )

    def _find_node(self, labels: Mapping[str, str]) -> str:
        instance = labels.get("instance", "")
        return self._nodes.get(instance) or fleet_rows.find_host(instance)

    def _build_series(
        self,
        matrix: Matrix,
        axis: _Axis,
        name: Callable[[Mapping[str, str]], str],
        unit: str,
    ) -> FleetSeries:
        columns: dict[str, Any] = {}
        counts: dict[str, Any] = defaultdict(lambda: np.zeros(axis.count))
        for labels, pairs in matrix.rows:
            values = _place(pairs, axis)
            row = name(labels)
            # Several instances of one node: the mean of those that have a value.
            present = ~np.isnan(values)
            columns[row] = np.where(present, values, 0.0) + columns.get(row, 0.0)
            counts[row] = counts[row] + present
        rows = [
            FleetRow(row, np.where(counts[row] > 0, columns[row] / np.maximum(counts[row], 1), np.nan))
            for row in sorted(columns, key=sort_naturally)
        ]
        if len(rows) > MAX_NODE_ROWS:
            self._notes.append(f"{len(rows)} nodes: the first {MAX_NODE_ROWS} are shown.")
        return FleetSeries(
            times_ms=np.arange(axis.count, dtype=np.int64) * axis.step_s * 1000 + axis.start_s * 1000,
            rows=tuple(rows[:MAX_NODE_ROWS]),
            step_s=axis.step_s,
            unit=unit,
            warnings=tuple(self._warnings),
            notes=tuple(self._notes),
        )

    def _read_users(self, span_s: int) -> FleetSeries:
        """Return the GPU-hours of each user."""
        if self._has_rule(RULE_USER):
            rate = f"max by (user) ({self._builder.select(RULE_USER)})"
            expression = f"sum_over_time({rate}[{span_s}s:5m]) * 300 / {HOUR_S}"
        elif self._plan.has_user_seconds:
            span_s = self._limit_span(span_s)
            seconds = self._builder.select(USER_SECONDS)
            expression = f"sum by (user) (max by (instance, user) (increase({seconds}[{span_s}s]))) / {HOUR_S}"
        else:
            raise fail(FleetFailure.NO_HISTORY, f"No exporter of this fleet has {USER_SECONDS}: only dashtop has it.")
        answer = self._client.query(expression, timeout_s=LIVE_TIMEOUT_S * 3)
        self._warnings.update(dict.fromkeys(answer.warnings))
        end_s = answer.time_s if answer.time_s is not None else self._find_time()
        hours = sorted(((value, labels.get("user", "")) for labels, value in answer.rows), key=lambda each: -each[0])
        return FleetSeries(
            times_ms=np.array([round(end_s * 1000)], np.int64),
            rows=tuple(FleetRow(sanitize_text(user), np.array([value])) for value, user in hours),
            step_s=span_s,
            unit="h",
            warnings=tuple(self._warnings),
            notes=tuple(self._notes),
        )


def _place(pairs: Sequence[tuple[float, str]], axis: _Axis) -> NDArray[np.float64]:
    """Return the values at their places on the axis, NaN elsewhere. Numbers are parsed by float(): NumPy is slower."""
    values = np.full(axis.count, np.nan)
    if pairs:
        first = round((pairs[0][0] - axis.start_s) / axis.step_s)
        last = round((pairs[-1][0] - axis.start_s) / axis.step_s)
        if first >= 0 and last < axis.count and last - first + 1 == len(pairs):  # the usual case: no gap
            values[first : last + 1] = [float(text) for _, text in pairs]
            return values
    for time_s, text in pairs:
        position = round((time_s - axis.start_s) / axis.step_s)
        if 0 <= position < axis.count:
            values[position] = float(text)
    return values
