"""Record what Prometheus answers to the queries of a fleet, for tests: python3 -m tests.fleet.record."""

from __future__ import annotations

import json
from typing import Any

from dashtop.fleet.client import Credentials, EngineClient
from dashtop.fleet.prometheus import PrometheusSource
from dashtop.model.ports import SystemClock
from tests.fleet.engines import RECORDING, TARGETS, scraping_expositions
from tests.processes import eventually


def record(url: str) -> dict[str, Any]:
    """Return the answer to each query of one reading."""
    answers: dict[str, Any] = {}
    send = EngineClient._send

    def keep(self: EngineClient, name: str, form: dict[str, str], timeout_s: float) -> Any:
        status, headers, data = send(self, name, form, timeout_s)
        answers[form["query"]] = json.loads(data)["data"]
        return status, headers, data

    EngineClient._send = keep  # type: ignore[method-assign]
    source = PrometheusSource(url, credentials=Credentials(), clock=SystemClock(), interval_s=15.0)
    try:
        reading = source.current(10.0)
    finally:
        source.close()
        EngineClient._send = send  # type: ignore[method-assign]
    assert reading.error is None, reading.error
    return answers


def main() -> None:
    with scraping_expositions("prometheus") as url:
        client = EngineClient(url, Credentials())
        eventually(lambda: len(client.query("up").rows) == len(TARGETS), 30)
        eventually(lambda: client.query("min(count_over_time(up[1m]))").rows[0][1] >= 10, 60, 0.5)
        answers = record(url)
        client.close()
    RECORDING.write_text(json.dumps(answers, indent=1, sort_keys=True) + "\n")
    print(f"{len(answers)} answers")


if __name__ == "__main__":
    main()
