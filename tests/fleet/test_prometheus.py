"""The adapter of engines with Prometheus' query API, against recorded answers of a real one, and against failures."""

from __future__ import annotations

import gc
import json
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.fleet.client import MAX_ANSWER_BYTES, Credentials, EngineClient, RequestFailedError, ValueScanner
from dashtop.fleet.collection import CollectionPause
from dashtop.fleet.history import _Axis, _place
from dashtop.fleet.prometheus import PrometheusSource
from dashtop.fleet.queries import QueryBuilder, match_any, parse_matchers, quote
from dashtop.model.fleet import FleetFailure, FleetQuery, NodeState, SeriesKind
from dashtop.model.ports import SystemClock
from tests.clock import FakeClock
from tests.fleet.engines import Replay, replaying
from tests.fleet.expected import GPUS, check_facts, check_gpus, check_nodes
from tests.processes import find_free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def reading_from(replay: Replay, credentials: Credentials | None = None, **options: Any) -> Iterator[PrometheusSource]:
    """Serve the replay and yield a source that reads it."""
    with replaying(replay):
        source = PrometheusSource(
            options.pop("url", replay.url),
            credentials=credentials or Credentials(),
            clock=options.pop("clock", SystemClock()),
            interval_s=15.0,
            **options,
        )
        try:
            yield source
        finally:
            source.close()


def test_every_value_of_five_exporters_is_read() -> None:
    with reading_from(Replay.load()) as source:
        reading = source.current(5.0)
    assert reading.error is None
    check_gpus(reading.gpus)
    check_facts(reading.gpus)
    check_nodes(reading)
    assert reading.as_of_ms is not None
    assert abs(reading.as_of_ms / 1000 - time.time()) < 5


def test_a_second_reading_asks_only_what_changes() -> None:
    replay, clock = Replay.load(), FakeClock()
    with reading_from(replay, clock=clock) as source:
        source.current(5.0)
        all_queries = len(replay.requests)
        replay.requests.clear()
        clock.advance(15)
        check_gpus(source.current(5.0).gpus)
        live = [request["query"] for request in replay.requests]
        assert len(live) < all_queries * 0.8
        assert not any("__name__" in query or "[1h]" in query or "[1d]" in query for query in live)
        assert all("time" not in request for request in replay.requests), "the engine's clock decides what is now"
        replay.requests.clear()
        clock.advance(60)
        source.current(5.0)
        assert any("[1h]" in request["query"] for request in replay.requests)


def test_requests_are_posted_with_credentials_and_limits() -> None:
    replay = Replay.load()
    credentials = Credentials(token="s3cret", headers={"X-Scope-OrgID": "lab"})
    with reading_from(replay, credentials) as source:
        assert source.current(5.0).error is None
        assert "s3cret" not in repr(credentials)
        assert source.engine.is_unencrypted
    for headers in replay.headers:
        assert (headers["Authorization"], headers["X-Scope-OrgID"]) == ("Bearer s3cret", "lab")
        assert headers["Accept-Encoding"] == "gzip"
    assert {request["timeout"] for request in replay.requests} == {"5s"}


def test_user_in_the_address_is_basic_authentication_and_never_shown() -> None:
    replay = Replay.load()
    with replaying(replay):
        url = replay.url.replace("http://", "http://reader:p%40ss@")
        source = PrometheusSource(url, credentials=Credentials(), clock=SystemClock(), interval_s=15.0)
        assert source.current(5.0).error is None
        replay.failure = answer(401, b"Unauthorized\n", "text/plain")
        error = source.current(5.0).error
        source.close()
    assert replay.headers[0]["Authorization"] == "Basic cmVhZGVyOnBAc3M="
    assert error is not None
    assert "p@ss" not in source.engine.title + error.sentence
    assert "p%40ss" not in source.engine.title + error.sentence


def answer(status: int, body: bytes, media_type: str = "application/json", **headers: str) -> Callable[[Any], None]:
    return lambda request: request.send(status, body, media_type, **headers)


def error_body(error_type: str, message: str) -> bytes:
    return json.dumps({"status": "error", "errorType": error_type, "error": message}).encode()


FAILURES = {
    "token": (answer(401, b"Unauthorized\n", "text/plain"), FleetFailure.TOKEN_REQUIRED, "--fleet-token"),
    "forbidden": (answer(403, b"{}"), FleetFailure.TOKEN_REQUIRED, "--fleet-token"),
    "prefix": (answer(404, b"404 page not found\n", "text/plain"), FleetFailure.WRONG_ADDRESS, "not a Prometheus API"),
    "page": (answer(200, b"<html>Grafana</html>", "text/html"), FleetFailure.WRONG_ADDRESS, "not a Prometheus API"),
    "redirect": (answer(302, b"", Location="/graph"), FleetFailure.WRONG_ADDRESS, "not a Prometheus API (status 302)"),
    "other_json": (answer(200, b'{"hello": 1}'), FleetFailure.WRONG_ADDRESS, "not a Prometheus API"),
    "bad_query": (answer(400, error_body("bad_data", "parse error")), FleetFailure.BAD_QUERY, "parse error"),
    "bad_query_of_victoriametrics": (
        answer(422, error_body("422", "unknown function")),
        FleetFailure.BAD_QUERY,
        "unknown function",
    ),
    "samples": (
        answer(422, error_body("execution", "query processing would load too many samples into memory")),
        FleetFailure.TOO_MANY_SAMPLES,
        "too many samples",
    ),
    "samples_of_victoriametrics": (
        answer(422, error_body("422", "cannot select more than -search.maxSamplesPerQuery=1000 samples")),
        FleetFailure.TOO_MANY_SAMPLES,
        "-search.maxSamplesPerQuery=1000",
    ),
    "timeout_of_the_engine": (
        answer(503, error_body("timeout", "query timed out in expression evaluation")),
        FleetFailure.OVERLOADED,
        "query timed out",
    ),
    "starting": (answer(503, b"Service Unavailable", "text/plain"), FleetFailure.OVERLOADED, "is starting"),
    "rate": (answer(429, b"", Retry_After="90"), FleetFailure.RATE_LIMITED, "accepts no more queries"),
    "proxy": (
        answer(502, b"<html>Bad Gateway</html>", "text/html"),
        FleetFailure.UNREACHABLE,
        "cannot reach the engine",
    ),
    "internal": (answer(500, error_body("internal", "disk full")), FleetFailure.ENGINE_ERROR, "disk full"),
    "no_exporter": (
        answer(200, b'{"status":"success","data":{"resultType":"vector","result":[]}}'),
        FleetFailure.NO_EXPORTER,
        "Looked for: dashtop_gpu_up, DCGM_FI_DEV_FB_USED_BYTES",
    ),
    "unreadable": (
        answer(200, b'{"status":"success","data":{"resultType":"vector","result":[{}]}}'),
        FleetFailure.BAD_ANSWER,
        "cannot be read",
    ),
    "not_text": (answer(200, b'{"status":"success","data":null}'), FleetFailure.BAD_ANSWER, "cannot be read"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_is_recognized_and_has_a_sentence(name: str) -> None:
    failure, kind, text = FAILURES[name]
    with reading_from(Replay(failure=failure)) as source:
        error = source.current(5.0).error
    assert error is not None
    assert error.failure is kind
    assert text in error.sentence
    assert error.sentence.endswith(".")
    assert error.retry_after_s == (90.0 if name == "rate" else None)


def test_nobody_there_and_a_name_that_is_unknown() -> None:
    for address in (f"http://127.0.0.1:{find_free_ports(1)[0]}", "http://prometheus.invalid:9090"):
        with reading_from(Replay(), url=address) as source:
            error = source.current(2.0).error
        assert error is not None
        assert error.failure is FleetFailure.UNREACHABLE
        assert error.sentence.startswith(f"{address}/api/v1/query cannot be reached (")
        assert "object at" not in error.sentence


def test_engine_that_hangs_or_dribbles_ends_after_the_timeout() -> None:
    def dribble(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        try:
            for _ in range(100):
                request.wfile.write(b" ")
                request.wfile.flush()
                time.sleep(0.05)
        except OSError:
            request.close_connection = True  # the client has given up

    for failure in (partial(_hang, seconds=1.5), dribble):
        with reading_from(Replay(failure=failure)) as source:
            started = time.monotonic()
            error = source.current(0.5).error
            assert time.monotonic() - started < 1.4
        assert error is not None
        assert error.failure is FleetFailure.TIMEOUT


def _hang(request: Any, seconds: float) -> None:
    time.sleep(seconds)
    request.close_connection = True


def test_answer_that_is_too_large_is_cut_off() -> None:
    def flood(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(MAX_ANSWER_BYTES * 2))
        request.end_headers()
        piece = b" " * 2**20
        try:
            for _ in range(2 * MAX_ANSWER_BYTES // len(piece)):
                request.wfile.write(piece)
        except OSError:
            request.close_connection = True  # the client has given up

    with replaying(Replay(failure=flood)) as replay:
        client = EngineClient(replay.url, Credentials())
        with pytest.raises(RequestFailedError) as raised:
            client.query("up")
        client.close()
    assert raised.value.error.failure is FleetFailure.TOO_LARGE
    assert "larger than 64 MB" in raised.value.error.sentence


def test_warnings_make_an_answer_partial() -> None:
    replay = Replay.load()
    replay.warnings = ("fetch series for {} Store: connection refused",)
    with reading_from(replay) as source:
        reading = source.current(5.0)
    assert reading.is_partial
    assert reading.warnings == replay.warnings, "each warning once"
    assert len(reading.gpus) == len(GPUS)


def test_failure_of_what_is_read_seldom_takes_nothing_with_it() -> None:
    replay = Replay.load()
    for query in [query for query in replay.answers if "[1h]" in query]:
        del replay.answers[query]

    def refuse_idle(request: Any) -> None:
        form = replay.requests[-1]
        if form["query"] not in replay.answers:
            request.send(503, error_body("timeout", "query timed out"), "application/json")
        else:
            data = {"status": "success", "data": replay.ask(form)}
            request.send(200, json.dumps(data).encode(), "application/json")

    replay.failure = refuse_idle
    with reading_from(replay) as source:
        source._pool._max_threads = 1  # the newest request is the one that is answered
        reading = source.current(5.0)
    assert reading.error is None
    assert len(reading.gpus) == len(GPUS)
    assert "held but idle" in reading.notes[0]


def change(replay: Replay, is_meant: Callable[[str], bool], value: str) -> None:
    """Set all values of the answers to some queries."""
    for query, data in replay.answers.items():
        if is_meant(query):
            for series in data["result"]:
                series["value"] = [0, value]


def test_pushed_series_that_get_old_make_a_node_stale() -> None:
    replay = Replay.load()
    change(replay, lambda query: "timestamp(gpu_utilization_Percentage)" in query, "200")
    with reading_from(replay) as source:
        reading = source.current(5.0)
    nodes = {node.name: node for node in reading.nodes}
    assert (nodes["gpu-e"].state, nodes["gpu-e"].reason) == (NodeState.STALE, "no new values")
    assert {gpu.age_s for gpu in reading.gpus if gpu.node == "gpu-e"} == {200.0}
    assert nodes["gpu-d"].state is NodeState.UP


def test_node_that_is_not_scraped_any_more_has_vanished() -> None:
    replay = Replay.load()
    query = next(query for query in replay.answers if "last_over_time(up" in query)
    vanished = {"metric": {"instance": "gpu-old:8050"}, "value": [0, "1"]}
    replay.answers[query] = {"resultType": "vector", "result": [vanished]}
    with reading_from(replay) as source:
        reading = source.current(5.0)
    node = next(node for node in reading.nodes if node.name == "gpu-old")
    assert (node.state, node.reason) == (NodeState.VANISHED, "scraped in the last day, and not any more")


def test_fleet_that_is_too_large_shows_nodes_only() -> None:
    replay = Replay.load()
    change(replay, lambda query: query.startswith("count by (__name__, job)"), "20001")
    with reading_from(replay) as source:
        reading = source.current(5.0)
    assert (reading.error, reading.gpus) == (None, ())
    assert {"gpu-a", "gpu-z"} <= {node.name for node in reading.nodes}
    assert "more than 20000 are not read one by one" in reading.notes[0]


def test_new_gpu_is_known_at_once() -> None:
    replay, clock = Replay.load(), FakeClock()
    facts = next(query for query in replay.answers if query.endswith("(gpu_utilization_Percentage)"))
    complete = replay.answers[facts]
    replay.answers[facts] = {**complete, "result": complete["result"][:1]}
    with reading_from(replay, clock=clock) as source:
        assert len(source.current(5.0).gpus) == len(GPUS) - 1
        replay.answers[facts] = complete
        clock.advance(31)
        check_gpus(source.current(5.0).gpus)


@pytest.mark.parametrize(
    ("text", "matchers"),
    [
        ('cluster="a"', ('cluster="a"',)),
        (' a = "1" , b!="x,y" ,c=~"p|q",', ('a="1"', 'b!="x,y"', 'c=~"p|q"')),
        ('{job!~"a\\"b"}', ('job!~"a\\"b"',)),
        ("", ()),
    ],
)
def test_matchers(text: str, matchers: tuple[str, ...]) -> None:
    assert parse_matchers(text) == matchers


@pytest.mark.parametrize("text", ["a", "a=b", 'a="b" or c="d"', 'a="b"} or {c="d"', 'a="b', "a='b'", '1a="b"'])
def test_what_is_no_matcher_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be matchers"):
        parse_matchers(text)


def test_text_in_a_query_cannot_end_its_string() -> None:
    assert quote('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'
    assert match_any("instance", ["a.b:1", 'x"|y']) == 'instance=~"a\\\\.b:1|x\\"\\\\|y"'


def test_select_is_part_of_every_selector() -> None:
    replay = Replay.load()
    seen: list[str] = []

    def keep(request: Any) -> None:
        seen.append(replay.requests[-1]["query"])
        request.send(200, b'{"status":"success","data":{"resultType":"vector","result":[]}}', "application/json")

    replay.failure = keep
    with reading_from(replay, select=('cluster="lab"',)) as source:
        source.current(5.0)
        builder = QueryBuilder(('cluster="lab"',))
        queries = [builder.up({"a"}), builder.vanished({"a"}), builder.select("up"), *seen]
    assert seen
    for query in queries:
        assert query.count("{") == query.count('{cluster="lab"'), query


class Ranges(Replay):
    """Answers range queries with a series for each of two nodes, and refuses steps below a minimum."""

    min_step_s = 0

    def ask(self, form: dict[str, str]) -> dict[str, Any]:
        if "start" not in form:
            return super().ask(form)
        start, end, step = float(form["start"]), float(form["end"]), int(form["step"])
        times = [start + number * step for number in range(round((end - start) / step) + 1)]
        labels: list[dict[str, str]] = [{"instance": "gpu-a:9400"}, {"instance": "gpu-d:8050"}]
        rows = [
            {"metric": each, "values": [[moment, str(10 * number)] for moment in times[number:]]}
            for number, each in enumerate(labels)
        ]
        return {"resultType": "matrix", "result": rows}


def load_ranges() -> Ranges:
    return Ranges(answers=Replay.load().answers)


def test_series_of_nodes_have_gaps_names_and_the_engines_time() -> None:
    replay = load_ranges()
    with reading_from(replay) as source:
        source.current(5.0)
        series = source.history(FleetQuery(kind=SeriesKind.NODES, span_s=3600))
    assert series.error is None
    assert (series.unit, series.step_s, [row.name for row in series.rows]) == ("%", 60, ["gpu-a", "gpu-d"])
    assert len(series.times_ms) == 61
    assert abs(series.times_ms[-1] / 1000 - time.time()) < 62
    assert [str(value) for value in series.rows[1].values[:2]] == ["nan", "10.0"]
    assert set(series.rows[0].values) == {0.0}
    form = replay.requests[-1]
    assert (form["timeout"], float(form["end"]) % 60) == ("30s", 0)


@pytest.mark.parametrize("span_s", [3600, 86_400, 30 * 86_400])
def test_no_more_than_300_steps_of_at_least_a_minute(span_s: int) -> None:
    replay = load_ranges()
    with reading_from(replay) as source:
        series = source.history(FleetQuery(kind=SeriesKind.TREND, span_s=span_s, points=5000))
    assert series.step_s >= max(60, span_s // 300)
    assert len(series.times_ms) <= 301


def test_too_many_samples_are_asked_once_more_with_wider_steps() -> None:
    replay = load_ranges()
    asked: list[int] = []

    def refuse_first(request: Any) -> None:
        form = replay.requests[-1]
        if "step" in form:
            asked.append(int(form["step"]))
            if len(asked) == 1:
                body = error_body("execution", "query processing would load too many samples into memory")
                request.send(422, body, "application/json")
                return
        request.send(200, json.dumps({"status": "success", "data": replay.ask(form)}).encode(), "application/json")

    replay.failure = refuse_first
    with reading_from(replay) as source:
        source._pool._max_threads = 1
        source.current(5.0)
        series = source.history(FleetQuery(kind=SeriesKind.NODES, span_s=86_400))
    assert asked == [288, 1152]
    assert (series.error, series.step_s) == (None, 1152)
    assert "refused finer steps than 1152 s" in series.notes[0]


def test_without_rules_a_large_fleet_shows_a_day_and_names_the_file() -> None:
    replay = load_ranges()
    with reading_from(replay) as source:
        source.current(5.0)
        plan = source._plan
        assert plan is not None
        plan.counts["dcgm"] = 501
        series = source.history(FleetQuery(kind=SeriesKind.NODES, span_s=7 * 86_400))
        assert (series.times_ms[-1] - series.times_ms[0]) / 1000 == 86_400
        assert "docs/fleet/recording-rules.yaml" in series.notes[0]
        plan.rules["dashtop:node_gpu_utilization:avg5m"] = {"dashtop", "dcgm"}
        series = source.history(FleetQuery(kind=SeriesKind.NODES, span_s=7 * 86_400))
        assert series.notes, "nvitop-exporter has no rules: they would leave out its GPUs"
        plan.covered |= {"nvitop"}
        series = source.history(FleetQuery(kind=SeriesKind.NODES, span_s=7 * 86_400))
        assert (series.times_ms[-1] - series.times_ms[0]) / 1000 > 6.9 * 86_400
        assert series.notes == ()
        assert "dashtop:node_gpu_utilization:avg5m" in replay.requests[-1]["query"]


def test_history_that_fails_says_why() -> None:
    with reading_from(Replay(failure=answer(503, b""))) as source:
        series = source.history(FleetQuery(kind=SeriesKind.TREND, span_s=3600))
    assert series.error is not None
    assert (series.error.failure, series.rows, len(series.times_ms)) == (FleetFailure.OVERLOADED, (), 0)


def test_metric_that_no_exporter_has_is_said() -> None:
    with reading_from(load_ranges()) as source:
        source.current(5.0)
        series = source.history(
            FleetQuery(kind=SeriesKind.METRIC, span_s=3600, node="gpu-a", metric="gpu.nvlink.rx_mbps")
        )
    assert series.error is not None
    assert "No exporter of this fleet has gpu.nvlink.rx_mbps" in series.error.sentence


def test_series_of_an_exporter_that_sends_percent_as_ratio_are_scaled() -> None:
    replay = load_ranges()
    with reading_from(replay) as source:
        source.current(5.0)
        source.history(FleetQuery(kind=SeriesKind.NODES, span_s=3600))
    expression = replay.requests[-1]["query"]
    name = "DCGM_FI_DEV_GPU_UTIL_RATIO"
    assert f'{name}{{instance!~"gpu-c:9400"}} < 1e15)) * 100' in expression
    assert f'{name}{{instance=~"gpu-c:9400"}} < 1e15)) * 1 ' in expression


def test_search_for_cyclic_garbage_goes_on_after_the_last_pause() -> None:
    collection = CollectionPause()
    with collection.pause():
        with collection.pause():
            assert not gc.isenabled()
        assert not gc.isenabled(), "another thread is still at it"
    assert gc.isenabled()
    gc.disable()
    try:
        with collection.pause():
            pass
        assert not gc.isenabled(), "it was off before"
    finally:
        gc.enable()


def test_series_with_gaps_and_values_outside_are_placed_by_their_time() -> None:
    axis = _Axis(0, 240, 60)
    complete = [(moment, str(moment)) for moment in (0.0, 60.0, 120.0, 180.0, 240.0)]
    assert _place(complete, axis).tolist() == [0, 60, 120, 180, 240]
    assert [str(value) for value in _place([complete[1], complete[3]], axis)] == ["nan", "60.0", "nan", "180.0", "nan"]
    assert [str(value) for value in _place([(-60.0, "1"), (0.0, "NaN"), (300.0, "1")], axis)] == ["nan"] * 5
    assert np.isnan(_place([], axis)).all()


def test_answers_are_scanned_like_they_are_parsed() -> None:
    def write(series: str, more: str = "") -> bytes:
        return f'{{"status":"success","data":{{"resultType":"vector","result":[{series}]}}{more}}}'.encode()

    labels = ("instance", "gpu", "GPU_I_ID")
    two = (
        '{"metric":{"GPU_I_ID":"2","gpu":"0","instance":"a:1"},"value":[1795990000.5,"12.5"]},'
        '{"metric":{"gpu":"1","instance":"a:1"},"value":[1795990000.5,"NaN"]},'
        '{"metric":{"gpu":"2","instance":"b:1"},"value":[1795990000.5,"1e+06"]}'
    )
    scanner = ValueScanner(labels)
    found = scanner.scan(write(two))
    assert found is not None
    assert found.values == {("a:1", "0", "2"): 12.5, ("b:1", "2", ""): 1e6}
    assert found.time_s == 1795990000.5
    again = scanner.scan(write(two.replace("12.5", "13.5").replace('"gpu":"2"', '"gpu":"3"')))
    assert again is not None
    assert again.values == {("a:1", "0", "2"): 13.5, ("b:1", "3", ""): 1e6}, "also series that were not there before"
    assert scanner.scan(write(two.replace('"gpu":"2"', '"gpu":"2","other":"x"'))) is None
    assert ValueScanner(labels).scan(write(two, ',"warnings":["partial"]')) is None
    assert ValueScanner(labels).scan(write(two).replace(b',"data"', b',"isPartial":true,"data"')) is None
    assert ValueScanner(labels).scan(write(two.replace("a:1", "a\\u003c"))) is None
    assert ValueScanner(labels).scan(write(two.replace('"gpu":"1"', '"gpu":"1","other":"x"'))) is None
    assert ValueScanner(labels).scan(write(two.replace('5,"NaN"', '6,"NaN"'))) is None, "another time"
    assert ValueScanner(labels).scan(write(two.replace('"NaN"', '""'))) is None
    assert ValueScanner(labels).scan(write(two.replace('"NaN"', '"?"'))) is None
    assert ValueScanner(labels).scan(write(two.replace('"NaN"', '"1","2"'))) is None
    assert ValueScanner(labels).scan(write(two.replace('"value"', '"histogram"', 2))) is None
    assert ValueScanner(labels).scan(write("")) is None
    assert ValueScanner(labels).scan(b"<html>") is None
    pair = (
        '{"metric":{"gpu":"1","instance":"a:1"},"value":[1,"2"]},'
        '{"metric":{"gpu":"2","instance":"a:1"},"value":[1,"+Inf"]}'
    )
    found = ValueScanner(("instance", "gpu")).scan(write(pair))
    assert found is not None
    assert found.values == {("a:1", "1"): 2.0}
    for text in ("nan", "-Inf", "infinity"):
        found = ValueScanner(("instance", "gpu")).scan(write(pair.replace("+Inf", text)))
        assert found is not None
        assert found.values == {("a:1", "1"): 2.0}, text


def test_partial_answer_of_victoriametrics_is_partial() -> None:
    body = b'{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[]}}'
    with replaying(Replay(failure=answer(200, body))) as replay:
        client = EngineClient(replay.url, Credentials())
        assert client.query("up").warnings == ("a part of the engine did not answer",)
        assert client.query_values("up", ("instance",), timeout_s=5.0).warnings == client.query("up").warnings
        client.close()
