"""The collector thread: samples on a monotonic schedule that skips late ticks instead of queueing them."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.collector.events import detect_events
from dashtop.collector.unreadable_gpus import add_state_starts
from dashtop.model.usage import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dashtop.collector.latest import LatestSample
    from dashtop.collector.sampler import Sampler
    from dashtop.model.ports import Clock, History
    from dashtop.model.sample import Event, Sample
    from dashtop.model.usage import UsageRecords

log = logging.getLogger(__name__)

MAX_GPU_TIMEOUT_S = 0.25
STOP_TIMEOUT_S = 1.0


def next_tick(due: float, now: float, interval: float) -> tuple[float, int]:
    """Return the time of the tick after the one due at `due`, and how many ticks are skipped to get there.

    Ticks stay on the grid of the first one. All times are monotonic seconds.
    """
    following = due + interval
    if now < following:
        return following, 0
    skipped = math.floor((now - following) / interval) + 1
    return following + skipped * interval, skipped


class Collector:
    """Takes samples in a thread of its own, publishes each to `latest` and appends it to `history`."""

    def __init__(
        self,
        *,
        sampler: Sampler,
        history: History,
        latest: LatestSample,
        clock: Clock,
        evaluate_alerts: Callable[[Sample], Sequence[Event]] = lambda _sample: (),
        measure_usage: Callable[[Sample], tuple[UsageRecords, Mapping[str, tuple[float, float]]]] = lambda _sample: (
            NO_USAGE,
            {},
        ),
    ) -> None:
        """`evaluate_alerts` returns an event for each alert that a sample, with its events, begins or ends.

        `measure_usage` returns what the usage ledger records of a sample, and the totals of the users until then.
        """
        self._sampler = sampler
        self._history = history
        self._latest = latest
        self._clock = clock
        self._evaluate_alerts = evaluate_alerts
        self._measure_usage = measure_usage
        self._previous: Sample | None = None
        self._skipped_ticks = 0
        self._xid_counts: dict[tuple[str, int], int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashtop-collector", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread takes samples; also after `close` if a reader does not answer."""
        return self._thread.is_alive()

    def collect(self) -> Sample:
        """Take one sample, publish it and append it to the history."""
        reading = self._sampler.sample(min(MAX_GPU_TIMEOUT_S, self._latest.effective_interval_s() / 2))
        sample = add_state_starts(self._previous, reading)
        events = (*sample.events, *detect_events(self._previous, sample))
        self._count_xids(events)
        usage, user_totals = self._measure_usage(sample)
        sample = replace(
            sample,
            skipped_ticks=self._skipped_ticks,
            events=events,
            xid_counts=self._xid_counts,
            usage=usage,
            user_totals=user_totals,
        )
        if alert_events := self._evaluate_alerts(sample):
            sample = replace(sample, events=(*events, *alert_events))
        self._previous = sample
        self._latest.publish(sample)
        self._history.append(sample)
        return sample

    def _count_xids(self, events: Sequence[Event]) -> None:
        """Count XIDs in a new mapping: earlier samples keep theirs."""
        found = [(event.gpu_uuid or "", event.code) for event in events if event.kind == "xid"]
        for uuid, code in found:
            if code is not None:
                key = (uuid, code)
                self._xid_counts = {**self._xid_counts, key: self._xid_counts.get(key, 0) + 1}

    def close(self) -> None:
        """Stop the thread, wake those who wait for a sample, and close the readers. Returns within two seconds."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._latest.close()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)
        self._sampler.close()

    def _run(self) -> None:
        started = due = self._clock.monotonic()
        while not self._stopping.is_set():
            if self._latest.wait_for_request(max(0.0, due - self._clock.monotonic())):
                due = min(due, max(started + self._latest.effective_interval_s(), self._clock.monotonic()))
                continue
            try:
                self.collect()
            except Exception:
                log.exception("Collection failed; retrying in %g s", self._latest.effective_interval_s())
            started = due
            due, skipped = next_tick(due, self._clock.monotonic(), self._latest.effective_interval_s())
            self._skipped_ticks += skipped
