"""Limit of wrong access tokens: a client that tries several must wait longer and longer between two."""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_FREE_GUESSES = 10
MAX_WAIT_S = 60.0
"""Clients behind one address share the wait, so a guesser must not keep the others out for long."""
MEMORY_S = 3600.0
MAX_CLIENTS = 1000
MAX_KNOWN_GUESSES = 100

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Client:
    count: int = 0
    failed_at_s: float = 0.0
    known: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_KNOWN_GUESSES))


class GuessLimiter:
    """Counts the different wrong tokens of each client. Thread-safe.

    A page or a scraper that repeats an outdated token is not guessing: the same token counts once.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic, *, name: str = "access token") -> None:
        self._now_s = now_s
        self._name = name
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def get_wait_s(self, address: str, guesses: Iterable[str]) -> float:
        """Return the seconds until this client may try these tokens: 0 for the first ones and for known wrong ones."""
        with self._lock:
            client = self._find(group_address(address))
            if (
                client is None
                or client.count < MAX_FREE_GUESSES
                or all(hash(guess) in client.known for guess in guesses)
            ):
                return 0.0
            wait_s = min(2.0 ** min(client.count - MAX_FREE_GUESSES, 10), MAX_WAIT_S)
            return max(0.0, client.failed_at_s + wait_s - self._now_s())

    def add(self, address: str, guess: str) -> None:
        """Count a wrong token, and log it."""
        network = group_address(address)
        with self._lock:
            client = self._find(network) or _Client()
            if hash(guess) in client.known:
                return
            client.known.append(hash(guess))
            client.count += 1
            client.failed_at_s = self._now_s()
            self._clients[network] = client
            self._clients.move_to_end(network)
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
            count = client.count
        log.warning("Wrong %s from %s, number %d.", self._name, network, count)

    def _find(self, name: str) -> _Client | None:
        client = self._clients.get(name)
        if client is not None and self._now_s() - client.failed_at_s > MEMORY_S:
            del self._clients[name]
            return None
        return client


def group_address(address: str) -> str:
    """Return the address, or the /64 network of an IPv6 address: a client has all addresses of its network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((parsed, 64), strict=False))
