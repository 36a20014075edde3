"""A client that polls the page of a running server as a browser does."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

TICK = "/_dash-update-component"


@dataclass(frozen=True, slots=True)
class Tick:
    """One answer to a viewer. `status` 0: no answer."""

    status: int
    started_s: float
    duration_s: float


@dataclass
class PageViewer:
    """Poll the page in a thread, inside a `with` block: one request at a time, with the versions of what it has.

    `view`: what the viewer looks at (fields of ui.request.ViewRequest). `ticks` are what it waited for.
    """

    url: str
    view: Mapping[str, Any] = field(default_factory=dict)
    interval_s: float = 1.0
    headers: Mapping[str, str] = field(default_factory=dict)
    ticks: list[Tick] = field(default_factory=list)

    def __enter__(self) -> PageViewer:
        self._versions: dict[str, str] = {}
        self._connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._connection.close()

    def _poll(self) -> None:
        due_s = time.monotonic()
        while not self._ended.wait(max(0.0, due_s - time.monotonic())):
            started_s = time.monotonic()
            status = self._request_tick()
            self.ticks.append(Tick(status, started_s, time.monotonic() - started_s))
            due_s = max(due_s + self.interval_s, time.monotonic())

    def _request_tick(self) -> int:
        body = json.dumps(build_tick({**self.view, "versions": self._versions}))
        try:
            self._connection.request("POST", TICK, body, {"Content-Type": "application/json", **self.headers})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 0
        if response.status == 200:
            stores = json.loads(text)["response"]
            self._versions |= stores["live"]["data"].get("versions", {})
            if "figures" in stores:
                self._versions |= stores["figures"]["data"]["versions"]
        return response.status


def build_tick(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of the page's callback request for a view."""
    return {
        "output": "..live.data...figures.data..",
        "outputs": [{"id": "live", "property": "data"}, {"id": "figures", "property": "data"}],
        "inputs": [{"id": "request", "property": "data", "value": request}],
        "changedPropIds": ["request.data"],
    }
