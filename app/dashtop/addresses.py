"""The addresses that the server listens on."""

from __future__ import annotations

import errno
import socket

Address = tuple[socket.AddressFamily, tuple[str, int]]
"""Family, and address as `bind` takes it (with two more numbers for IPv6)."""


def find_addresses(host: str, port: int) -> tuple[list[Address], bool]:
    """Return the addresses of a name that this machine has, and whether these are all. Raises OSError.

    `localhost` is ::1 as well in most hosts files, also where IPv6 is disabled. If the machine has none of the
    addresses, all are returned, so that listening fails with the reason.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = [(family, address) for family, _, _, _, address in found]
    present = [(family, address) for family, address in addresses if _has_address(family, address)]
    return present or addresses, len(present) in {0, len(addresses)}  # type: ignore[return-value]


def _has_address(family: socket.AddressFamily, address: tuple[object, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0, *address[2:]))
    except OSError as error:
        return error.errno not in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
    return True


def format_address(host: str, port: int) -> str:
    """Return `127.0.0.1:8050` or `[::1]:8050`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
