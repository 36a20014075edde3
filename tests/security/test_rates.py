"""The rate limit: a moving window for each client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limits import parse

from dashtop.web.security import rates
from dashtop.web.security.rates import RateLimiter
from tests.clock import FakeClock
from tests.processes import refuse_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from dashtop.app import Dashtop


def test_window_moves_with_each_request() -> None:
    clock = FakeClock()
    limiter = RateLimiter(parse("3/minute"), clock.monotonic)
    for _ in range(3):
        assert limiter.hit("ada") == 0
        clock.advance(10)
    assert limiter.hit("ada") == 30
    assert limiter.hit("grace") == 0
    clock.advance(29)
    assert limiter.hit("ada") == 1
    clock.advance(1)
    assert limiter.hit("ada") == 0
    assert limiter.hit("ada") == 10, "refused requests do not count"


def test_clients_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    limiter = RateLimiter(parse("2/minute"), clock.monotonic)
    for number in range(100):
        limiter.hit(f"2001:db8::{number}")
        clock.advance(1)
    assert len(limiter._times_s) == 60
    monkeypatch.setattr(rates, "MAX_CLIENTS", 10)
    limiter.hit("ada")
    assert len(limiter._times_s) == 10


def test_api_answers_where_no_thread_can_be_started(
    start: Callable[..., Dashtop], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start().server.test_client()
    refuse_threads(monkeypatch)
    assert client.get("/api/v1/system/monitoring/all").status_code == 200
