"""Checks of the channels for notices: whether their servers can be reached. Nothing is sent, and no secret is shown."""

from __future__ import annotations

import smtplib
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from dashtop.doctor.report import Finding, State
from dashtop.history.read_pool import ReadPool, ReadTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dashtop.alerts.channels import Channel

TIMEOUT_S: Final = 5.0
"""For the name, and again for each step of the connection."""
_MAIL_PORTS: Final = {"tls": 465, "starttls": 587, "none": 25}


class Server(NamedTuple):
    """Where a channel sends to. `security`: tls, starttls or none."""

    host: str
    port: int
    security: str


def check_channels(channels: Sequence[Channel]) -> Iterator[Finding]:
    """Yield a finding for each channel."""
    for channel in channels:
        yield _check(channel)


def _check(channel: Channel) -> Finding:
    area = f"Channel {channel.name}"
    server = _find_server(channel)
    if server is None:
        return Finding(area=area, text=f"{channel.kind}; its server is known to apprise only and was not tried")
    try:
        addresses = _resolve(server)
    except (OSError, UnicodeError, ReadTimeoutError) as error:
        return _fail(area, f"{server.host} has no address ({_describe(error)})", "check its name and the DNS server")
    try:
        connected = _connect(server)
    except (OSError, smtplib.SMTPException) as error:
        reason = f"{server.host}:{server.port} at {addresses[0]}: {_describe(error)}"
        fix = (
            "check its certificate"
            if isinstance(error, ssl.SSLCertVerificationError)
            else "check its address, firewall and proxy"
        )
        return _fail(area, reason, fix)
    return Finding(area=area, text=f"{channel.kind}; {server.host}:{server.port} answers, {connected}")


def _fail(area: str, text: str, fix: str) -> Finding:
    return Finding(area=area, state=State.FAIL, text=text, fix=f"{fix}, in [[notify]] of the settings file")


def _find_server(channel: Channel) -> Server | None:
    """Return the server of a channel; None if only apprise knows it."""
    if channel.kind == "email":
        return Server(channel.server, channel.port or _MAIL_PORTS[channel.security], channel.security)
    if channel.kind == "apprise" or channel.url is None:
        return None
    address = urlsplit(channel.url.get_secret_value())
    security = "tls" if address.scheme == "https" else "none"
    return Server(address.hostname or "", address.port or (443 if security == "tls" else 80), security)


def _resolve(server: Server) -> list[str]:
    """Return the addresses of the server. Raise OSError, or ReadTimeoutError if the DNS server does not answer."""
    ask = partial(socket.getaddrinfo, server.host, server.port, type=socket.SOCK_STREAM)
    return [str(found[4][0]) for found in ReadPool(TIMEOUT_S).run(ask)]


def _connect(server: Server) -> str:
    """Connect and begin encryption as for a notice; return how the connection is encrypted."""
    context = ssl.create_default_context()
    if server.security == "starttls":
        with smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S) as mail:
            mail.starttls(context=context)
            return "with STARTTLS"
    with socket.create_connection((server.host, server.port), timeout=TIMEOUT_S) as connection:
        if server.security == "none":
            return "not encrypted"
        with context.wrap_socket(connection, server_hostname=server.host) as encrypted:
            return f"with {encrypted.version()}"


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, (TimeoutError, ReadTimeoutError)):
        return f"no answer within {TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or type(error).__name__
