"""One thread reads while somebody looks, for all viewers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from dashtop.fleet import poller
from dashtop.fleet.poller import FleetPoller
from dashtop.model.fleet import FleetEngine, FleetError, FleetFailure, FleetQuery, FleetReading, FleetSeries, SeriesKind
from dashtop.model.ports import SystemClock
from tests.clock import FakeClock
from tests.fleet.builders import ENGINE, make_reading, make_series
from tests.processes import eventually, refuse_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERY = FleetQuery(kind=SeriesKind.NODES, span_s=3600)


@dataclass
class CountedSource:
    """A FleetSource that counts what it is asked; `gate` holds its answers back."""

    engine: FleetEngine = ENGINE
    reading: FleetReading = field(default_factory=make_reading)
    error: Exception | None = None
    readings: int = 0
    histories: int = 0
    is_closed: bool = False
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def current(self, timeout_s: float) -> FleetReading:
        self.readings += 1
        assert self.gate.wait(timeout_s)
        if self.error is not None:
            raise self.error
        return self.reading

    def history(self, query: FleetQuery) -> FleetSeries:
        self.histories += 1
        assert self.gate.wait(5)
        return make_series(query)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def source() -> CountedSource:
    return CountedSource(engine=replace(ENGINE, interval_s=0.05))


@pytest.fixture
def fleet(source: CountedSource) -> Iterator[FleetPoller]:
    made = FleetPoller(source, SystemClock())
    yield made
    made.close()
    assert source.is_closed


def test_nobody_looks_nothing_is_asked(source: CountedSource, fleet: FleetPoller) -> None:
    assert source.readings == 0
    first = fleet.latest()
    assert first.error is not None
    assert first.error.failure is FleetFailure.STARTING
    eventually(lambda: fleet.latest().error is None)
    assert len(fleet.latest().gpus) == 24


def test_twenty_viewers_cost_one_reading(source: CountedSource) -> None:
    fleet = FleetPoller(replace(source, engine=replace(ENGINE, interval_s=60.0)), SystemClock())
    counted = fleet._source
    assert isinstance(counted, CountedSource)
    counted.gate.clear()
    found: list[FleetReading] = []
    viewers = [threading.Thread(target=lambda: found.append(fleet.latest(5.0))) for _ in range(20)]
    for viewer in viewers:
        viewer.start()
    counted.gate.set()
    for viewer in viewers:
        viewer.join(5)
    fleet.close()
    assert (len(found), {id(each) for each in found}, counted.readings) == (20, {id(found[0])}, 1)


def test_reading_ends_when_nobody_looks_and_begins_again(
    source: CountedSource, fleet: FleetPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "LOOK_S", 0.2)
    fleet.latest(5.0)
    eventually(lambda: source.readings >= 3)
    eventually(lambda: not fleet._has_work())
    count = source.readings
    threading.Event().wait(0.3)
    assert source.readings <= count + 1, "the one under way"
    before = source.readings
    reading = fleet.latest(5.0)
    assert reading.error is None
    assert source.readings > before, "it waits for a new reading"


def test_after_an_error_the_last_values_are_kept_with_it(source: CountedSource, fleet: FleetPoller) -> None:
    fleet.latest(5.0)
    error = FleetError(FleetFailure.UNREACHABLE, "The engine cannot be reached.")
    source.reading = FleetReading(error=error)
    reading = eventually(lambda: fleet.latest().error and fleet.latest())
    assert reading.error == error
    assert (len(reading.gpus), reading.as_of_ms) == (24, make_reading().as_of_ms)


def test_a_fault_of_a_source_is_logged_and_not_the_end(
    source: CountedSource, fleet: FleetPoller, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "BACKOFF_S", (0.05,))
    source.error = KeyError("metric")
    reading = fleet.latest(5.0)
    assert reading.error is not None
    assert "see its log" in reading.error.sentence
    assert "The fleet could not be read" in caplog.text
    source.error = None
    eventually(lambda: fleet.latest().error is None)


@pytest.mark.parametrize(
    ("errors", "pauses"),
    [
        ([FleetFailure.UNREACHABLE] * 5, [15.0, 30.0, 60.0, 60.0, 60.0]),
        ([FleetFailure.TIMEOUT, None, FleetFailure.TIMEOUT], [15.0, 15.0, 15.0]),
        ([FleetFailure.OVERLOADED] * 7, [30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]),
        ([FleetFailure.OVERLOADED, None, FleetFailure.OVERLOADED], [30.0, 15.0, 30.0]),
    ],
)
def test_pauses_grow_with_failures(errors: list[FleetFailure | None], pauses: list[float]) -> None:
    fleet = FleetPoller(CountedSource(), FakeClock())
    found = [fleet._find_pause(FleetError(each, "") if each is not None else None) for each in errors]
    assert found == pauses


@pytest.mark.parametrize(("asked_s", "pause_s"), [(90.0, 90.0), (1.0, 15.0), (86_400.0, 600.0)])
def test_retry_after_is_honoured(asked_s: float, pause_s: float) -> None:
    fleet = FleetPoller(CountedSource(), FakeClock())
    assert fleet._find_pause(FleetError(FleetFailure.RATE_LIMITED, "", asked_s)) == pause_s


def test_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    fleet = FleetPoller(CountedSource(), FakeClock())
    for _ in range(3):
        fleet._find_pause(FleetError(FleetFailure.TIMEOUT, "No answer."))
    assert caplog.text.count("No answer.") == 1


def test_viewers_who_ask_the_same_get_one_series(source: CountedSource, fleet: FleetPoller) -> None:
    source.gate.clear()
    found: list[FleetSeries] = []
    viewers = [threading.Thread(target=lambda: found.append(fleet.history(QUERY))) for _ in range(8)]
    for viewer in viewers:
        viewer.start()
    eventually(lambda: source.histories == 1)
    source.gate.set()
    for viewer in viewers:
        viewer.join(5)
    assert (len(found), source.histories) == (8, 1)
    fleet.history(replace(QUERY, span_s=7200))
    assert source.histories == 2


def test_series_are_read_again_after_half_a_step() -> None:
    source, clock = CountedSource(), FakeClock()
    fleet = FleetPoller(source, clock)
    fleet.history(QUERY)
    clock.advance(29)
    fleet.history(QUERY)
    assert source.histories == 1
    clock.advance(2)
    fleet.history(QUERY)
    assert source.histories == 2


def test_kept_series_are_limited() -> None:
    source = CountedSource()
    fleet = FleetPoller(source, FakeClock())
    for number in range(2 * poller.MAX_KEPT_SERIES):
        fleet.history(replace(QUERY, node=f"gpu{number}"))
    assert len(fleet._series) == poller.MAX_KEPT_SERIES
    assert len(fleet._series_locks) == poller.MAX_KEPT_SERIES


def test_where_no_thread_may_start_the_page_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = FleetPoller(CountedSource(), SystemClock())
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        reading = fleet.latest()
    assert reading.error is not None
    assert reading.error.failure is FleetFailure.STARTING
    assert fleet.latest(5.0).error is None
    fleet.close()
