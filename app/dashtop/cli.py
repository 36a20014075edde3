"""The `dashtop` command."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import shtab

from dashtop.allocator import limit_free_memory
from dashtop.client.command import add_options as add_run_options
from dashtop.export.command import add_options as add_export_options
from dashtop.history.postgresql_url import mask_passwords
from dashtop.model.errors import DashtopError, OutputError, SettingsError
from dashtop.output import format_json, prepare_streams, write_output
from dashtop.setting_values import DEFAULT_DEMO_GPUS
from dashtop.settings import Settings, describe_demo, load, options
from dashtop.usage.command import add_options as add_usage_options
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

THREAD_SWITCH_INTERVAL_S = 0.001
"""How long a thread of the server runs Python while others wait. With 12 browsers whose charts are drawn at the same
moment, a health check waited for 62 ms at Python's 5 ms, and for 29 ms at this."""
SNAPSHOT_INTERVAL_S = 0.25
SNAPSHOT_GPU_TIMEOUT_S = 5.0
MAX_GPUS = 64
"""Of one machine."""
COMPLETIONS = {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY}
"""What a shell completes after an option, by the metavar of its value."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand. `run` takes the settings and the command's own options."""

    run: Callable[..., None]
    help: str
    settings: tuple[str, ...] | None = None
    """Settings that concern the command; None: all of them. Without any, they are not read either."""
    add_options: Callable[[argparse.ArgumentParser], None] | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit status 2: a setting is unknown or impossible; 1: the command failed."""
    prepare_streams()
    # NumPy's OpenBLAS starts threads that dashtop does not use; where it may not, it sends SIGINT, as Ctrl-C does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        command, given = parse(sys.argv[1:] if arguments is None else arguments)
        command() if command.func is run else command(load(**given))
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:
        sys.exit(1)
    except DashtopError as error:
        print(f"dashtop: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except (MemoryError, RuntimeError, ImportError) as error:
        shortage = _find_shortage(error)
        if shortage is None:
            raise
        print(
            f"dashtop: Not enough memory or threads ({shortage}). Raise the limits: ulimit -v and ulimit -u, or the"
            " memory and pids limits of the container.",
            file=sys.stderr,
        )
        sys.exit(1)


def _find_shortage(error: Exception) -> str | None:
    """Return what a limit of memory or threads has caused; None if the error has another cause.

    Python has no classes for these errors, and texts of NumPy have twenty lines.
    """
    hints = ("can't start new thread", "failed to map segment", "Cannot allocate memory")
    found = next((hint for hint in hints if hint in str(error)), None)
    return found or ("out of memory" if isinstance(error, MemoryError) else None)


def serve(settings: Settings) -> None:
    """Collect and serve the page until SIGTERM or Ctrl-C."""
    limit_free_memory()
    sys.setswitchinterval(THREAD_SWITCH_INTERVAL_S)
    from dashtop.app import create_app  # noqa: PLC0415 - the other commands need no web server
    from dashtop.server import Server  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # memory holds the token
    dashtop = create_app(settings)
    try:
        has_proxy = settings.trusted_proxies > 0
        server = Server(dashtop.server, host=settings.host, port=settings.port, has_proxy=has_proxy)
        simulated = f" with {describe_demo(settings.demo)}" if settings.demo else ""
        address = server.address.rstrip("/") + dashtop.path
        text = f"dashtop {__version__}{simulated}: {address}\n{_describe_jupyter_address(address)}"
        try:
            write_output(text.rstrip("\n"))
        except (OutputError, BrokenPipeError) as error:
            log.warning("The address was not printed: %s dashtop goes on at %s", error, server.address)
        server.run(dashtop.close)
    finally:
        dashtop.close()


def _describe_jupyter_address(address: str) -> str:
    """Return a line with the address below a Jupyter server if this is one of its terminals, else ""."""
    base = os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or os.environ.get("JUPYTER_SERVER_URL")
    if not base or "JUPYTERHUB_SERVICE_NAME" in os.environ:
        return ""
    url = urlsplit(address)
    query = f"?{url.query}" if url.query else ""
    return f"With jupyter-server-proxy: {base.rstrip('/')}/proxy/{url.port}{url.path}{query}\n"


def snapshot(settings: Settings) -> None:
    """Print one sample as the JSON of /monitoring/all."""
    from dashtop.app import build_sampler  # noqa: PLC0415
    from dashtop.web.api.serializers import monitoring_all  # noqa: PLC0415

    sampler = build_sampler(settings)
    try:
        sampler.sample(SNAPSHOT_GPU_TIMEOUT_S)
        time.sleep(SNAPSHOT_INTERVAL_S)  # rates need two samples
        sample = sampler.sample(SNAPSHOT_GPU_TIMEOUT_S)
    finally:
        sampler.close()
    write_output(format_json(monitoring_all(sample, sample.gpu(0))))


def _add_doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare every value with nvidia-smi and /proc instead; exit status 1 if one differs",
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what NVML answers here, without private names, to a file for bug reports; --demo FILE replays it",
    ).complete = shtab.FILE  # type: ignore[attr-defined]


def doctor(settings: Settings, *, json: bool = False, verify: bool = False, record: Path | None = None) -> None:
    """Print what works, what is missing, and the fix for each problem. Exit status 1: there is a problem."""
    if record is not None:
        from dashtop.doctor import record as recording  # noqa: PLC0415

        write_output(recording.record(record))
        return
    if verify:
        from dashtop.doctor import verify as verification  # noqa: PLC0415

        result = verification.verify(settings)
        write_output(format_json(result.as_json()) if json else result.as_text())
        sys.exit(0 if result.ok else 1)
    from dashtop.doctor.checks import run_checks  # noqa: PLC0415

    report = run_checks(settings)
    write_output(format_json(report.as_json()) if json else report.as_text())
    if report.problems:
        sys.exit(1)


def export(settings: Settings, **request: Any) -> None:
    """Write stored history to a file. Needs no server, and does not disturb one that runs."""
    from dashtop.app import open_history  # noqa: PLC0415
    from dashtop.export import command  # noqa: PLC0415
    from dashtop.model.ports import SystemClock  # noqa: PLC0415

    clock = SystemClock()
    history = open_history(settings, clock)
    try:
        command.run(command.Request(**request), history, clock)
    finally:
        history.close()


def usage(settings: Settings, **request: Any) -> None:
    """Print who has used the GPUs. Needs no server, and does not disturb one that runs."""
    from dashtop.app import open_history  # noqa: PLC0415
    from dashtop.model.ports import SystemClock  # noqa: PLC0415
    from dashtop.usage import command  # noqa: PLC0415

    clock = SystemClock()
    history = open_history(settings, clock)
    try:
        text = command.run(command.Request(**request), history, clock, settings.prices)
    finally:
        history.close()
    write_output(text)


def _add_fleet_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("view", choices=("free",), help="free: machines with free GPUs")
    parser.add_argument(
        "--count", type=_parse_count, metavar="N", help="GPUs that a machine must have free (default 1)"
    )
    parser.add_argument(
        "--memory",
        type=_parse_memory,
        metavar="GB",
        dest="memory_gb",
        help="memory of each of them, at least: 80 finds cards of 80 GB",
    )
    parser.add_argument("--name", metavar="TYPE", help="type of the GPUs, such as 'NVIDIA H100 80GB HBM3'")
    parser.add_argument("--json", action="store_true", help="print JSON, as /fleet/free of the API returns it")


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_GPUS):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_GPUS}, not {text[:80]!r}")
    return int(text)


def _parse_memory(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of GB such as 40, not {text[:80]!r}")
    return value


def fleet(
    settings: Settings,
    *,
    view: str,  # noqa: ARG001 - the only one
    count: int = 1,
    memory_gb: float = 0.0,
    name: str = "",
    json: bool = False,
) -> None:
    """Print the machines that have free GPUs. Exit status 1: there is none, or the fleet cannot be read."""
    from dashtop.app import build_fleet  # noqa: PLC0415
    from dashtop.fleet import command  # noqa: PLC0415
    from dashtop.model.ports import SystemClock  # noqa: PLC0415

    logging.getLogger("dashtop.fleet.poller").setLevel(logging.ERROR)  # the failure is printed anyway
    clock = SystemClock()
    shown = build_fleet(settings, clock)
    if shown is None:
        raise SettingsError("There is no fleet to read. Name one with --fleet-url or --fleet-peers.")
    try:
        request = command.FreeRequest(count=count, memory_gb=memory_gb, name=name)
        write_output(command.find_free(shown, request, clock.monotonic, as_json=json))
    finally:
        shown.close()


FLEET_SETTINGS = tuple(name for name in options() if name.startswith("fleet_"))


def run(**request: Any) -> None:
    """Run a command as a run, and exit with its status. The settings of a server are not read: it need not be here."""
    from dashtop.client import command  # noqa: PLC0415

    sys.exit(command.run(command.Request(**request)))


COMMANDS: dict[str, Command] = {
    "serve": Command(serve, "collect, and show in the browser (the default)"),
    "snapshot": Command(snapshot, "print one sample as JSON", settings=("config", "gpu", "demo", "demo_scene")),
    "export": Command(
        export,
        "write stored history to a file",
        settings=("config", "demo", "data_dir", "history_url"),
        add_options=add_export_options,
    ),
    "usage": Command(
        usage,
        "print hours and energy of GPUs by user, container, Slurm job, process or GPU",
        settings=("config", "demo", "data_dir", "history_url", "price_kwh", "price_gpu_hour"),
        add_options=add_usage_options,
    ),
    "fleet": Command(
        fleet,
        "find free GPUs of a fleet",
        settings=("config", *FLEET_SETTINGS),
        add_options=_add_fleet_options,
    ),
    "doctor": Command(
        doctor, "report what works, what is missing and why, and the fix", add_options=_add_doctor_options
    ),
    "run": Command(run, "run a command, and report what it used of each GPU", settings=(), add_options=add_run_options),
}


def parse(arguments: Sequence[str]) -> tuple[partial[None], dict[str, object]]:
    """Return the command and the settings given with it, as text. Raises SettingsError."""
    arguments, following = _split_command(arguments)
    given = vars(build_parser().parse_args(_expand_demo(arguments)))
    del given["print_completion"]  # shtab's action has ended the program if it was given
    command = COMMANDS[given.pop("command", None) or "serve"]
    if command.run is run:
        given["command"] = following
    settings = {name: given.pop(name) for name in options() if name in given}
    return partial(command.run, **given), settings


def _split_command(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return what is dashtop's, and the command behind the first `--` of `dashtop run`, which stays as it is."""
    if "run" not in arguments[:1] or "--" not in arguments:
        return arguments, ()
    position = arguments.index("--")
    return arguments[:position], arguments[position + 1 :]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. Settings that are not given are absent from its result."""
    parser = _Parser(
        prog="dashtop",
        description="GPU and system monitor with history in the browser.",
        epilog="Every option can also be set in the environment (the names in brackets) or in the TOML file."
        " `dashtop COMMAND --help` lists the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dashtop {__version__}")
    shtab.add_argument_to(parser, "--print-completion", help="print the completion script of a shell")
    _add_settings(parser, tuple(options()))
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        if command.add_options is not None:
            command.add_options(added)
        _add_settings(added, tuple(options()) if command.settings is None else command.settings)
    return parser


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    group = parser.add_argument_group("settings") if names else parser
    for name in names:
        option = options()[name]
        default = Settings.model_fields[name].default
        shown = " ".join(default) if isinstance(default, tuple) else str(default)
        has_default = default not in {None, (), 0} and not isinstance(default, bool)
        text = f"{option.help}{f' (default: {shown})' if has_default else ''} [{', '.join(option.env)}]"
        common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if option.flag_value is not None and not option.has_optional_value:
            group.add_argument(option.flag, action="store_const", const=option.flag_value, **common)
            continue
        nargs = "?" if option.has_optional_value else None
        action = group.add_argument(option.flag, nargs=nargs, const=option.flag_value, metavar=option.metavar, **common)
        if option.metavar in COMPLETIONS:
            action.complete = COMPLETIONS[option.metavar]  # type: ignore[attr-defined]


def _expand_demo(arguments: Sequence[str]) -> list[str]:
    """Give a bare --demo its number, so that the command after it is not taken for one."""
    expanded = []
    for position, argument in enumerate(arguments):
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        is_bare = argument == "--demo" and (following in COMMANDS or not following or following.startswith("-"))
        expanded.append(f"--demo={DEFAULT_DEMO_GPUS}" if is_bare else argument)
    return expanded


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{mask_passwords(message)} ({self.prog} --help lists the options)")
