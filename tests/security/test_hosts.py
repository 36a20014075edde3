from __future__ import annotations

import platform

import pytest

from dashtop.web.security.hosts import Hosts, is_loopback

LOCAL = ["localhost", "LOCALHOST:8050", "localhost.", "127.0.0.1:8050", "127.9.9.9", "[::1]", "[::1]:8050"]
FOREIGN = [
    "evil.example", "localhost.evil.example", "evil.example:8050", "127.0.0.1.evil.example", "", "[", "[::1", "::1",
    "a b", "localhost:x", "localhost:123456", "user@localhost", "localhost/x", "192.0.2.7", "[2001:db8::7]", "0.0.0.0",
    "localhost\n", "2130706433",
]  # fmt: skip


@pytest.mark.parametrize("header", [*LOCAL, platform.node()])
@pytest.mark.parametrize("bound_to", ["127.0.0.1", "::1", "0.0.0.0", "192.0.2.1"])
def test_loopback_and_own_name_always(header: str, bound_to: str) -> None:
    assert Hosts(bound_to=bound_to, allowed=()).knows(header)


@pytest.mark.parametrize("header", FOREIGN)
def test_others_never_on_loopback(header: str) -> None:
    assert not Hosts(bound_to="127.0.0.1", allowed=("portal.example",)).knows(header)


def test_names_from_settings() -> None:
    hosts = Hosts(bound_to="127.0.0.1", allowed=("Portal.example",))
    assert hosts.knows("portal.example:443")
    assert not hosts.knows("sub.portal.example")


def test_an_address_of_ones_own_is_no_lie() -> None:
    assert Hosts(bound_to="192.0.2.1", allowed=()).knows("192.0.2.1:8050")
    assert not Hosts(bound_to="192.0.2.1", allowed=()).knows("192.0.2.2")
    everywhere = Hosts(bound_to="0.0.0.0", allowed=())
    assert everywhere.knows("192.0.2.7")
    assert everywhere.knows("[2001:db8::7]:80")
    assert not everywhere.knows("evil.example")
    assert not everywhere.knows("0.0.0.0")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
