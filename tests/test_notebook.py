"""`dashtop.show` outside a browser: where the address comes from, and the life of the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import dashtop
from dashtop.model.errors import NotebookError, SettingsError
from dashtop.notebook import NotebookServer, find_public_url, setup_launcher
from tests.processes import eventually

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:5000/"),
        ({"DASHTOP_PROXY_URL": "/user/ada/proxy/%PORT%/"}, "/user/ada/proxy/5000/"),
        ({"DASHTOP_PROXY_URL": "https://%PORT%-gpu1.example"}, "https://5000-gpu1.example/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ada%40b/lab/"}, "/user/ada%40b/lab/proxy/5000/"),
        ({"VSCODE_PROXY_URI": "https://code.example/proxy/{{port}}/"}, "https://code.example/proxy/5000/"),
        ({"VSCODE_PID": "7"}, "http://localhost:5000/"),
        (
            {"DASHTOP_PROXY_URL": "https://own.example/%PORT%/", "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"},
            "https://own.example/5000/",
        ),
    ],
)
def test_address_in_the_browser_is_that_of_the_notebook_host(environment: dict[str, str], url: str) -> None:
    assert find_public_url(5000, environment) == url


def test_proxy_url_without_a_place_for_the_port_is_one_sentence() -> None:
    with pytest.raises(NotebookError, match=r"must contain %PORT%"):
        find_public_url(5000, {"DASHTOP_PROXY_URL": "/proxy/8050/"})


@pytest.mark.parametrize(("hostname", "is_known"), [("localhost", True), ("0.0.0.0", False), ("gpu1.example", False)])
def test_jupyter_server_without_proxy(
    hostname: str, is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {"hostname": hostname, "port": 1, "base_url": "/", "token": "x"}
    (tmp_path / f"jpserver-{os.getppid()}.json").write_text(json.dumps(described))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    if is_known:
        assert find_public_url(5000, {}) == "http://127.0.0.1:5000/"
    else:
        with pytest.raises(NotebookError, match=r"DASHTOP_PROXY_URL"):
            find_public_url(5000, {})


def test_one_server_for_the_same_settings_protected_by_a_token() -> None:
    frame, other = dashtop.show("chart-memory?gpu=1", demo=2), dashtop.show(height=300, demo=2)
    assert frame is not None
    assert other is not None
    base = frame.src.removesuffix("embed/chart-memory?gpu=1")
    assert other.src == base
    assert 'height="300"' in other._repr_html_()
    with urllib.request.urlopen(frame.src, timeout=10) as page:
        assert b'data-embed="chart-memory"' in page.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(base.partition("~")[0], timeout=10)


def test_colab_shows_the_frame_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, str, int]] = []
    output = ModuleType("google.colab.output")
    output.serve_kernel_port_as_iframe = lambda port, path, height: shown.append((port, path, height))  # type: ignore[attr-defined]
    for name, module in (("google", ModuleType("google")), ("google.colab", ModuleType("google.colab"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    assert dashtop.show("panel-fan", height=400, demo=2) is None
    ((port, path, height),) = shown
    assert height == 400
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as page:
        assert b'data-embed="panel-fan"' in page.read()


def test_environment_cannot_disable_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("a-token-of-the-environment")
    monkeypatch.setenv("DASHTOP_AUTH", "false")
    monkeypatch.setenv("DASHTOP_TOKEN_FILE", str(token_file))
    frame = dashtop.show(demo=1, keep_days=3)
    assert frame is not None
    with urllib.request.urlopen(frame.src, timeout=10) as page:
        assert page.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(frame.src.partition("~")[0], timeout=10)


PLANTED = ("dashtop", "queue", "json", "pickle", "flask", "random")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in a folder of modules that hide others; each writes its name to the marker when it is imported."""
    marker = tmp_path / "imported"
    for name in PLANTED:
        (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(tmp_path)
    return marker


def test_server_imports_nothing_from_the_folder_of_the_notebook(marker: Path) -> None:
    assert NotebookServer({"demo": "1"}).is_running()
    assert not marker.exists()


def test_launcher_imports_nothing_from_the_folder_of_jupyter(marker: Path) -> None:
    command = [each.format(port=0, base_url="/base/") for each in setup_launcher()["command"]]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"dashtop {dashtop.__version__}\n"), done.stderr
    assert not marker.exists()


def test_invalid_setting_is_refused_before_a_server_starts() -> None:
    with pytest.raises(SettingsError, match=r"--interval '0': must be a number from 0.5 to 60"):
        dashtop.show(interval=0)
    with pytest.raises(SettingsError, match=r"There is no setting 'colour'"):
        dashtop.show(colour="red")


def test_server_that_does_not_start_says_why() -> None:
    with pytest.raises(NotebookError, match=r"There is no settings file /nowhere"):
        NotebookServer({"config": "/nowhere"})


KERNEL = """
import dashtop, sys, time
frame = dashtop.show(demo=1)
print(frame.src, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_server_ends_with_the_kernel_but_not_when_it_is_interrupted(ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{KERNEL}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as kernel:
        assert kernel.stdout is not None
        address = kernel.stdout.readline().strip()

        def is_up() -> bool:
            try:
                with urllib.request.urlopen(f"{address}healthz", timeout=5) as response:
                    return bool(response.status == 200)
            except urllib.error.URLError:
                return False

        assert eventually(is_up)
        os.killpg(kernel.pid, signal.SIGINT)  # as Jupyter interrupts a kernel
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert is_up()
        kernel.send_signal(ending)
        kernel.wait(10)
        eventually(lambda: not is_up())


class IPython:
    """Records what an extension registers."""

    def __init__(self) -> None:
        self.magics: dict[str, Any] = {}

    def register_magic_function(self, function: Any, kind: str, name: str) -> None:
        assert kind == "line"
        self.magics[name] = function


def test_magic_shows_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHTOP_DEMO", "1")
    shell = IPython()
    dashtop.load_ipython_extension(shell)
    assert shell.magics["dashtop"](" panel-fan ").src.endswith("/embed/panel-fan")


def test_launcher_has_a_token_of_its_own_at_each_start() -> None:
    first, second = setup_launcher(), setup_launcher()
    token = first["environment"]["DASHTOP_TOKEN"]
    assert first["request_headers_override"] == {"Authorization": f"Bearer {token}"}
    assert second["environment"]["DASHTOP_TOKEN"] != token
    assert token not in " ".join(first["command"])
    assert "Host" not in first["request_headers_override"]
