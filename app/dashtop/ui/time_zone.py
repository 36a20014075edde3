"""The time zone of the server, by a name that browsers know."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")
_ZONE_FILES: Final = "zoneinfo/"
_NAME: Final = re.compile(r"[A-Za-z][\w+-]*(/[\w+-]+){0,2}", re.ASCII)


def find_server_zone(root: Path = _ROOT) -> str:
    """Return the IANA name of the zone ("Europe/Berlin"), else its present distance from UTC ("+02:00").

    The name is in TZ, in the target of /etc/localtime, or in /etc/timezone. `root`: where /etc is.
    """
    variable = os.environ.get("TZ", "").removeprefix(":")
    if variable:
        return variable if _is_name(variable, root) else _format_offset()
    linked = os.path.realpath(root / "etc/localtime").partition(_ZONE_FILES)[2]
    if _is_name(linked, root):
        return linked
    try:
        written = (root / "etc/timezone").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        written = ""
    return written if _is_name(written, root) else _format_offset()


def _is_name(name: str, root: Path) -> bool:
    """Return whether this is a name of the zone database. "CET-1CEST" in TZ is a rule, not a name."""
    return bool(_NAME.fullmatch(name)) and (root / "usr/share" / _ZONE_FILES / name).is_file()


def _format_offset() -> str:
    digits = time.strftime("%z")
    return f"{digits[:3]}:{digits[3:5]}" if digits.strip("+-0") else "UTC"
