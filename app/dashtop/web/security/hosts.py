"""Which names the server may be called by. Others are a browser that was lied to (DNS rebinding)."""

from __future__ import annotations

import ipaddress
import platform
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCAL = "localhost"
_REMEMBERED = 64
"""Headers whose answer is kept: nearly every request has the same."""
_HEADER = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]+))(?::\d{1,5})?")


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach a server that is bound to `address`."""
    if address == LOCAL:
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Hosts:
    """The allow-list of one server: loopback, its own host name, the address it is bound to, and names from settings.

    Bound to every address (0.0.0.0, ::), any address is one of its own: only names can be made to lie.
    """

    def __init__(self, *, bound_to: str, allowed: Iterable[str]) -> None:
        own = platform.node().lower()
        self._names = {LOCAL, own, own.partition(".")[0], bound_to.lower(), *(name.lower() for name in allowed)} - {""}
        try:
            self._any_address = ipaddress.ip_address(bound_to).is_unspecified
        except ValueError:
            self._any_address = False
        self.knows = lru_cache(_REMEMBERED)(self._knows)
        """Tells whether a Host header (name or address, with or without port) is one of the server's own."""

    def _knows(self, header: str) -> bool:
        found = _HEADER.fullmatch(header)
        if found is None:
            return False
        name = (found["six"] or found["name"]).lower().removesuffix(".")
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        if address.is_unspecified:
            return False
        return self._any_address or address.is_loopback or name in self._names
