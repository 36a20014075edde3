"""Engines for tests: real ones that scrape recorded expositions, and one in this process that replays their answers."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.debian import program
from tests.processes import eventually, find_free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

EXPOSITIONS = Path(__file__).parent / "expositions"
RECORDING = Path(__file__).parent / "recording.json"
TARGETS = {
    "gpu-a:9400": ("dcgm", "dcgm", {}),
    "10.42.0.7:9400": ("dcgm", "dcgm_kubernetes", {"node": "worker-1"}),
    "gpu-b:9400": ("dcgm", "dcgm49", {}),
    "gpu-c:9400": ("dcgm", "dcgm49_percent", {}),
    "gpu-d:9835": ("nvidia", "nvidia_smi", {}),
    "gpu-e:8000": ("nvitop", "nvitop", {}),
    "gpu-d:8050": ("dashtop", "dashtop", {}),
    "gpu-b:9100": ("node", "node", {}),
    "gpu-z:8050": ("dashtop", "missing", {}),
}
"""Job, exposition and labels of each instance. The last does not answer."""
DOWN = "gpu-z:8050"


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one packet

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def send(self, status: int, body: bytes, media_type: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of loopback; yield the address without a closing slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Expositions(_Quiet):
    def do_GET(self) -> None:
        file = EXPOSITIONS / f"{self.path.strip('/')}.prom"
        if file.is_file():
            self.send(200, file.read_bytes(), "text/plain; version=0.0.4")
        else:
            self.send(404, b"", "text/plain")


@contextmanager
def scraping(name: str, jobs: Sequence[dict[str, Any]], rules: Path | None = None) -> Iterator[str]:
    """Run Prometheus or VictoriaMetrics with these scrape jobs; yield its base URL once it answers."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        listen = f"127.0.0.1:{find_free_ports(1)[0]}"
        config = Path(folder) / "config.yml"
        scrape: dict[str, Any] = {"global": {"scrape_interval": "1s"}, "scrape_configs": list(jobs)}
        if rules is not None:
            scrape["global"]["evaluation_interval"] = "1s"
            scrape["rule_files"] = [str(rules)]
        config.write_text(json.dumps(scrape))
        command = {
            "prometheus": [
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={listen}",
            ],
            "victoria-metrics": [
                f"-promscrape.config={config}",
                f"-storageDataPath={folder}/data",
                f"-httpListenAddr={listen}",
                "-search.latencyOffset=1s",
            ],
        }[name]
        process = subprocess.Popen(
            [program(name), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        url = f"http://{listen}"
        try:
            eventually(lambda: urllib.request.urlopen(f"{url}/api/v1/query?query=1", timeout=2).status == 200, 30)
            yield url
        finally:
            process.terminate()
            process.wait(20)
            shutil.rmtree(Path(folder) / "data", ignore_errors=True)


@contextmanager
def scraping_expositions(name: str, rules: Path | None = None, job: str | None = None) -> Iterator[str]:
    """Run an engine that scrapes the recorded expositions as TARGETS says, or those of one job."""
    with serving(_Expositions) as url:
        address = url.removeprefix("http://")
        jobs: dict[str, dict[str, Any]] = {}
        for number, (instance, (its_job, exposition, labels)) in enumerate(TARGETS.items()):
            if job not in {None, its_job}:
                continue
            added = {"instance": instance, "job": its_job, **labels}
            jobs[f"{its_job}-{number}"] = {
                "job_name": f"{its_job}-{number}",
                "metrics_path": f"/{exposition}",
                "static_configs": [{"targets": [address], "labels": added}],
            }
        with scraping(name, list(jobs.values()), rules) as engine:
            yield engine


@dataclass
class Replay:
    """What the engine in this process does. `failure`: answers instead of a recorded answer."""

    answers: dict[str, Any] = field(default_factory=dict)
    failure: Callable[[Any], None] | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    url: str = ""

    @classmethod
    def load(cls) -> Replay:
        """Return one that replays Prometheus with the recorded expositions."""
        return cls(answers=json.loads(RECORDING.read_text()))

    def ask(self, form: dict[str, str]) -> dict[str, Any]:
        """Return the answer, with the present time, to a query that was recorded."""
        assert form["query"] in self.answers, f"not recorded, run tests/fleet/record.py: {form['query']}"
        data: dict[str, Any] = self.answers[form["query"]]
        if data["resultType"] == "vector":
            now_s = time.time()
            data = {
                **data,
                "result": [{**each, "value": [now_s, each["value"][1]]} for each in data["result"]],
            }
        return data


@contextmanager
def replaying(replay: Replay) -> Iterator[Replay]:
    """Serve an engine in this process; its base URL has a path, as behind a proxy."""

    class Engine(_Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            replay.requests.append({"path": self.path, **form})
            replay.headers.append(dict(self.headers.items()))
            if replay.failure is not None:
                replay.failure(self)
            elif not self.path.startswith("/prometheus/api/v1/query"):
                self.send(404, b"404 page not found\n", "text/plain")
            else:
                answer = {"status": "success", "data": replay.ask(form)}
                if replay.warnings:
                    answer["warnings"] = list(replay.warnings)
                packed = gzip.compress(json.dumps(answer, separators=(",", ":")).encode(), 1)
                self.send(200, packed, "application/json", Content_Encoding="gzip")

    with serving(Engine) as url:
        replay.url = f"{url}/prometheus"
        yield replay
