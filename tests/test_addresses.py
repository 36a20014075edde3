"""A name with several addresses, of which the machine has only some: the server and doctor agree."""

from __future__ import annotations

import errno
import shlex
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from dashtop.addresses import find_addresses
from dashtop.doctor.environment import check_storage_and_port
from dashtop.doctor.report import State
from dashtop.server import _choose_listeners
from dashtop.settings import Settings
from tests.processes import DASHTOP, environment

if TYPE_CHECKING:
    from pathlib import Path

IPV4: Any = (socket.AF_INET, ("127.0.0.1", 0))
ABSENT: Any = (socket.AF_INET6, ("2001:db8::1", 0, 0, 0))
UNSUPPORTED: Any = (socket.AF_X25, ("::1", 0, 0, 0))


def set_addresses(monkeypatch: pytest.MonkeyPatch, *addresses: Any) -> None:
    """Give the name `box` these addresses."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "box":
            return resolve(host, port, *arguments, **options)
        kind = socket.SOCK_STREAM
        return [(family, kind, 6, "", (address[0], int(port), *address[2:])) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def check_port(port: int) -> Any:
    return list(check_storage_and_port(Settings(host="box", port=port, persist=False)))[-1]


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("other", [ABSENT, UNSUPPORTED], ids=["absent", "unsupported"])
@pytest.mark.parametrize("is_first", [True, False])
def test_addresses_that_the_machine_lacks_are_left_out(
    monkeypatch: pytest.MonkeyPatch, other: Any, is_first: bool
) -> None:
    set_addresses(monkeypatch, *((other, IPV4) if is_first else (IPV4, other)))
    assert find_addresses("box", 0) == ([IPV4], False)

    port = find_free_port()
    assert check_port(port).state is State.OK
    assert _choose_listeners("box", port) == {"listen": f"127.0.0.1:{port}"}


def test_without_any_address_doctor_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    set_addresses(monkeypatch, ABSENT)
    assert find_addresses("box", 0) == ([ABSENT], True)
    assert _choose_listeners("box", 8050) == {"host": "box", "port": 8050}
    finding = check_port(8050)
    assert (finding.state, finding.fix) == (State.FAIL, "dashtop --host 127.0.0.1")


def test_port_in_use_on_one_address_is_found_by_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    set_addresses(monkeypatch, IPV4, (socket.AF_INET, ("127.0.0.2", 0)))
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        assert (check_port(port).state, "in use" in check_port(port).text) == (State.FAIL, True)


def test_localhost_on_a_machine_without_ipv6(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
    setup = f"ip link set lo up && sysctl -qw net.ipv6.conf.all.disable_ipv6=1 && mount --bind {hosts} /etc/hosts"
    namespace = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c"]
    bind = "import socket; socket.socket(socket.AF_INET6).bind(('::1', 0))"
    probe = f"{setup} && {shlex.quote(sys.executable)} -c {shlex.quote(bind)}"
    try:
        tried = subprocess.run([*namespace, probe], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if f"[Errno {errno.EADDRNOTAVAIL}]" not in tried.stderr:
        pytest.skip(f"cannot disable IPv6 in a network namespace: {tried.stderr[-200:]}")

    serve = f"{setup} && exec {shlex.quote(str(DASHTOP))} --no-gpu --no-persist --host localhost --port 0"
    process = subprocess.Popen(
        [*namespace, serve], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert urlsplit(address).hostname == "127.0.0.1"
    finally:
        process.terminate()
        process.communicate(timeout=20)
