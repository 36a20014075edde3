"""Colours of the charts, light and dark. assets/tokens.css defines the same colours for the rest of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartTheme:
    """The chart colours of one theme."""

    text: str
    muted: str
    grid: str
    surface: str
    border: str
    neutral: str
    warning: str
    critical: str


HOST: Final = "#2f7ed8"
# A GPU has the same colour in all views of several GPUs (assets/tokens.css). None looks like a status: their hues are
# not those of red, amber and green, or they are nearly grey. Any two of these and HOST differ by at least 15 in CIELAB,
# also with protanopia, deuteranopia and tritanopia, and have a contrast of 3:1 with both backgrounds (tested).
GPUS: Final = ("#8b5cf6", "#5a695a", "#f00096", "#9687b4", "#c300b4", "#785a78", "#9600ff", "#a58769")

ACCENT: Final = GPUS[0]
"""The colour of the chosen GPU on its own page, whichever it is (--gpu in assets/tokens.css)."""
SERIES: Final = (ACCENT, HOST, "#c2399b", "#0e8fa8", "#6b7a99", "#9a6fb0")
"""Colours of several lines of one GPU, and of users: none looks like a warning."""


def gpu_colour(index: int) -> str:
    """Return the colour of the GPU with that index."""
    return GPUS[index % len(GPUS)]


LIGHT: Final = ChartTheme(
    text="#16191f",
    muted="#586174",
    grid="#e9ecf1",
    surface="#ffffff",
    border="#d5dae3",
    neutral="#586174",
    warning="#a15c00",
    critical="#c92a2a",
)
DARK: Final = ChartTheme(
    text="#e7eaf0",
    muted="#9aa3b5",
    grid="#232936",
    surface="#1b202b",
    border="#394255",
    neutral="#9aa3b5",
    warning="#f0b429",
    critical="#ff7b7b",
)


def chart_theme(*, dark: bool) -> ChartTheme:
    """Return the chart colours of the dark or the light theme."""
    return DARK if dark else LIGHT


def with_alpha(colour: str, alpha: float) -> str:
    """Return `#rrggbb` as rgba() with the given opacity."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
