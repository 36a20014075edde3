"""dashtop in a notebook: `show`, the %dashtop magic, and the tile in JupyterLab's launcher."""

from __future__ import annotations

import atexit
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from dashtop.model.errors import NotebookError
from dashtop.model.python_process import build_python_command
from dashtop.settings import assets_dir, load, options

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY_URL_VARIABLE: Final = "DASHTOP_PROXY_URL"
"""Address at which a browser reaches a port of this machine, with %PORT% in place of the port."""
DEFAULT_HEIGHT: Final = 650
START_TIMEOUT_S: Final = 60.0
REQUEST_TIMEOUT_S: Final = 3.0
MAX_LOG_LINES: Final = 20

# The random token in the address protects the page. Any site may show a notebook: a hub, Colab, VS Code's web view.
_FRAME_ANCESTORS: Final = "* vscode-webview: vscode-file:"
_START: Final = "from dashtop.notebook import serve_until_stdin_ends; serve_until_stdin_ends()"
_ADDRESS: Final = re.compile(r"dashtop .*http://[^/]+:(\d+)/")

_servers: dict[tuple[tuple[str, str], ...], NotebookServer] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Frame:
    """An iframe in the output of a cell. `src` holds the access token, which is valid as long as the kernel runs."""

    src: str
    height: int

    def _repr_html_(self) -> str:
        return (
            f'<iframe src="{escape(self.src)}" width="100%" height="{self.height}" title="dashtop" '
            'allow="clipboard-write" style="border: 0"></iframe>'
        )


def show(panel: str = "", *, height: int = DEFAULT_HEIGHT, **settings: object) -> Frame | None:
    """Show the dashboard, or one `panel` of /embed/ such as "chart-memory?gpu=1", in the output of a cell.

    `settings` are those of the command line with underscores, such as `demo=4`. The first call with the same settings
    starts a server on a free loopback port with a random access token. It ends with the kernel. `height` in CSS pixels.
    Returns None in Colab, which shows the frame itself. Raises SettingsError and NotebookError.
    """
    server = _get_server(settings)
    path = f"~{server.token}/" + (f"embed/{quote(panel, safe='/?&=,-')}" if panel else "")
    if "google.colab" in sys.modules:
        import_module("google.colab.output").serve_kernel_port_as_iframe(server.port, path=f"/{path}", height=height)
        return None
    return Frame(find_public_url(server.port, os.environ) + path, height)


def load_ipython_extension(ipython: Any) -> None:
    """Register the magic `%dashtop [panel]`, for `%load_ext dashtop`."""
    ipython.register_magic_function(lambda line: show(line.strip()), "line", "dashtop")


def setup_launcher() -> dict[str, Any]:
    """Return the entry of jupyter-server-proxy that starts dashtop from JupyterLab's launcher, below `dashtop/`.

    The proxy authenticates the user, and then vouches for the request with the token. Others who can connect to the
    port are refused. It must not override Host, by which the origin of a request is checked.
    """
    token = secrets.token_urlsafe(24)
    return {
        "command": build_python_command(
            "from dashtop.cli import main; main()",
            "--host=127.0.0.1",
            "--port={port}",
            "--url-prefix={base_url}dashtop/",
        ),
        "environment": {"DASHTOP_TOKEN": token, "DASHTOP_AUTH": "true"},
        "request_headers_override": {"Authorization": f"Bearer {token}"},
        "timeout": START_TIMEOUT_S,
        "launcher_entry": {
            "title": "GPU monitor",
            "icon_path": str(assets_dir() / "icon.svg"),
        },
    }


def find_public_url(port: int, environment: Mapping[str, str]) -> str:
    """Return the address, with a slash at its end, at which the user's browser reaches a port of this machine.

    Known are `DASHTOP_PROXY_URL`, code-server, JupyterHub, and Jupyter servers with jupyter-server-proxy. Elsewhere the
    browser is assumed to run on this machine, or where VS Code forwards the port.
    """
    template = environment.get(PROXY_URL_VARIABLE)
    if template:
        if "%PORT%" not in template:
            raise NotebookError(f"{PROXY_URL_VARIABLE} must contain %PORT%, such as /user/NAME/proxy/%PORT%/.")
        return template.replace("%PORT%", str(port)).rstrip("/") + "/"
    code_server = environment.get("VSCODE_PROXY_URI", "")
    if "{{port}}" in code_server:
        return code_server.replace("{{port}}", str(port)).rstrip("/") + "/"
    if "VSCODE_PID" in environment or "VSCODE_CWD" in environment:
        return f"http://localhost:{port}/"
    hub_prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX")
    if hub_prefix:
        return f"{hub_prefix.rstrip('/')}/proxy/{port}/"
    for server in _find_jupyter_servers():
        if _is_proxied(server, port):
            return f"{server['base_url'].rstrip('/')}/proxy/{port}/"
        if not _is_local(server):
            raise NotebookError(
                "Cannot know the address at which your browser reaches this machine. Install jupyter-server-proxy where"
                f" JupyterLab runs and restart it, or set {PROXY_URL_VARIABLE}, such as http://gpu1.example:%PORT%/."
            )
    return f"http://127.0.0.1:{port}/"


def _find_jupyter_servers() -> list[dict[str, Any]]:
    """Return the Jupyter server that started this kernel, as it describes itself in its runtime folder, or nothing."""
    try:
        folder = Path(import_module("jupyter_core.paths").jupyter_runtime_dir())
        return [json.loads((folder / f"jpserver-{os.getppid()}.json").read_text())]
    except (ImportError, OSError, ValueError):
        return []


def _is_local(server: Mapping[str, Any]) -> bool:
    return server.get("hostname") in {"localhost", "127.0.0.1", "::1"}


def _is_proxied(server: Mapping[str, Any], port: int) -> bool:
    """Return whether the Jupyter server forwards requests to the port: it has jupyter-server-proxy."""
    url = f"http://127.0.0.1:{server['port']}{server['base_url']}proxy/{port}/healthz"
    request = urllib.request.Request(url, headers={"Authorization": f"token {server.get('token', '')}"})
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310
            return bool(json.loads(response.read()) == {"status": "ok"})
    except (OSError, ValueError):
        return False


# --- the server -----------------------------------------------------------------------------------------------------


def _get_server(settings: Mapping[str, object]) -> NotebookServer:
    load(**settings)  # raises SettingsError here, not in the server
    key = tuple(sorted((name, _format_value(value)) for name, value in settings.items()))
    with _lock:
        server = _servers.get(key)
        if server is None or not server.is_running():
            server = _servers[key] = NotebookServer(dict(key))
        return server


def _format_value(value: object) -> str:
    """Return a setting as the text of an environment variable."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


class NotebookServer:
    """A dashtop in a process of its own: a busy kernel does not slow it down. It ends when the kernel ends."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """Start it and wait until it listens. Raises NotebookError."""
        self.token = secrets.token_urlsafe(24)
        given = {"frame_ancestors": _FRAME_ANCESTORS, "host": "127.0.0.1", "port": "0", **settings}
        given |= {"token": self.token, "auth": "true"}  # whatever the environment or the settings file says
        variables = {options()[name].env[0]: value for name, value in given.items()}
        self._process = subprocess.Popen(
            build_python_command(_START),
            stdin=subprocess.PIPE,  # ends with the kernel, even if that is killed
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # interrupting the kernel must not end the server
        )
        atexit.register(self._process.terminate)
        self._lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._ports: Queue[int | None] = Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), name="dashtop-output", daemon=True).start()
        self.port = self._wait_for_port()

    def is_running(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def _wait_for_port(self) -> int:
        try:
            port = self._ports.get(timeout=START_TIMEOUT_S)
        except Empty:
            port = None
        if port is None:
            self._process.terminate()
            raise NotebookError(f"dashtop did not start:\n{''.join(self._lines)}")
        return port

    def _read(self, output: IO[str]) -> None:
        """Read the server's output until it ends. Its first lines hold the address; the last lines are kept."""
        for line in output:
            self._lines.append(line)
            match = _ADDRESS.match(line)
            if match is not None:
                self._ports.put(int(match[1]))
        self._ports.put(None)


def serve_until_stdin_ends() -> None:
    """Run the server of a notebook, with settings from the environment."""
    from dashtop.cli import main  # noqa: PLC0415

    def wait() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    main(["serve"])
