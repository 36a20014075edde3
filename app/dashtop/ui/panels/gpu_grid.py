"""The view of all GPUs: a card for each with utilization, memory, temperature, power and largest process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dash_bootstrap_components as dbc
from dash import html

from dashtop.ui import ids
from dashtop.ui.components import SHARED_MEMORY_HELP, attributes
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services

_SORT_ORDERS: Final = {"index": "Index", "free": "Free memory", "load": "Utilization (1 min mean)"}


def layout(_services: Services) -> Component:
    """Return the panel without cards; the browser adds one for each GPU, since GPUs can come and go."""
    sort_order = dbc.RadioItems(
        id=ids.COMPARE_ORDER,
        options=[{"label": label, "value": name} for name, label in _SORT_ORDERS.items()],
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
                    sort_order,
                ],
                className="section-header",
            ),
            html.Div(className="gpu-grid", **attributes(data_gpu_grid="", data_shared=SHARED_MEMORY_HELP)),
        ],
        id=ids.COMPARE,
        className="only-compare needs-gpu",
        **attributes(aria_label="All GPUs"),
    )


PANEL: Final = Panel(section=Section.ALL_GPUS, layout=layout)
