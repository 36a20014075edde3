"""Static trees: they keep every element, and leave the components of callbacks to Dash."""

from __future__ import annotations

from typing import Any

from dash import dcc, html

from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.dash_internals import build_static_tree
from tests.ui.test_layout import served


def encode(part: Any) -> Any:
    """Return what is sent to the browser."""
    if isinstance(part, list):
        return [encode(each) for each in part]
    return part.to_plotly_json() if hasattr(part, "to_plotly_json") else part


def test_elements_become_a_tree_with_components_in_it() -> None:
    graph = dcc.Graph(id="g")
    cell = html.Td(7, className="n", **attributes(data_metric="gpu.temperature", aria_label="Heat"))
    found = encode(
        build_static_tree(html.Div([html.Table(html.Tr([cell])), "and", graph, html.Span()], id="d", hidden=True))
    )
    assert (found["namespace"], found["type"]) == ("dashtop", "StaticTree")
    of_cell = {"className": "n", "data-metric": "gpu.temperature", "aria-label": "Heat"}
    row = ["tr", {}, ["td", of_cell, "7"]]
    assert found["props"]["tree"] == ["div", {"id": "d", "hidden": True}, ["table", {}, row], "and", 0, ["span", {}]]
    assert found["props"]["children"] == [graph]


def test_elements_within_a_component_become_trees() -> None:
    found = encode(build_static_tree(dcc.Loading([html.B("a"), dcc.Store(id="s")])))
    assert [encode(each)["type"] for each in found["props"]["children"]] == ["StaticTree", "Store"]


def test_components_of_callbacks_are_left_to_dash() -> None:
    client = served().server.test_client()
    kept = components(client.get("/_dash-layout").get_json())
    assert "dash_html_components" not in {each["namespace"] for each in kept}
    named = {
        each["id"]
        for callback in client.get("/_dash-dependencies").get_json()
        for each in [*callback["inputs"], *callback["state"]]
    }
    assert named >= {ids.TICK, ids.REQUEST, ids.LIVE, ids.FIGURES, ids.GPU_SELECTOR}
    assert named | {ids.SETTINGS_MODAL} <= {each["props"].get("id") for each in kept}


def components(part: Any) -> list[Any]:
    """Return the components in a layout that has been read as JSON."""
    if isinstance(part, list):
        return [found for each in part for found in components(each)]
    if not isinstance(part, dict) or "namespace" not in part:
        return []
    return [part, *components(part["props"].get("children"))]
