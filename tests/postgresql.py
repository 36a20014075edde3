"""A PostgreSQL server of the tests' own, where PostgreSQL is installed: in a temporary folder, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.processes import eventually

PASSWORD = "t0p-secret/@:?"
_QUOTED = "t0p-secret%2F%40%3A%3F"


def programs() -> Path | None:
    """Return the folder of initdb and postgres, which Debian keeps out of the PATH; None: not installed."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    newest = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version, default=None)
    return newest.parent if newest is not None else None


def _version(initdb: Path) -> float:
    return float(initdb.parent.parent.name)


@dataclass
class Postgres:
    """A server that can be stopped and started again. It is not told to wait for the disk: no test pulls the plug."""

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
        """Return whom to run it as: PostgreSQL refuses root."""
        if os.geteuid() != 0:
            return {}
        names = {each.pw_name for each in pwd.getpwall()}
        user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        return {"user": user.pw_name, "group": user.pw_gid, "extra_groups": []}

    def url(self, schema: str = "public", *, user: str = "dashtop", password: str = _QUOTED) -> str:
        """Return where a schema is. User `guarded` must know the password, `dashtop` is let in at once."""
        return (
            f"postgresql://{user}:{password}@127.0.0.1:{self.port}/postgres"
            f"?sslmode=disable&options=-csearch_path%3D{schema}"
        )

    def ask(self, question: str, schema: str = "public") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(schema), autocommit=True) as connection:
            cursor = connection.execute(question.encode())
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
        """Return the URL of a schema for one who must know the password."""
        self.ask(
            f"DO $$ BEGIN CREATE ROLE guarded SUPERUSER LOGIN PASSWORD '{PASSWORD}';"
            " EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
        return self.url(schema, user="guarded")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.ask("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def stop(self, sent: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: end sessions and then the server; SIGQUIT: at once, as in a crash."""
        if self._process is not None:
            self._process.send_signal(sent)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)
