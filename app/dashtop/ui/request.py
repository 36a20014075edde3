"""What the browser asks with each tick. It comes from outside, so every field is checked and none is trusted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS, SECOND, Span

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
_WIDTHS = range(100, 8001)
_TIMES_MS = range(2**53)
"""Whole numbers that JavaScript has, from 1970 on."""
_ZOOMS_MS = range(2 * SECOND, 366 * 86_400 * SECOND)

INTERVALS_S = (0.5, 1.0, 2.0, 5.0)
"""How often a page may ask, beside as often as the server collects by itself."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the browser's charts show: the view they were drawn for, their first and their last bucket."""

    view: str
    first_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """One browser's view: which GPU (index or UUID), how much history, and how charts are to be drawn for it.

    `trail`: UUID of the GPU whose last minutes it has; `shown`: ids of the panels that are seen (None: all of them);
    `held`: tags of the parts of a frame that it has (see ui.held).
    `only` names the one panel that is seen ("": the whole page).
    `strips` and `sparks` name what the cards of the compare view have drawn already.
    """

    gpu: str = ""
    range: str = DEFAULT_RANGE
    dark: bool = False
    width_px: int = 400
    interval_s: float | None = None
    drawn: Drawn | None = None
    zoom: Span | None = None
    trail: str = ""
    shown: frozenset[str] | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    compare: bool = False
    only: str = ""
    strips: str = ""
    sparks: str = ""

    @classmethod
    def parse(cls, data: object) -> ViewRequest:
        """Read a request; a field that is missing or impossible becomes its default."""
        if not isinstance(data, dict):
            return cls()
        chosen = data.get("range")
        return cls(
            gpu=_short(data.get("gpu")),
            range=chosen if isinstance(chosen, str) and chosen in RANGES_MS else DEFAULT_RANGE,
            dark=data.get("theme") == "dark",
            width_px=_integer(data, "width", 400, _WIDTHS.start, _WIDTHS.stop - 1),
            interval_s=next((each for each in INTERVALS_S if data.get("interval") == each), None),
            drawn=_drawn(data.get("drawn")),
            zoom=_zoom(data.get("zoom")),
            trail=trail if isinstance(trail := data.get("trail"), str) else "",
            shown=_names(data.get("shown")),
            held=_tags(data.get("held")),
            compare=data.get("view") == "compare",
            only=_short(data.get("only")),
            strips=_name(data.get("strips")),
            sparks=_name(data.get("sparks")),
        )

    def view(self, gpu_uuid: str | None) -> str:
        """Name everything but time that a chart depends on: while it is the same, only time can make it new."""
        theme = "dark" if self.dark else "light"
        return f"{gpu_uuid}|{self.stretch}|{theme}|{self.width_px}|{self.only}"

    @property
    def stretch(self) -> str:
        """Name the stretch of time that is looked at."""
        return self.range if self.zoom is None else f"{self.zoom.start_ms}-{self.zoom.end_ms}"


def _short(value: object) -> str:
    """Read the id of a panel, or a GPU's index, its UUID or how that begins; "" for anything else."""
    name = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return name if _NAME.fullmatch(name) else ""


def _integer(data: Mapping[str, object], name: str, default: int, least: int, most: int) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return default
    return min(max(value, least), most)


def _names(data: object) -> frozenset[str] | None:
    if not isinstance(data, list):
        return None
    return frozenset(name for name in data if isinstance(name, str))


def _tags(data: object) -> Mapping[str, int]:
    if not isinstance(data, dict):
        return {}
    return {name: tag for name, tag in data.items() if isinstance(name, str) and isinstance(tag, int)}


def _drawn(data: object) -> Drawn | None:
    if not isinstance(data, dict):
        return None
    view, first, end = data.get("view"), data.get("first"), data.get("end")
    if isinstance(view, str) and isinstance(first, int) and isinstance(end, int) and first in _TIMES_MS:
        return Drawn(view, first, end)
    return None


def _zoom(data: object) -> Span | None:
    """Read a zoom: whole milliseconds, two seconds to a year."""
    if not isinstance(data, list) or len(data) != 2 or not all(type(edge) is int for edge in data):  # noqa: PLR2004
        return None
    start, end = data
    return Span(start, end) if start >= 0 and end - start in _ZOOMS_MS else None


def _name(data: object) -> str:
    return data if isinstance(data, str) else ""
