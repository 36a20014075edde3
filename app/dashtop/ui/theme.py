"""Colours of the charts. The rest of the page has the same ones as CSS variables in assets/tokens.css."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One theme's chart colours."""

    text: str
    muted: str
    grid: str
    surface: str
    border: str
    neutral: str
    warning: str
    critical: str


LIGHT: Final = Look(
    text="#16191f",
    muted="#586174",
    grid="#e9ecf1",
    surface="#ffffff",
    border="#d5dae3",
    neutral="#586174",
    warning="#a15c00",
    critical="#c92a2a",
)
DARK: Final = Look(
    text="#e7eaf0",
    muted="#9aa3b5",
    grid="#232936",
    surface="#1b202b",
    border="#394255",
    neutral="#9aa3b5",
    warning="#f0b429",
    critical="#ff7b7b",
)


def look(*, dark: bool) -> Look:
    """Return the colours of one theme."""
    return DARK if dark else LIGHT


def translucent(colour: str, alpha: float) -> str:
    """Return `#rrggbb` as rgba() with the given opacity."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
