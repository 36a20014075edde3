"""The settings dialog. The browser keeps the settings in its storage and in the address (assets/settings-store.js)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
from dash import html
from dash.development.base_component import Component

from dashtop.ui import ids
from dashtop.ui.components import attributes, segmented_control
from dashtop.ui.request import INTERVALS_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEMPERATURE_UNITS: Final = {"C": "°C", "F": "°F"}
_MEMORY_UNITS: Final = {"GiB": "GiB", "GB": "GB"}


def settings_modal(panels: Mapping[str, Sequence[Component]], interval_s: float) -> Component:
    """Return the dialog, closed. `panels` are those that can be hidden and moved, by section title."""
    intervals = {f"{each:g}": f"{each:g} s" for each in sorted({*INTERVALS_S, interval_s})}
    interval = segmented_control(ids.UPDATE_INTERVAL, intervals, f"{interval_s:g}", "Update interval")
    temperature = segmented_control(ids.TEMPERATURE_UNIT, _TEMPERATURE_UNITS, "C", "Temperature unit")
    memory = segmented_control(ids.MEMORY_UNIT, _MEMORY_UNITS, "GiB", "Memory unit")
    modal: Component = dbc.Modal(
        [
            dbc.ModalHeader(dbc.ModalTitle("Settings", tag="h2", id=ids.SETTINGS_TITLE)),
            dbc.ModalBody(
                [
                    _setting("Update interval", interval),
                    _setting("Temperature unit", temperature),
                    _setting("Memory unit", memory),
                    *(_panel_list(section, find_panel_titles(parts)) for section, parts in panels.items()),
                ]
            ),
            dbc.ModalFooter(
                [
                    dbc.Button("Reset", id=ids.SETTINGS_RESET, color="light", title="Reset all settings and the theme"),
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


def _setting(label: str, control: Component) -> Component:
    return html.Div([html.Span(label, **attributes(aria_hidden="true")), control], className="setting")


def _panel_list(section: str, panels: Sequence[tuple[str, str]]) -> Component:
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
