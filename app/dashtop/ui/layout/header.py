"""The header: live indicator, compact status, view, GPU selector, export, settings and theme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dash_bootstrap_components as dbc
from dash import html

from dashtop.export.formats import offered
from dashtop.ui import ids
from dashtop.ui.components import attributes, icon, segmented_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash.development.base_component import Component

_VIEWS: Final = {"single": "GPU", "compare": "All GPUs"}
_FORMATS: Final = {
    "csv": ("CSV", "for spreadsheets"),
    "json": ("JSON", "for programs"),
    "parquet": ("Parquet", "for pandas, Spark, DuckDB"),
}
_THEMES: Final = ("system", "light", "dark")


def header(status: Sequence[Component]) -> Component:
    """Return the header with `status` in its middle."""
    return html.Header([_brand(), _live_indicator(), *status, _controls()], className="header")


def _brand() -> Component:
    return html.Div(
        [
            html.Span(className="logo", **attributes(aria_hidden="true")),
            html.H1("dashtop", className="brand-name"),
            dbc.Badge("Simulated", className="when-simulated", title="Simulated GPUs (--demo)"),
        ],
        className="brand",
    )


def _live_indicator() -> Component:
    return html.Div(
        [
            html.Span(className="dot", **attributes(aria_hidden="true")),
            html.Span("Connecting", className="live-state"),
            # The age changes every second: screen readers announce the state only.
            html.Span(className="live-age", **attributes(aria_hidden="true")),
        ],
        id=ids.LIVE_INDICATOR,
        className="live",
        role="status",
        **attributes(aria_live="polite"),
    )


def _controls() -> Component:
    selector = dbc.Select(id=ids.GPU_SELECTOR, options=[], value="0", size="sm")
    label = html.Label("GPU", htmlFor=ids.GPU_SELECTOR, className="visually-hidden")
    settings = dbc.Button(
        icon("settings", "Settings"),
        id=ids.SETTINGS_BUTTON,
        color="link",
        class_name="icon-button",
        title="Settings",
    )
    return html.Div(
        [
            html.Div(segmented_control(ids.VIEW_MODE, _VIEWS, "single", "View"), className="needs-gpu"),
            html.Div([label, selector], className="gpu-choice many-gpus"),
            html.Div([_export_menu(), settings, _theme_toggle()], className="icons"),
        ],
        className="controls",
    )


def _export_menu() -> Component:
    """Return the export menu; the browser fills in its links (assets/settings-export.js)."""
    links = [
        html.A(
            [html.Strong(title), html.Span(purpose)],
            href="#",
            download="",
            className="menu-item",
            **attributes(data_format=name),
        )
        for name, (title, purpose) in _FORMATS.items()
        if name in offered()
    ]
    return html.Details(
        [
            html.Summary(
                icon("export", "Export"),
                id=ids.EXPORT_BUTTON,
                className="btn btn-link icon-button",
                title="Export history",
            ),
            html.Div(
                [
                    html.H2("Export"),
                    html.P(className="menu-about", **attributes(data_export_summary="")),
                    dbc.Checkbox(id=ids.EXPORT_ALL, label="All metrics", value=False),
                    *links,
                ],
                className="menu-body",
            ),
        ],
        className="menu",
    )


def _theme_toggle() -> Component:
    """Return the theme button. `data-theme-choice` of the root element decides which of its icons is visible."""
    icons = [
        html.Span(icon(choice, f"Theme: {choice}"), className=f"theme-icon theme-icon-{choice}") for choice in _THEMES
    ]
    button: Component = dbc.Button(
        icons, id=ids.THEME_TOGGLE, color="link", class_name="icon-button", title="Theme: system, light or dark"
    )
    return button
