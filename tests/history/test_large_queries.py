"""Large queries of the history on a running server: little memory, two at a time."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.metrics import ALL_METRICS
from tests.api.client import make_client
from tests.builders import FixedSample, make_sample
from tests.processes import Running, running

if TYPE_CHECKING:
    import pytest

LARGE = "/api/v1/system/history?range=30d&points=5000"
MAX_GROWTH_MB = 80


def read_peak_mb(dashtop: Running) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{dashtop.process.pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


def request(dashtop: Running) -> tuple[int, str | None, bytes]:
    """Return status, Retry-After and body."""
    try:
        with urllib.request.urlopen(dashtop.url + LARGE.removeprefix("/"), timeout=60) as answer:
            return answer.status, None, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"], error.read()


def test_large_queries_take_little_memory_and_are_limited() -> None:
    with running("--demo", "1") as dashtop:
        dashtop.json("/api/v1/system/history?range=30d&points=300")
        before_mb = read_peak_mb(dashtop)
        with ThreadPoolExecutor(10) as pool:
            answers = [future.result() for future in [pool.submit(request, dashtop) for _ in range(10)]]
        growth_mb = read_peak_mb(dashtop) - before_mb
        afterwards = request(dashtop)
    answered = [body for status, _, body in answers if status == 200]
    refused = [(status, seconds) for status, seconds, _ in answers if status != 200]
    assert len(answered) >= 2
    assert refused
    assert set(refused) == {(503, "2")}
    assert growth_mb < MAX_GROWTH_MB
    assert afterwards[0] == 200
    for body in (*answered, afterwards[2]):
        columns = json.loads(body)
        assert set(columns["series"]) == {metric.key for metric in ALL_METRICS}
        assert columns["incomplete"] is None
        lengths = {len(values) for series in columns["series"].values() for values in series.values()}
        assert lengths == {len(columns["timestamps"])}
        assert any(value is not None for value in columns["series"]["gpu.temperature"]["mean"])


def test_query_beyond_the_limit_of_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(FixedSample(make_sample()))
    monkeypatch.setattr("dashtop.web.api.handlers.MAX_CELLS", 1000)
    response = client.get("/api/v1/system/history?range=1h&metrics=system.cpu.usage_percent")
    assert response.status_code == 422
    assert "at most 1000 are allowed" in response.get_data(as_text=True)
