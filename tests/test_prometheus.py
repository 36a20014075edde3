"""A real Prometheus scrapes a real dashtop and answers the documented queries and those of a Grafana dashboard."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.debian import program
from tests.processes import ROOT, Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERIES = (ROOT / "docs" / "api.md").read_text().partition("```promql\n")[2].partition("```")[0].splitlines()
HOST_AND_GPU = '{Hostname=~".*", gpu=~".*"}'
# What NVIDIA's own Grafana dashboard for dcgm-exporter (12239) asks.
DASHBOARD = (
    f"max(DCGM_FI_DEV_GPU_TEMP{HOST_AND_GPU}) by (Hostname, gpu, uuid)",
    f"avg(DCGM_FI_DEV_GPU_TEMP{HOST_AND_GPU})",
    f"sum(max(DCGM_FI_DEV_POWER_USAGE{HOST_AND_GPU}) by (gpu))",
    f"max(DCGM_FI_DEV_SM_CLOCK{HOST_AND_GPU} * 1000000) by (Hostname, UUID, gpu)",
    f"max(DCGM_FI_PROF_GR_ENGINE_ACTIVE{HOST_AND_GPU}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)",
    f"max(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{HOST_AND_GPU}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)",
    f"max(DCGM_FI_DEV_FB_USED{HOST_AND_GPU}) by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE)",
    "DCGM_FI_DEV_FB_FREE",
)


@dataclass(frozen=True)
class Scraped:
    dashtop: Running
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the answer; raises HTTPError for what is no PromQL."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=5) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    prometheus, folder = program("prometheus"), tmp_path_factory.mktemp("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    with running("--demo", "2") as dashtop:
        targets = [{"targets": [urllib.parse.urlsplit(dashtop.url).netloc]}]
        job = {"job_name": "dashtop", "params": {"names": ["dcgm"]}, "static_configs": targets}
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
        process = subprocess.Popen(
            [
                prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}",
                f"--web.listen-address={listen}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Scraped(dashtop, f"http://{listen}")
        finally:
            process.terminate()
            process.wait(15)


def test_it_reads_what_the_api_says(scraped: Scraped) -> None:
    found = eventually(lambda: scraped.query("dashtop_gpu_memory_total_bytes"), timeout_s=30)
    assert [each["metric"]["gpu"] for each in found] == ["0", "1"]
    gpus = scraped.dashtop.json("/api/v1/system/gpu-metrics/all")
    for told, gpu in zip(found, gpus, strict=True):
        assert float(told["value"][1]) == pytest.approx(gpu["memory"]["total_gb"] * 2**30, rel=1e-4)
        assert (told["metric"]["uuid"], told["metric"]["name"]) == (gpu["gpu_uuid"], gpu["gpu_name"])
    assert float(scraped.query("up")[0]["value"][1]) == 1


@pytest.mark.parametrize("expression", DASHBOARD)
def test_dashboards_made_for_dcgm_exporter_are_answered(scraped: Scraped, expression: str) -> None:
    assert eventually(lambda: scraped.query(expression), timeout_s=30)


@pytest.mark.parametrize("expression", QUERIES)
def test_the_readmes_questions_are_answered(scraped: Scraped, expression: str) -> None:
    """One that raises an alarm is answered by nothing while all is well: what it compares must be there."""
    scraped.query(expression)
    for alternative in expression.split(" or "):
        compared = re.split(" (?:>|==) ", alternative)[0]
        assert eventually(partial(scraped.query, compared))
