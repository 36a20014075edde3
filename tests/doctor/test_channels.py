"""The check of channels: their servers answer, are encrypted as configured, and get nothing."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.alerts.channels import Channel
from dashtop.doctor.channels import check_channels
from dashtop.doctor.report import Finding, State
from tests.alerts.receivers import mail_server, webhook
from tests.debian import program
from tests.processes import find_free_ports

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "T0P-S3CRET"


def check(**options: Any) -> Finding:
    (finding,) = check_channels([Channel.model_validate({"name": "team", **options})])
    assert finding.area == "Channel team"
    assert SECRET not in f"{finding.text} {finding.fix}"
    return finding


def test_webhook_that_answers_is_ok_and_gets_nothing() -> None:
    with webhook() as hook:
        finding = check(kind="slack", url=f"{hook.url}/{SECRET}?key={SECRET}", token=SECRET)
    assert finding.state is State.OK
    assert finding.text == f"slack; 127.0.0.1:{hook.port} answers, not encrypted"
    assert hook.requests == []


def test_server_that_is_away_or_unknown_fails() -> None:
    (port,) = find_free_ports(1)
    finding = check(kind="json", url=f"http://{SECRET}:{SECRET}@127.0.0.1:{port}/{SECRET}")
    assert finding.state is State.FAIL
    assert f"127.0.0.1:{port}" in finding.text
    assert "Connection refused" in finding.text
    finding = check(kind="json", url=f"https://nowhere.invalid/{SECRET}")
    assert finding.state is State.FAIL
    assert finding.text.startswith("nowhere.invalid has no address (")


@pytest.mark.parametrize(("security", "state"), [("none", State.OK), ("starttls", State.FAIL)])
def test_mail_server_is_asked_for_encryption_only(security: str, state: State) -> None:
    with mail_server() as mailbox:
        options = {"sender": "a@example.org", "to": ["b@example.org"], "username": "a", "password": SECRET}
        finding = check(kind="email", server="127.0.0.1", port=mailbox.port, security=security, **options)
    assert finding.state is state
    assert mailbox.mails == []


def test_certificate_that_is_not_trusted_fails(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("cert.pem", "key.pem")]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*command, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with socket.create_server(("localhost", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with pytest.raises(ssl.SSLError), connection:
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=answer)
        thread.start()
        finding = check(kind="ntfy", url=f"https://localhost:{server.getsockname()[1]}/{SECRET}")
        thread.join(10)
    assert finding.state is State.FAIL
    assert "its certificate is not trusted: self" in finding.text
    assert finding.fix is not None
    assert "certificate" in finding.fix


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # imported by a part of apprise
def test_channel_of_apprise_is_named_and_not_tried() -> None:
    pytest.importorskip("apprise")
    finding = check(kind="apprise", url=f"json://localhost/{SECRET}")
    assert finding.state is State.OK
    assert "apprise" in finding.text
