"""How values of settings are given on the command line, parsed and checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pydantic import AfterValidator

from dashtop.fleet.addresses import MAX_PEERS, parse_address
from dashtop.sources.simulated.scenes import SCENES

DEFAULT_DEMO_GPUS: Final = 4
MAX_DEMO_GPUS: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """How a setting is given on the command line."""

    flag: str
    metavar: str | None = None
    flag_value: str | None = None
    """Value of the setting if the flag is given without one; None: the flag needs a value."""
    has_optional_value: bool = False
    is_secret: bool = False
    """Error messages do not repeat the value."""
    help: str = ""
    env: tuple[str, ...] = ()
    """Environment variables; the first that is set counts. Both are filled in by `options`."""


def normalize_prefix(value: object) -> object:
    """Return a path with one slash at each end."""
    return f"/{unquote(value).strip('/')}/".replace("//", "/") if isinstance(value, str) else value


def split_list(value: object) -> object:
    """Return the words of a list, which commas or blanks separate."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def parse_demo(value: object) -> object:
    """Return a number of GPUs, or the path of a record."""
    if not isinstance(value, str):
        return value
    words = dict.fromkeys(("true", "on", "yes"), DEFAULT_DEMO_GPUS) | dict.fromkeys(("false", "off", "no"), 0)
    if value.lower() in words:
        return words[value.lower()]
    is_number = re.fullmatch(r"[+-]?\d+", value, re.ASCII) is not None
    return int(value) if is_number else Path(value)


def check_demo(value: int | Path) -> int | Path:
    """Raise ValueError unless it is a number of GPUs, or a file that exists."""
    is_valid = os.access(value, os.R_OK) if isinstance(value, Path) else 0 <= value <= MAX_DEMO_GPUS
    if not is_valid:
        raise ValueError(
            f"must be a whole number from 0 to {MAX_DEMO_GPUS}, or a file that `dashtop doctor --record` wrote"
        )
    return value


def check_scene(value: str | None) -> str | None:
    """Raise ValueError unless there is a scene of this name."""
    if value is not None and value not in SCENES:
        close = get_close_matches(value, SCENES, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"must be the name of an alert rule, or not- and such a name{hint}")
    return value


def check_pattern(pattern: str, requirement: str) -> AfterValidator:
    """Return a validator for strings, or None, that match the pattern. Its message is the written `requirement`."""
    compiled = re.compile(pattern, re.ASCII)

    def validate(value: str | None) -> str | None:
        if value is not None and compiled.fullmatch(value) is None:
            raise ValueError(requirement)
        return value

    return AfterValidator(validate)


def read_peers(value: object) -> object:
    """Return the addresses in a list, or in a file whose name follows @, without comments."""
    if not isinstance(value, str) or not value.startswith("@"):
        return split_list(value)
    try:
        lines = Path(value[1:]).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"the file cannot be read ({reason})") from error
    return tuple(address for line in lines for address in line.partition("#")[0].replace(",", " ").split())


def check_peers(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError unless they are addresses of machines, and not too many."""
    for address in value:
        parse_address(address)
    if len(value) > MAX_PEERS:
        raise ValueError(f"must be at most {MAX_PEERS} addresses; more machines need Prometheus and --fleet-url")
    if len({parse_address(address) for address in value}) < len(value):
        raise ValueError("an address is given twice")
    return value


def split_headers(value: object) -> object:
    """Return the headers of a list, which semicolons separate."""
    return tuple(each.strip() for each in value.split(";") if each.strip()) if isinstance(value, str) else value


def check_headers(value: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError unless each is `Name: value` in visible ASCII."""
    for each in value:
        if re.fullmatch(r"[A-Za-z0-9-]{1,100}:[ \t]*[\x20-\x7e]{1,4096}", each) is None:
            raise ValueError("must be headers such as X-Scope-OrgID: lab, separated by semicolons")
    return value


HOST: Final = r"[\w.*-]+|\[[0-9A-Fa-f:.]+\]"
CREDENTIAL: Final = r"[\w.~+/=-]{16,200}"
CREDENTIAL_REQUIREMENT: Final = "must have 16 to 200 characters, each a letter, a digit or one of . _ ~ + / = -"
TOKEN: Final = check_pattern(CREDENTIAL, CREDENTIAL_REQUIREMENT)
FRAME_ANCESTOR: Final = check_pattern(
    rf"'self'|'none'|\*|[a-z][a-z0-9+.-]*:(//({HOST})(:(\d+|\*))?)?",
    "must be origins such as https://portal.example (other than ASCII names as xn--…), schemes such as"
    " vscode-webview:, 'self' or 'none'",
)
