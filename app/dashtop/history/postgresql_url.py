"""URLs of PostgreSQL databases: validation, and removal of passwords from messages."""

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


def validate_database_url(value: str | None) -> str | None:
    """Return the URL if it is unambiguous. libpq may print a part of the password of another one as a host name.

    Raises ValueError with a message that does not repeat the value.
    """
    if value is None or _DATABASE_URL.match(value):
        return value
    raise ValueError(
        "must have the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with each of @ : / ? # % in a password"
        " written as %40 %3A %2F %3F %23 %25"
    )


def mask_passwords(text: str) -> str:
    """Return `text` with the password and everything from a `?` on removed from every URL in it."""
    return _QUERY.sub(r"\1", _PASSWORD.sub(r"\1@", text))
