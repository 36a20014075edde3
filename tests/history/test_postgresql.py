"""PostgreSQL: restarts of the server, lost connections, tables of other programs, passwords."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from dashtop.cli import main
from dashtop.history.database import DatabaseReadError
from dashtop.history.postgresql import PostgresDatabase
from dashtop.metrics import HOST_METRICS
from tests.builders import make_device, make_gpu, make_sample, wait_until_written
from tests.history.conftest import Storage
from tests.history.writer import count_values, fill
from tests.postgresql import PASSWORD
from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgresql import Postgres

SECRET = "s3cret"
BAD_URLS = [
    f"mysql://ada:{SECRET}@localhost/history",
    f"postgresql://ada:{SECRET}",
    f"postgresql://ada:x@{SECRET}@localhost/history",
    f"postgresql://ada:x/{SECRET}@localhost/history",
    f"postgresql://ada:x?{SECRET}@localhost/history",
    f"postgresql://ada:x%{SECRET}@localhost/history",
    f"postgresql://ada:{SECRET}@localhost/history?colour={SECRET}",
    f"postgresql://ada:{SECRET}@[::1/history",
    f"host=localhost password={SECRET}",
]


@pytest.fixture
def storage(postgres: Postgres, tmp_path: Path) -> Storage:
    schema = f"s{abs(hash(tmp_path))}"
    postgres.query_sql(f"CREATE SCHEMA {schema}")
    return Storage(tmp_path, postgres, schema)


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGQUIT])
def test_no_sample_is_lost_when_the_server_restarts(
    stop_signal: signal.Signals, storage: Storage, postgres: Postgres
) -> None:
    history = storage.history()
    fill(history, 0, 2000)
    wait_until_written(history)
    assert count_values(history, 2000) == 2000
    postgres.stop(stop_signal)
    try:
        fill(history, 2000, 2100)
        message = eventually(history.status_message)
        assert "kept in memory" in message
        assert count_values(history, 2100) == 2100
    finally:
        postgres.start()
    back = time.monotonic()
    wait_until_written(history)
    assert history.status_message() is None
    assert time.monotonic() - back < 10
    history.close()
    rows = "SELECT count(*), count(DISTINCT time_ms) FROM head WHERE tier = 0 AND time_ms >= 1200000"
    assert storage.query_sql(rows) == [(900, 900)]
    reopened = storage.history()
    assert count_values(reopened, 2100) == 2100
    reopened.close()


def test_lost_connection_does_not_keep_the_lock(storage: Storage) -> None:
    """After a network failure the server keeps the session, and its lock, until it notices."""
    history = storage.history()
    fill(history, 0, 10)
    wait_until_written(history)
    database = history._writer.database
    left = database._connection
    assert left is not None
    database._connection = None  # so that the history does not close it
    fill(history, 10, 20)
    wait_until_written(history)
    assert history.status_message() is None
    assert storage.query_sql("SELECT count(*), count(DISTINCT time_ms) FROM head") == [(20, 20)]
    left.close()
    history.close()


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("CREATE TABLE event (name TEXT)", "another program"),
        ("CREATE TABLE dashtop (version INT); INSERT INTO dashtop VALUES (99)", "another version"),
    ],
)
def test_tables_of_other_programs_are_reported_and_not_changed(statement: str, word: str, storage: Storage) -> None:
    storage.query_sql(statement)
    before = storage.query_sql("SELECT * FROM pg_tables WHERE schemaname = current_schema()")
    history = storage.history()
    fill(history, 0, 50)
    assert word in eventually(history.status_message)
    with pytest.raises(DatabaseReadError, match=word):
        history._writer.database.describe()
    assert count_values(history, 50) == 50
    assert storage.query_sql("SELECT * FROM pg_tables WHERE schemaname = current_schema()") == before
    history.close()


def test_dropped_tables_are_created_again(storage: Storage) -> None:
    history = storage.history()
    fill(history, 0, 10)
    wait_until_written(history)
    storage.query_sql(f"DROP SCHEMA {storage.schema} CASCADE; CREATE SCHEMA {storage.schema}")
    fill(history, 10, 20)
    wait_until_written(history)
    assert history.status_message() is None
    assert storage.query_sql("SELECT count(*) FROM head") == [(10,)]
    history.close()


def test_history_of_32_gpus(storage: Storage) -> None:
    history = storage.history()
    gpus = tuple(make_gpu(index, values={"gpu.utilization.gpu": index}) for index in range(32))
    for second in range(0, 1300, 10):
        history.append(make_sample(second, time_ms=second * 1000, gpus=gpus))
    wait_until_written(history)
    history.close()
    reopened = storage.history()
    keys = [key for key in reopened.series() if key.metric == "gpu.utilization.gpu"]
    assert len(keys) == 32
    found = reopened.query(keys, 0, 1_300_000, 10_000)
    assert sorted(np.unique(series.mean)[0] for series in found.series) == list(range(32))
    reopened.close()


def test_used_bytes_are_near_the_size_that_the_server_reports(storage: Storage) -> None:
    history = storage.history()
    draw = random.Random(5)
    for second in range(0, 12_000, 4):
        values = {metric.key: draw.random() for metric in HOST_METRICS}
        history.append(make_sample(second, time_ms=second * 1000, host=values))
    wait_until_written(history)
    database = PostgresDatabase(str(storage.url), kept_ms=1, max_bytes=1)
    with database.open_reader() as connection:
        estimated = database._read_used_bytes(connection)
    database.close()
    history.close()
    ((reported,),) = storage.query_sql("SELECT pg_total_relation_size('chunk')")
    assert reported / 2 < estimated < reported * 2


Output = tuple[int, str, str]
"""Exit status, stdout, stderr."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Return a function that runs `dashtop` in this process until it exits."""

    def run(*arguments: str) -> Output:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        result = capsys.readouterr()
        return int(ended.value.code or 0), result.out, result.err

    return run


@pytest.mark.parametrize("url", BAD_URLS)
def test_invalid_url_is_one_line_without_the_password(url: str, command: Callable[..., Output]) -> None:
    status, output, errors = command("export", "--history-url", url)
    assert (status, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert "--history-url" in errors
    assert SECRET not in errors


def test_misspelled_option_does_not_print_the_password(command: Callable[..., Output]) -> None:
    status, _, errors = command("--history-ur", f"postgresql://ada:{SECRET}@localhost/history?password={SECRET}")
    assert status == 2
    assert SECRET not in errors


def test_missing_psycopg_names_the_extra_to_install() -> None:
    without = "import sys; sys.modules['psycopg'] = None; from dashtop.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "export", "--history-url", "postgresql://localhost/history"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'dashtop[postgresql]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_connection_errors_do_not_print_the_password(
    storage: Storage, postgres: Postgres, command: Callable[..., Output]
) -> None:
    guarded = postgres.guard(storage.schema)
    wrong = guarded.replace(guarded[guarded.index("guarded:") + 8 : guarded.index("@")], SECRET)
    unreachable = f"postgresql://ada:{SECRET}@127.0.0.1:1/history"
    for url, words in ((wrong, "password authentication failed"), (unreachable, "refused")):
        for what in (["doctor", "--no-gpu", "--port", "0"], ["export"]):
            status, output, errors = command(*what, "--history-url", url)
            assert status == 1
            assert words in " ".join((output + errors).split())
            assert SECRET not in output + errors


@pytest.mark.long
def test_commands_with_postgresql_do_not_print_the_password(
    storage: Storage,
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = postgres.guard(storage.schema)
    where = {"DASHTOP_HISTORY_URL": url, "DASHTOP_DATA_DIR": str(tmp_path)}
    password = url[url.index("guarded:") + 8 : url.index("@")]
    with running("--no-gpu", env=where) as dashtop:
        eventually(lambda: _rows(storage) > 0)
        postgres.stop()
        try:
            ready = eventually(lambda: _has_error(dashtop.status("/readyz")[1]))
        finally:
            postgres.start()
        eventually(lambda: not _has_error(dashtop.status("/readyz")[1]))
        assert "kept in memory" in json.dumps(ready)
        result = json.dumps(ready) + "".join(dashtop.lines)
    assert "127.0.0.1" in result
    assert not any(secret in result for secret in (PASSWORD, password))
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    main(["export", "--range", "1h", "--metrics", "system.cpu.usage_percent", "-o", str(tmp_path / "table")])
    assert len((tmp_path / "table").read_text().splitlines()) > 3
    main(["doctor", "--no-gpu", "--port", "0"])
    shown = capsys.readouterr().out
    assert "PostgreSQL 1" in shown
    assert "SQLite" not in shown
    assert not any(secret in shown for secret in (PASSWORD, password))


def _rows(storage: Storage) -> int:
    try:
        ((rows,),) = storage.query_sql("SELECT count(*) FROM head WHERE tier = 0")
    except psycopg.errors.UndefinedTable:
        return 0
    return int(rows)


def _has_error(body: dict[str, Any]) -> dict[str, Any] | None:
    return body if "in memory" in json.dumps(body) else None


def test_gpu_uuid_with_sql_characters_is_stored(storage: Storage) -> None:
    odd = make_device(0, uuid="GPU-'; DROP TABLE head; -- %s ? é")
    history = storage.history()
    history.append(make_sample(1, time_ms=1000, gpus=(make_gpu(device=odd, values={"gpu.temperature": 40}),)))
    wait_until_written(history)
    assert any(key.gpu_uuid == odd.uuid for key in history.series())
    history.close()


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", ["locked tables", "frozen server"])
def test_server_that_does_not_answer_delays_no_request(
    fault: str, storage: Storage, postgres: Postgres, tmp_path: Path
) -> None:
    where = {"DASHTOP_HISTORY_URL": str(storage.url), "DASHTOP_DATA_DIR": str(tmp_path)}
    history = "/api/v1/system/history?range=24h&metrics=system.cpu.usage_percent"
    with running("--no-gpu", "--interval", "0.5", env=where) as dashtop:
        eventually(lambda: _rows(storage) > 0)
        with _break(fault, storage, postgres):
            durations = []
            for _ in range(20):
                for path in ("/healthz", "/readyz", "/", history):
                    began = time.monotonic()
                    assert dashtop.get(path)
                    durations.append(time.monotonic() - began)
            assert max(durations) < 1.5
            assert sum(duration > 0.9 for duration in durations) <= 1, "only the first read waits for the deadline"
            eventually(lambda: "not been written for" in json.dumps(dashtop.json("/readyz")), 20)
        eventually(lambda: "detail" not in dashtop.json("/readyz"), 20)
    ((longest,),) = storage.query_sql(
        "SELECT max(gap) FROM (SELECT time_ms - lag(time_ms) OVER (ORDER BY id) AS gap FROM head WHERE tier = 0) AS g"
    )
    assert longest < 2000


@contextmanager
def _break(fault: str, storage: Storage, postgres: Postgres) -> Iterator[None]:
    if fault == "frozen server":
        with postgres.freeze():
            yield
        return
    with psycopg.connect(str(storage.url)) as connection:
        connection.execute("LOCK TABLE head, chunk, event IN ACCESS EXCLUSIVE MODE")
        yield


def test_successful_write_ends_a_reported_read_error(storage: Storage, postgres: Postgres) -> None:
    history = storage.history()
    fill(history, 100, 110)
    wait_until_written(history)
    postgres.stop()
    try:
        assert count_values(history, 110) == 10
        assert "cannot be read" in str(history.read_status().error)
        version = history.read_status().version
    finally:
        postgres.start()
    fill(history, 110, 120)
    wait_until_written(history)
    assert history.status_message() is None
    assert history.read_status().version > version
    history.close()
