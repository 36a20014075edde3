"""Delivers notices of alerts to channels: grouped, repeated, retried, and sent once for each episode.

What was sent is kept in the data folder. A notice is sent only after its alert is stored there, so that nothing is sent
twice after a process was killed. Only the process that writes the history sends.
"""

from __future__ import annotations

import fnmatch
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dashtop.alerts.channels import Message, Notice, find_host_name, send
from dashtop.alerts.identity import is_of_episode
from dashtop.alerts.watches import RULE as WATCH_RULE
from dashtop.model.alert import Alert, AlertState, ChannelStatus
from dashtop.model.errors import DeliveryError
from dashtop.model.metric import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dashtop.alerts.channels import Channel
    from dashtop.model.ports import Clock

log = logging.getLogger(__name__)

GROUP_S: Final = 30.0
"""Shortest time between two messages to a channel; what happens meanwhile is one message."""
RETRY_S: Final = (5.0, 30.0, 120.0)
MAX_PENDING: Final = 200
STEP_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 1.0
_HOUR_MS: Final = 3_600_000
REPEAT_MS: Final[Mapping[Severity, int | None]] = {
    Severity.CRITICAL: 4 * _HOUR_MS,
    Severity.WARNING: 24 * _HOUR_MS,
    Severity.INFO: None,
}
ALERTMANAGER_REPEAT_MS: Final = 60_000
_RANKS: Final = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True, slots=True)
class SentNotice:
    """The last notice of an alert that a channel has taken: the severity, and when it was sent."""

    severity: str
    time_ms: int


@dataclass(slots=True)
class Outbox:
    """What one channel has taken, by alert id, what is to be sent, and when the next message may be sent."""

    channel: Channel
    sent: dict[str, SentNotice] = field(default_factory=dict)
    pending: list[Notice] = field(default_factory=list)
    not_before_s: float = 0.0
    failures: int = 0
    error: str | None = None
    sent_ms: int | None = None

    def collect(self, active: Sequence[Alert], ended: Iterable[Alert], now_ms: int) -> None:
        """Add what was not sent to the channel yet."""
        for alert in active:
            if self._is_wanted(alert) and self._is_due(alert, now_ms):
                self.pending = [each for each in self.pending if each.alert.id != alert.id or each.is_resolved]
                self.pending.append(Notice(alert))
        for alert in ended:
            is_pending = any(each.alert.id == alert.id and not each.is_resolved for each in self.pending)
            if not is_pending and alert.id not in self.sent:
                continue
            if self.channel.resolved:
                self.pending.append(Notice(alert))
            elif not is_pending:
                del self.sent[alert.id]
        listed = {alert.id for alert in active}
        for name in [name for name in self.sent if name.startswith(f"{WATCH_RULE}:") and name not in listed]:
            del self.sent[name]  # a watch is met once, and does not end
        if len(self.pending) > MAX_PENDING:
            log.warning("Channel %s: %d notices are dropped.", self.channel.name, len(self.pending) - MAX_PENDING)
            del self.pending[:-MAX_PENDING]

    def record(self, notices: Sequence[Notice], now_ms: int) -> None:
        """Note what has been sent."""
        for notice in notices:
            alert = notice.alert
            if notice.is_resolved:
                self.sent.pop(alert.id, None)
            else:
                self.sent[alert.id] = SentNotice(alert.severity.value, now_ms)
        self.pending = [each for each in self.pending if each not in notices]

    def _is_wanted(self, alert: Alert) -> bool:
        channel = self.channel
        if alert.channel is not None:
            return alert.channel == channel.name
        return (
            alert.state.is_active
            and alert.silenced_by is None
            and alert.inhibited_by is None
            and _RANKS[alert.severity] >= _RANKS[channel.min_severity]
            and any(fnmatch.fnmatchcase(alert.rule, pattern) for pattern in channel.rules)
        )

    def _is_due(self, alert: Alert, now_ms: int) -> bool:
        if any(each.alert.id == alert.id and each.alert.since_ms == alert.since_ms for each in self.pending):
            return any(each.alert.id == alert.id and each.alert.severity is not alert.severity for each in self.pending)
        sent = self.sent.get(alert.id)
        if sent is None or not is_of_episode(sent.time_ms, alert.since_ms):
            return alert.acked_ms is None
        if _RANKS[alert.severity] > _RANKS[Severity(sent.severity)]:
            return True
        is_manager = self.channel.kind == "alertmanager"  # it repeats by itself, and needs to hear that it still fires
        if alert.acked_ms is not None and not is_manager:
            return False
        repeat_ms = ALERTMANAGER_REPEAT_MS if is_manager else REPEAT_MS[alert.severity]
        return repeat_ms is not None and now_ms - sent.time_ms >= repeat_ms


class Delivery:
    """Sends what the outboxes hold, in a thread of its own. Thread-safe."""

    def __init__(
        self,
        channels: Sequence[Channel],
        *,
        clock: Clock,
        active: Callable[[], Sequence[Alert]],
        store: Callable[[Mapping[str, Mapping[str, SentNotice]]], None],
        is_simulated: bool = False,
        public_url: str | None = None,
    ) -> None:
        """`active` returns the alerts that are stored. `store` keeps what was sent, by channel and alert."""
        self._outboxes = [Outbox(channel) for channel in channels]
        self._clock = clock
        self._active = active
        self._store = store
        self._is_simulated = is_simulated
        self._public_url = public_url
        self._ended: list[Alert] = []
        self._lock = threading.Lock()
        self._is_started = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashtop-notices", daemon=True)

    def start(self, read_sent: Callable[[], Mapping[str, Mapping[str, SentNotice]]]) -> None:
        """Start the thread, once. `read_sent` returns what was sent before: by an earlier run, or another process."""
        if self._is_started or not self._outboxes:
            return
        sent = read_sent()
        for outbox in self._outboxes:
            outbox.sent = dict(sent.get(outbox.channel.name, {}))
        self._is_started = True
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)

    def offer_ended(self, alerts: Iterable[Alert]) -> None:
        """Take note of alerts that have ended."""
        if self._is_started:
            with self._lock:
                self._ended += alerts

    def step(self) -> None:
        """Collect what is new, and send what is due."""
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic()
        with self._lock:
            ended, self._ended = self._ended, []
        active = self._active()
        for outbox in self._outboxes:
            outbox.collect(active, ended, now_ms)
            if outbox.pending and now_s >= outbox.not_before_s:
                self._send(outbox, now_ms, now_s)

    def list_channels(self) -> tuple[ChannelStatus, ...]:
        """Return the state of each channel."""
        return tuple(
            ChannelStatus(
                name=outbox.channel.name,
                kind=outbox.channel.kind,
                sent_ms=outbox.sent_ms,
                error=outbox.error,
                pending_count=len(outbox.pending),
            )
            for outbox in self._outboxes
        )

    def test(self, name: str) -> str | None:
        """Send a test notice to a channel. Return why that failed; None if it was sent. Raises KeyError."""
        channel = {outbox.channel.name: outbox.channel for outbox in self._outboxes}[name]
        now_ms = self._clock.now_ms()
        alert = Alert(
            id="test",
            rule="test",
            severity=Severity.INFO,
            state=AlertState.FIRING,
            text="This is a test of the channel.",
            advice="",
            pending_ms=now_ms,
            since_ms=now_ms,
        )
        try:
            send(channel, self._build_message([Notice(alert)]), now_ms)
        except DeliveryError as error:
            return str(error)
        return None

    def _build_message(self, notices: Sequence[Notice]) -> Message:
        return Message(notices, find_host_name(), self._is_simulated, self._public_url)

    def _send(self, outbox: Outbox, now_ms: int, now_s: float) -> None:
        notices = list(outbox.pending)
        try:
            send(outbox.channel, self._build_message(notices), now_ms)
        except DeliveryError as error:
            if outbox.failures == 0:
                log.warning("Channel %s: %s Notices wait and are sent again.", outbox.channel.name, error)
            outbox.not_before_s = now_s + RETRY_S[min(outbox.failures, len(RETRY_S) - 1)]
            outbox.failures += 1
            outbox.error = str(error)
            return
        if outbox.failures:
            log.info("Channel %s takes notices again.", outbox.channel.name)
        outbox.failures = 0
        outbox.error, outbox.sent_ms = None, now_ms
        outbox.not_before_s = now_s + GROUP_S
        outbox.record(notices, now_ms)
        try:
            self._store({each.channel.name: each.sent for each in self._outboxes})
        except OSError as error:
            log.warning("What was sent to channels is not kept over a restart at present: %s", error)

    def _run(self) -> None:
        while not self._closing.wait(STEP_S):
            try:
                self.step()
            except Exception:
                log.exception("Notices could not be sent; trying again.")
