"""A real nginx with the location block of docs/deployment.md."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.debian import program
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import Running

LOCATION = (ROOT / "docs" / "deployment.md").read_text().partition("```nginx\n")[2].partition("```")[0]
# Started by root, nginx would read files as another user; otherwise it ignores `user`.
CONFIGURATION = """
user root; daemon off; pid {folder}/pid; error_log stderr warn; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {servers}
}}
"""


def build_location(dashtop: Running, prefix: str = "/", cut: str = "") -> str:
    """Return the documented location block, for that prefix and server."""
    passed = f"http://{dashtop.url.split('/')[2]}{cut}"
    return LOCATION.replace("location / ", f"location {prefix} ").replace("http://127.0.0.1:8050", passed)


def create_certificate(folder: Path, *names: str) -> str:
    """Create a self-signed certificate for the names; return nginx's directives for it."""
    command = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += [
        "-days",
        "2",
        "-subj",
        f"/CN={names[0]}",
        "-addext",
        f"subjectAltName={','.join(f'DNS:{n}' for n in names)}",
    ]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return f"ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/key.pem;"


@contextmanager
def run_nginx(folder: Path, servers: str) -> Iterator[subprocess.Popen[str]]:
    """Run nginx with these server blocks, and its files in `folder`."""
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, servers=servers))
    process = subprocess.Popen(
        [program("nginx"), "-p", str(folder), "-c", str(configuration)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        print(process.communicate(timeout=10)[0])
