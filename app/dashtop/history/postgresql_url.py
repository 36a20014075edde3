"""URLs with a password in them: what is let in, and what of them may be told."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)([^\s:@/?#]*):\S*@")
_QUERY = re.compile(r"(?<=://)([^\s?]*)\?\S*")
_DATABASE_URL = re.compile(
    r"postgres(ql)?://"
    r"(?:(?:[^\s@:/?#%]|%[0-9A-Fa-f]{2})*(?::(?:[^\s@:/?#%]|%[0-9A-Fa-f]{2})*)?@)?"  # user and password
    r"(?:[^\s@:/?#%\[\]]|%[0-9A-Fa-f]{2}|\[[0-9A-Fa-f:.]+\]|:[0-9]+(?=[,/?]|$))*"  # hosts and ports
    r"(?:/(?:[^\s@:/?#%]|%[0-9A-Fa-f]{2})*)?"  # database
    r"(?:\?(?:[^\s@?#%]|%[0-9A-Fa-f]{2})*)?$"  # libpq's parameters
)


def database_url(value: str | None) -> str | None:
    """Let pass what has one reading only: of anything else libpq might tell a part of the password as a host's name.

    Raises ValueError, whose message does not repeat the value.
    """
    if value is None or _DATABASE_URL.match(value):
        return value
    raise ValueError(
        "must read postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with each of @ : / ? # % in a password written as"
        " %40 %3A %2F %3F %23 %25"
    )


def mask_passwords(text: str) -> str:
    """Return `text` with every URL in it cut to where it leads: without its password, nor what follows a `?`."""
    return _QUERY.sub(r"\1", _PASSWORD.sub(r"\1@", text))
