"""The cache of renderings: one rendering per key, and no key waits for another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dashtop.ui.render_cache import MAX_AGE_S, MAX_ENTRIES, RenderCache
from tests.clock import FakeClock

TIMEOUT_S = 20


def test_a_value_is_created_once_for_all_who_ask_at_the_same_time() -> None:
    cache, barrier, calls = RenderCache(), threading.Barrier(8), []

    def create() -> list[int]:
        calls.append(1)
        return [7]

    def ask(_viewer: int) -> list[int]:
        barrier.wait(TIMEOUT_S)
        return cache.get_or_create("charts", create)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(8))) == [[7]] * 8
    assert len(calls) == 1


def test_a_rendering_that_blocks_does_not_delay_another_key() -> None:
    cache, started, finish = RenderCache(), threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        assert finish.wait(TIMEOUT_S)
        return "slow"

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(cache.get_or_create, "slow", block)
        assert started.wait(TIMEOUT_S)
        assert cache.get_or_create("other", lambda: "fast") == "fast"
        assert not slow.done()
        finish.set()
        assert slow.result(TIMEOUT_S) == "slow"


def test_a_failed_rendering_is_tried_again() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    cache = RenderCache()
    with pytest.raises(ZeroDivisionError):
        cache.get_or_create("charts", fail)
    assert cache.get_or_create("charts", lambda: 1) == 1


def test_values_become_old_and_their_number_is_limited() -> None:
    clock = FakeClock()
    cache = RenderCache(clock.monotonic)
    assert cache.get_or_create("first", lambda: 1) == 1
    assert cache.get_or_create("first", lambda: 2) == 1
    clock.advance(MAX_AGE_S + 1)
    assert cache.get_or_create("first", lambda: 2) == 2
    for number in range(MAX_ENTRIES):
        cache.get_or_create(str(number), lambda: 0)
    assert cache.get_or_create("first", lambda: 3) == 3
