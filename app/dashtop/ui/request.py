"""What a browser asks for with each tick. It is untrusted input: each field is checked, an invalid one is ignored."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS, SECOND_MS, TimeSpan

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
_MIN_WIDTH_PX, _DEFAULT_WIDTH_PX, _MAX_WIDTH_PX = 100, 400, 8000
_MAX_OPTIONS, _MAX_OPTION_CHARS = 40, 600
_END_OF_TIME_MS = 253_402_300_800_000
_MIN_ZOOM_MS, _MAX_ZOOM_MS = 2 * SECOND_MS, 366 * 86_400 * SECOND_MS

INTERVALS_S = (0.5, 1.0, 2.0, 5.0)
"""Update intervals that a page may ask for, besides the server's own."""


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """What one browser looks at, and which parts of it the browser has.

    `gpu`: index or UUID of the chosen GPU, or the beginning of a UUID. `width_px`: width of the charts.
    `visible_panels`: element ids; None means all. `options`: choices in panels (a filter, a sort order) by name, which
    each panel checks. `versions`: see ui.parts.
    """

    gpu: str = ""
    range: str = DEFAULT_RANGE
    dark: bool = False
    width_px: int = _DEFAULT_WIDTH_PX
    interval_s: float | None = None
    zoom: TimeSpan | None = None
    visible_panels: frozenset[str] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: object) -> ViewRequest:
        """Read a request; a field that is missing or invalid gets its default."""
        if not isinstance(data, dict):
            return cls()
        range_name = data.get("range")
        return cls(
            gpu=_parse_name(data.get("gpu")),
            range=range_name if isinstance(range_name, str) and range_name in RANGES_MS else DEFAULT_RANGE,
            dark=data.get("theme") == "dark",
            width_px=_parse_width(data.get("width")),
            interval_s=next((each for each in INTERVALS_S if data.get("interval") == each), None),
            zoom=_parse_zoom(data.get("zoom")),
            visible_panels=_parse_names(data.get("visible_panels")),
            options=_parse_options(data.get("options")),
            versions=_parse_versions(data.get("versions")),
        )

    def is_visible(self, panel: str) -> bool:
        """Return whether the browser shows the panel with this id."""
        return self.visible_panels is None or panel in self.visible_panels

    @property
    def view_key(self) -> str:
        """Return a key of everything but time, GPUs and the choice of charts that charts depend on."""
        return f"{self.span_key}|{'dark' if self.dark else 'light'}|{self.width_px}"

    @property
    def span_key(self) -> str:
        """Return a key of the time span that is looked at: a range, or a zoom."""
        return self.range if self.zoom is None else f"{self.zoom.start_ms}-{self.zoom.end_ms}"


def _parse_name(value: object) -> str:
    """Read the id of a panel, or a GPU's index, UUID or beginning of a UUID; "" for anything else."""
    name = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    return name if _NAME.fullmatch(name) else ""


def _parse_width(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        return _DEFAULT_WIDTH_PX
    return min(max(value, _MIN_WIDTH_PX), _MAX_WIDTH_PX)


def _parse_names(data: object) -> frozenset[str] | None:
    if not isinstance(data, list):
        return None
    return frozenset(name for name in data if isinstance(name, str))


def _parse_options(data: object) -> Mapping[str, str]:
    if not isinstance(data, dict):
        return {}
    options = {
        name: value for name, value in data.items() if isinstance(value, str) and len(value) <= _MAX_OPTION_CHARS
    }
    return options if len(options) <= _MAX_OPTIONS else {}


def _parse_versions(data: object) -> Mapping[str, str]:
    if not isinstance(data, dict):
        return {}
    return {name: tag for name, tag in data.items() if isinstance(name, str) and isinstance(tag, str)}


def _parse_zoom(data: object) -> TimeSpan | None:
    """Read a zoom: start and end in whole epoch milliseconds before the year 10000, two seconds to a year apart."""
    if not isinstance(data, list) or len(data) != 2 or not all(type(edge) is int for edge in data):  # noqa: PLR2004
        return None
    start, end = data
    is_span = 0 <= start < end < _END_OF_TIME_MS and _MIN_ZOOM_MS <= end - start < _MAX_ZOOM_MS
    return TimeSpan(start, end) if is_span else None
