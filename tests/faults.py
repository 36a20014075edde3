"""Driver faults of a running dashtop, and a client that polls it meanwhile."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pynvml

from dashtop.model.unavailable import UnavailableReason
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fake_nvml import World

ALL = "/api/v1/system/monitoring/all"
GPUS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault of a machine with eight GPUs, whose effect on the first one is tested.

    `reason`: why its values are missing. `listed_gpus`: how many GPUs are still listed. `others_available`: whether the
    other GPUs keep their values.
    """

    name: str
    begin: Callable[[World], object]
    reason: UnavailableReason
    listed_gpus: int = GPUS
    others_available: bool = False

    def is_shown_in(self, body: Any) -> bool:
        """Return whether a response about the first GPU reports the fault."""
        is_listed = len(body["gpu_list"]) == self.listed_gpus
        if self.listed_gpus == 0:
            return is_listed and body["gpu_metrics"] is None and body["gpu_status"] == self.reason.text
        metrics = body["gpu_metrics"]
        status = self.reason.text if self.reason.silences_driver else None
        is_said = metrics["state"] == self.reason.text and body["gpu_status"] == status
        return is_listed and metrics["temperature"] is None and is_said


FAULTS = (
    Fault(
        name="one GPU lost",
        begin=lambda world: world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=0).save(),
        reason=UnavailableReason.GPU_LOST,
        others_available=True,
    ),
    Fault(
        name="one GPU hangs",
        begin=lambda world: world.set_hang("nvmlDeviceGetUtilizationRates", gpu=0).save(),
        reason=UnavailableReason.NOT_RESPONDING,
        others_available=True,
    ),
    Fault(
        name="driver hangs",
        begin=lambda world: world.set_hang("nvmlDeviceGetTemperature").save(),
        reason=UnavailableReason.DRIVER_SILENT,
    ),
    Fault(
        name="driver crashes its callers",
        begin=lambda world: world.set_crash("nvmlDeviceGetTemperature").save(),
        reason=UnavailableReason.DRIVER_ERROR,
    ),
    Fault(
        name="driver unloaded",
        begin=lambda world: world.unload_driver(),
        reason=UnavailableReason.NO_DRIVER,
        listed_gpus=0,
    ),
)


def is_healthy(body: Any) -> bool:
    """Return whether a response has every GPU, and values of the host and of the first GPU."""
    if body is None or len(body["gpu_list"]) != GPUS or body["system_metrics"]["cpu"]["usage_percent"] is None:
        return False
    return body["gpu_metrics"]["temperature"] is not None


@dataclass(frozen=True, slots=True)
class Response:
    """A response of /monitoring/all, with the duration of the request."""

    status: int
    duration_s: float
    body: Any


@dataclass
class ApiPoller:
    """Request /monitoring/all `rate` times a second in a thread, inside a `with` block."""

    url: str
    rate: float
    responses: list[Response] = field(default_factory=list)

    def __enter__(self) -> ApiPoller:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _poll(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            started = time.monotonic()
            connection.request("GET", ALL)
            response = connection.getresponse()
            text = response.read()
            self.responses.append(Response(response.status, time.monotonic() - started, json.loads(text)))
            due = max(due + 1 / self.rate, time.monotonic())
        connection.close()

    def wait_until_healthy(self) -> None:
        """Wait for a healthy response and discard the earlier ones."""
        eventually(lambda: is_healthy(self.last_body()), 20)
        self.responses[:] = self.responses[-1:]

    def last_body(self) -> Any:
        """Return the body of the last response; None before the first."""
        return self.responses[-1].body if self.responses else None

    def longest_gap_s(self) -> float:
        """Return the longest time between two samples in the responses."""
        times_ms = sorted({response.body["timestamp"] for response in self.responses})
        return float(max(late - early for early, late in pairwise(times_ms))) / 1000
