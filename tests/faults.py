"""Faults of a driver as a served dashtop meets them, and somebody who asks it all the while."""

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
    """Something that happens to a world of eight GPUs, the first of which is asked for.

    `reason`: what its values are then missing for. `known`: how many GPUs are still listed. `others`: whether the
    others keep their values.
    """

    name: str
    begin: Callable[[World], object]
    reason: UnavailableReason
    known: int = GPUS
    others: bool = False

    def shows(self, body: Any) -> bool:
        """Tell whether an answer about the first GPU says what has happened."""
        listed = len(body["gpu_list"]) == self.known
        if self.known == 0:
            return listed and body["gpu_metrics"] is None and body["gpu_status"] == self.reason.text
        metrics = body["gpu_metrics"]
        return listed and metrics["temperature"] is None and metrics["state"] == self.reason.text


FAULTS = (
    Fault(
        name="one GPU lost",
        begin=lambda world: world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=0).save(),
        reason=UnavailableReason.GPU_LOST,
        others=True,
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
        name="driver unloaded", begin=lambda world: world.unload_driver(), reason=UnavailableReason.NO_DRIVER, known=0
    ),
)


def well(body: Any) -> bool:
    """Tell whether an answer has every GPU, and the values of the host and of the GPU asked for."""
    if body is None or len(body["gpu_list"]) != GPUS or body["system_metrics"]["cpu"]["usage_percent"] is None:
        return False
    return body["gpu_metrics"]["temperature"] is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of /monitoring/all: HTTP status, how long it took, what it says."""

    status: int
    took_s: float
    body: Any


@dataclass
class Watch:
    """Asks a server for /monitoring/all `rate` times a second, from a thread, for as long as the block lasts."""

    url: str
    rate: float
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            asked = time.monotonic()
            connection.request("GET", ALL)
            answer = connection.getresponse()
            text = answer.read()
            self.answers.append(Answer(answer.status, time.monotonic() - asked, json.loads(text)))
            due = max(due + 1 / self.rate, time.monotonic())
        connection.close()

    def begin(self) -> None:
        """Wait until all is well, and forget what was answered before."""
        eventually(lambda: well(self.last()), 20)
        self.answers[:] = self.answers[-1:]

    def last(self) -> Any:
        """What the newest answer says; None before the first."""
        return self.answers[-1].body if self.answers else None

    def longest_gap_s(self) -> float:
        """Return the longest time between two samples that were seen."""
        seen = sorted({answer.body["timestamp"] for answer in self.answers})
        return float(max(late - early for early, late in pairwise(seen))) / 1000
