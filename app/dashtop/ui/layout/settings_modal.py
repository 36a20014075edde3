"""The settings dialog. What is chosen in it stays in the browser and its address (assets/head/state.js)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
from dash import html
from dash.development.base_component import Component

from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.layout.header import segments
from dashtop.ui.request import INTERVALS_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEMPERATURES: Final = {"C": "°C", "F": "°F"}
_SIZES: Final = {"GiB": "GiB", "GB": "GB"}


def dialog(panels: Mapping[str, Sequence[Component]], interval_s: float) -> Component:
    """Return the dialog, closed. `panels`: those that can be shown, hidden and moved, by the section they stand in."""
    intervals = {f"{each:g}": f"{each:g} s" for each in sorted({*INTERVALS_S, interval_s})}
    modal: Component = dbc.Modal(
        [
            dbc.ModalHeader(dbc.ModalTitle("Settings", tag="h2")),
            dbc.ModalBody(
                [
                    _line(
                        "Update every", segments(ids.UPDATE_INTERVAL, intervals, f"{interval_s:g}", "Update interval")
                    ),
                    _line("Temperature", segments(ids.TEMPERATURE_UNIT, _TEMPERATURES, "C", "Unit of temperatures")),
                    _line("Memory", segments(ids.MEMORY_UNIT, _SIZES, "GiB", "Unit of memory")),
                    *(_arrangement(section, names(parts)) for section, parts in panels.items()),
                ]
            ),
            dbc.ModalFooter(
                [
                    dbc.Button(
                        "Reset", id=ids.SETTINGS_RESET, color="light", title="Everything in this dialog, and the theme"
                    ),
                    dbc.Button("Done", id=ids.SETTINGS_DONE, color="primary"),
                ]
            ),
        ],
        id=ids.SETTINGS_MODAL,
        is_open=False,
        scrollable=True,
        centered=True,
    )
    return modal


def _line(label: str, control: Component) -> Component:
    return html.Div([html.Span(label, **attributes(aria_hidden="true")), control], className="setting")


def _arrangement(section: str, panels: Sequence[tuple[str, str]]) -> Component:
    """Return the list of a section's panels; the browser fills it in the reader's own order (assets/settings.js)."""
    return html.Div(
        [
            html.H3(section),
            html.Ul(
                className="arrange", **attributes(data_arrange=json.dumps(panels), aria_label=f"{section}: panels")
            ),
        ],
        className="arrangement",
    )


def names(parts: Sequence[Component]) -> list[tuple[str, str]]:
    """Return id and title of each of these that is a panel, and not a heading or a notice."""
    found = ((vars(part).get("id", ""), _title(part)) for part in parts)
    return [(name, title) for name, title in found if name.startswith("panel-") and title]


def _title(part: Any) -> str:
    """Return the words of a card's name, found anywhere within it."""
    if isinstance(part, (list, tuple)):
        return next(filter(None, map(_title, part)), "")
    if not isinstance(part, Component):
        return ""
    children = vars(part).get("children")
    if vars(part).get("className") == "card-name":
        return _words(children)
    return _title(children)


def _words(part: Any) -> str:
    if isinstance(part, str):
        return part
    return _words(vars(part).get("children", "")) if isinstance(part, Component) else ""
