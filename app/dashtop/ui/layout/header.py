"""The bar at the top: state, status at a glance, and everything that can be chosen from anywhere on the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dash_bootstrap_components as dbc
from dash import html

from dashtop.export.formats import offered
from dashtop.ui import ids
from dashtop.ui.components import attributes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dash.development.base_component import Component

_VIEWS: Final = {"single": "Single", "compare": "Compare"}
_FORMATS: Final = {
    "csv": ("CSV", "for spreadsheets"),
    "json": ("JSON", "for programs"),
    "parquet": ("Parquet", "for pandas, Spark, DuckDB"),
}
_THEMES: Final = ("system", "light", "dark")


def header(status: Sequence[Component]) -> Component:
    """Return the bar; `status` stands in its middle."""
    return html.Header([_brand(), _live(), *status, _choices()], className="bar-top")


def segments(name: str, options: Mapping[str, str], value: str | None, label: str) -> Component:
    """Return a choice of one among a few words, side by side; `options`: what is shown, by value."""
    choice: Component = dbc.RadioItems(
        id=name,
        options=[{"label": shown, "value": each} for each, shown in options.items()],
        value=value,
        inline=True,
        class_name="segments",
        input_class_name="btn-check",
        label_class_name="segment",
    )
    return html.Div(choice, role="group", className="choice", **attributes(aria_label=label))


def icon(name: str, label: str) -> list[Component]:
    """Return a sign, and its name for those who do not see it."""
    return [
        html.Span(className=f"icon icon-{name}", **attributes(aria_hidden="true")),
        html.Span(label, className="visually-hidden"),
    ]


def _brand() -> Component:
    return html.Div(
        [
            html.Span(className="mark", **attributes(aria_hidden="true")),
            html.H1("dashtop", className="name"),
            dbc.Badge("Simulated", className="when-simulated", title="These GPUs are simulated (--demo)."),
        ],
        className="brand",
    )


def _live() -> Component:
    return html.Div(
        [
            html.Span(className="dot", **attributes(aria_hidden="true")),
            html.Span("Connecting", className="live-state"),
            # The age changes every second: a screen reader is told the state alone.
            html.Span(className="live-age", **attributes(aria_hidden="true")),
        ],
        id=ids.LIVE_INDICATOR,
        className="live",
        role="status",
        **attributes(aria_live="polite"),
    )


def _choices() -> Component:
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
            html.Div(segments(ids.VIEW_MODE, _VIEWS, "single", "View"), className="needs-gpu"),
            html.Div([label, selector], className="gpu-choice many-gpus"),
            html.Div([_export(), settings, _theme_toggle()], className="icons"),
        ],
        className="choices",
    )


def _export() -> Component:
    """Return the menu; the browser completes its links with what is shown (assets/settings-export.js)."""
    links = [
        html.A(
            [html.Strong(title), html.Span(use)],
            href="#",
            download="",
            className="menu-item",
            **attributes(data_format=name),
        )
        for name, (title, use) in _FORMATS.items()
        if name in offered()
    ]
    return html.Details(
        [
            html.Summary(
                icon("export", "Export"),
                id=ids.EXPORT_BUTTON,
                className="btn btn-link icon-button",
                title="Export the history that is shown",
            ),
            html.Div(
                [
                    html.H2("Export"),
                    html.P(className="menu-about", **attributes(data_about="")),
                    dbc.Checkbox(id=ids.EXPORT_ALL, label="Every metric, shown or not", value=False),
                    *links,
                ],
                className="menu-body",
            ),
        ],
        className="menu",
    )


def _theme_toggle() -> Component:
    """Return the button; which of its three faces is seen is decided by the root element's data-theme-choice."""
    faces = [html.Span(icon(choice, f"Theme: {choice}"), className=f"face face-{choice}") for choice in _THEMES]
    button: Component = dbc.Button(
        faces, id=ids.THEME_TOGGLE, color="link", class_name="icon-button", title="Theme: system, light or dark"
    )
    return button
