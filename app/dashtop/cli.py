"""The `dashtop` command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from dashtop.domain.errors import DashtopError, SettingsError
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
    from dashtop.factory import create_app  # noqa: PLC0415 - the other commands need no web server
    from dashtop.server import Server  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    dashtop = create_app(settings)
    try:
        server = Server(dashtop.server, host=settings.host, port=settings.port)
        simulated = f" with {settings.demo} simulated GPUs" if settings.demo else ""
        address = server.address.rstrip("/") + dashtop.entrance
        print(f"dashtop {__version__}{simulated}: {address}", flush=True)
        server.run(dashtop.close)
    finally:
        dashtop.close()


def snapshot(settings: Settings) -> None:
    """Print one reading as the JSON of /monitoring/all."""
    from dashtop.api.bodies import monitoring_all  # noqa: PLC0415
    from dashtop.factory import make_sampler  # noqa: PLC0415

    sampler = make_sampler(settings)
    try:
        sampler.sample(SNAPSHOT_GPU_TIMEOUT_S)
        time.sleep(BETWEEN_READINGS_S)  # rates are what happened between two readings
        sample = sampler.sample(SNAPSHOT_GPU_TIMEOUT_S)
    finally:
        sampler.close()
    print(json.dumps(monitoring_all(sample, sample.gpu(0)), indent=2, ensure_ascii=False))


def doctor(settings: Settings, *, as_json: bool = False) -> None:
    """Say what was found and the command that mends each trouble. Exit status 1: there is one."""
    from dashtop.doctor.examine import examine  # noqa: PLC0415

    report = examine(settings)
    print(json.dumps(report.as_json(), indent=2, ensure_ascii=False) if as_json else report.as_text())
    if report.troubles:
        sys.exit(1)


COMMANDS: dict[str, Callable[[Settings], None]] = {"serve": serve, "snapshot": snapshot, "doctor": doctor}


def parse(arguments: Sequence[str]) -> tuple[Callable[[Settings], None], dict[str, object]]:
    """Return the command and the settings given with it, as text. Raises SettingsError."""
    given = vars(_parser().parse_args(_with_demo_count(arguments)))
    command, as_json = COMMANDS[given.pop("command")], given.pop("json")
    if as_json and command is not doctor:
        raise SettingsError("--json is for dashtop doctor (dashtop --help lists everything)")
    if as_json:
        command = partial(doctor, as_json=True)
    return command, {name: value for name, value in given.items() if value is not None}


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
        raise SettingsError(f"{message} (dashtop --help lists everything)")


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
        "doctor: say what was found, what is missing and why, and what mends it",
    )
    parser.add_argument("--json", action="store_true", help="doctor: print JSON")
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
