"""What stands in place of the GPU charts and cards where no GPU can be shown, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Panel, Place

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services


def layout(_services: Services) -> Component:
    """Return the notice; the browser shows it while a frame has no GPU, with that frame's reason."""
    return html.Section(
        [
            html.Span(className="icon icon-chip", **attributes(aria_hidden="true")),
            html.H3("No GPU Detected", className="notice-title", **attributes(data_text="notice.title")),
            html.P(className="notice-reason", **attributes(data_text="notice.reason")),
            html.P(**attributes(data_text="notice.outlook")),
        ],
        id=ids.NO_GPU_NOTICE,
        className="panel card notice no-gpu",
        **attributes(aria_label="GPU state"),
    )


PANEL: Final = Panel(place=Place.TRENDS, layout=layout)
