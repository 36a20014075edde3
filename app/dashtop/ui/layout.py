"""The layout of the page: header, sections of panels, notices, footer and the settings dialog."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
from dash import dcc, html
from dash.development.base_component import Component

from dashtop.export.table import list_formats
from dashtop.model.action import ActionScope
from dashtop.ui import ids
from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS
from dashtop.ui.components import ICON_BUTTON, attributes, icon, segmented_control
from dashtop.ui.help_menu import build_help_menu
from dashtop.ui.pages import build_navigation, build_pages
from dashtop.ui.panels import Section
from dashtop.ui.request import INTERVALS_S
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.ports import Actions, Services

_RANGE_NAMES: Final = {
    "5m": "5 min", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d"
}  # fmt: skip


# The panels of these sections can be hidden and moved.
_ARRANGED: Final = {"Charts": Section.HISTORY, "Current": Section.CURRENT, "Details": Section.DETAILS}


def build_layout(services: Services, interval_s: float, *, viewer: str | None = None) -> Component:
    """Return all pages before the first answer. `viewer`: the name of the signed-in user."""
    pages, panels = build_pages(services)
    return html.Div(
        [
            html.A("Skip to content", href="#content", className="skip-link"),
            _build_header(services, panels[Section.HEADER], panels[Section.BUTTONS]),
            html.Main(
                [
                    _build_error_banner(),
                    _build_gpu_gone_notice(),
                    _build_skeleton(),
                    html.Div([*_build_toolbar(), *pages], className="sections"),
                ],
                id="content",
                className="page",
            ),
            _build_footer(viewer),
            _build_settings_modal({title: panels[section] for title, section in _ARRANGED.items()}, interval_s),
            dcc.Interval(id=ids.TICK, interval=round(interval_s * 1000)),
            dcc.Store(id=ids.REQUEST),
            dcc.Store(id=ids.LIVE),
            dcc.Store(id=ids.FIGURES),
        ],
        className="app",
        **attributes(
            data_interval=str(interval_s),
            **({} if viewer is None else {"data_viewer": viewer}),
            **_describe_actions(services.actions),
        ),
    )


def _describe_actions(actions: Actions) -> dict[str, str]:
    """Return whose processes the page may send signals to, and the user of dashtop; nothing if none."""
    if actions.scope is ActionScope.OFF:
        return {}
    return {"data_actions": actions.scope.value, "data_actions_user": actions.user}


def _build_error_banner() -> Component:
    return html.Div(
        [
            html.Span(className="icon icon-alert", **attributes(aria_hidden="true")),
            html.Div(
                [html.Strong(className="banner-title"), html.Span(className="banner-detail")], className="banner-text"
            ),
            dbc.Button("Retry", id=ids.RETRY_BUTTON, size="sm", color="light"),
        ],
        id=ids.ERROR_BANNER,
        className="banner",
        role="alert",
        hidden=True,
    )


def _build_skeleton() -> Component:
    shapes = ("chart", "chart", "chart", "chart", "card wide", "card wide")
    blocks = [html.Div(className=f"skeleton-block skeleton-{shape}") for shape in shapes]
    return html.Div(
        [*blocks, html.P("Waiting for the first reading", className="visually-hidden")],
        id=ids.LOADING_SKELETON,
        className="skeleton grid trends",
        role="status",
    )


def _build_gpu_gone_notice() -> Component:
    """Return the notice that the GPU in the address or in the stored settings does not exist."""
    keep = dbc.Button("Use this GPU", id=ids.GPU_GONE_KEEP, size="sm", color="light")
    return html.Div([html.Span(), keep], id=ids.GPU_GONE, className="notice-line", role="status", hidden=True)


def _build_toolbar() -> list[Component]:
    """Return what is above every page: the choice of the GPU and of the time range, and the state of the history."""
    names = {name: _RANGE_NAMES[name] for name in RANGES_MS}
    selector = dbc.Select(id=ids.GPU_SELECTOR, options=[], value="0", size="sm")
    label = html.Label("GPU", htmlFor=ids.GPU_SELECTOR, className="visually-hidden")
    controls = [
        html.Div(segmented_control(ids.VIEW_MODE, _VIEWS, "single", "View"), className="needs-gpu only-gpus"),
        html.Div([label, selector], className="gpu-choice many-gpus only-gpus only-single"),
        html.Span(className="since", role="status", **attributes(data_since="")),
        html.Span(className="zone", **attributes(data_zone="", data_tip="Time zone of this page; Settings changes it")),
        segmented_control(ids.TIME_RANGE, names, DEFAULT_RANGE, "Time range"),
        html.Div(
            className="span-controls",
            id=ids.TIME_SPAN,
            role="group",
            **attributes(data_span_controls="", aria_label="Time span"),
        ),
        html.Div(
            [
                html.Span(className="span-text", role="status", **attributes(data_span="")),
                html.Button(
                    "Back to live",
                    id=ids.ZOOM_RESET,
                    type="button",
                    className="btn btn-light btn-sm",
                    **attributes(data_tip="Or double-click a chart"),
                ),
            ],
            className="span-status",
        ),
    ]
    status = html.P(className="notice-line", role="status", **attributes(data_text="history_status"))
    return [html.Div(controls, className="toolbar"), status]


def _build_footer(viewer: str | None) -> Component:
    user = [html.Span(f"Signed in as {viewer}")] if viewer is not None else []
    return html.Footer([html.Span(platform.node()), *user, html.Span(f"dashtop {__version__}")], className="footer")


# --- header -----------------------------------------------------------------------------------------------------------

_VIEWS: Final = {"single": "GPU", "compare": "All GPUs"}
_FORMATS: Final = {
    "csv": ("CSV", "for spreadsheets"),
    "json": ("JSON", "for programs"),
    "parquet": ("Parquet", "for pandas, Spark, DuckDB"),
}
_THEMES: Final = ("system", "light", "dark")


def _build_header(services: Services, status: Sequence[Component], buttons: Sequence[Component]) -> Component:
    """Return the header with `status` in its middle, and `buttons` before those of the page."""
    return html.Header(
        [_build_brand(), _build_live_indicator(), build_navigation(services), *status, _build_buttons(buttons)],
        className="header",
    )


def _build_brand() -> Component:
    return html.Div(
        [
            html.Span(className="logo", **attributes(aria_hidden="true")),
            html.H1("dashtop", className="brand-name"),
            html.Span(platform.node(), className="host-name", **attributes(data_tip="Host")),
            html.Span("Simulated", className="badge when-simulated", **attributes(data_tip="Simulated GPUs (--demo)")),
        ],
        className="brand",
    )


def _build_live_indicator() -> Component:
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


def _build_buttons(first: Sequence[Component]) -> Component:
    # A component of dash-bootstrap-components has no data- attributes.
    name = html.Span(icon("settings", "Settings"), **attributes(data_tip="Settings"))
    settings = dbc.Button(name, id=ids.SETTINGS_BUTTON, color="link", class_name="icon-button")
    return html.Div(
        [*first, _build_export_menu(), settings, _build_theme_toggle(), build_help_menu()], className="icons"
    )


def _build_export_menu() -> Component:
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
        if name in list_formats()
    ]
    return html.Details(
        [
            html.Summary(
                icon("export", "Export"),
                id=ids.EXPORT_BUTTON,
                className=ICON_BUTTON,
                **attributes(data_tip="Export history"),
            ),
            html.Div(
                [
                    html.H2("Export"),
                    html.P(className="menu-about", **attributes(data_export_summary="")),
                    dbc.Checkbox(id=ids.EXPORT_ALL, label="All metrics", value=False),
                    html.P("Times in the file: UTC", className="menu-about"),
                    *links,
                ],
                className="menu-body",
            ),
        ],
        className="menu",
    )


def _build_theme_toggle() -> Component:
    """Return the theme button. `data-theme-choice` of the root element decides which of its icons is visible."""
    icons = [
        html.Span(icon(choice, f"Theme: {choice}"), className=f"theme-icon theme-icon-{choice}") for choice in _THEMES
    ]
    button: Component = html.Button(
        icons,
        id=ids.THEME_TOGGLE,
        type="button",
        className=ICON_BUTTON,
        **attributes(data_tip="Theme: system, light or dark"),
    )
    return button


# --- settings dialog --------------------------------------------------------------------------------------------------

_TEMPERATURE_UNITS: Final = {"C": "°C", "F": "°F"}
_BAR_COLOURS: Final = {"plain": "Warnings only", "load": "By load"}
_MEMORY_UNITS: Final = {"GiB": "GiB", "GB": "GB"}
_TIME_ZONES: Final = {"browser": "Browser", "server": "Server", "utc": "UTC"}


def _build_settings_modal(panels: Mapping[str, Sequence[Component]], interval_s: float) -> Component:
    """Return the dialog, closed. `panels` are those that can be hidden and moved, by section title."""
    intervals = {f"{each:g}": f"{each:g} s" for each in sorted({*INTERVALS_S, interval_s})}
    interval = segmented_control(ids.UPDATE_INTERVAL, intervals, f"{interval_s:g}", "Update interval")
    temperature = segmented_control(ids.TEMPERATURE_UNIT, _TEMPERATURE_UNITS, "C", "Temperature unit")
    memory = segmented_control(ids.MEMORY_UNIT, _MEMORY_UNITS, "GiB", "Memory unit")
    time_zone = segmented_control(ids.TIME_ZONE, _TIME_ZONES, "browser", "Time zone")
    bars = segmented_control(ids.BAR_COLOURS, _BAR_COLOURS, "plain", "Bar colours")
    modal: Component = dbc.Modal(
        [
            dbc.ModalHeader(dbc.ModalTitle("Settings", tag="h2", id=ids.SETTINGS_TITLE)),
            dbc.ModalBody(
                [
                    _build_setting("Update interval", interval),
                    _build_setting("Temperature unit", temperature),
                    _build_setting("Memory unit", memory),
                    _build_setting("Time zone", time_zone),
                    _build_setting("Bar colours", bars),
                    _build_setting("Panels", _build_arrange_button()),
                    *(_build_panel_list(section, find_panel_titles(parts)) for section, parts in panels.items()),
                ]
            ),
            dbc.ModalFooter(
                [
                    html.Button(
                        "Reset",
                        id=ids.SETTINGS_RESET,
                        type="button",
                        className="btn btn-light",
                        **attributes(data_tip="Reset all settings and the theme"),
                    ),
                    dbc.Button("Done", id=ids.SETTINGS_DONE, color="primary"),
                ]
            ),
        ],
        id=ids.SETTINGS_MODAL,
        labelledby=ids.SETTINGS_TITLE,
        is_open=False,
        scrollable=True,
        centered=True,
    )
    return modal


def _build_arrange_button() -> Component:
    """Return the button that closes the dialog and lets panels be dragged on the page (assets/arrange.js)."""
    return html.Button(
        "Arrange on the page",
        id=ids.SETTINGS_ARRANGE,
        type="button",
        className="btn btn-sm",
        **attributes(data_arrange_start=""),
    )


def _build_setting(label: str, control: Component) -> Component:
    return html.Div([html.Span(label, **attributes(aria_hidden="true")), control], className="setting")


def _build_panel_list(section: str, panels: Sequence[tuple[str, str]]) -> Component:
    """Return the list of the panels of a section; the browser fills it in the user's order (assets/settings.js)."""
    panel_list = html.Ul(
        className="panel-list", **attributes(data_panels=json.dumps(panels), aria_label=f"{section}: panels")
    )
    return html.Div([html.H3(f"Panels: {section}"), panel_list], className="panel-section")


def find_panel_titles(parts: Sequence[Component]) -> list[tuple[str, str]]:
    """Return id and title of each component that is a panel with a title."""
    titles = ((vars(part).get("id", ""), _find_title(part)) for part in parts)
    return [(name, title) for name, title in titles if name.startswith("panel-") and title]


def _find_title(part: Any) -> str:
    """Return the text of the first card title in a component."""
    if isinstance(part, (list, tuple)):
        return next(filter(None, map(_find_title, part)), "")
    if not isinstance(part, Component):
        return ""
    children = vars(part).get("children")
    if vars(part).get("className") == "card-title":
        return _text(children)
    return _find_title(children)


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return _text(vars(part).get("children", "")) if isinstance(part, Component) else ""
