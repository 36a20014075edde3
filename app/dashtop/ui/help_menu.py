"""The '?' menu in the header: links to the API and the embeds, what the states of a GPU mean, keys, and the version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dash import html

from dashtop.metrics.gpu_state import Condition
from dashtop.ui import ids
from dashtop.ui.components import ICON_BUTTON, attributes, icon
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component

STATES: Final = {
    Condition.FREE: "No process, no load, no memory in use.",
    Condition.IDLE_HELD: "Processes hold memory, but compute nothing.",
    Condition.BUSY: "Computes, or did so within the last minute.",
    Condition.THROTTLED: "Clocks are reduced: too hot, or a power brake. A power cap is normal.",
    Condition.UNHEALTHY: "Memory errors, or a reset is pending: start no work on it.",
    Condition.LOST: "Fell off the bus, or needs a reset.",
    Condition.NOT_RESPONDING: "Calls of the driver hang or crash.",
    Condition.ASLEEP: "Suspended; dashtop does not wake it.",
    Condition.UNAVAILABLE: "Cannot be read, or its processes cannot.",
    Condition.SPLIT: "Split into MIG instances, which count instead.",
}
KEYS: Final = {
    "Tab, Enter": "Move through the page; open a GPU",
    "← →": "Move the cursor of a focused chart",
    "Enter on a chart": "Show its values as a table",
    "Alt ←": "Undo a change of page, GPU or time range",
    "Esc": "Close a menu or dialog",
}
_LINKS: Final = {
    "docs": ("API documentation", "REST, SSE, Prometheus"),
    "embed/": ("Panels to embed", "iframes for a portal"),
}


def build_help_menu() -> Component:
    """Return the menu; assets/help-menu.js completes its links."""
    links = [
        html.A([html.Strong(title), html.Span(purpose)], href=path, className="menu-item", **attributes(data_path=path))
        for path, (title, purpose) in _LINKS.items()
    ]
    states = [_build_term(condition.value, text) for condition, text in STATES.items()]
    keys = [_build_term(key, text) for key, text in KEYS.items()]
    body = [
        *links,
        html.H2("States of a GPU"),
        html.Dl(states, className="help-terms"),
        html.H2("Keys"),
        html.Dl(keys, className="help-terms"),
        html.P(f"dashtop {__version__}", className="menu-about"),
    ]
    return html.Details(
        [
            html.Summary(
                icon("help", "Help"), id=ids.HELP_BUTTON, className=ICON_BUTTON, **attributes(data_tip="Help")
            ),
            html.Div(body, className="menu-body"),
        ],
        className="menu help-menu",
    )


def _build_term(term: str, text: str) -> Component:
    return html.Div([html.Dt(term), html.Dd(text)])
