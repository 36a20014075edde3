"""The channels that notices of alerts go to: their settings, the messages they get, and how these are sent.

Targets and secrets come from the settings file only, never from the page. Nothing here logs an address or a secret, and
no redirect is followed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import smtplib
import ssl
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlencode

import urllib3
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from dashtop.model.alert import AlertState
from dashtop.model.errors import DeliveryError
from dashtop.model.metric import Severity
from dashtop.model.text import sanitize_text
from dashtop.model.timerange import MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.alert import Alert

TIMEOUT_S: Final = 10.0
_APPRISE: Final = "apprise"
"""The name of the package, which is optional and takes half a second to import."""
MAX_LINES: Final = 10
"""Alerts that a message for people lists; it says how many more there are."""
MAX_TEXT_CHARS: Final = 300
AROUND_MS: Final = 15 * MINUTE_MS
"""What a link to an alert shows before and after the moment when it fired."""
ALERTMANAGER_VALIDITY: Final = timedelta(minutes=4)
"""An alert that is not sent again for this long ends in Alertmanager: dashtop sends it every minute."""


class Notice(NamedTuple):
    """An alert that fires or has ended."""

    alert: Alert

    @property
    def is_resolved(self) -> bool:
        """Whether the alert has ended."""
        return self.alert.state is AlertState.RESOLVED


def _read_environment(value: SecretStr | None) -> SecretStr | None:
    """Return the secret; `env:NAME` names an environment variable that has it. Raise ValueError if it is not set."""
    text = value.get_secret_value() if value is not None else ""
    if not text.startswith("env:"):
        return value
    name = text.removeprefix("env:")
    if not os.environ.get(name):
        raise ValueError(f"the environment variable {name} is not set")
    return SecretStr(os.environ[name])


Secret = Annotated[SecretStr, AfterValidator(_read_environment)]


class Channel(BaseModel):
    """One channel: an entry of `notify` in the settings file.

    `url` for all kinds but email; that of apprise has a scheme of apprise. `token`: sent as a Bearer header. `rules`:
    patterns of rules.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[\w .-]{1,40}$")]
    kind: Literal["json", "slack", "discord", "ntfy", "teams", "alertmanager", "email", "apprise"]
    url: Secret | None = None
    token: Secret | None = None
    server: str = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    security: Literal["tls", "starttls", "none"] = "starttls"
    username: str | None = None
    password: Secret | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()
    min_severity: Severity = Severity.WARNING
    rules: tuple[str, ...] = ("*",)
    resolved: bool = True

    @model_validator(mode="after")
    def _check_target(self) -> Channel:
        if self.kind == "email":
            if not self.to or self.sender is None:
                raise ValueError("an email channel needs sender and to")
            if any("\n" in each or "\r" in each or "@" not in each for each in (self.sender, *self.to)):
                raise ValueError("sender and to must be mail addresses")
        elif self.url is None:
            raise ValueError(f"a channel of the kind {self.kind} needs a url")
        elif self.kind == "apprise":
            _check_apprise(self.url)
        elif not self.url.get_secret_value().startswith(("https://", "http://")):
            raise ValueError("url must begin with https:// or http://")
        return self


def _check_apprise(url: SecretStr) -> None:
    """Raise ValueError unless apprise is installed and knows this kind of url."""
    if find_spec(_APPRISE) is None:
        raise ValueError("a channel of the kind apprise needs apprise: pip install 'dashtop[apprise]'")
    if not _open_apprise(url):
        raise ValueError("apprise does not know this kind of url; its documentation lists them")


def _open_apprise(url: SecretStr) -> Any:
    """Return a client of apprise for the url; it is empty (false) if apprise does not know the url."""
    logging.getLogger(_APPRISE).setLevel(logging.CRITICAL + 1)  # it logs urls, which have secrets
    client = import_module(_APPRISE).Apprise()
    client.add(url.get_secret_value())
    return client


class Message(NamedTuple):
    """What is sent at once, and where it comes from."""

    notices: Sequence[Notice]
    host: str
    is_simulated: bool
    public_url: str | None = None

    def build_link(self, query: str) -> str | None:
        """Return the address of the page with a query; None if it is not known where people open the page."""
        return f"{self.public_url.rstrip('/')}/?{query}" if self.public_url is not None else None


def send(channel: Channel, message: Message, now_ms: int) -> None:
    """Send a message. Raises DeliveryError, whose text has no secret."""
    if channel.kind == "email":
        _send_mail(channel, message)
        return
    if channel.kind == "apprise":
        _send_by_apprise(channel, message)
        return
    body, headers = _BODIES[channel.kind](message, now_ms)
    _post(channel, body, headers)


def _post(channel: Channel, body: bytes, headers: Mapping[str, str]) -> None:
    if channel.url is None:
        raise DeliveryError("It has no url.")
    url = channel.url.get_secret_value()
    if channel.kind == "alertmanager":
        url = url.rstrip("/") + "/api/v2/alerts"
    authorization = {"Authorization": f"Bearer {channel.token.get_secret_value()}"} if channel.token else {}
    with urllib3.PoolManager(timeout=TIMEOUT_S, retries=False) as pool:
        try:
            response = pool.request("POST", url, body=body, headers={**headers, **authorization}, redirect=False)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise DeliveryError(f"It cannot be reached ({type(error).__name__}).") from None
    if response.status >= 300:  # noqa: PLR2004 - a redirect could lead anywhere
        raise DeliveryError(f"It answered with status {response.status}.")


def _send_by_apprise(channel: Channel, message: Message) -> None:
    if channel.url is None:
        raise DeliveryError("It has no url.")
    client = _open_apprise(channel.url)
    title = sanitize_text(_summarize(message), MAX_TEXT_CHARS)
    if not client.notify(
        title=title, body="\n".join([*_list_lines(message), *_list_links(message)]), body_format="text"
    ):
        raise DeliveryError("apprise could not send it.")


def _send_mail(channel: Channel, message: Message) -> None:
    mail = EmailMessage()
    mail["Subject"] = sanitize_text(_summarize(message), MAX_TEXT_CHARS)
    mail["From"], mail["To"] = channel.sender, ", ".join(channel.to)
    mail.set_content("\n".join([*_list_lines(message), *_list_links(message)]))
    port = channel.port or {"tls": 465, "starttls": 587, "none": 25}[channel.security]
    context = ssl.create_default_context()
    try:
        if channel.security == "tls":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(channel.server, port, timeout=TIMEOUT_S, context=context)
        else:
            connection = smtplib.SMTP(channel.server, port, timeout=TIMEOUT_S)
        with connection:
            if channel.security == "starttls":
                connection.starttls(context=context)
            if channel.username is not None and channel.password is not None:
                connection.login(channel.username, channel.password.get_secret_value())
            connection.send_message(mail)
    except (OSError, smtplib.SMTPException) as error:
        raise DeliveryError(f"The mail server did not take it ({type(error).__name__}).") from None


# --- messages ---------------------------------------------------------------------------------------------------------


def _summarize(message: Message) -> str:
    """Return one line: host, and how many alerts fire and have ended."""
    ended = sum(notice.is_resolved for notice in message.notices)
    firing = len(message.notices) - ended
    counts = ", ".join([*([f"{firing} firing"] if firing else []), *([f"{ended} ended"] if ended else [])])
    return f"{'[simulated] ' if message.is_simulated else ''}dashtop on {message.host}: {counts}"


def _list_lines(message: Message) -> list[str]:
    lines = [_format_line(notice) for notice in message.notices[:MAX_LINES]]
    more = len(message.notices) - MAX_LINES
    return [*lines, *([f"and {more} more"] if more > 0 else [])]


def _list_links(message: Message) -> list[str]:
    """Return the address of the page of alerts, if it is known."""
    link = message.build_link("page=alerts")
    return [] if link is None else [link]


def _build_alert_link(message: Message, alert: Alert) -> str | None:
    """Return the address of the page that shows the GPU, or the host, around the moment when the alert fired."""
    if alert.since_ms is None:
        return message.build_link("page=alerts")
    span = {"from": alert.since_ms - AROUND_MS, "to": alert.since_ms + AROUND_MS}
    shown = {"page": "host"} if alert.gpu_uuid is None else {"page": "gpus", "view": "single", "gpu": alert.gpu_uuid}
    return message.build_link(urlencode({**shown, **span}))


def _format_line(notice: Notice) -> str:
    alert = notice.alert
    text = sanitize_text(alert.text, MAX_TEXT_CHARS)
    if notice.is_resolved:
        return f"Ended: {text}"
    return f"{alert.severity.value.capitalize()}: {text} {sanitize_text(alert.advice, MAX_TEXT_CHARS)}".rstrip()


def _encode_json(content: object, headers: Mapping[str, str] | None = None) -> tuple[bytes, Mapping[str, str]]:
    return json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}


def _build_json(message: Message, _now_ms: int) -> tuple[bytes, Mapping[str, str]]:
    ended = all(notice.is_resolved for notice in message.notices)
    alerts = [
        {
            "id": alert.id,
            "rule": alert.rule,
            "severity": alert.severity.value,
            "state": alert.state.value,
            "gpu_uuid": alert.gpu_uuid,
            "gpu_id": alert.gpu_id,
            "subject": alert.subject,
            "text": alert.text,
            "advice": alert.advice,
            "value": alert.value,
            "threshold": alert.threshold,
            "since": alert.since_ms,
            "url": _build_alert_link(message, alert),
        }
        for alert in (notice.alert for notice in message.notices)
    ]
    status = "resolved" if ended else "firing"
    return _encode_json(
        {"version": 1, "status": status, "host": message.host, "simulated": message.is_simulated, "alerts": alerts}
    )


def _build_slack(message: Message, _now_ms: int) -> tuple[bytes, Mapping[str, str]]:
    text = "\n".join([_summarize(message), *_list_lines(message), *_list_links(message)])
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _encode_json({"text": escaped})


def _build_discord(message: Message, _now_ms: int) -> tuple[bytes, Mapping[str, str]]:
    text = "\n".join([_summarize(message), *_list_lines(message), *_list_links(message)])
    return _encode_json({"content": text[:2000], "allowed_mentions": {"parse": []}})


def _build_ntfy(message: Message, _now_ms: int) -> tuple[bytes, Mapping[str, str]]:
    is_critical = any(
        notice.alert.severity is Severity.CRITICAL and not notice.is_resolved for notice in message.notices
    )
    title = _summarize(message).encode("ascii", "replace").decode()
    headers = {"Title": title, "Priority": "urgent" if is_critical else "default", "Content-Type": "text/plain"}
    return "\n".join([*_list_lines(message), *_list_links(message)]).encode(), headers


def _build_teams(message: Message, _now_ms: int) -> tuple[bytes, Mapping[str, str]]:
    lines = [*map(_escape_markdown, _list_lines(message)), *_list_links(message)]
    texts = [{"type": "TextBlock", "text": line, "wrap": True} for line in lines]
    title = {"type": "TextBlock", "text": _escape_markdown(_summarize(message)), "weight": "Bolder", "wrap": True}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [title, *texts],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return _encode_json({"type": "message", "attachments": [attachment]})


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>" else letter for letter in text)


def _build_alertmanager(message: Message, now_ms: int) -> tuple[bytes, Mapping[str, str]]:
    now = datetime.fromtimestamp(now_ms / 1000, timezone.utc)
    alerts = []
    for notice in message.notices:
        alert = notice.alert
        labels = {
            "alertname": alert.rule,
            "severity": alert.severity.value,
            "instance": message.host,
            "gpu": "" if alert.gpu_id is None else str(alert.gpu_id),
            "gpu_uuid": alert.gpu_uuid or "",
            "subject": alert.subject,
            "simulated": "true" if message.is_simulated else "",
        }
        since = datetime.fromtimestamp((alert.since_ms or now_ms) / 1000, timezone.utc)
        ends = now if notice.is_resolved else now + ALERTMANAGER_VALIDITY
        link = _build_alert_link(message, alert)
        alerts.append(
            {
                "labels": {name: value for name, value in labels.items() if value},
                "annotations": {"summary": alert.text, "description": alert.advice},
                "startsAt": since.isoformat(),
                "endsAt": ends.isoformat(),
                **({"generatorURL": link} if link is not None else {}),
            }
        )
    return _encode_json(alerts)


_BODIES: Final[Mapping[str, Any]] = {
    "json": _build_json,
    "slack": _build_slack,
    "discord": _build_discord,
    "ntfy": _build_ntfy,
    "teams": _build_teams,
    "alertmanager": _build_alertmanager,
}


def find_host_name() -> str:
    """Return the name of this machine, as messages name it."""
    return platform.node() or "localhost"
