"""A fleet from an engine with Prometheus' query API: finds the exporters, and reads every GPU."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dashtop.fleet import rows as fleet_rows
from dashtop.fleet.client import LIVE_TIMEOUT_S, EngineClient, RequestFailedError, Values, fail
from dashtop.fleet.dialects import (
    DIALECTS,
    LIVE_KEYS,
    MEMORY_TOTAL,
    NODE_EXPORTER_HOST,
    NODE_EXPORTER_PROBE,
)
from dashtop.fleet.history import HistoryReader, build_failed_series
from dashtop.fleet.plan import Plan
from dashtop.fleet.pool import DaemonPool
from dashtop.fleet.queries import (
    USER_SECONDS,
    QueryBuilder,
)
from dashtop.fleet.rows import GpuTable, Readings, TargetState
from dashtop.metrics.gpu_state import UTILIZATION
from dashtop.model.fleet import (
    MAX_FLEET_GPUS,
    FleetEngine,
    FleetFailure,
    FleetQuery,
    FleetReading,
    FleetSeries,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dashtop.fleet.client import Credentials, Vector
    from dashtop.fleet.dialects import Dialect, Source
    from dashtop.model.ports import Clock

DEFAULT_INTERVAL_S: Final = 15.0
MAX_QUERIES: Final = 4
QUERY_WAVES: Final = 2
"""All queries of a reading may take this many times the time of one: a few are asked at a time."""
FACTS_INTERVAL_S: Final = 300.0
"""Exporters, names and sizes of GPUs, vanished nodes; at once if a GPU appears that is not known."""
MIN_FACTS_INTERVAL_S: Final = 30.0
SLOW_INTERVAL_S: Final = 60.0
"""Holders, GPUs that have been idle for an hour, and values of the machines."""


Name = tuple[str, ...]
Queries = dict[Name, str]
Answers = dict[Name, "Vector"]


Columns = dict[Name, Values]
AnswerT = TypeVar("AnswerT", "Vector", Values)


class PrometheusSource:
    """A FleetSource. `current` is called by one thread; `history` by any."""

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials,
        clock: Clock,
        interval_s: float,
        select: Sequence[str] = (),
        node_label: str | None = None,
    ) -> None:
        self._client = EngineClient(url, credentials)
        self._clock = clock
        self._builder = QueryBuilder(select, node_label)
        self._pool = DaemonPool(MAX_QUERIES, "dashtop-fleet-query")
        self._plan: Plan | None = None
        self._facts_s = self._slow_s = -math.inf
        self._host: list[tuple[str, list[Any], float]] = []
        self._nodes: dict[str, str] = {}
        self._percent_instances: set[str] = set()
        self._engine_lock = threading.Lock()
        self._engine_offset: tuple[float, float] | None = None
        self.engine = FleetEngine(
            title=self._client.url,
            has_history=True,
            interval_s=interval_s,
            is_unencrypted=credentials.token is not None and not url.startswith("https:"),
        )

    def close(self) -> None:
        """Stop threads and close connections."""
        self._pool.close()
        self._client.close()

    def current(self, timeout_s: float) -> FleetReading:
        """Return the fleet as it is now."""
        try:
            return self._read(min(timeout_s, LIVE_TIMEOUT_S))
        except RequestFailedError as error:
            return FleetReading(error=error.error)

    def _read(self, timeout_s: float) -> FleetReading:
        now_s = self._clock.monotonic()
        notes: list[str] = []
        if self._plan is None or now_s - self._facts_s >= FACTS_INTERVAL_S:
            self._plan = self._read_plan(timeout_s)
            self._facts_s, self._slow_s = now_s, -math.inf
        plan = self._plan
        if now_s - self._slow_s >= SLOW_INTERVAL_S:
            self._read_slow(plan, timeout_s, notes)
            self._slow_s = now_s
        is_too_large = plan.gpus > MAX_FLEET_GPUS
        if is_too_large:
            notes.append(
                f"{plan.gpus} GPUs: more than {MAX_FLEET_GPUS} are not read one by one. Restrict --fleet-select."
            )
        answers, columns, has_unknown = self._read_live(plan, timeout_s, with_gpus=not is_too_large)
        if has_unknown and now_s - self._facts_s >= MIN_FACTS_INTERVAL_S:
            self._plan = plan = self._read_plan(timeout_s)
            self._facts_s = self._slow_s = now_s
            self._read_slow(plan, timeout_s, notes)
            answers, columns, _ = self._read_live(plan, timeout_s, with_gpus=not is_too_large)
        with self._client.collection.pause():
            return self._build(plan, answers, columns, notes)

    def _read_live(self, plan: Plan, timeout_s: float, *, with_gpus: bool) -> tuple[Answers, Columns, bool]:
        """Read what every refresh reads. Return also whether there are GPUs without facts."""
        columns = self._ask_columns(self._list_columns(plan), timeout_s) if with_gpus else {}
        answers = self._ask_all(self._list_live(plan), timeout_s)
        if not with_gpus:
            return answers, columns, False
        with self._client.collection.pause():
            unknown = [self._fill(plan, dialect, answers, columns) for dialect in plan.dialects]
        return answers, columns, any(unknown)

    def _ask_all(self, queries: Queries, timeout_s: float) -> Answers:
        """Return the answers to several queries, of which a few are asked at a time. Raises RequestFailedError."""
        return self._run_all(
            {
                name: partial(self._client.query, expression, timeout_s=timeout_s)
                for name, expression in queries.items()
            },
            timeout_s,
        )

    def _ask_columns(self, queries: dict[Name, tuple[Dialect, str]], timeout_s: float) -> Columns:
        """Return values by identity. The threads of the queries index them, so that few answers are held at a time."""

        def ask(dialect: Dialect, expression: str) -> Values:
            return self._client.query_values(expression, ("instance", *dialect.identity), timeout_s=timeout_s)

        return self._run_all({name: partial(ask, *query) for name, query in queries.items()}, timeout_s)

    def _run_all(self, calls: Mapping[Name, Callable[[], AnswerT]], timeout_s: float) -> dict[Name, AnswerT]:
        try:
            futures = {name: self._pool.submit(call) for name, call in calls.items()}
        except RuntimeError:  # no further thread is allowed, or the pool is closed
            raise fail(FleetFailure.UNREACHABLE, "dashtop can start no thread for its queries.") from None
        end_s = time.monotonic() + QUERY_WAVES * timeout_s
        try:
            answers = {name: future.result(max(0.0, end_s - time.monotonic())) for name, future in futures.items()}
        except FutureTimeoutError:
            raise fail(FleetFailure.TIMEOUT, f"{self._client.url} did not answer all queries in time.") from None
        finally:
            for future in futures.values():
                future.cancel()
        times = [answer.time_s for answer in answers.values() if answer.time_s is not None]
        if times:
            with self._engine_lock:
                self._engine_offset = (max(times), time.monotonic())
        return answers

    def _read_plan(self, timeout_s: float) -> Plan:
        """Find the exporters, and read what does not change from reading to reading."""
        plan = Plan()
        found = self._ask_all({("discover",): self._builder.discover()}, timeout_s)[("discover",)]
        by_probe = {dialect.probe: dialect for dialect in DIALECTS}
        for labels, count in found.rows:
            name, job = labels.get("__name__", ""), labels.get("job", "")
            if (dialect := by_probe.get(name)) is not None:
                plan.jobs.setdefault(dialect.name, set()).add(job)
                plan.counts[dialect.name] = plan.counts.get(dialect.name, 0) + int(count)
            elif any(name == dialect.free for dialect in DIALECTS):
                plan.free.add(name)
            elif name == NODE_EXPORTER_PROBE:
                plan.has_node_exporter = True
            elif name == USER_SECONDS:
                plan.has_user_seconds = True
            else:
                plan.rules.setdefault(name, set()).add(job)
        if not plan.jobs:
            names = ", ".join(dialect.probe for dialect in DIALECTS)
            sentence = f"The engine at {self._client.url} has no metrics of a known exporter. Looked for: {names}."
            raise fail(FleetFailure.NO_EXPORTER, sentence)
        self._read_facts(plan, timeout_s)
        return plan

    def _read_facts(self, plan: Plan, timeout_s: float) -> None:
        builder = self._builder
        dialects = [dialect for dialect in DIALECTS if dialect.name in plan.jobs]
        queries: Queries = {("vanished",): builder.vanished(plan.all_jobs)}
        if plan.gpus <= MAX_FLEET_GPUS:
            for dialect in dialects:
                queries[dialect.name, "facts"] = builder.facts(dialect)
                queries[dialect.name, "total"] = builder.value(dialect, dialect.sources[MEMORY_TOTAL][0])
                if dialect.split:
                    queries[dialect.name, "split"] = builder.condition(dialect, dialect.split)
        answers = self._ask_all(queries, timeout_s)
        nodes: dict[str, str] = {}
        plan.vanished = tuple(labels.get("instance", "") for labels, _ in answers["vanished",].rows)
        for dialect in dialects:
            readings = plan.exporters[dialect.name] = Readings(dialect)
            if (dialect.name, "facts") not in answers:
                continue
            facts = answers[dialect.name, "facts"].rows
            names = fleet_rows.name_nodes(facts, builder.node_labels)
            nodes = {**names, **nodes}
            readings.facts = fleet_rows.build_facts(facts, dialect, names)
            total = dialect.sources[MEMORY_TOTAL][0]
            readings.total = fleet_rows.convert(
                fleet_rows.index_values(answers[dialect.name, "total"].series, dialect.identity), total, set()
            )
            readings.split = fleet_rows.find_parents(readings.facts)
            if dialect.split:
                readings.split |= _find_keys(answers[dialect.name, "split"], dialect)
        self._nodes = {**self._nodes, **nodes}  # another thread may read the old one

    def _read_slow(self, plan: Plan, timeout_s: float, notes: list[str]) -> None:
        """Read what is too costly for every refresh. Without it the rest is shown as well."""
        builder = self._builder
        queries: Queries = {}
        if plan.gpus <= MAX_FLEET_GPUS:
            for dialect in plan.dialects:
                for number, source in enumerate(dialect.sources[UTILIZATION]):
                    is_recorded = plan.is_recorded(dialect) and not source.matcher  # that of MIG instances is not
                    queries[dialect.name, "idle", str(number)] = builder.idle(dialect, source, is_recorded=is_recorded)
                if dialect.holders is not None:
                    queries[dialect.name, "holders"] = builder.holders(dialect, dialect.holders)
        hosts = self._list_host_values(plan)
        queries.update({("host", *name): expression for name, (expression, _) in hosts.items()})
        try:
            answers = self._ask_all(queries, timeout_s)
        except RequestFailedError as error:
            notes.append(
                f"Holders, GPUs that are held but idle, and values of the machines are not up to date: {error}"
            )
            return
        for dialect in plan.dialects:
            idle = [
                _find_keys(answer, dialect) for name, answer in answers.items() if name[:2] == (dialect.name, "idle")
            ]
            readings = plan.exporters[dialect.name]
            readings.idle = frozenset().union(*idle)
            if (held := answers.get((dialect.name, "holders"))) is not None and dialect.holders is not None:
                readings.holders = fleet_rows.build_holders(held.rows, dialect, dialect.holders)
        self._host = [(name[1], answers[("host", *name)].rows, factor) for name, (_, factor) in hosts.items()]

    def _list_host_values(self, plan: Plan) -> dict[tuple[str, str], tuple[str, float]]:
        """Return query and factor of the values of machines, by exporter and metric key."""
        found = {}
        for dialect in plan.dialects:
            for key, source in dialect.host.items():
                found[dialect.name, key] = self._builder.host(source), source.factor
        if plan.has_node_exporter:
            for key, template in NODE_EXPORTER_HOST.items():
                found["node_exporter", key] = self._builder.node_exporter(template), 1.0
        return found

    def _list_live(self, plan: Plan) -> Queries:
        builder = self._builder
        queries: Queries = {("up",): builder.up(plan.all_jobs)}
        for dialect in plan.dialects:
            queries[dialect.name, "age"] = builder.age(dialect)
        return queries

    def _list_columns(self, plan: Plan) -> dict[Name, tuple[Dialect, str]]:
        builder = self._builder
        queries: dict[Name, tuple[Dialect, str]] = {}
        for dialect in plan.dialects:
            for key in LIVE_KEYS:
                for number, source in enumerate(dialect.sources.get(key, ())):
                    queries[dialect.name, key, str(number)] = dialect, builder.value(dialect, source)
            for number, source in enumerate(dialect.sources[UTILIZATION]):
                queries[dialect.name, "peak", str(number)] = dialect, builder.peak(dialect, source)
            if dialect.free in plan.free:
                queries[dialect.name, "taken"] = dialect, builder.condition(dialect, dialect.taken)
            if dialect.lost:
                queries[dialect.name, "lost"] = dialect, builder.condition(dialect, dialect.lost)
        return queries

    def _fill(self, plan: Plan, dialect: Dialect, answers: Answers, columns: Columns) -> bool:
        """Fill in the readings of an exporter. Return whether there are GPUs without facts."""
        readings = plan.exporters[dialect.name]
        readings.values = {
            key: self._merge(columns, (dialect.name, key), dialect.sources.get(key, ())) for key in LIVE_KEYS
        }
        readings.peak = self._merge(columns, (dialect.name, "peak"), dialect.sources[UTILIZATION])
        if dialect.free in plan.free:
            readings.taken = frozenset(columns[dialect.name, "taken"].values)
        if dialect.lost:
            readings.lost = frozenset(columns[dialect.name, "lost"].values)
        readings.age_s = {labels.get("instance", ""): age for labels, age in answers[dialect.name, "age"].rows}
        return not readings.values[UTILIZATION].keys() <= readings.facts.keys()

    def _merge(self, columns: Columns, name: Name, sources: Iterable[Source]) -> dict[fleet_rows.Key, float]:
        """Return the values of one key, from the first source that has a GPU."""
        merged: dict[fleet_rows.Key, float] = {}
        for number, source in enumerate(sources):
            seen = set(self._percent_instances)  # another thread may read the old one
            converted = fleet_rows.convert(columns[(*name, str(number))].values, source, seen)
            self._percent_instances = seen
            merged = {**converted, **merged} if merged else converted
        return merged

    def _build(self, plan: Plan, answers: Answers, columns: Columns, notes: list[str]) -> FleetReading:
        table, ages = GpuTable(), {}
        for dialect in plan.dialects:
            readings = plan.exporters[dialect.name]
            added, is_useful = table.add(readings)
            if readings.facts and not plan.is_built:
                plan.covered |= {dialect.name} if not added else set()
                plan.redundant |= {dialect.name} if not is_useful else set()
            ages.update({labels.get("instance", ""): age for labels, age in answers[dialect.name, "age"].rows})
        plan.is_built = True
        nodes = {**self._nodes, **table.nodes}
        asked: list[Vector | Values] = [*answers.values(), *columns.values()]
        times = [answer.time_s for answer in asked if answer.time_s is not None]
        warnings = dict.fromkeys(text for answer in asked for text in answer.warnings)
        return FleetReading(
            as_of_ms=round(max(times) * 1000) if times else self._clock.now_ms(),
            received_s=self._clock.monotonic(),
            gpus=table.build(),
            nodes=fleet_rows.build_nodes(
                _find_targets(plan, answers["up",], ages),
                plan.vanished,
                nodes,
                ages,
                fleet_rows.merge_hosts(self._host, nodes),
            ),
            exporters=tuple(each.title for each in DIALECTS if each.name in plan.jobs),
            warnings=tuple(warnings),
            notes=tuple(notes),
        )

    def history(self, query: FleetQuery) -> FleetSeries:
        """Return series of the past, read by the engine's clock."""
        try:
            plan = self._plan or self._read_plan(LIVE_TIMEOUT_S)
            reader = HistoryReader(
                self._client,
                self._builder,
                plan,
                nodes=self._nodes,
                percent_instances=self._percent_instances,
                find_time=self._find_engine_time,
            )
            return reader.read(query)
        except RequestFailedError as error:
            return build_failed_series(error.error)

    def _find_engine_time(self) -> float:
        """Return the engine's present time in seconds, from its last answer."""
        with self._engine_lock:
            known = self._engine_offset
        if known is None:
            return self._client.query("time()").rows[0][1]
        return known[0] + time.monotonic() - known[1]


def _find_keys(answer: Vector, dialect: Dialect) -> frozenset[fleet_rows.Key]:
    return frozenset(fleet_rows.find_key(labels, dialect.identity) for labels, _ in answer.rows)


def _find_targets(plan: Plan, up: Vector, ages: Mapping[str, float]) -> list[TargetState]:
    """Return the scrape targets, and the instances that have values without being one: theirs are pushed."""
    by_job: dict[str, Dialect] = {}
    by_instance: dict[str, Dialect] = {}
    for dialect in reversed(DIALECTS):
        by_job.update(dict.fromkeys(plan.jobs.get(dialect.name, ()), dialect))
        if dialect.name in plan.exporters:
            facts = plan.exporters[dialect.name].facts.values()
            by_instance.update(dict.fromkeys((each.instance for each in facts), dialect))

    def build(instance: str, job: str, *, is_up: bool | None) -> TargetState:
        found = by_instance.get(instance) or by_job.get(job)
        if found is None:
            return TargetState(instance, is_up, "", has_page=False)
        return TargetState(instance, is_up, found.title, found.has_page, DIALECTS.index(found))

    targets = [build(labels.get("instance", ""), labels.get("job", ""), is_up=value > 0) for labels, value in up.rows]
    scraped = {target.instance for target in targets}
    pushed = [
        build(instance, "", is_up=None) for instance in by_instance if instance not in scraped and instance in ages
    ]
    return targets + pushed
