"""Notices: what channels get, once for each episode, and what failures of a receiver do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
import urllib.request
from email import message_from_string
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr, ValidationError

from dashtop.alerts import channels as channels_module
from dashtop.alerts import service as service_module
from dashtop.alerts.channels import Channel
from dashtop.alerts.delivery import MAX_PENDING, Delivery, SentNotice
from dashtop.alerts.service import AlertService
from dashtop.model.alert import Alert, AlertState
from dashtop.model.errors import SettingsError
from dashtop.model.metric import Severity
from dashtop.settings import load
from tests.alerts.receivers import mail_server, webhook
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.clock import FakeClock
from tests.debian import program
from tests.processes import eventually, find_free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.alerts.receivers import Webhook

HOSTILE = "python\r\nBcc: all@example.org <script>@everyone \u202e"
LOST = Alert(
    id="a1",
    rule="gpu_lost",
    severity=Severity.CRITICAL,
    state=AlertState.FIRING,
    text="GPU 3 (H100) is lost: the GPU has fallen off the bus.",
    advice="Reset the GPU, or reboot.",
    pending_ms=NOON_MS - 10_000,
    since_ms=NOON_MS,
    gpu_uuid="GPU-3",
    gpu_id=3,
)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as received:
        yield received


class Sender:
    """A delivery without a thread: a test advances its clock and says which alerts are active."""

    def __init__(
        self,
        *channels: Channel,
        sent: Mapping[str, Mapping[str, SentNotice]] | None = None,
        now_ms: int = NOON_MS,
        public_url: str | None = None,
    ) -> None:
        self.clock = FakeClock(now_ms=now_ms)
        self.active: tuple[Alert, ...] = ()
        self.stored: Mapping[str, Mapping[str, SentNotice]] = {}
        self.delivery = Delivery(
            channels, clock=self.clock, active=lambda: self.active, store=self._store, public_url=public_url
        )
        self.delivery._is_started = True  # without a thread
        for outbox in self.delivery._outboxes:
            outbox.sent = dict((sent or {}).get(outbox.channel.name, {}))

    def _store(self, sent: Mapping[str, Mapping[str, SentNotice]]) -> None:
        self.stored = {channel: dict(alerts) for channel, alerts in sent.items()}

    def step(self, *active: Alert, ended: tuple[Alert, ...] = (), after_s: float = 0) -> None:
        self.clock.advance(after_s)
        self.active = active
        self.delivery.offer_ended(ended)
        self.delivery.step()


def channel(hook: Webhook, kind: str = "json", **options: Any) -> Channel:
    return Channel(name="team", kind=kind, url=hook.url, **options)  # type: ignore[arg-type]


def ended(alert: Alert) -> Alert:
    return dataclasses.replace(alert, state=AlertState.RESOLVED)


def test_one_message_for_the_beginning_and_one_for_the_end(hook: Webhook) -> None:
    sender = Sender(channel(hook))
    for second in range(100):
        sender.step(LOST, after_s=1 if second else 0)
    sender.step(ended=(ended(LOST),))
    sender.step(after_s=100)
    first, second_body = hook.bodies()
    assert (first["version"], first["status"], first["simulated"]) == (1, "firing", False)
    assert (first["alerts"][0]["rule"], first["alerts"][0]["gpu_id"]) == ("gpu_lost", 3)
    assert (second_body["status"], second_body["alerts"][0]["state"]) == ("resolved", "resolved")
    assert sender.stored == {"team": {}}


def test_notices_link_to_the_page_if_its_address_is_known(hook: Webhook) -> None:
    kinds = ("json", "slack", "discord", "ntfy", "teams", "alertmanager")
    for kind in kinds:
        Sender(channel(hook, kind), public_url="https://gpu_1.example/dashtop").step(LOST)
    bodies = dict(zip(kinds, (body.decode() for _, _, body in hook.requests), strict=True))
    at = f"page=gpus&view=single&gpu=GPU-3&from={NOON_MS - 900_000}&to={NOON_MS + 900_000}"
    assert json.loads(bodies["json"])["alerts"][0]["url"] == f"https://gpu_1.example/dashtop/?{at}"
    assert json.loads(bodies["alertmanager"])[0]["generatorURL"] == f"https://gpu_1.example/dashtop/?{at}"
    for kind in ("slack", "discord", "ntfy", "teams"):
        assert "https://gpu_1.example/dashtop/?page=alerts" in bodies[kind], kind
    hook.requests.clear()
    Sender(channel(hook), channel(hook, "slack")).step(LOST)
    assert json.loads(hook.requests[0][2])["alerts"][0]["url"] is None
    assert b"page=alerts" not in hook.requests[1][2]


def test_what_happens_within_half_a_minute_is_one_message(hook: Webhook) -> None:
    sender = Sender(channel(hook))
    sender.step(LOST)
    others = [dataclasses.replace(LOST, id=f"b{number}", gpu_id=number) for number in range(5)]
    for count in range(1, 6):
        sender.step(LOST, *others[:count], after_s=5)
    sender.step(LOST, *others, after_s=10)
    assert [len(body["alerts"]) for body in hook.bodies()] == [1, 5]


def test_episode_is_not_told_again_after_a_restart(hook: Webhook) -> None:
    first = Sender(channel(hook))
    first.step(LOST)
    second = Sender(channel(hook), sent=first.stored)
    second.step(LOST)
    assert len(hook.requests) == 1
    second.step(dataclasses.replace(LOST, since_ms=NOON_MS + 120_000), after_s=120)
    assert len(hook.requests) == 2, "a new episode"


def test_critical_alert_is_repeated_until_somebody_has_seen_it(hook: Webhook) -> None:
    sender = Sender(channel(hook))
    sender.step(LOST)
    sender.step(LOST, after_s=4 * 3600 - 60)
    assert len(hook.requests) == 1
    sender.step(LOST, after_s=120)
    assert len(hook.requests) == 2
    sender.step(dataclasses.replace(LOST, acked_ms=NOON_MS), after_s=9 * 3600)
    assert len(hook.requests) == 2


def test_rising_severity_is_told_at_once_and_info_never_repeated(hook: Webhook) -> None:
    held = dataclasses.replace(LOST, rule="idle_hold", severity=Severity.INFO)
    sender = Sender(channel(hook, min_severity="info"))
    sender.step(held)
    sender.step(held, after_s=48 * 3600)
    assert len(hook.requests) == 1
    sender.step(dataclasses.replace(held, severity=Severity.WARNING), after_s=1)
    assert [body["alerts"][0]["severity"] for body in hook.bodies()] == ["info", "warning"]


@pytest.mark.parametrize(
    "change",
    [
        {"silenced_by": "s1"},
        {"inhibited_by": "a0"},
        {"acked_ms": NOON_MS},
        {"severity": Severity.INFO},
        {"rule": "disk_full"},
        {"state": AlertState.PENDING},
    ],
)
def test_what_a_channel_is_not_to_hear(hook: Webhook, change: dict[str, Any]) -> None:
    sender = Sender(channel(hook, rules=("gpu_*",)))
    quiet = dataclasses.replace(LOST, **change)
    sender.step(quiet)
    sender.step(ended=(ended(quiet),), after_s=60)
    assert hook.requests == []


def test_receiver_that_is_down_for_ten_minutes_loses_nothing(hook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    hook.status = 503
    sender = Sender(channel(hook))
    sender.step(LOST)
    short = dataclasses.replace(LOST, id="c1", rule="power_brake")
    sender.step(LOST, short, after_s=60)
    sender.step(LOST, ended=(ended(short),), after_s=60)
    for _ in range(8):
        sender.step(LOST, after_s=60)
    hook.status = 200
    sender.step(LOST, after_s=120)
    (body,) = hook.bodies()
    assert [(each["rule"], each["state"]) for each in body["alerts"]] == [
        ("gpu_lost", "firing"),
        ("power_brake", "firing"),
        ("power_brake", "resolved"),
    ]
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1
    assert str(hook.port) not in caplog.text, "an address can contain a secret"


def test_queue_is_bounded(hook: Webhook) -> None:
    hook.status = 500
    sender = Sender(channel(hook))
    sender.step(*(dataclasses.replace(LOST, id=f"d{number}") for number in range(MAX_PENDING + 50)))
    assert len(sender.delivery._outboxes[0].pending) == MAX_PENDING


def test_redirects_are_not_followed(hook: Webhook) -> None:
    hook.status = 302
    sender = Sender(channel(hook))
    sender.step(LOST)
    assert sender.delivery.test("team") == "It answered with status 302."
    assert hook.requests == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("slack", lambda body: body["text"]),
        ("discord", lambda body: body["content"]),
        ("teams", lambda body: json.dumps(body["attachments"][0]["content"]["body"])),
    ],
)
def test_texts_for_people_cannot_inject(hook: Webhook, kind: str, expected: Any) -> None:
    sender = Sender(channel(hook, kind))
    sender.step(dataclasses.replace(LOST, text=f"{HOSTILE} holds memory."))
    (body,) = hook.bodies()
    text = expected(body)
    assert "holds memory." in text
    assert "\r" not in text
    assert "<script>" not in text or kind == "discord"
    if kind == "discord":
        assert body["allowed_mentions"] == {"parse": []}


def test_ntfy_gets_headers_and_a_plain_text(hook: Webhook) -> None:
    sender = Sender(channel(hook, "ntfy", token="tk_secret"))
    sender.step(LOST)
    ((path, headers, body),) = hook.requests
    assert (path, headers["Priority"], headers["Authorization"]) == ("/hook", "urgent", "Bearer tk_secret")
    assert headers["Title"].endswith("1 firing")
    assert body.decode().startswith("Critical: GPU 3 (H100) is lost")


def test_more_than_ten_alerts_are_counted(hook: Webhook) -> None:
    sender = Sender(channel(hook, "slack"))
    sender.step(*(dataclasses.replace(LOST, id=f"e{number}") for number in range(14)))
    lines = hook.bodies()[0]["text"].splitlines()
    assert (len(lines), lines[-1]) == (12, "and 4 more")


def test_alertmanager_hears_every_minute_that_an_alert_still_fires(hook: Webhook) -> None:
    sender = Sender(channel(hook, "alertmanager"))
    for _ in range(5):
        sender.step(LOST, after_s=60)
    sender.step(ended=(ended(LOST),), after_s=31)
    path, _, _ = hook.requests[0]
    assert path == "/hook/api/v2/alerts"
    bodies = hook.bodies()
    assert len(bodies) == 6
    assert {json.dumps(body[0]["labels"]) for body in bodies} == {json.dumps(bodies[0][0]["labels"])}
    assert bodies[0][0]["labels"]["alertname"] == "gpu_lost"
    assert bodies[-1][0]["endsAt"] < bodies[-2][0]["endsAt"]


def test_mail_has_no_injected_headers() -> None:
    with mail_server() as mailbox:
        mail = Channel(
            name="mail", kind="email", server="127.0.0.1", port=mailbox.port, security="none",
            sender="dashtop@example.org", to=("ops@example.org",),
        )  # fmt: skip
        sender = Sender(mail)
        sender.step(dataclasses.replace(LOST, text=f"{HOSTILE} holds memory."))
        (text,) = mailbox.mails
    message = message_from_string(text)
    assert (message["To"], message["Bcc"]) == ("ops@example.org", None)
    assert str(message["Subject"]).endswith("1 firing")


def test_mail_server_that_is_away_is_a_sentence() -> None:
    mail = Channel(
        name="mail", kind="email", server="127.0.0.1", port=1, security="none", sender="a@example.org",
        to=("b@example.org",), username="ada", password=SecretStr("secret"),
    )  # fmt: skip
    error = Sender(mail).delivery.test("mail")
    assert error == "The mail server did not take it (ConnectionRefusedError)."
    with pytest.raises(KeyError):
        Sender(mail).delivery.test("other")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{name = "a", kind = "slack"}', "needs a url"),
        ('{name = "a", kind = "slack", url = "ftp://x"}', "must begin with https"),
        ('{name = "a", kind = "slack", url = "env:DASHTOP_TEST_MISSING"}', "DASHTOP_TEST_MISSING is not set"),
        ('{name = "a", kind = "email", to = ["x@y.org"]}', "needs sender and to"),
        ('{name = "a\\nb", kind = "json", url = "http://x"}', "name"),
        ('{name = "a", kind = "pager", url = "http://x"}', "kind"),
        ('{name = "a", kind = "json", url = "http://x", secret = "s3cr3t"}', "secret"),
    ],
)
def test_bad_channel_is_one_line_without_its_secret(tmp_path: Path, entry: str, message: str) -> None:
    file = tmp_path / "dashtop.toml"
    file.write_text(f"notify = [{entry}]\n")
    with pytest.raises(SettingsError) as raised:
        load(config=file)
    text = str(raised.value)
    assert text.startswith("notify[1]")
    assert message in text
    assert "\n" not in text
    assert "s3cr3t" not in text


def test_secrets_come_from_the_environment_and_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_URL", "https://hooks.example/T0/secret")
    file = tmp_path / "dashtop.toml"
    file.write_text('notify = [{name = "team", kind = "slack", url = "env:SLACK_URL"}]\n')
    (found,) = load(config=file).notify
    assert found.url is not None
    assert found.url.get_secret_value() == "https://hooks.example/T0/secret"
    assert "secret" not in repr(found)


def test_names_of_channels_differ() -> None:
    with pytest.raises(ValidationError):
        Channel(name="x" * 41, kind="json")
    pair = [{"name": "a", "kind": "json", "url": "http://x"}] * 2
    with pytest.raises(SettingsError, match="same name"):
        load(notify=pair)


def test_alert_of_a_sample_reaches_the_channel_once_across_a_restart(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FILE_INTERVAL_S", 0.02)
    failed = make_gpu(0, values={"gpu.remapped_rows.failure": 1.0})

    def start() -> AlertService:
        service = AlertService(
            tmp_path, clock=FakeClock(now_ms=NOON_MS), is_writer=lambda: True, channels=(channel(hook),)
        )
        service.start()
        service.update(make_sample(1, gpus=(failed,)))
        return service

    first = start()
    eventually(lambda: hook.requests, 10)
    eventually((tmp_path / "alert-notices.json").exists, 10)
    first.close()
    second = start()
    second._delivery.step()
    second.close()
    assert [body["alerts"][0]["rule"] for body in hook.bodies()] == ["remap_failed"]


def test_process_that_takes_over_sends_nothing_twice(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "FILE_INTERVAL_S", 0.02)
    writers = {"first"}
    failed = make_gpu(0, values={"gpu.remapped_rows.failure": 1.0})
    healthy = make_gpu(0, values={"gpu.remapped_rows.failure": 0.0})
    clock = FakeClock(now_ms=NOON_MS)

    def build(name: str) -> AlertService:
        return AlertService(
            tmp_path,
            clock=clock,
            is_writer=lambda: name in writers,
            channels=(channel(hook),),
            interval_s=60.0,  # the clock goes on without samples
        )

    first, second = build("first"), build("second")
    for sequence, service in enumerate((first, second), start=1):  # the second sees it begin a second later
        service.start()
        service.update(make_sample(sequence, gpus=(failed,)))
    eventually((tmp_path / "alert-notices.json").exists, 10)
    first.close()
    writers.add("second")
    eventually(lambda: second._delivery._is_started and second._list_stored(), 10)
    second._delivery.step()
    assert len(hook.requests) == 1
    second.update(make_sample(9, gpus=(healthy,)))
    clock.advance(60)
    eventually(lambda: len(hook.requests) == 2, 10)
    second.close()
    assert [body["status"] for body in hook.bodies()] == ["firing", "resolved"]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # imported by a part of apprise
def test_apprise_sends_one_message_with_all_lines(hook: Webhook) -> None:
    pytest.importorskip("apprise")
    by_apprise = Channel.model_validate({"name": "a", "kind": "apprise", "url": hook.url.replace("http:", "json:")})
    sender = Sender(by_apprise)
    sender.step(LOST, dataclasses.replace(LOST, id="a2", text=HOSTILE))
    (body,) = hook.bodies()
    assert body["title"].endswith(": 2 firing")
    assert body["message"].splitlines()[0] == f"Critical: {LOST.text} {LOST.advice}"
    assert len(body["message"].splitlines()) == 2
    hook.status = 500
    assert sender.delivery.test("a") == "apprise could not send it."


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # imported by a part of apprise
def test_apprise_that_is_missing_or_does_not_know_a_url_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("apprise")
    with pytest.raises(ValidationError, match="apprise does not know this kind of url"):
        Channel.model_validate({"name": "a", "kind": "apprise", "url": "nonsense://secret"})
    monkeypatch.setattr(channels_module, "find_spec", lambda _name: None)
    with pytest.raises(ValidationError, match=r"pip install 'dashtop\[apprise\]'"):
        Channel.model_validate({"name": "a", "kind": "apprise", "url": "json://localhost"})


ALERTMANAGER = """
route: {{receiver: hook, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 4h}}
receivers: [{{name: hook, webhook_configs: [{{url: "{url}", send_resolved: true}}]}}]
"""


@pytest.mark.long
def test_alertmanager_of_debian_tells_the_beginning_and_the_end_once(hook: Webhook, tmp_path: Path) -> None:
    binary = program("prometheus-alertmanager")
    (tmp_path / "config.yml").write_text(ALERTMANAGER.format(url=hook.url))
    (port,) = find_free_ports(1)
    options = [f"--config.file={tmp_path}/config.yml", f"--storage.path={tmp_path}", "--cluster.listen-address="]
    manager = subprocess.Popen([binary, *options, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def list_alerts() -> list[Any]:
        with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=5) as answer:
            return [json.load(answer)]

    try:
        eventually(list_alerts, 30)
        now_ms = time.time_ns() // 1_000_000
        lost = dataclasses.replace(LOST, since_ms=now_ms - 60_000)
        sender = Sender(Channel.model_validate({"name": "am", "kind": "alertmanager", "url": url}), now_ms=now_ms)
        for _ in range(3):
            sender.step(lost, after_s=60)
        (listed,) = list_alerts()[0]
        assert listed["labels"]["alertname"] == "gpu_lost"
        assert listed["annotations"]["summary"] == LOST.text
        eventually(lambda: len(hook.requests) == 1, 30)
        sender.clock = sender.delivery._clock = FakeClock(now_ms=time.time_ns() // 1_000_000)
        sender.delivery._outboxes[0].not_before_s = 0.0
        sender.step(ended=(ended(lost),))
        eventually(lambda: len(hook.requests) == 2, 30)
        assert [body["status"] for body in hook.bodies()] == ["firing", "resolved"]
        assert list_alerts()[0] == []
    finally:
        manager.terminate()
        manager.wait(10)
