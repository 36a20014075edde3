"""Addresses of other dashtops."""

from __future__ import annotations

import re
from typing import Final

MAX_PEERS: Final = 50
"""More machines need an engine: a thread of dashtop asks each of them every few seconds."""
DEFAULT_PORT: Final = 8050

_ADDRESS: Final = re.compile(
    r"(?P<scheme>https?)?(?(scheme)://)(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?(?P<path>/[\w.~@+/-]*)?",
    re.ASCII,
)


def parse_address(text: str) -> str:
    """Return the URL of an address: gpu1, gpu2:8050, https://gpu3.example/dashtop/. Raises ValueError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:  # noqa: PLR2004
        raise ValueError("must be addresses such as gpu1, gpu2:8050 or https://gpu3.example, separated by commas")
    scheme, path = match["scheme"] or "http", (match["path"] or "/").rstrip("/") + "/"
    port = match["port"] or ("" if match["scheme"] else str(DEFAULT_PORT))
    return f"{scheme}://{match['host']}{f':{port}' if port else ''}{path}"
