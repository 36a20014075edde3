"""The cache of renderings: one rendering per key, and no key waits for another."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from dashtop.ui.render_cache import MAX_ENTRIES, RenderCache

TIMEOUT_S = 20


def test_a_value_is_created_once_for_all_who_ask_at_the_same_time() -> None:
    cache, barrier, calls = RenderCache(Flask("test")), threading.Barrier(8), []

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
    cache, started, finish = RenderCache(Flask("test")), threading.Event(), threading.Event()

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

    cache = RenderCache(Flask("test"))
    with pytest.raises(ZeroDivisionError):
        cache.get_or_create("charts", fail)
    assert cache.get_or_create("charts", lambda: 1) == 1


def test_number_of_values_and_of_locks_is_limited() -> None:
    cache = RenderCache(Flask("test"))
    for number in range(2 * MAX_ENTRIES):
        assert cache.get_or_create(str(number), lambda number=number: number) == number  # type: ignore[misc]
    assert cache.get_or_create("0", lambda: -1) == -1, "the first value was not dropped"
    assert cache._creating == {}
