"""What only a server does: it goes and comes back, is shared with others, and asks for a password."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest

from dashtop.cli import main
from dashtop.history.database import DatabaseReadError
from dashtop.history.postgresql import PostgresDatabase
from dashtop.metrics import HOST_METRICS
from tests.builders import make_device, make_gpu, make_sample, wait_until_written
from tests.history.child import fill, known
from tests.history.conftest import Place
from tests.postgresql import PASSWORD
from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable
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
def place(postgres: Postgres, tmp_path: Path) -> Place:
    schema = f"s{abs(hash(tmp_path))}"
    postgres.ask(f"CREATE SCHEMA {schema}")
    return Place(tmp_path, postgres, schema)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_is_restarted_is_written_to_again_and_nothing_is_lost(
    how: signal.Signals, place: Place, postgres: Postgres
) -> None:
    history = place.history()
    fill(history, 0, 2000)
    wait_until_written(history)
    assert known(history, 2000) == 2000
    postgres.stop(how)
    try:
        fill(history, 2000, 2100)
        trouble = eventually(history.status_message)
        assert "kept in memory" in trouble
        assert known(history, 2100) == 2100
    finally:
        postgres.start()
    back = time.monotonic()
    wait_until_written(history)
    assert history.status_message() is None
    assert time.monotonic() - back < 10
    history.close()
    rows = "SELECT count(*), count(DISTINCT time_ms) FROM head WHERE tier = 0 AND time_ms >= 1200000"
    assert place.ask(rows) == [(900, 900)]
    reopened = place.history()
    assert known(reopened, 2100) == 2100
    reopened.close()


def test_its_own_lost_connection_keeps_nobody_out(place: Place) -> None:
    """A network that failed leaves a session on the server, with the lock, until the server notices."""
    history = place.history()
    fill(history, 0, 10)
    wait_until_written(history)
    database = history._writer.database
    left = database._connection
    assert left is not None
    database._connection = None  # so that it is not closed
    fill(history, 10, 20)
    wait_until_written(history)
    assert history.status_message() is None
    assert place.ask("SELECT count(*), count(DISTINCT time_ms) FROM head") == [(20, 20)]
    left.close()
    history.close()


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("CREATE TABLE event (invitation TEXT)", "another program"),
        ("CREATE TABLE dashtop (version INT); INSERT INTO dashtop VALUES (99)", "another version"),
    ],
)
def test_tables_of_others_are_left_alone_and_told(statement: str, word: str, place: Place) -> None:
    place.ask(statement)
    before = place.ask("SELECT * FROM pg_tables WHERE schemaname = current_schema()")
    history = place.history()
    fill(history, 0, 50)
    assert word in eventually(history.status_message)
    with pytest.raises(DatabaseReadError, match=word):
        history._writer.database.describe()
    assert known(history, 50) == 50
    assert place.ask("SELECT * FROM pg_tables WHERE schemaname = current_schema()") == before
    history.close()


def test_tables_that_are_dropped_are_made_again(place: Place) -> None:
    history = place.history()
    fill(history, 0, 10)
    wait_until_written(history)
    place.ask(f"DROP SCHEMA {place.schema} CASCADE; CREATE SCHEMA {place.schema}")
    fill(history, 10, 20)
    wait_until_written(history)
    assert history.status_message() is None
    assert place.ask("SELECT count(*) FROM head") == [(10,)]
    history.close()


def test_a_machine_of_many_gpus_has_room(place: Place) -> None:
    history = place.history()
    gpus = tuple(make_gpu(index, values={"gpu.utilization.gpu": index}) for index in range(32))
    for second in range(0, 1300, 10):
        history.append(make_sample(second, time_ms=second * 1000, gpus=gpus))
    wait_until_written(history)
    history.close()
    reopened = place.history()
    keys = [key for key in reopened.series() if key.metric == "gpu.utilization.gpu"]
    assert len(keys) == 32
    found = reopened.query(keys, 0, 1_300_000, 10_000)
    assert sorted(np.unique(series.mean)[0] for series in found.series) == list(range(32))
    reopened.close()


def test_the_room_it_takes_is_about_what_the_server_tells(place: Place) -> None:
    history = place.history()
    draw = random.Random(5)
    for second in range(0, 12_000, 4):
        values = {metric.key: draw.random() for metric in HOST_METRICS}
        history.append(make_sample(second, time_ms=second * 1000, host=values))
    wait_until_written(history)
    database = PostgresDatabase(str(place.url), kept_ms=1, max_bytes=1)
    with database.open_reader() as connection:
        estimated = database._read_used_bytes(connection)
    database.close()
    history.close()
    ((told,),) = place.ask("SELECT pg_total_relation_size('chunk')")
    assert told / 2 < estimated < told * 2


Said = tuple[int, str, str]
"""Exit status, output, errors."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs `dashtop` in this process until it exits."""

    def run(*arguments: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_of_no_use_is_one_line_without_the_password(url: str, command: Callable[..., Said]) -> None:
    status, output, errors = command("export", "--history-url", url)
    assert (status, output) == (2, "")
    assert len(errors.splitlines()) == 1
    assert "--history-url" in errors
    assert SECRET not in errors


def test_an_option_misspelled_does_not_give_the_password_away(command: Callable[..., Said]) -> None:
    status, _, errors = command("--history-ur", f"postgresql://ada:{SECRET}@localhost/history?password={SECRET}")
    assert status == 2
    assert SECRET not in errors


def test_without_psycopg_it_says_what_to_install() -> None:
    without = "import sys; sys.modules['psycopg'] = None; from dashtop.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, "export", "--history-url", "postgresql://localhost/history"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'dashtop[postgresql]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_password_and_a_server_that_is_away_are_told_without_it(
    place: Place, postgres: Postgres, command: Callable[..., Said]
) -> None:
    guarded = postgres.guard(place.schema)
    wrong = guarded.replace(guarded[guarded.index("guarded:") + 8 : guarded.index("@")], SECRET)
    nobody = f"postgresql://ada:{SECRET}@127.0.0.1:1/history"
    for url, words in ((wrong, "password authentication failed"), (nobody, "refused")):
        for what in (["doctor", "--no-gpu", "--port", "0"], ["export"]):
            status, output, errors = command(*what, "--history-url", url)
            assert status == 1
            assert words in " ".join((output + errors).split())
            assert SECRET not in output + errors


def test_served_from_the_server_with_the_password_nowhere(
    place: Place,
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = postgres.guard(place.schema)
    where = {"DASHTOP_HISTORY_URL": url, "DASHTOP_DATA_DIR": str(tmp_path)}
    password = url[url.index("guarded:") + 8 : url.index("@")]
    with running("--no-gpu", env=where) as dashtop:
        eventually(lambda: _rows(place) > 2)
        postgres.stop()
        try:
            ready = eventually(lambda: _troubled(dashtop.status("/readyz")[1]))
        finally:
            postgres.start()
        eventually(lambda: not _troubled(dashtop.status("/readyz")[1]))
        assert "kept in memory" in json.dumps(ready)
        said = json.dumps(ready) + "".join(dashtop.lines)
    assert "127.0.0.1" in said
    assert not any(secret in said for secret in (PASSWORD, password))
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    main(["export", "--range", "1h", "--metrics", "system.cpu.usage_percent", "-o", str(tmp_path / "table")])
    assert len((tmp_path / "table").read_text().splitlines()) > 3
    main(["doctor", "--no-gpu", "--port", "0"])
    shown = capsys.readouterr().out
    assert "PostgreSQL 1" in shown
    assert "SQLite" not in shown
    assert not any(secret in shown for secret in (PASSWORD, password))


def _rows(place: Place) -> int:
    try:
        ((rows,),) = place.ask("SELECT count(*) FROM head WHERE tier = 0")
    except psycopg.errors.UndefinedTable:
        return 0
    return int(rows)


def _troubled(body: dict[str, Any]) -> dict[str, Any] | None:
    return body if "in memory" in json.dumps(body) else None


def test_a_device_uuid_of_any_text_is_kept(place: Place) -> None:
    odd = make_device(0, uuid="GPU-'; DROP TABLE head; -- %s ? é")
    history = place.history()
    history.append(make_sample(1, time_ms=1000, gpus=(make_gpu(device=odd, values={"gpu.temperature": 40}),)))
    wait_until_written(history)
    assert any(key.gpu_uuid == odd.uuid for key in history.series())
    history.close()
