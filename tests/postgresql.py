"""A PostgreSQL server for tests, in a temporary folder and on loopback, if PostgreSQL is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "t0p-secret/@:?"
_QUOTED = "t0p-secret%2F%40%3A%3F"


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres, which Debian does not put on PATH; None if not installed."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    newest = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version, default=None)
    return newest.parent if newest is not None else None


def _version(initdb: Path) -> float:
    return float(initdb.parent.parent.name)


@dataclass
class Postgres:
    """A server that can be stopped and started again. Without fsync: no test simulates a power failure."""

    programs: Path
    folder: Path = field(init=False)
    port: int = field(init=False)
    _process: subprocess.Popen[Any] | None = None

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dashtop-pg-"))
        if os.geteuid() == 0:
            os.chown(self.folder, pwd.getpwnam(self._user()["user"]).pw_uid, -1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        how = ["--username=dashtop", "--encoding=UTF8", "--no-locale"]
        subprocess.run(
            [self.programs / "initdb", "--pgdata", self.folder / "data", "--no-sync", *how],
            check=True, capture_output=True, cwd="/", **self._user(),
        )  # fmt: skip

        (self.folder / "data" / "pg_hba.conf").write_text(
            "host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        )

    @staticmethod
    def _user() -> dict[str, Any]:
        """Return the user that runs the server: PostgreSQL refuses root."""
        if os.geteuid() != 0:
            return {}
        names = {each.pw_name for each in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        return {"user": user.pw_name, "group": user.pw_gid, "extra_groups": []}

    def url(self, schema: str = "public", *, user: str = "dashtop", password: str = _QUOTED) -> str:
        """Return the URL of a schema. User `guarded` needs the password, user `dashtop` does not."""
        return (
            f"postgresql://{user}:{password}@127.0.0.1:{self.port}/postgres"
            f"?sslmode=disable&options=-csearch_path%3D{schema}"
        )

    def query_sql(self, statement: str, schema: str = "public") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(schema), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def start(self) -> None:
        where = ["-D", f"{self.folder}/data", "-k", f"{self.folder}", "-h", "127.0.0.1", "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
            [self.programs / "postgres", *where, "-F", "-c", "shared_buffers=16MB"],
            cwd="/", stdout=log, stderr=subprocess.STDOUT,
            **self._user(),
        )  # fmt: skip
        eventually(self._answers, timeout_s=30)

    def guard(self, schema: str) -> str:
        """Return the URL of a schema for a user that needs the password."""
        self.query_sql(
            f"DO $$ BEGIN CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{PASSWORD}';"
            " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        return self.url(schema, user="guarded")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.query_sql("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def stop(self, sent: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: with SIGINT it ends the sessions first; with SIGQUIT it exits at once, as in a crash."""
        if self._process is not None:
            self._process.send_signal(sent)
            self._process.wait(30)
            self._process = None

    @contextmanager
    def freeze(self) -> Iterator[None]:
        """Stop every process of the server; they go on afterwards. The kernel still accepts connections."""
        assert self._process is not None
        main = self._process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        pids = [main, *map(int, children)]
        try:
            for pid in pids:
                _send(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                _send(pid, signal.SIGCONT)

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)


def _send(pid: int, sent: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the process of a connection that was just closed
        os.kill(pid, sent)
