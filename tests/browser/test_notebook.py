"""In real notebook hosts: JupyterLab with jupyter-server-proxy, and JupyterHub with configurable-http-proxy."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.processes import DASHTOP, ROOT, eventually, find_free_ports, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, FrameLocator, Page

START_TIMEOUT_S = 90.0
WAIT_MS = 60_000
TOKEN = "correct-horse-battery"
DOCUMENT = (ROOT / "docs" / "notebook.md").read_text()
HUB_CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{hub}/"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy}"
c.ConfigurableHTTPProxy.command = {command}
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{password}"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{home}"
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.env_keep = ["PATH", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "LD_LIBRARY_PATH"]
c.Spawner.http_timeout = 90
c.Spawner.start_timeout = 90
"""

pytestmark = pytest.mark.timeout(240)


def read_documented_calls() -> list[str]:
    """Return the calls of docs/notebook.md that show something in a cell."""
    calls = re.findall(r"^(dashtop\.show\([^)]*\)|%dashtop .*)", DOCUMENT, re.MULTILINE)
    assert len(calls) == 3
    return calls


def read_documented_service(port: int) -> str:
    """Return the hub service of docs/notebook.md, with simulated GPUs on a port of the test."""
    (block,) = re.findall(r"^c.JupyterHub.services = \[.*?^\]", DOCUMENT, re.MULTILINE | re.DOTALL)
    command = str([str(DASHTOP), "--demo", "2", "--port", str(port)])
    service: str = block.replace('["dashtop"]', command).replace(":8050", f":{port}")
    return service


@dataclass(frozen=True)
class NotebookHost:
    """A notebook server: the address under which the user's browser reaches it, and the folder of the notebooks."""

    url: str
    notebooks: Path


@contextmanager
def run_until_answering(command: list[str], url: str, folder: Path) -> Iterator[None]:
    """Run a server with its settings in `folder`, once `url` answers. It and what it started end afterwards."""
    folders = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "DASHTOP_"))}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**clean, **folders, "HOME": str(folder), "DASHTOP_DEMO": "2"},
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)

        eventually(answers, START_TIMEOUT_S, every_s=0.2)
        yield
    finally:
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        for each in started:
            if each.is_running():
                each.kill()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookHost]:
    folder = tmp_path_factory.mktemp("lab")
    (port,) = find_free_ports(1)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"),
        *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", "--ServerApp.base_url=/base/"),
        *("--ServerApp.jpserver_extensions", "jupyter_server_proxy=True", "--LabApp.news_url=None"),
        *("--LabApp.check_for_updates_class", "jupyterlab.NeverCheckForUpdate"),
    ]
    url = f"http://127.0.0.1:{port}/base/"
    with run_until_answering(command, f"{url}api", folder):
        yield NotebookHost(url, folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookHost]:
    folder = tmp_path_factory.mktemp("hub")
    npm = shutil.which("npm")
    install = [str(npm), "install", "--silent", "--prefix", str(folder), "configurable-http-proxy"]
    if npm is None or subprocess.run(install, capture_output=True, check=False).returncode != 0:
        pytest.skip("JupyterHub needs configurable-http-proxy, which npm cannot install here")
    # Not through npx: it takes longer to start than JupyterHub waits.
    proxy = [str(folder / "node_modules" / ".bin" / "configurable-http-proxy")]
    hub_port, api_port, proxy_port, service_port = find_free_ports(4)
    (folder / "jupyterhub_config.py").write_text(
        HUB_CONFIG.format(
            hub=hub_port,
            api=api_port,
            proxy=proxy_port,
            command=proxy,
            password=TOKEN,
            home=folder,
            python=sys.executable,
        )
        + read_documented_service(service_port)
    )
    url = f"http://127.0.0.1:{hub_port}/"
    with run_until_answering([sys.executable, "-m", "jupyterhub"], f"{url}hub/api/", folder):
        yield NotebookHost(url, folder)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    # JupyterLab suggests to build an extension for JupyterLab 2 that Dash brings, and may ask for the kernel.
    for title, answer in {"Build Recommended": "Cancel", "Select Kernel": "Select"}.items():
        page.add_locator_handler(
            page.locator(".jp-Dialog", has_text=title),
            lambda dialog, answer=answer: dialog.get_by_role("button", name=answer).click(),
        )
    yield page
    context.close()


@pytest.fixture
def lab_page(lab: NotebookHost, page: Page) -> Page:
    page.goto(f"{lab.url}login?token={TOKEN}")
    return page


@pytest.fixture
def hub_page(hub: NotebookHost, page: Page) -> Page:
    page.goto(f"{hub.url}hub/login")
    page.fill("input[name=username]", "ada")
    page.fill("input[name=password]", TOKEN)
    page.click("input[type=submit], button[type=submit]")
    page.wait_for_url(f"{hub.url}user/ada/lab**")
    return page


def expect_live_values(shown: Page | FrameLocator) -> None:
    """Wait until the page of dashtop is live and has painted a value."""
    shown.locator("html[data-live=live]").wait_for(state="attached")
    values = shown.locator("[data-metric]:visible, td:visible")
    values.filter(has_text=re.compile(r"^\d[\d.]*( (%|°C|W))?$")).first.wait_for()


def run_cell(page: Page, host: NotebookHost, base: str, code: str) -> FrameLocator:
    """Run a cell of a new notebook in JupyterLab; return the frame in its output."""
    name = f"{secrets.token_hex(4)}.ipynb"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": code, "outputs": list[str]()} | {
        "execution_count": None
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (host.notebooks / name).write_text(json.dumps(content))
    page.goto(f"{base}lab/tree/{name}?reset")
    page.locator(".jp-Notebook .jp-Cell").first.click()  # the status bar shows the kernel of the active notebook
    page.get_by_text("| Idle").wait_for()
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-OutputArea iframe[title=dashtop]").wait_for()
    return page.frame_locator(".jp-OutputArea iframe[title=dashtop]")


# --- JupyterLab -----------------------------------------------------------------------------------------------------


def test_dashtop_without_options_works_below_the_proxy_of_jupyterlab(lab: NotebookHost, lab_page: Page) -> None:
    with running("--demo", "2") as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        lab_page.goto(f"{lab.url}proxy/{port}/")
        expect_live_values(lab_page)
        lab_page.goto(f"{lab.url}proxy/{port}/embed/chart-memory")
        lab_page.locator("#chart-memory .scatterlayer .trace").first.wait_for(state="attached")


def test_token_works_below_the_proxy_of_jupyterlab(lab: NotebookHost, lab_page: Page) -> None:
    with running("--demo", "2", "--token", "our-secret-token", ready=False) as server:
        port = server.url.split("/")[2].rpartition(":")[2]
        lab_page.goto(f"{lab.url}proxy/{port}/?token=our-secret-token")
        expect_live_values(lab_page)
        assert lab_page.url.split("?")[0] == f"{lab.url}proxy/{port}/"
        assert "our-secret-token" not in lab_page.url
        cookie = next(each for each in lab_page.context.cookies() if each["name"].startswith("dashtop-"))
        assert cookie["path"] == f"/base/proxy/{port}"


def test_launcher_starts_dashtop_which_refuses_other_users_of_the_machine(lab: NotebookHost, lab_page: Page) -> None:
    lab_page.goto(f"{lab.url}lab?reset")
    lab_page.locator(".jp-LauncherCard", has_text="GPU monitor").wait_for()
    lab_page.goto(f"{lab.url}dashtop/")
    lab_page.locator("html[data-live=live]").wait_for(state="attached")
    arguments = next(
        each.info["cmdline"]
        for each in psutil.process_iter(["cmdline"])
        if "--url-prefix=/base/dashtop/" in (each.info["cmdline"] or [])
    )
    port = next(each for each in arguments if each.startswith("--port=")).removeprefix("--port=")
    for path in ("", "base/dashtop/", "metrics"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5)


@pytest.mark.parametrize("code", read_documented_calls())
def test_documented_calls_render_live_values_in_jupyterlab(lab: NotebookHost, lab_page: Page, code: str) -> None:
    frame = run_cell(lab_page, lab, lab.url, f"import dashtop\n%load_ext dashtop\n{code}")
    frame.locator("html[data-live=live]").wait_for(state="attached")
    frame.locator("[data-metric]:visible, td").filter(has_text=re.compile(r"^[\d.]+$")).first.wait_for()
    source = lab_page.locator(".jp-OutputArea iframe[title=dashtop]").get_attribute("src")
    assert source is not None
    assert re.match(r"/base/proxy/\d+/~[\w-]+/", source), "through the proxy: the browser may be on another machine"


# --- JupyterHub -----------------------------------------------------------------------------------------------------


def test_dashtop_without_options_works_on_a_users_server_of_jupyterhub(hub: NotebookHost, hub_page: Page) -> None:
    variables = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/", "JUPYTERHUB_SERVER_NAME": ""}
    with running("--demo", "2", env=variables) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        hub_page.goto(f"{hub.url}user/ada/proxy/{port}/")
        expect_live_values(hub_page)


def test_show_renders_live_values_on_jupyterhub(hub: NotebookHost, hub_page: Page) -> None:
    code = "import dashtop\ndashtop.show('panel-temperature', demo=2)"
    expect_live_values(run_cell(hub_page, hub, f"{hub.url}user/ada/", code))


def test_documented_service_of_jupyterhub_works(hub: NotebookHost, page: Page) -> None:
    page.goto(f"{hub.url}services/gpus/")
    page.get_by_label("Access token").fill("choose-a-long-secret")
    page.get_by_role("button", name="Open").click()
    expect_live_values(page)
    assert page.url.split("?")[0] == f"{hub.url}services/gpus/"
