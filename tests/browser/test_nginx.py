"""The page behind nginx with the block of docs/deployment.md, on a name with a port: plain HTTP, and TLS."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import TICK, open_browser_tab
from tests.nginx import build_location, create_certificate, run_nginx
from tests.processes import ROOT, eventually, find_free_ports, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Browser

DOCUMENT = (ROOT / "docs" / "deployment.md").read_text()


def read_documented_command() -> tuple[str, list[str]]:
    """Return token and options of dashtop behind nginx in docs/deployment.md."""
    found = re.search(r"^DASHTOP_TOKEN=(\S+) dashtop (--allowed-hosts .*)$", DOCUMENT, re.MULTILINE)
    assert found is not None
    return found[1], found[2].split()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_page_is_live_behind_nginx_and_no_request_is_refused(
    scheme: str, tmp_path: Path, launch_browser: Callable[..., Browser], browser_type_launch_args: dict[str, Any]
) -> None:
    token, options = read_documented_command()
    name = options[options.index("--allowed-hosts") + 1]
    (port,) = find_free_ports(1)
    tls = f" ssl; {create_certificate(tmp_path, name)}" if scheme == "https" else ";"
    rules = f"--host-resolver-rules=MAP {name} 127.0.0.1"
    answers: list[tuple[str, int]] = []
    with running("--demo", "2", "--interval", "0.5", *options, env={"DASHTOP_TOKEN": token}, ready=False) as server:
        servers = f"server {{ listen 127.0.0.1:{port}{tls} server_name {name}; {build_location(server)} }}"
        with run_nginx(tmp_path, servers):
            eventually((tmp_path / "pid").exists)
            browser = launch_browser(args=[*browser_type_launch_args["args"], rules])
            with open_browser_tab(browser, ignore_https_errors=True) as tab:
                tab.page.on("response", lambda response: answers.append((response.request.method, response.status)))
                tab.open(f"{scheme}://{name}:{port}/?token={token}")
                tab.wait_until("() => document.querySelector('#chart-memory .scatterlayer .trace')")
                for _ in range(3):
                    tab.page.wait_for_event("response", lambda response: TICK in response.url and response.ok)
                assert tab.page.url.partition("?")[0] == f"{scheme}://{name}:{port}/"
                assert token not in tab.page.url
                (cookie,) = [each for each in tab.page.context.cookies() if each["name"].startswith("dashtop-")]
                assert cookie["secure"] == (scheme == "https")
                assert tab.errors == []
            browser.close()
    assert ("POST", 200) in answers
    assert [answer for answer in answers if answer[1] >= 400] == []
