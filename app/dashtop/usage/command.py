"""`dashtop usage`: its options, and what it prints."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.model.errors import ExportError
from dashtop.model.timerange import parse_duration
from dashtop.usage.summary import GROUPINGS, summarize

if TYPE_CHECKING:
    import argparse

    from dashtop.model.ports import Clock, History
    from dashtop.model.usage import Prices

FORMATS: Final = ("table", "json", "csv")
DEFAULT_RANGE: Final = "30d"
MAX_QUOTED_LENGTH: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to print. `range`: the length of a time that ends now; `by`: one of the groupings of the summary."""

    range: str = DEFAULT_RANGE
    by: str = "user"
    format: str = "table"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dashtop usage`."""
    parser.add_argument(
        "--range",
        metavar="DURATION",
        type=_range,
        help=f"length of the time range that ends now: 24h, 7d, 1y (default {DEFAULT_RANGE})",
    )
    parser.add_argument("--by", choices=GROUPINGS, help="what the rows are (default user)")
    parser.add_argument("--format", choices=FORMATS, help="default table")


def _range(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, not {text[:MAX_QUOTED_LENGTH]!r}") from None
    return text


def run(request: Request, history: History, clock: Clock, prices: Prices) -> str:
    """Return the text to print. Raises ExportError if nothing is stored."""
    from dashtop.output import format_json  # noqa: PLC0415
    from dashtop.usage import report  # noqa: PLC0415 - the command line is parsed without numpy

    now_ms = clock.now_ms()
    usage = history.usage(now_ms - parse_duration(request.range).span_ms, now_ms)
    if usage.began_ms is None:
        message = history.read_status().error or history.status_message()
        raise ExportError(
            message
            or "No usage is stored there. Set the place of the history with --data-dir or --history-url (environment:"
            " DASHTOP_DATA_DIR, DASHTOP_HISTORY_URL)."
        )
    summary = summarize(usage, request.by, now_ms=now_ms, prices=prices, gpus=history.gpus())
    if request.format == "json":
        return format_json(report.to_json(summary))
    return report.to_csv(summary).rstrip("\r\n") if request.format == "csv" else report.to_table(summary)
