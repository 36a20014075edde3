"""Where a training runs: its rank, the process whose tree it is, its user, and the address of the server."""

from __future__ import annotations

import getpass
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

URL_VARIABLE: Final = "DASHTOP_URL"
DEFAULT_PORT: Final = "8050"
MAX_USER_CHARS: Final = 100

# Set by launchers, the most specific first; 0 reports.
_RANK_VARIABLES: Final = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "LOCAL_RANK")
# Launchers start the ranks of a machine as children of one process, whose tree holds all GPUs.
_SIZE_VARIABLES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_TORCHRUN_VARIABLE: Final = "TORCHELASTIC_RUN_ID"
_START: Final = 19  # position in /proc/<pid>/stat after the name


class Server(NamedTuple):
    """A dashtop server: its address, which ends with a slash, and its access token."""

    url: str
    token: str | None


def find_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return the rank of this process in a distributed training, 0 if it is in none."""
    for name in _RANK_VARIABLES:
        value = environment.get(name, "")
        if value.isascii() and value.isdigit():
            return int(value)
    return 0


def find_root_pid(environment: Mapping[str, str] = os.environ) -> int:
    """Return the process whose tree is the run: the launcher of several ranks on this machine, or this one."""
    sizes = [environment.get(name, "") for name in _SIZE_VARIABLES]
    has_launcher = _TORCHRUN_VARIABLE in environment or any(size.isdigit() and int(size) > 1 for size in sizes)
    parent = os.getppid()
    return parent if has_launcher and parent > 1 else os.getpid()


def read_start_ms(pid: int) -> int | None:
    """Return when a process started, as the server calculates it; None where there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib costs an import
            ticks = int(file.read(4096).rpartition(b")")[2].split()[_START])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return round(1000 * (time.time() - age_s))
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def find_server(url: str | None, token: str | None) -> Server:
    """Return the server of the arguments, else of DASHTOP_URL and DASHTOP_TOKEN, else of this machine."""
    port = os.environ.get("DASHTOP_PORT", DEFAULT_PORT)
    port = port if port.isdigit() and port != "0" else DEFAULT_PORT
    parts = urlsplit(url or os.environ.get(URL_VARIABLE) or f"http://127.0.0.1:{port}/")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("the address of the server must begin with http:// or https:// (DASHTOP_URL)")
    in_url = parse_qs(parts.query).get("token", [None])[0]
    path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
    base = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
    return Server(base, token or in_url or os.environ.get("DASHTOP_TOKEN") or None)


def read_boot_id() -> str | None:
    """Return what identifies this machine since it was started, also in a container; None where there is no /proc."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            return file.read(64).strip() or None
    except (OSError, ValueError):
        return None


def find_user() -> str | None:
    """Return the name of the user of this process; None if it has none."""
    try:
        return getpass.getuser()[:MAX_USER_CHARS]
    except Exception:  # noqa: BLE001 - a container need not know the user: KeyError, OSError, ImportError
        return None
