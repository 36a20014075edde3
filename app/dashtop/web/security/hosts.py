"""Host names that the server accepts in the Host header. Others are refused, which prevents DNS rebinding."""

from __future__ import annotations

import ipaddress
import platform
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCALHOST = "localhost"
MAX_CACHED_HEADERS = 64
"""Nearly every request has the same Host header."""
_HEADER = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]+))(?::\d{1,5})?")


def is_loopback(address: str) -> bool:
    """Return whether a server bound to `address` is reachable from this machine only."""
    if address == LOCALHOST:
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class AllowedHosts:
    """Loopback, the machine's host name, the address the server is bound to, and the names from the settings.

    A server bound to all addresses (0.0.0.0, ::) accepts every IP address: DNS rebinding needs a name.
    """

    def __init__(self, *, bound_to: str, allowed: Iterable[str]) -> None:
        host_name = platform.node().lower()
        names = {
            LOCALHOST,
            host_name,
            host_name.partition(".")[0],
            bound_to.lower(),
            *(name.lower() for name in allowed),
        }
        self._names = names - {""}
        try:
            self._any_address = ipaddress.ip_address(bound_to).is_unspecified
        except ValueError:
            self._any_address = False
        self.is_allowed = lru_cache(MAX_CACHED_HEADERS)(self._is_allowed)
        """Return whether a Host header (name or address, with or without port) is accepted."""

    def _is_allowed(self, header: str) -> bool:
        match = _HEADER.fullmatch(header)
        if match is None:
            return False
        name = (match["ipv6"] or match["name"]).lower().removesuffix(".")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        if address.is_unspecified:
            return False
        return self._any_address or address.is_loopback or name in self._names
