"""`dashtop.wsgi:server` inside uWSGI: its module `uwsgi` is replaced by one that says whether Python has threads."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.processes import environment

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys, threading, types
uwsgi = types.ModuleType("uwsgi")
uwsgi.has_threads = HAS_THREADS
sys.modules["uwsgi"] = uwsgi
from dashtop.wsgi import server
print("before the fork:", threading.active_count())
if uwsgi.has_threads:
    uwsgi.post_fork_hook()
    print("in a worker:", threading.active_count() > 1)
body = b"".join(server({"REQUEST_METHOD": "GET", "PATH_INFO": "/healthz", "HTTP_HOST": "localhost",
    "SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}, lambda status, headers: print(status)))
print(body.decode())
"""


def run_in_uwsgi(folder: Path, *, has_threads: bool) -> tuple[str, str]:
    """Return what the program above prints to stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("HAS_THREADS", str(has_threads))],
        env={
            **environment(),
            "DASHTOP_HOST": "127.0.0.1",
            "DASHTOP_DATA_DIR": str(folder),
            "ENABLE_GPU_MONITORING": "false",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout, result.stderr


def test_uwsgi_without_threads_is_told_which_option_is_missing(tmp_path: Path) -> None:
    answer, log = run_in_uwsgi(tmp_path, has_threads=False)
    assert "before the fork: 1\n503 Service Unavailable" in answer
    assert "--enable-threads" in answer
    assert "--enable-threads" in log


def test_collection_starts_in_the_worker_of_uwsgi(tmp_path: Path) -> None:
    answer, _ = run_in_uwsgi(tmp_path, has_threads=True)
    assert "before the fork: 1\nin a worker: True\n200 OK" in answer
