"""Fixtures that run each test with an SQLite file and with a PostgreSQL server."""

from __future__ import annotations

import itertools
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.history.sqlite import FILE
from tests.builders import make_history

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dashtop.history.store import HistoryStore
    from tests.postgresql import Postgres


@dataclass(frozen=True)
class Storage:
    """Location of a history: a folder with a file, or a schema on the server (and a folder)."""

    folder: Path
    server: Postgres | None = None
    schema: str = ""

    @property
    def kind(self) -> str:
        return "sqlite" if self.server is None else "postgresql"

    @property
    def url(self) -> str | None:
        return self.server.url(self.schema) if self.server is not None else None

    def history(self, **changes: Any) -> HistoryStore:
        return make_history(self.folder, url=self.url, **changes)

    def query_sql(self, statement: str) -> list[tuple[Any, ...]]:
        if self.server is not None:
            return self.server.query_sql(statement, self.schema)
        with sqlite3.connect(self.folder / FILE) as file:
            found = file.execute(statement).fetchall()
        file.close()
        return found


@pytest.fixture(params=["sqlite", "postgresql"])
def storages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Storage]:
    """Return a function that creates an empty storage at each call."""
    if request.param == "sqlite":
        return lambda: Storage(tmp_path_factory.mktemp("history"))
    server: Postgres = request.getfixturevalue("postgres")
    numbers = itertools.count()

    def storage() -> Storage:
        folder = tmp_path_factory.mktemp("history")
        schema = f"{folder.name}_{next(numbers)}"
        server.query_sql(f"CREATE SCHEMA {schema}")
        return Storage(folder, server, schema)

    return storage


@pytest.fixture
def storage(storages: Callable[[], Storage]) -> Storage:
    return storages()
