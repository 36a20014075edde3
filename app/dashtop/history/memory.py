"""The history where Python was built without SQLite: what the last hour of samples in memory has, and nothing else."""

from __future__ import annotations

from typing import NoReturn

from dashtop.history.database import Connection, Database, DatabaseReadError

MISSING_SQLITE = "This Python has no SQLite: the history of the last hour is kept, in memory only."
FIX = "install the SQLite library and its headers, then Python again; or use the Python of the system"


class MissingDatabase(Database):
    """Accepts nothing, so that the newest samples and their events stay in the queue of the writer."""

    begin_statement = ""
    retry_interval_s = 60.0

    def __init__(self) -> None:
        super().__init__(kept_ms=0, max_bytes=0)

    @property
    def location(self) -> str:
        """Nowhere."""
        return "memory"

    def describe(self) -> NoReturn:
        """Raise DatabaseReadError: there is no database."""
        raise DatabaseReadError(MISSING_SQLITE)

    def recover(self, error: Exception, now_ms: int) -> tuple[Database, str | None]:  # noqa: ARG002 - it never works
        """Go on as before, and say why."""
        return self, f"{MISSING_SQLITE} To keep it, {FIX}."

    def _connect(self) -> NoReturn:
        raise DatabaseReadError(MISSING_SQLITE)

    def _connect_reader(self) -> NoReturn:
        raise DatabaseReadError(MISSING_SQLITE)

    def _to_read_error(self, error: Exception) -> DatabaseReadError | None:
        return error if isinstance(error, DatabaseReadError) else None

    def _read_used_bytes(self, connection: Connection) -> int:  # noqa: ARG002 - it has no tables
        return 0

    def _reclaim_space(self, connection: Connection) -> None:
        """Do nothing: there are no tables."""
