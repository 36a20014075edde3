"""Parts: one is sent until the browser has its version, and built once for all who ask for it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from dashtop.ui.parts import MAX_AGE_S, MAX_ENTRIES, DeltaEncoder, Part, RenderCache, Table, calculate_version
from tests.builders import make_sample

SNAPSHOT = {
    "sequence": 1,
    "values": Table(["a", "b"], [[1, 2]]),
    "devices": [{"index": 0}],
    "texts": {"x": "y"},
    "error": None,
    "cores": [1, 2],
}


def test_parts_are_sent_until_the_browser_has_them_and_again_when_they_differ() -> None:
    encoder = DeltaEncoder()
    first = encoder.encode(SNAPSHOT, {})
    assert first["values"] == [[1, 2]]
    assert first["columns"] == {"values": ["a", "b"]}
    assert set(first["versions"]) == {"columns", "devices", "texts"}
    second = encoder.encode(SNAPSHOT, first["versions"])
    assert second == {"sequence": 1, "values": [[1, 2]], "error": None, "cores": [1, 2], "versions": {}}
    changed = encoder.encode({**SNAPSHOT, "texts": {"x": "z"}}, first["versions"])
    assert changed["texts"] == {"x": "z"}
    assert "devices" not in changed
    # Neither another viewer nor another server changes what this browser has.
    assert encoder.encode(SNAPSHOT, first["versions"]) == second
    assert DeltaEncoder().encode(SNAPSHOT, first["versions"]) == second


def test_new_columns_are_sent() -> None:
    encoder = DeltaEncoder()
    versions = encoder.encode(SNAPSHOT, {})["versions"]
    fewer = encoder.encode({**SNAPSHOT, "values": Table(["a"], [[1]])}, versions)
    assert fewer["columns"] == {"values": ["a"]}


def test_a_part_with_a_known_version_is_built_only_to_be_sent() -> None:
    def build() -> Any:
        built.append("sparklines")
        return {"points": []}

    built: list[str] = []
    part = Part("sparklines", "GPU-1", build)
    assert DeltaEncoder().encode({}, {"sparklines": "GPU-0"}, [part])["sparklines"] == {"points": []}
    assert built == ["sparklines"]
    live = DeltaEncoder().encode({}, {"sparklines": "GPU-1"}, [part])
    assert "sparklines" not in live
    assert built == ["sparklines"]


@pytest.mark.parametrize(("text", "version"), [("", "00000000"), ("dashtop", "8045e85c")])
def test_versions_are_checksums(text: str, version: str) -> None:
    assert calculate_version(text) == version


# --- render cache --------------------------------------------------------------------------------------------------

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
        found = list(threads.map(ask, range(8)))
    assert found == [[7]] * 8
    assert all(each is found[0] for each in found), "the value was copied"
    assert len(calls) == 1


def test_each_sample_has_values_of_its_own() -> None:
    cache, calls = RenderCache(Flask("test")), []
    samples = [make_sample(0), make_sample(1), make_sample(1, time_ms=7), make_sample(0)]
    for name in ("states", "problems"):
        for sample in samples:
            cache.get_or_create_for_sample(sample, name, lambda: calls.append(1) or len(calls))  # type: ignore[func-returns-value]
    assert len(calls) == 6


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


def test_a_cache_belongs_to_its_application_also_in_the_context_of_another() -> None:
    with Flask("portal").app_context():
        first, second = RenderCache(Flask("one")), RenderCache(Flask("two"))
        assert first.get_or_create("charts", lambda: 1) == 1
        assert second.get_or_create("charts", lambda: 2) == 2


def test_a_failed_rendering_is_tried_again() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    cache = RenderCache(Flask("test"))
    with pytest.raises(ZeroDivisionError):
        cache.get_or_create("charts", fail)
    assert cache.get_or_create("charts", lambda: 1) == 1


def test_expired_values_do_not_wait_for_a_full_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, begin_s = RenderCache(Flask("test")), time.monotonic()
    cache.get_or_create("lasting", lambda: 4, max_age_s=10 * MAX_AGE_S)
    cache.get_or_create("old", lambda: 1)
    monkeypatch.setattr(time, "monotonic", lambda: begin_s + MAX_AGE_S / 2)
    cache.get_or_create("young", lambda: 2)
    monkeypatch.setattr(time, "monotonic", lambda: begin_s + MAX_AGE_S + 1)
    cache.get_or_create("new", lambda: 3)
    assert cache._cache.get_many("old", "young", "new", "lasting") == [None, 2, 3, 4]
    assert [key for _, key in sorted(cache._expiries)] == ["young", "new", "lasting"]


def test_number_of_values_and_of_locks_is_limited() -> None:
    cache = RenderCache(Flask("test"))
    for number in range(2 * MAX_ENTRIES):
        assert cache.get_or_create(str(number), lambda number=number: number) == number  # type: ignore[misc]
    assert cache.get_or_create("0", lambda: -1) == -1, "the first value was not dropped"
    assert cache._creating == {}
