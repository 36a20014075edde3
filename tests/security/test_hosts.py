from __future__ import annotations

import platform

import pytest

from dashtop.web.security.hosts import AllowedHosts, is_loopback

LOCAL = ["localhost", "LOCALHOST:8050", "localhost.", "127.0.0.1:8050", "127.9.9.9", "[::1]", "[::1]:8050"]
FOREIGN = [
    "evil.example", "localhost.evil.example", "evil.example:8050", "127.0.0.1.evil.example", "", "[", "[::1", "::1",
    "a b", "localhost:x", "localhost:123456", "user@localhost", "localhost/x", "192.0.2.7", "[2001:db8::7]", "0.0.0.0",
    "localhost\n", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("header", [*LOCAL, platform.node()])
@pytest.mark.parametrize("bound_to", ["127.0.0.1", "::1", "0.0.0.0", "192.0.2.1"])
def test_loopback_and_host_name_are_always_allowed(header: str, bound_to: str) -> None:
    assert AllowedHosts(bound_to=bound_to, allowed=()).is_allowed(header)


@pytest.mark.parametrize("header", FOREIGN)
def test_other_names_are_refused_on_loopback(header: str) -> None:
    assert not AllowedHosts(bound_to="127.0.0.1", allowed=("portal.example",)).is_allowed(header)


def test_names_from_settings_are_allowed() -> None:
    hosts = AllowedHosts(bound_to="127.0.0.1", allowed=("Portal.example",))
    assert hosts.is_allowed("portal.example:443")
    assert not hosts.is_allowed("sub.portal.example")


def test_bound_address_is_allowed() -> None:
    assert AllowedHosts(bound_to="192.0.2.1", allowed=()).is_allowed("192.0.2.1:8050")
    assert not AllowedHosts(bound_to="192.0.2.1", allowed=()).is_allowed("192.0.2.2")
    everywhere = AllowedHosts(bound_to="0.0.0.0", allowed=())
    assert everywhere.is_allowed("192.0.2.7")
    assert everywhere.is_allowed("[2001:db8::7]:80")
    assert not everywhere.is_allowed("evil.example")
    assert not everywhere.is_allowed("0.0.0.0")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
