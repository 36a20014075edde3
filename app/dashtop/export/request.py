"""What `dashtop export` can be asked on the command line."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dashtop.metrics import METRICS
from dashtop.model.timerange import RANGES

if TYPE_CHECKING:
    import argparse

FORMAT_NAMES: Final = ("csv", "json", "parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to export. `start_ms` None: `range`, which ends now. `output` None: standard output. `metrics` None: all."""

    format: str = "csv"
    output: Path | None = None
    range: str = "24h"
    start_ms: int | None = None
    end_ms: int | None = None
    step_s: int | None = None
    metrics: tuple[str, ...] | None = None


OPTIONS: Final = tuple(field.name for field in fields(Request))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only `dashtop export` knows."""
    group = parser.add_argument_group("dashtop export")
    group.add_argument("--range", choices=RANGES, help="how far back from now (default 24h)")
    group.add_argument("--start", dest="start_ms", metavar="TIME", type=time, help="instead: 2026-01-31T14:00")
    group.add_argument("--end", dest="end_ms", metavar="TIME", type=time, help="with --start; else it is now")
    group.add_argument("--step", dest="step_s", metavar="SECONDS", type=seconds, help="time that a row stands for")
    group.add_argument("--metrics", metavar="KEYS", type=metrics, help="separated by commas; all where left out")
    group.add_argument("--format", choices=FORMAT_NAMES, help="default csv; parquet needs dashtop[parquet]")
    group.add_argument("-o", "--output", metavar="FILE", type=Path, help="standard output where it is left out")


def time(text: str) -> int:
    """Return epoch milliseconds of an ISO 8601 time, this machine's where it names no zone. Raises ValueError."""
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)


def seconds(text: str) -> int:
    """Return a whole number from 1. Raises ValueError."""
    if int(text) < 1:
        raise ValueError("less than a second")
    return int(text)


def metrics(text: str) -> tuple[str, ...]:
    """Return metric keys. Raises ArgumentTypeError where one is unknown."""
    names = tuple(text.split(","))
    for name in names:
        if name not in METRICS:
            raise ArgumentTypeError(f"there is no metric {name[:80]!r}; docs/metrics.md lists them")
    return names
