"""Passwords in URLs are masked; valid PostgreSQL URLs are accepted."""

from __future__ import annotations

import pytest

from dashtop.history.postgresql_url import mask_passwords, validate_database_url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost",
        "postgres://ada@localhost:5432/history",
        "postgresql://ada:p%40s%2Fs@db.example:5432,other.example/history?sslmode=require&options=-csearch_path%3Da",
        "postgresql://ada:pw@[::1]:5432/history",
        "postgresql:///history?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/history",
    ],
)
def test_valid_urls_are_accepted(url: str) -> None:
    assert validate_database_url(url) == url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:secret@host:5/db?password=secret", "postgresql://ada@host:5/db"),
        ("postgresql://:secret@host", "postgresql://@host"),
        ("postgresql://ada:se@cr/et?@host/db", "postgresql://ada@host/db"),
        ("two: http://a:b@c/ and http://d/?e=f.", "two: http://a@c/ and http://d/"),
        ("no URL at all: really?", "no URL at all: really?"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert mask_passwords(text) == shown
