"""Reads with a deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dashtop.history.read_pool import MAX_THREADS, ReadPool, ReadTimeoutError
from tests.processes import eventually, refuse_threads

TIMEOUT_S = 0.3


def test_result_and_error_of_a_read() -> None:
    pool = ReadPool(TIMEOUT_S)
    assert pool.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        pool.run(lambda: 1 // 0)
    assert pool.run(lambda: None) is None


def test_while_a_read_hangs_others_fail_at_once() -> None:
    pool, goes_on = ReadPool(TIMEOUT_S), threading.Event()
    with pytest.raises(ReadTimeoutError):
        pool.run(lambda: goes_on.wait(30))
    assert pool.is_hanging
    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(ReadTimeoutError):
            pool.run(lambda: 7)
    assert time.monotonic() - began < TIMEOUT_S
    goes_on.set()
    eventually(lambda: not pool.is_hanging)
    assert pool.run(lambda: 7) == 7


def test_many_hanging_reads_take_few_threads_and_wait_once() -> None:
    pool, goes_on = ReadPool(TIMEOUT_S), threading.Event()
    threads = threading.active_count()

    def read(_: int) -> float:
        began = time.monotonic()
        with pytest.raises(ReadTimeoutError):
            pool.run(lambda: goes_on.wait(30))
        return time.monotonic() - began

    with ThreadPoolExecutor(12) as viewers:
        durations = list(viewers.map(read, range(24)))
        assert max(durations) < 2 * TIMEOUT_S
        assert threading.active_count() - threads <= MAX_THREADS + 12
    goes_on.set()
    eventually(lambda: not pool.is_hanging)
    assert pool.run(lambda: 7) == 7


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ReadPool(TIMEOUT_S)
    with monkeypatch.context() as limited:
        refuse_threads(limited)
        with pytest.raises(ReadTimeoutError):
            pool.run(lambda: 7)
    assert pool.run(lambda: 7) == 7
