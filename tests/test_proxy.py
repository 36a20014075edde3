"""Behind a real nginx: the location block of docs/deployment.md, and a prefix that the proxy leaves or cuts off."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import pytest

from tests.nginx import build_location, run_nginx
from tests.processes import Running, eventually, find_free_ports, running
from tests.streams import open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

V1 = "api/v1/system"
PLACES = ("root", "left", "cut")


@dataclass(frozen=True)
class Proxied:
    """A dashtop as it is reached through nginx."""

    through: Running
    prefix: str

    def get(self, path: str) -> str:
        return self.through.get(self.prefix + path).decode()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxied]]:
    with ExitStack() as stack:
        plain = stack.enter_context(running("--demo", "2", "--interval", "0.5", "--trusted-proxies", "1", "--no-auth"))
        under = stack.enter_context(running("--demo", "2", "--interval", "0.5", "--url-prefix", "/gpu/"))
        ports = find_free_ports(len(PLACES))
        locations = (build_location(plain), build_location(under, "/gpu/"), build_location(under, "/gpu/", "/"))
        servers = "\n".join(
            f"server {{ listen 127.0.0.1:{port}; {each} }}" for port, each in zip(ports, locations, strict=True)
        )
        process = stack.enter_context(run_nginx(tmp_path_factory.mktemp("nginx"), servers))
        found = {
            name: Proxied(Running(process, f"http://127.0.0.1:{port}/"), "/" if name == "root" else "/gpu/")
            for name, port in zip(PLACES, ports, strict=True)
        }
        for each in found.values():
            eventually(partial(each.get, "healthz"))
        yield found


@pytest.fixture(params=PLACES)
def place(places: dict[str, Proxied], request: pytest.FixtureRequest) -> Proxied:
    found: Proxied = places[request.param]
    return found


NEEDS_SETTINGS = ("/actions", "/fleet", "/fleet/free")
"""Endpoints that refuse until they are configured."""


def test_pages_and_all_that_they_load(place: Proxied) -> None:
    for page in ("", "embed/compact", "docs"):
        text = place.get(page)
        links = [link for link in re.findall(r'(?:src|href)="([^"#]+)', text) if not link.endswith("/stream")]
        assert links
        for link in set(links):
            assert not link.startswith("/"), link
            path = urljoin(place.prefix + page, link)
            if link.endswith(NEEDS_SETTINGS):
                assert "detail" in place.through.status(path)[1], "dashtop itself answers"
            else:
                assert place.through.get(path)


def test_calls_and_redirects(place: Proxied) -> None:
    assert place.through.json(f"{place.prefix}{V1}/monitoring/all")["gpu_available"]
    assert place.get("metrics").startswith("# HELP")
    with urllib.request.urlopen(f"{place.through.url.rstrip('/')}{place.prefix}{V1}/docs", timeout=10) as answer:
        assert urlsplit(answer.url).path == f"{place.prefix}docs"
    assert place.through.status(f"{place.prefix}api/nothing")[0] == 404


def test_forged_host_does_not_pass(places: dict[str, Proxied]) -> None:
    """A page whose DNS name was rebound to the proxy can set X-Forwarded-Host, which nginx passes on, but not Host."""
    url = f"{places['root'].through.url}{V1}/processes"
    forged = {"Host": "evil.example", "X-Forwarded-Host": "localhost"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, headers=forged), timeout=10)
    refused.value.close()
    assert refused.value.code == 403
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200


def test_streams_come_as_they_happen(place: Proxied) -> None:
    with open_stream(place.through, path=f"{place.prefix}{V1}/stream") as stream:
        times = [int(stream.read_event()[0]) for _ in range(3)]
    assert times == sorted(set(times))
