"""dashtop.read_history returns a DataFrame from this machine's history and from servers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import dashtop
from dashtop import dataframe
from dashtop.model.errors import ExportError, QueryError, ServerRequestError
from tests.builders import make_device, make_gpu, make_history, make_sample, wait_until_written
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import Running

pd = pytest.importorskip("pandas")

CPU, TEMPERATURE = "system.cpu.usage_percent", "gpu.temperature"
SECONDS = 20
TOKEN = "a-long-secret-of-the-test"


@pytest.fixture
def start_ms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Store 20 seconds of two equal GPUs up to now in the folder that the environment names; return their start."""
    start_ms = (int(time.time()) - SECONDS) * 1000
    stored = make_history(tmp_path)
    for second in range(SECONDS):
        gpus = tuple(
            make_gpu(device=make_device(index, uuid=f"GPU-{letter}"), values={TEMPERATURE: 40 + index + second})
            for index, letter in enumerate("ba")
        )
        stored.append(make_sample(time_ms=start_ms + 1000 * second, host={CPU: second}, gpus=gpus))
    wait_until_written(stored)
    stored.close()
    monkeypatch.setenv("DASHTOP_DATA_DIR", str(tmp_path))
    return start_ms


def test_one_gpu_gives_a_column_per_metric(start_ms: int) -> None:
    frame = dashtop.read_history("5m", gpu=1)
    assert frame[CPU].tolist() == list(range(SECONDS))
    assert frame[TEMPERATURE].tolist() == [41 + second for second in range(SECONDS)]
    assert frame.index.name == "time"
    assert str(frame.index.tz) == "UTC"  # type: ignore[attr-defined]
    assert frame.index[0] == pd.Timestamp(start_ms, unit="ms", tz="UTC")
    assert (frame.dtypes == np.float64).all()


def test_metrics_are_columns_in_the_requested_order(start_ms: int) -> None:
    wanted = [TEMPERATURE, CPU, "gpu.power.current_watts"]
    frame = dashtop.read_history("5m", gpu=0, metrics=wanted)
    assert list(frame.columns) == wanted
    assert frame["gpu.power.current_watts"].isna().all()
    assert list(dashtop.read_history("5m", gpu=0, metrics=TEMPERATURE).columns) == [TEMPERATURE]


@pytest.mark.parametrize("gpu", [None, [0, 1], (1, 0)])
def test_several_gpus_give_columns_of_metric_and_gpu(start_ms: int, gpu: Any) -> None:
    frame = dashtop.read_history("5m", gpu=gpu, metrics=[TEMPERATURE, CPU])
    columns: list[Any] = frame.columns.to_list()
    assert columns == [(TEMPERATURE, 0), (TEMPERATURE, 1), (CPU, "")]
    assert list(frame.columns.names) == ["metric", "gpu"]
    assert list(frame[TEMPERATURE].columns) == [0, 1]
    assert frame[TEMPERATURE, 1].iloc[0] == 41
    assert isinstance(frame[CPU], pd.Series)


def test_range_without_data_is_an_empty_frame(start_ms: int) -> None:
    frame = dashtop.read_history("1s", gpu=0, metrics=[TEMPERATURE])
    assert frame.empty
    assert list(frame.columns) == [TEMPERATURE]
    assert str(frame.index.tz) == "UTC"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"range": "2 hours"}, QueryError, "range '2 hours': must be a number with a unit"),
        ({"metrics": ["gpu.nonsense"]}, QueryError, "Unknown metric 'gpu.nonsense'"),
        ({"gpu": 7}, ExportError, "GPU 7 is not in the history. Stored are 0, 1."),
    ],
)
def test_impossible_selection_is_a_dashtop_error(
    start_ms: int, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    assert issubclass(error, dashtop.DashtopError)
    with pytest.raises(error) as raised:
        dashtop.read_history(**arguments)
    assert message in str(raised.value)


def test_missing_history_names_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHTOP_DATA_DIR", str(tmp_path))
    with pytest.raises(ExportError, match="DASHTOP_DATA_DIR"):
        dashtop.read_history()


def test_configuration_file_names_the_folder(
    start_ms: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("config") / "dashtop.toml"
    file.write_text(f"data-dir = {json.dumps(str(tmp_path))}\n")
    monkeypatch.delenv("DASHTOP_DATA_DIR")
    monkeypatch.setenv("DASHTOP_CONFIG", str(file))
    assert len(dashtop.read_history("5m", gpu=0)) == SECONDS


def test_without_pandas_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError) as raised:
        dashtop.read_history()
    assert str(raised.value) == "read_history needs pandas: pip install 'dashtop[pandas]'."


def test_importing_dashtop_imports_neither_dash_nor_pandas() -> None:
    program = "import sys, dashtop; dashtop.read_history; assert not {'dash', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running("--demo", "2", "--token", TOKEN, "--url-prefix", "/gpus/") as server:
        yield server


def get_url(server: Running) -> str:
    return server.url.partition("?")[0]


def test_server_gives_the_same_frame(server: Running) -> None:
    frame = dashtop.read_history("90m", gpu=1, metrics=[TEMPERATURE, CPU], url=get_url(server), token=TOKEN)
    assert list(frame.columns) == [TEMPERATURE, CPU]
    assert 1075 <= len(frame) <= 1081
    assert frame[TEMPERATURE].between(20, 110).all()
    assert str(frame.index.tz) == "UTC"  # type: ignore[attr-defined]
    assert abs(frame.index[-1].timestamp() - time.time()) < 60

    frames = dashtop.read_history("90m", metrics=[TEMPERATURE, CPU], url=get_url(server), token=TOKEN)
    columns: list[Any] = frames.columns.to_list()
    assert columns == [(TEMPERATURE, 0), (TEMPERATURE, 1), (CPU, "")]
    common = frame.index.intersection(frames.index)[:-2]
    assert len(common) > 1000
    pd.testing.assert_series_equal(frames[TEMPERATURE, 1][common], frame[TEMPERATURE][common], check_names=False)


def test_token_in_a_printed_address_is_used(server: Running) -> None:
    assert len(dashtop.read_history("5m", gpu=0, url=f"{get_url(server)}?token={TOKEN}")) > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": None}, "requires an access token: pass token=…."),
        ({"token": "another-secret"}, "rejects the access token."),
        ({"gpu": 7}, ": Invalid GPU ID"),
    ],
)
def test_errors_of_the_server_are_explained(server: Running, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ServerRequestError) as raised:
        dashtop.read_history(**{"url": get_url(server), "token": TOKEN, **arguments})
    assert str(raised.value).startswith(get_url(server).rstrip("/"))
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


def test_wrong_path_is_explained(server: Running) -> None:
    with pytest.raises(ServerRequestError, match=r"There is nothing at /gpus/elsewhere/api"):
        dashtop.read_history(url=f"{get_url(server)}elsewhere/", token=TOKEN)


@pytest.mark.parametrize(
    "url",
    ["gpu1:8050", "file:///etc/passwd", "http://", "http://ada:secret@gpu1/", "", "http://[::1", "http://gpu1:x/"],
)
def test_url_must_be_an_http_address(url: str) -> None:
    with pytest.raises(ServerRequestError, match="must be the address of a dashtop server") as raised:
        dashtop.read_history(url=url)
    assert "secret" not in str(raised.value)


def test_unreachable_server_is_named() -> None:
    with socket.socket() as bound:  # bound, not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        with pytest.raises(ServerRequestError, match=rf"{url[:-1]} cannot be reached \(.*refused"):
            dashtop.read_history(url=url)


def test_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataframe, "REQUEST_TIMEOUT_S", 0.2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with pytest.raises(ServerRequestError, match=r"cannot be reached \(timed out\)"):
            dashtop.read_history(url=f"http://127.0.0.1:{listening.getsockname()[1]}")


@contextmanager
def serve(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a server that always answers this, and the paths of the requests it received."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{other.server_port}", paths
        finally:
            other.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (200, b"<html>", {}, "does not answer like a dashtop"),
        (200, b"[]", {}, "does not answer like a dashtop"),
        (200, b'{"columns": [{"statistic": "mean"}], "rows": []}', {}, "does not answer like a dashtop"),
        (200, b'{"columns": [], "rows": [["now"]]}', {}, "does not answer like a dashtop"),
        (200, b"{}", {"Content-Length": "99"}, "broke the connection"),
        (404, b"<html>", {}, "(HTTP status 404)"),
        (500, b"null", {}, "(HTTP status 500)"),
        (503, b'{"detail": "The first sample is under way."}', {}, ": The first sample is under way."),
    ],
)
def test_other_answers_are_explained(status: int, body: bytes, headers: dict[str, str], message: str) -> None:
    with serve(status, body, **headers) as (url, _), pytest.raises(ServerRequestError) as raised:
        dashtop.read_history(url=url)
    assert message in str(raised.value)
    assert url in str(raised.value)


def test_redirect_is_not_followed() -> None:
    with (
        serve(200, b"{}") as (target, requests),
        serve(302, b"", Location=f"{target}/login") as (url, _),
        pytest.raises(ServerRequestError, match=f"redirects to '{target}/login'"),
    ):
        dashtop.read_history(url=url, token=TOKEN)
    assert requests == []


def test_token_must_be_printable() -> None:
    with pytest.raises(ServerRequestError, match="token: must consist of printable ASCII") as raised:
        dashtop.read_history(url="http://127.0.0.1:1", token="secret\n")
    assert "secret" not in str(raised.value)
