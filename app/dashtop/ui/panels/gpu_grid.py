"""All GPUs beside each other: how busy, how full, how hot, by whom; and which of them are free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dash_bootstrap_components as dbc
from dash import html

from dashtop.ui import ids
from dashtop.ui.components import SHARED, attributes
from dashtop.ui.panels.base import Panel, Place

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services

_ORDERS: Final = {"index": "Index", "free": "Free memory", "load": "Load"}


def layout(_services: Services) -> Component:
    """Return the panel; the browser makes a card for each GPU, since GPUs come and go."""
    order = dbc.RadioItems(
        id=ids.COMPARE_ORDER,
        options=[{"label": label, "value": name} for name, label in _ORDERS.items()],
        value="index",
        inline=True,
        className="segments",
        input_class_name="btn-check",
        label_class_name="segment",
        persistence=True,
        persistence_type="local",
    )
    return html.Section(
        [
            html.Div(
                [
                    html.H2("GPUs"),
                    html.Span(className="free-count", role="status", **attributes(data_free="")),
                    html.Span("Sort by", className="sort-label", **attributes(aria_hidden="true")),
                    order,
                ],
                className="section-head",
            ),
            html.Div(className="fleet", **attributes(data_fleet="", data_shared=SHARED)),
        ],
        id=ids.COMPARE,
        className="only-compare needs-gpu",
        **attributes(aria_label="All GPUs"),
    )


PANEL: Final = Panel(place=Place.COMPARE, layout=layout)
