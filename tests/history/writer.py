"""A program that writes a history, run by tests that kill it or limit its disk space."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dashtop.model.sample import SeriesKey
from tests.builders import make_gpu, make_history, make_sample, wait_until_written

if TYPE_CHECKING:
    from dashtop.history.store import HistoryStore

CPU = SeriesKey("system.cpu.usage_percent")
BATCH_SIZE = 100


def append(history: HistoryStore, second: int) -> None:
    values = {"gpu.utilization.gpu": second * 7 % 101, "gpu.clocks.event_reasons": 1 << second % 9}
    history.append(
        make_sample(
            second, time_ms=second * 1000, host={CPU.metric: second * 31 % 101}, gpus=(make_gpu(values=values),)
        )
    )


def write_until_killed(history: HistoryStore, first: int) -> None:
    """Write without pause; after each batch print the last second that was acknowledged."""
    second = first
    while True:
        for _ in range(BATCH_SIZE):
            append(history, second)
            second += 1
        wait_until_written(history)
        print(second - 1, flush=True)


def write_to_full_disk(folder: Path) -> None:
    """Write with disk space, without, and with it again; print what was observed as JSON."""
    history = make_history(folder)
    fill(history, 0, 500)
    wait_until_written(history)
    assert history.status_message() is None
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
    fill(history, 500, 2500)
    wait_until(lambda: history.status_message() is not None)
    error, read = history.status_message(), count_values(history, 2500)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    began = time.monotonic()
    wait_until_written(history)
    written = history.status_message() is None
    took = time.monotonic() - began
    history.close()
    reopened = make_history(folder)
    print(
        json.dumps(
            {
                "error": error,
                "read": read,
                "written": written,
                "duration_s": took,
                "stored": count_values(reopened, 2500),
            }
        )
    )


def fill(history: HistoryStore, first: int, last: int) -> None:
    for second in range(first, last):
        append(history, second)


def count_values(history: HistoryStore, seconds: int) -> int:
    return int((~np.isnan(history.query([CPU], 0, seconds * 1000, 1000).series[0].mean)).sum())


def wait_until(condition: object, timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


if __name__ == "__main__":
    what, where, *more = sys.argv[1:]
    if what == "write":
        first, url = more
        write_until_killed(make_history(Path(where), url=url or None), int(first))
    else:
        write_to_full_disk(Path(where))
