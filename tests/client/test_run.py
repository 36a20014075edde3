"""`dashtop.run` reports a training to a server, and whatever the server does, the training goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import dashtop
from dashtop.client import sender
from dashtop.client.environment import find_rank, find_root_pid, find_server, find_user, read_start_ms
from dashtop.client.report import format_duration, format_report
from dashtop.client.sender import MAX_MARKS, MAX_OPEN_RUNS
from dashtop.sources.host.process_tree import HostProcessTree
from tests.client.servers import Recorder, recording, silent
from tests.processes import environment, eventually, find_free_ports, refuse_threads, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fake_nvml.fixtures import WorldFactory

RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be no rank of a job, and begin without runs of other tests, which would log that their server is gone."""
    for name in (*RANKS, "DASHTOP_URL", "DASHTOP_TOKEN", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    own = sender.Sender()
    monkeypatch.setattr(sender, "current", own)
    yield
    with own._changed:
        own._runs.clear()
        own._changed.notify_all()
        thread = own._thread
    if thread is not None:
        thread.join(30)


@pytest.fixture
def server() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_run_its_marks_and_its_end_are_sent(server: Recorder) -> None:
    with dashtop.run("resnet-a", tags={"lr": 3e-4}, url=server.url, token="secret") as run:
        run.mark("epoch 1")
        run.mark(2)
    (end,) = server.wait_for("PATCH")
    (body,) = server.bodies("POST", "/runs")
    assert (body["name"], body["tags"], body["pid"]) == ("resnet-a", {"lr": "0.0003"}, os.getpid())
    assert body["id"] == run.id
    started_ms = HostProcessTree().start_ms(os.getpid())
    assert started_ms is not None
    assert abs(body["started_ms"] - started_ms) < 1000
    assert (end["status"], server.marks()) == ("finished", ["epoch 1", "2"])
    assert end["end"] >= body["begin"]
    assert {token for *_, token in server.requests} == {"Bearer secret"}
    report = run.report()
    assert report.data is not None
    assert "1 h 2 min, 97 % recorded" in str(report)
    assert "no process of this run has held a GPU" in str(report)
    assert report.to_dict()["run"]["id"] == "0123456789abcdef"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a"), "failed"),
        (KeyboardInterrupt(), "failed"),
        (SystemExit(0), "finished"),
        (SystemExit(3), "failed"),
    ],
)
def test_an_exception_passes_and_ends_the_run(server: Recorder, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), dashtop.run("a", url=server.url):
        raise error
    assert server.wait_for("PATCH")[0]["status"] == status


def test_every_call_of_a_decorated_function_is_a_run(server: Recorder) -> None:
    @dashtop.run("train", url=server.url)
    def train(size: int, *, by: int = 1) -> int:
        """Train."""
        return size * by

    @dashtop.run("evaluate", url=server.url)
    async def evaluate() -> str:
        return "good"

    # Playwright leaves an event loop in the thread of the tests.
    with ThreadPoolExecutor(1) as thread:
        evaluated = thread.submit(lambda: asyncio.run(evaluate())).result()
    assert (train(2, by=3), train(1), evaluated) == (6, 1, "good")
    assert (train.__name__, train.__doc__) == ("train", "Train.")
    server.wait_for("PATCH", count=3)
    bodies = server.bodies("POST", "/runs")
    assert sorted(body["name"] for body in bodies) == ["evaluate", "train", "train"]
    assert len({body["id"] for body in bodies}) == 3


def test_nested_and_concurrent_runs(server: Recorder) -> None:
    def train(name: str) -> None:
        with dashtop.run(name, url=server.url) as outer:
            outer.mark(f"{name} begins")
            with dashtop.run(f"{name} inner", url=server.url) as inner:
                inner.mark(f"{name} inside")
            outer.mark(f"{name} ends")

    threads = [threading.Thread(target=train, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.wait_for("PATCH", count=16)
    assert {body["status"] for body in server.bodies("PATCH")} == {"finished"}
    assert len(server.bodies("POST", "/runs")) == 16
    assert sorted(server.marks()) == sorted(f"t{n} {what}" for n in range(8) for what in ("begins", "inside", "ends"))


def test_10_000_marks(server: Recorder) -> None:
    with dashtop.run("a", url=server.url) as run:
        for step in range(MAX_MARKS + 100):
            run.mark(f"step {step}")
    server.wait_for("PATCH")
    assert server.marks() == [f"step {step}" for step in range(MAX_MARKS)]
    assert len(server.bodies("POST", "/marks")) < 20


def test_heartbeats(server: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "HEARTBEAT_INTERVAL_S", 0.02)
    with dashtop.run("a", url=server.url):
        assert server.wait_for("PATCH", count=3)[:3] == [{}, {}, {}]


def test_names_that_cannot_be_sent_as_they_are(server: Recorder) -> None:
    class Strange:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with dashtop.run("n" * 1000, tags={"a": Strange(), **{str(n): n for n in range(50)}}, url=server.url) as run:
        run.mark("\ud800" + "x" * 1000)
        run.mark(Strange())
    server.wait_for("PATCH")
    (body,) = server.bodies("POST", "/runs")
    assert (len(body["name"]), len(body["tags"]), body["tags"]["a"]) == (100, 20, "Strange")
    assert [len(text) for text in server.marks()] == [200, 7]


# --- ranks and forks --------------------------------------------------------------------------------------------------


def test_eight_ranks_are_one_run(server: Recorder) -> None:
    code = "import dashtop, sys\nwith dashtop.run('ddp') as run: run.mark('epoch 1')\nprint(run.report().error)\n"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment(), "DASHTOP_URL": server.url, "RANK": str(rank), "WORLD_SIZE": "8"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(8)
    ]
    answers = [process.communicate(timeout=60)[0].strip() for process in started]
    assert answers == ["None", *(f"rank 0 reports it, and this is rank {rank}" for rank in range(1, 8))]
    assert len(server.bodies("POST", "/runs")) == 1
    assert server.marks() == ["epoch 1"]


def test_the_launcher_of_ranks_is_the_root() -> None:
    assert find_root_pid({}) == os.getpid()
    assert find_root_pid({"SLURM_STEP_NUM_TASKS": "1"}) == os.getpid()
    assert find_root_pid({"SLURM_STEP_NUM_TASKS": "8"}) == os.getppid()
    assert find_root_pid({"TORCHELASTIC_RUN_ID": "none"}) == os.getppid()
    assert (find_rank({"SLURM_PROCID": "3"}), find_rank({"RANK": "0", "LOCAL_RANK": "5"}), find_rank({})) == (3, 0, 0)
    assert read_start_ms(2**30) is None


def test_a_forked_child_does_not_report(server: Recorder) -> None:
    code = """
import os, dashtop
with dashtop.run("parent") as run:
    child = os.fork()
    run.mark(f"in {'parent' if child else 'child'}")
    if child == 0:
        print(run.report(), flush=True)
        with dashtop.run("child") as own: own.mark("own")
        assert own.report().data
    else:
        assert os.waitpid(child, 0)[1] == 0
"""
    done = python(code, DASHTOP_URL=server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "No report of this run: the process that began the run reports it."
    server.wait_for("PATCH", count=2)
    assert sorted(body["name"] for body in server.bodies("POST", "/runs")) == ["child", "parent"]
    assert sorted(server.marks()) == ["in parent", "own"]


# --- servers that fail ------------------------------------------------------------------------------------------------


def log_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_no_server(caplog: pytest.LogCaptureFixture) -> None:
    (port,) = find_free_ports(1)
    with dashtop.run("a", url=f"http://127.0.0.1:{port}/") as run:
        run.mark("epoch 1")
        eventually(lambda: log_of(caplog))
    assert "Connection refused" in str(run.report())
    assert len(log_of(caplog)) == 1


def test_a_server_that_comes_later_gets_everything(server: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MAX_RETRY_INTERVAL_S", 0.02)
    server.status = 503
    with dashtop.run("a", url=server.url) as run:
        run.mark("epoch 1")
        server.wait_for("POST", "/runs", count=3)
        assert server.bodies("PATCH") == []
        server.status = None
    assert server.wait_for("PATCH")[0]["status"] == "finished"
    assert server.marks() == ["epoch 1"]


def test_a_server_that_has_forgotten_the_run(server: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "MAX_RETRY_INTERVAL_S", 0.02)
    monkeypatch.setattr(sender, "HEARTBEAT_INTERVAL_S", 0.02)
    with dashtop.run("a", url=server.url):
        server.wait_for("PATCH")
        server.status = 404
        count = len(server.bodies("PATCH"))
        server.wait_for("PATCH", count=count + 1)
        server.status = None
        first, *_, again = server.wait_for("POST", "/runs", count=2)
    assert first == again


@pytest.mark.parametrize("refusal", [429, 503])
def test_a_busy_server_gets_everything_later(server: Recorder, refusal: int, caplog: pytest.LogCaptureFixture) -> None:
    server.refused, server.refusal = 1, refusal
    with dashtop.run("a", url=server.url) as run:
        run.mark("epoch 1")
    report = run.report()
    assert report.data is not None, report.error
    assert [method for method, *_ in server.requests] == ["POST", "POST", "PATCH", "GET"]
    assert server.marks() == ["epoch 1"]
    assert log_of(caplog) == []


def test_a_process_that_ends_asks_a_busy_server_again(server: Recorder) -> None:
    server.refused = 2  # the begin, and once more: then two seconds are over, the limit for other servers
    done = python("import dashtop\nwith dashtop.run('a') as run: run.mark('epoch 1')", DASHTOP_URL=server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(method, status.get("status")) for method, _, status, _ in server.requests][-1] == ("PATCH", "finished")


def test_a_process_that_ends_tries_once_more(server: Recorder) -> None:
    code = """
import dashtop, sys
from dashtop.client import sender
with dashtop.run("a"):
    while not any(state.failures for state in sender.current._runs.values()): pass
    print("failed", flush=True)
    sys.stdin.readline()
"""
    server.status = 500
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment(), "DASHTOP_URL": server.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "failed\n"
        server.status = None
        process.communicate("\n", timeout=30)
    assert server.bodies("PATCH")[-1]["status"] == "finished"


@pytest.mark.long
def test_24_runs_at_once() -> None:
    code = """
import dashtop, time
with dashtop.run("a") as run:
    for step in range(8):
        time.sleep(1)
        run.mark(f"step {step}")
report = run.report()
print(report.data["run"]["status"] if report.data else report.error)
"""
    limit = {"DASHTOP_RATE_LIMIT": "10/second"}  # the default
    with running("--no-gpu", env=limit) as server:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**environment(), "DASHTOP_URL": server.url},
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(24)
        ]
        assert [process.communicate(timeout=120)[0].strip() for process in started] == ["finished"] * 24
        found = server.json("/api/v1/system/runs?limit=100")
        assert [(run["status"], run["marks"]) for run in found] == [("finished", 8)] * 24


@pytest.mark.parametrize(("status", "reason"), [(401, "the access token is missing or wrong"), (404, "status 404")])
def test_a_server_that_refuses(server: Recorder, caplog: pytest.LogCaptureFixture, status: int, reason: str) -> None:
    server.status = status
    with dashtop.run("a", url=server.url) as run:
        eventually(lambda: log_of(caplog))
        run.mark("epoch 1")
    assert reason in str(run.report())
    assert len(server.requests) == 1
    assert "secret" not in caplog.text


def test_a_slow_server_delays_nothing() -> None:
    with recording(hangs=True) as server, dashtop.run("a", url=server.url) as run:
        server.wait_for("POST", "/runs")  # the request is on its way, and is not answered while this test goes on
        for step in range(1000):
            run.mark(f"step {step}")
        run.finish()
        assert server.bodies("PATCH") == []


def test_a_server_that_is_killed_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with running("--no-gpu") as server, dashtop.run("a", url=server.url) as run:
        eventually(lambda: server.json("/api/v1/system/runs"))
        server.process.kill()
        server.process.wait(10)
        run.mark("epoch 1")
        eventually(lambda: log_of(caplog), 30.0)
    assert run.report().data is None


def test_the_process_ends_although_the_server_does_not_answer() -> None:
    with silent() as url:
        done = python("import dashtop\nwith dashtop.run('a') as run: run.mark(1)\nprint('done')", DASHTOP_URL=url)
    assert (done.returncode, done.stdout.strip()) == (0, "done")


@pytest.mark.parametrize("url", ["ftp://host/", "no address", "http://[bad/", "http:///"])
def test_an_address_that_is_none(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with dashtop.run("a", url=url) as run:
        run.mark("epoch 1")
    assert run.id is None
    assert len(log_of(caplog)) == 1
    assert run.report().data is None


def test_no_thread_can_be_started(server: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refuse_threads(patch)
        with dashtop.run("a", url=server.url) as run:
            run.mark("epoch 1")
        assert "can't start new thread" in str(run.report())


def test_too_many_open_runs() -> None:
    with recording(hangs=True) as server:
        runs = [dashtop.run(str(number), url=server.url).start() for number in range(MAX_OPEN_RUNS + 1)]
        assert [run.id is None for run in runs].count(True) == 1
        assert "are open" in str(runs[-1].report())


def test_the_thread_ends_with_the_last_run(server: Recorder) -> None:
    with dashtop.run("a", url=server.url):
        pass
    eventually(lambda: sender.current._thread is None)
    with dashtop.run("b", url=server.url):
        pass
    server.wait_for("PATCH", count=2)


# --- addresses, reports -----------------------------------------------------------------------------------------------


def test_where_the_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server(None, None) == ("http://127.0.0.1:8050/", None)
    monkeypatch.setenv("DASHTOP_URL", "https://gpu1.example/dashtop?token=from-url")
    assert find_server(None, None) == ("https://gpu1.example/dashtop/", "from-url")
    assert find_server("http://other:1/", "given") == ("http://other:1/", "given")
    monkeypatch.setenv("DASHTOP_TOKEN", "from-env")
    assert find_server("http://other:1/", None) == ("http://other:1/", "from-env")


def test_importing_the_client_is_cheap() -> None:
    code = "import dashtop, sys; dashtop.run('a'); print([m for m in sys.modules if m.partition('.')[0] in %r])"
    heavy = ("numpy", "pydantic", "flask", "dash", "psutil", "pandas")
    assert python(code % (heavy,)).stdout.strip() == "[]"
    assert "urllib.request" not in python("import dashtop, sys; dashtop.run('a'); print(*sys.modules)").stdout.split()


def test_the_text_of_a_report() -> None:
    gpu: dict[str, Any] = {
        "gpu_id": 3, "gpu_uuid": "GPU-1", "gpu_name": "H100", "held_s": 61.0, "peak_gpu_memory_mb": 43_110.4,
        "mean_utilization": 93.4, "p95_utilization": 99.0, "mean_sm": 71.0, "mean_tensor": None, "energy_wh": 640.04,
        "energy_kind": "estimated_share", "max_temperature": 71.0, "idle_s": 20.0, "thermal_s": 0.0,
        "power_cap_s": None, "xids": [{"code": 31, "count": 2}], "alerts": [{"text": "GPU 3 is hot."}],
        "diagnosis": {"verdict": "compute-bound", "evidence": ["93 % utilization", "71 % SM activity"]},
    }  # fmt: skip
    data = {
        "run": {"name": "a", "status": "running", "end": None},
        "report": {
            "duration_s": 65.0, "coverage": 1.0, "gpus": [gpu], "unavailable": {},
            "host": {"peak_memory_gb": 112.04, "mean_cpu_percent": 35.0},
        },
    }  # fmt: skip
    assert format_report(data).splitlines() == [
        "a: running, 1 min 5 s until now, 100 % recorded",
        "GPU 3 (H100): held 1 min 1 s",
        "  peak VRAM 42.1 GiB · utilization 93 % (95th percentile 99 %) · SM 71 % · tensor N/A",
        "  energy 640.0 Wh (estimated share) · at most 71 °C · idle 20 s · thermal 0 s · power cap N/A",
        "  XIDs: 2 × 31",
        "  Alert: GPU 3 is hot.",
        "  compute-bound: 93 % utilization, 71 % SM activity",
        "Host: 112.0 GiB RAM at most, 35 % CPU",
    ]
    assert json.loads(json.dumps(data))
    assert format_duration(7500.0) == "2 h 5 min"


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> Iterator[Any]:
    with running("--no-gpu", "--token", "a-good-token-of-16") as server:
        yield server


def test_a_run_in_another_process(real: Any) -> None:
    code = (
        "import dashtop\n"
        "with dashtop.run('training', tags={'lr': '3e-4'}) as run:\n"
        "    for step in range(3000): run.mark(f'step {step}')\n"
        "print(run.report())\n"
    )
    done = python(code, DASHTOP_URL=real.url)
    assert "the access token is missing or wrong" in done.stderr
    done = python(code, DASHTOP_URL=real.url, DASHTOP_TOKEN="a-good-token-of-16")
    assert done.stdout.startswith("training: finished"), done.stderr
    assert "the run was over before dashtop could see whether its processes held a GPU" in done.stdout


def find_run(real: Any, name: str) -> Any:
    request = urllib.request.Request(
        f"{real.url}api/v1/system/runs", headers={"Authorization": "Bearer a-good-token-of-16"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return next(run for run in json.load(answer) if run["name"] == name)


def test_a_killed_training_is_lost(real: Any) -> None:
    code = (
        "import dashtop, sys, time\n"
        "run = dashtop.run('killed').start()\n"
        "while not run.report().data: pass\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment(), "DASHTOP_URL": real.url, "DASHTOP_TOKEN": "a-good-token-of-16"},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert (find_run(real, "killed")["status"], find_run(real, "killed")["pid"]) == ("running", process.pid)
        process.kill()
    eventually(lambda: find_run(real, "killed")["status"] == "lost")


HOLDER = """
import subprocess, sys, dashtop
with dashtop.run("training") as run:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    print(child.pid, flush=True)
    input()  # until the test has seen the child on the GPU
    run.mark("seen")
    child.communicate(b"\\n")
print(run.report().to_dict()["run"]["id"], flush=True)
"""


@pytest.mark.long
def test_the_gpus_of_the_children_of_a_training(nvml_world: WorldFactory) -> None:
    world = nvml_world("h100x8").save()
    with running("--no-persist", env=world.env()) as server:

        def find_report() -> Any:
            (run,) = server.json("/api/v1/system/runs")
            return server.json(f"/api/v1/system/runs/{run['id']}/report")["report"]

        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            env={**environment(), "DASHTOP_URL": server.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        eventually(lambda: server.json("/api/v1/system/runs"))
        held = [{"pid": pid, "type": "C", "used_memory": 3 * 2**30, "sm_util": 50}]
        other = [{"pid": os.getpid(), "type": "C", "used_memory": 2**30}]
        world.set(2, "processes", held).set(5, "processes", held).set(4, "processes", other).save()
        gpus = eventually(lambda: server.json("/api/v1/system/gpu-list"), 20)
        uuids = [gpus[index]["uuid"] for index in (2, 5)]
        eventually(lambda: sorted(server.json("/api/v1/system/runs")[0]["gpu_uuids"]) == sorted(uuids), 20)
        # A process counts from the first sample that has it until the last one.
        eventually(lambda: len(find_report()["gpus"]) == 2, 20)
        process.communicate("\n", timeout=60)
        run = server.json("/api/v1/system/runs")[0]
        assert (run["status"], run["marks"], run["user"]) == ("finished", 1, find_user())
        report = find_report()
    assert [gpu["gpu_id"] for gpu in report["gpus"]] == [2, 5]
    assert {gpu["peak_gpu_memory_mb"] for gpu in report["gpus"]} == {3 * 1024}
    assert all(gpu["mean_utilization"] is not None and gpu["held_s"] > 0 for gpu in report["gpus"])
    assert {gpu["energy_kind"] for gpu in report["gpus"]} <= {"counter", "integrated"}
