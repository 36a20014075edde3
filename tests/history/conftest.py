"""Where the tests keep a history: each runs with a file of SQLite and with a PostgreSQL server."""

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
class Place:
    """A folder with a file, or a folder and a schema on the server."""

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

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        if self.server is not None:
            return self.server.ask(question, self.schema)
        with sqlite3.connect(self.folder / FILE) as file:
            found = file.execute(question).fetchall()
        file.close()
        return found


@pytest.fixture(params=["sqlite", "postgresql"])
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    """Makes a place of its own at each call."""
    if request.param == "sqlite":
        return lambda: Place(tmp_path_factory.mktemp("history"))
    server: Postgres = request.getfixturevalue("postgres")
    numbers = itertools.count()

    def place() -> Place:
        folder = tmp_path_factory.mktemp("history")
        schema = f"{folder.name}_{next(numbers)}"
        server.ask(f"CREATE SCHEMA {schema}")
        return Place(folder, server, schema)

    return place


@pytest.fixture
def place(places: Callable[[], Place]) -> Place:
    return places()
