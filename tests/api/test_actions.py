"""The endpoints of process actions: who may use them, what they answer, and that a real process is reached."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from pydantic import TypeAdapter

from dashtop.app import Readers, create_app
from dashtop.model.action import Refusal
from dashtop.model.errors import SettingsError
from dashtop.model.ports import SystemClock
from dashtop.model.sample import GpuProcess, GpuReading
from dashtop.settings import load
from dashtop.sources.host import processes
from dashtop.sources.host.reader import PsutilHostReader
from dashtop.web.api import schemas
from tests.actions.targets import has_ended, orphan, state
from tests.builders import make_gpu
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask.testing import FlaskClient

    from dashtop.app import Dashtop

V1 = "/api/v1/system"
TOKEN = "some-action-token"
GPU = make_gpu(0)
GPU_UUID = GPU.device.uuid
ACCESS_TOKEN = "an-access-token-"
ACCESS = {"Authorization": f"Bearer {ACCESS_TOKEN}"}


class ListedProcesses:
    """A GpuReader whose GPU has the processes that tests set."""

    simulated = False

    def __init__(self) -> None:
        self.pids: list[int] = []

    def read(self, timeout_s: float) -> GpuReading:
        listed = tuple(GpuProcess(pid=pid, kind="C", gpu_memory_bytes=2**30) for pid in self.pids)
        return GpuReading(gpus=(replace(GPU, processes=listed),))

    def failures(self) -> int:
        return 0

    def close(self) -> None:
        pass


@contextmanager
def running_app(folder: Path, gpus: ListedProcesses, **settings: Any) -> Iterator[Dashtop]:
    given = {"allow_actions": "own", "action_token": TOKEN, "data_dir": str(folder), "interval": 0.5, **settings}
    clock = SystemClock()
    readers = Readers(host=PsutilHostReader(clock=clock), gpus=gpus)
    dashtop = create_app(load(rate_limit="100000/second", **given), readers=readers, clock=clock)
    try:
        eventually(dashtop.services.latest.latest)
        yield dashtop
    finally:
        dashtop.close()


class Bench:
    """A dashtop whose GPU holds a real process."""

    def __init__(self, dashtop: Dashtop, gpus: ListedProcesses, folder: Path) -> None:
        self.client: FlaskClient = dashtop.server.test_client()
        self.gpus = gpus
        self.folder = folder

    def describe(self, pid: int) -> dict[str, Any]:
        """Return the body of a request about a process, once the GPU lists it."""
        self.gpus.pids = [*self.gpus.pids, pid]

        def find() -> Any:
            listed = self.client.get(f"{V1}/processes", headers=ACCESS).json
            return [each for each in listed or [] if each["pid"] == pid and each["started"]]

        (found,) = eventually(find)
        return {"started_ms": found["started"], "gpu_uuid": found["gpu_uuid"], "signal": "TERM"}

    def post(self, pid: int, body: Any, *, prefix: str = "", **headers: str) -> Any:
        """Send a request with both tokens, unless `headers` change that."""
        given = {
            **ACCESS,
            "X-Dashtop-Action-Token": TOKEN,
            **{name.replace("_", "-"): headers[name] for name in headers},
        }
        path = f"{prefix}{V1}/processes/{pid}/signal"
        return self.client.post(path, json=body, headers={name: value for name, value in given.items() if value})

    def newest(self) -> Any:
        response = self.client.get(f"{V1}/actions", headers={**ACCESS, "X-Dashtop-Action-Token": TOKEN})
        assert response.status_code == 200
        TypeAdapter(list[schemas.ActionRecord]).validate_python(response.json)
        return response.json


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A dashtop with an access token, a token for portals, and a proxy that names the user."""
    folder, gpus = tmp_path_factory.mktemp("data"), ListedProcesses()
    named = {"trusted_proxies": 1, "auth_header": "X-User"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "is_nested", lambda _proc: False)  # no test process has a GPU open
        with running_app(folder, gpus, token=ACCESS_TOKEN, embed_token="an-embedding-token", **named) as app:
            yield Bench(app, gpus, folder)


@pytest.fixture(scope="module")
def target(bench: Bench) -> Iterator[tuple[int, dict[str, Any]]]:
    """A process on the GPU that no refused request reaches, and the body of a request."""
    with orphan() as pid:
        yield pid, bench.describe(pid)
        assert state(pid) == "S"


Target: TypeAlias = "tuple[int, dict[str, Any]]"


def detail(response: Any, status: int) -> str:
    """Return the sentence of an error."""
    assert response.status_code == status, response.text
    assert set(response.json) == {"detail"}
    return str(response.json["detail"])


def test_signal_ends_the_process_and_the_log_says_so(bench: Bench) -> None:
    with orphan() as pid:
        body = bench.describe(pid)
        response = bench.post(pid, body, X_User="eve\u202e", X_Forwarded_For="10.0.0.5")
        assert response.status_code == 202
        assert response.json == {"pid": pid, "signal": "TERM"}
        TypeAdapter(schemas.SentSignal).validate_python(response.json)
        eventually(lambda: has_ended(pid))
        assert detail(bench.post(pid, body), 410) == Refusal.GONE.text
    refused, sent = bench.newest()[:2]
    assert (sent["pid"], sent["outcome"], sent["client"]) == (pid, "sent", "10.0.0.5")
    assert sent["viewer"].startswith("eve")
    assert sent["viewer"].isprintable()
    assert sent["name"].startswith("python")
    assert (refused["pid"], refused["outcome"], refused["viewer"]) == (pid, "gone", None)
    text = (bench.folder / "actions.log").read_text() + (bench.folder / "actions-refused.log").read_text()
    assert TOKEN not in text
    assert ACCESS_TOKEN not in text


def test_another_process_and_an_early_kill_are_409(bench: Bench, target: Target) -> None:
    pid, body = target
    assert detail(bench.post(pid, {**body, "started_ms": body["started_ms"] - 5000}), 409) == Refusal.OTHER_PROCESS.text
    assert detail(bench.post(pid, {**body, "signal": "KILL"}), 409) == Refusal.TOO_EARLY_TO_KILL.text
    assert detail(bench.post(os.getpid(), body), 409) == Refusal.NO_GPU_MEMORY.text
    assert detail(bench.post(1, body), 403) == Refusal.INIT.text
    outcomes = [each["outcome"] for each in bench.newest()[:4]]
    assert outcomes == ["init", "no_gpu_memory", "too_early_to_kill", "other_process"]


def test_action_token_is_needed_in_the_header_beside_the_access_token(bench: Bench, target: Target) -> None:
    pid, body = target
    missing = bench.post(pid, body, X_Dashtop_Action_Token="")
    assert detail(missing, 401) == Refusal.NO_TOKEN.text
    assert "dashtop-action-token" in missing.headers["WWW-Authenticate"].lower()
    assert detail(bench.post(pid, body, X_Dashtop_Action_Token=ACCESS_TOKEN), 401) == Refusal.WRONG_TOKEN.text
    assert [each["outcome"] for each in bench.newest()[:2]] == ["wrong_token", "no_token"]
    path = f"{V1}/processes/{pid}/signal"
    in_address = bench.client.post(f"{path}?action_token={TOKEN}", json=body, headers=ACCESS)
    assert "Unknown parameter" in detail(in_address, 422)
    assert detail(bench.post(pid, body, Authorization=f"Bearer {TOKEN}"), 401).startswith("Access token required")
    assert detail(bench.post(pid, body, Authorization=""), 401).startswith("Access token required")
    assert detail(bench.client.get(f"{V1}/actions", headers=ACCESS), 401) == Refusal.NO_TOKEN.text


def test_embedded_pages_and_foreign_origins_are_refused(bench: Bench, target: Target) -> None:
    pid, body = target
    in_path = bench.post(pid, body, prefix=f"/~{ACCESS_TOKEN}", Authorization="")
    assert detail(in_path, 403) == Refusal.EMBEDDED.text
    for_portals = bench.post(pid, body, Authorization="Bearer an-embedding-token")
    assert detail(for_portals, 401).startswith("Access token required")
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert detail(bench.post(pid, body, **headers), 403) == "Cross-site requests are not allowed."
    path = f"{V1}/processes/{pid}/signal"
    form = bench.client.post(path, data=json.dumps(body), headers={**ACCESS, "X-Dashtop-Action-Token": TOKEN})
    detail(form, 415)
    assert bench.client.get(path, headers=ACCESS).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"signal": "HUP"},
        {"signal": 9},
        {"gpu_uuid": ""},
        {"gpu_uuid": "GPU-"},
        {"started_ms": None},
        {"started_ms": "5"},
        {"started_ms": True},
        {"force": True},
    ],
)
def test_malformed_body_is_422(bench: Bench, target: Target, change: dict[str, Any]) -> None:
    pid, body = target
    detail(bench.post(pid, {**body, **change}), 422)


@pytest.mark.parametrize("pid", ["0", "-1", "4194305", "x", "1e3", "\u0664", "99999999"])
def test_malformed_pid_is_422(bench: Bench, target: Target, pid: Any) -> None:
    detail(bench.post(pid, target[1]), 422)


def test_action_without_a_record_is_refused(bench: Bench, target: Target) -> None:
    pid, body = target
    log = bench.folder / "actions.log"
    log.touch(0o600)
    log.chmod(0o644)
    try:
        assert detail(bench.post(pid, body), 503) == Refusal.NOT_RECORDED.text
    finally:
        log.chmod(0o600)


def test_wrong_action_tokens_are_slowed_down(tmp_path: Path) -> None:
    gpus = ListedProcesses()
    with running_app(tmp_path, gpus) as app:
        bench = Bench(app, gpus, tmp_path)
        body = {"started_ms": 1, "gpu_uuid": GPU_UUID, "signal": "TERM"}
        for number in range(10):
            assert detail(bench.post(1, body, X_Dashtop_Action_Token=f"wrong-token-{number}"), 401)
        refused = bench.post(1, body)
        assert detail(refused, 429).startswith("Too many wrong action tokens.")
        assert refused.headers["Retry-After"] == "1"
        assert detail(bench.post(1, body, X_Dashtop_Action_Token=""), 401) == Refusal.NO_TOKEN.text
        eventually(lambda: bench.post(1, body).status_code == 403)


def test_disabled_by_default(tmp_path: Path) -> None:
    gpus = ListedProcesses()
    with running_app(tmp_path, gpus, allow_actions="off", action_token=None) as app:
        bench = Bench(app, gpus, tmp_path)
        response = bench.post(1, {"started_ms": 1, "gpu_uuid": GPU_UUID, "signal": "TERM"})
        assert detail(response, 403) == Refusal.DISABLED.text
        assert detail(bench.client.get(f"{V1}/actions"), 403) == Refusal.DISABLED.text
        assert not list(tmp_path.glob("actions*"))


def test_all_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(allow_actions="all", action_token=TOKEN, data_dir=str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SettingsError, match="--allow-actions all: needs root"):
        create_app(settings)
