"""The `dashtop` command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from dashtop.export.request import OPTIONS as EXPORT_OPTIONS
from dashtop.export.request import add_options as add_export_options
from dashtop.history.postgresql_url import mask_passwords
from dashtop.model.errors import DashtopError, SettingsError
from dashtop.settings import DEFAULT_DEMO_GPUS, Settings, load, options
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BETWEEN_READINGS_S = 0.25
SNAPSHOT_GPU_TIMEOUT_S = 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status 2: a setting is unknown or impossible; 1: it cannot be done."""
    try:
        command, given = parse(sys.argv[1:] if arguments is None else arguments)
        command(load(**given))
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:
        sys.exit(1)
    except DashtopError as error:
        print(f"dashtop: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def serve(settings: Settings) -> None:
    """Collect and show until SIGTERM or Ctrl-C."""
    from dashtop.app import create_app  # noqa: PLC0415 - the other commands need no web server
    from dashtop.server import Server  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    dashtop = create_app(settings)
    try:
        server = Server(dashtop.server, host=settings.host, port=settings.port)
        simulated = f" with {settings.demo} simulated GPUs" if settings.demo else ""
        address = server.address.rstrip("/") + dashtop.path
        # In one piece: unbuffered, print() writes the line's end apart, and a log line may get between.
        sys.stdout.write(f"dashtop {__version__}{simulated}: {address}\n")
        sys.stdout.flush()
        server.run(dashtop.close)
    finally:
        dashtop.close()


def snapshot(settings: Settings) -> None:
    """Print one reading as the JSON of /monitoring/all."""
    from dashtop.app import build_sampler  # noqa: PLC0415
    from dashtop.web.api.serializers import monitoring_all  # noqa: PLC0415

    sampler = build_sampler(settings)
    try:
        sampler.sample(SNAPSHOT_GPU_TIMEOUT_S)
        time.sleep(BETWEEN_READINGS_S)  # rates are what happened between two readings
        sample = sampler.sample(SNAPSHOT_GPU_TIMEOUT_S)
    finally:
        sampler.close()
    print(_text(monitoring_all(sample, sample.gpu(0))))


def doctor(settings: Settings, *, json: bool = False) -> None:
    """Print what works, what is missing, and the fix for each problem. Exit status 1: there is a problem."""
    from dashtop.doctor.checks import run_checks  # noqa: PLC0415

    report = run_checks(settings)
    print(_text(report.as_json()) if json else report.as_text())
    if report.problems:
        sys.exit(1)


def export(settings: Settings, **asked: Any) -> None:
    """Write stored history to a file; no server is needed, and one that runs is not disturbed."""
    from dashtop.app import build_history  # noqa: PLC0415
    from dashtop.export import command  # noqa: PLC0415
    from dashtop.export.request import Request  # noqa: PLC0415
    from dashtop.model.ports import SystemClock  # noqa: PLC0415

    clock = SystemClock()
    history = build_history(settings, clock)
    try:
        command.run(Request(**asked), history, clock)
    finally:
        history.close()


def _text(body: object) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False)


COMMANDS: dict[str, Callable[..., None]] = {
    "serve": serve,
    "snapshot": snapshot,
    "export": export,
    "doctor": doctor,
}
OWN_OPTIONS = {"export": EXPORT_OPTIONS, "doctor": ("json",)}


def parse(arguments: Sequence[str]) -> tuple[Callable[[Settings], None], dict[str, object]]:
    """Return the command and the settings given with it, as text. Raises SettingsError."""
    everything = vars(_parser().parse_args(_with_demo_count(arguments)))
    given = {name: value for name, value in everything.items() if value is not None}
    command = given.pop("command")
    own = {}
    for owner, names in OWN_OPTIONS.items():
        for name in set(names) & set(given):
            if owner != command:
                flag = name.partition("_")[0]
                raise SettingsError(f"--{flag} is for dashtop {owner} (dashtop --help lists everything)")
            own[name] = given.pop(name)
    return partial(COMMANDS[command], **own), given


def _with_demo_count(arguments: Sequence[str]) -> list[str]:
    """Spell a bare --demo out, so that the command behind it is not taken for its number."""
    spelled = []
    for position, argument in enumerate(arguments):
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        bare = argument == "--demo" and (following in COMMANDS or not following or following.startswith("-"))
        spelled.append(f"--demo={DEFAULT_DEMO_GPUS}" if bare else argument)
    return spelled


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{mask_passwords(message)} (dashtop --help lists everything)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dashtop",
        description="GPU and system monitor with history in the browser.",
        epilog="Each option can also be set in the environment (the names in brackets) or in the TOML file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dashtop {__version__}")
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        choices=COMMANDS,
        help="serve (default): collect and show in the browser; snapshot: print one reading as JSON; "
        "export: write stored history to a file; "
        "doctor: report what was found, what is missing and why, and the fix",
    )
    parser.add_argument("--json", action="store_const", const=True, help="doctor: print JSON")
    add_export_options(parser)
    for name, option in options().items():
        text = f"{option.help} [{', '.join(option.env)}]"
        if option.stored is not None and not option.optional_value:
            parser.add_argument(option.flag, dest=name, action="store_const", const=option.stored, help=text)
        else:
            nargs = "?" if option.optional_value else None
            parser.add_argument(
                option.flag, dest=name, nargs=nargs, const=option.stored, metavar=option.metavar, help=text
            )
    return parser
