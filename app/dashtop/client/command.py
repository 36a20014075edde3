"""The command `dashtop run`: runs a command, passes signals on to it, and exits with its status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.client.run import Run
from dashtop.model.errors import SettingsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

REPORT_TIMEOUT_S: Final = 4.0
EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SIGNAL = 126, 127, 128
"""As shells do: a command that a signal ends has 128 and its number."""
PASSED_ON: Final = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to run. `tag`: NAME=VALUE."""

    name: str
    command: Sequence[str]
    tag: Sequence[str] = ()
    url: str | None = None
    access_token: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.usage = "dashtop run NAME [--tag NAME=VALUE ...] [--url URL] [--token TOKEN] -- COMMAND ..."
    parser.add_argument("name", metavar="NAME", help="name of the run")
    parser.add_argument("--tag", action="append", metavar="NAME=VALUE", help="a tag of the run; can be repeated")
    parser.add_argument("--url", metavar="URL", help="address of the server; default: DASHTOP_URL, or this machine")
    parser.add_argument(
        "--token", dest="access_token", metavar="TOKEN", help="access token of the server; default: DASHTOP_TOKEN"
    )


def run(request: Request) -> int:
    """Run the command, and return its exit status. Prints the report to stderr. Raises SettingsError."""
    if not request.command:
        raise SettingsError("Put the command behind two dashes: dashtop run NAME -- python train.py")
    tags = _parse_tags(request.tag)
    # Blocked, so that none is missed between two waits; threads inherit it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *PASSED_ON})
    try:
        # One thread runs so far: nothing is locked in the child.
        child = subprocess.Popen(
            request.command,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),  # noqa: PLW1509
        )
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sys.stderr.write(f"dashtop: {request.command[0]}: {error.strerror or error}.\n")
        return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_EXECUTABLE
    running = Run(request.name, tags, url=request.url, token=request.access_token, pid=child.pid).start()
    status = _wait(child)
    running.finish("finished" if status == 0 else "failed")
    report = running.report(REPORT_TIMEOUT_S)
    if report.data is not None:
        sys.stderr.write(f"{report}\n")
    return status


def _parse_tags(tags: Sequence[str]) -> dict[str, str]:
    for tag in tags:
        if not tag.partition("=")[0] or "=" not in tag:
            raise SettingsError(f"--tag {tag!r}: must be NAME=VALUE, such as lr=3e-4.")
    return {name: value for name, _, value in (tag.partition("=") for tag in tags)}


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Pass signals on until the command ends; return its exit status.

    The terminal sends its signals (Ctrl-C) to the command as well: those are from the kernel, and not passed on.
    """
    while child.poll() is None:
        found = signal.sigwaitinfo({signal.SIGCHLD, *PASSED_ON})
        if found.si_signo in PASSED_ON and found.si_code <= 0 and found.si_pid != os.getpid():
            child.send_signal(found.si_signo)
    return child.returncode if child.returncode >= 0 else EXIT_SIGNAL - child.returncode
