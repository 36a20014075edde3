"""The contract with undocumented parts of Dash: a failure here says which assumption an installed version breaks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import dash
import numpy as np
import pytest
from dash import Dash, Input, Output, _utils, ctx, html, no_update
from flask import Flask

from dashtop.settings import assets_dir
from dashtop.ui import dash_internals
from dashtop.ui.dash_internals import StaticTree, get_callback_map, get_tag_and_props, is_plain_element, render_index
from tests.ui.test_layout import served

PACKAGE = Path(dash_internals.__file__).parent.parent
RENDERER = Path(dash.__file__).parent / "dash-renderer" / "build" / "dash_renderer.min.js"

# What only dash_internals.py and assets/dash-internals.js may use.
PYTHON_NAMES = r"view_functions|\.callback_map|\.index\(\)|to_plotly_json|DependencyException|_dash-|dash\._"
SCRIPT_NAMES = r"dash_stores|_dash|_fullLayout|_hoverdata|Plotly\.Fx|\b_plots\b|callback\.output"


def test_only_one_module_uses_internals_of_dash() -> None:
    users = {path.name for path in PACKAGE.rglob("*.py") if re.search(PYTHON_NAMES, path.read_text())}
    assert users == {"dash_internals.py"}


def test_only_one_script_uses_internals_of_dash_and_plotly() -> None:
    users = {path.name for path in Path(assets_dir()).glob("*.js") if re.search(SCRIPT_NAMES, path.read_text())}
    assert users == {"dash-internals.js"}


def test_plain_elements_have_a_namespace_and_a_tag() -> None:
    assert is_plain_element(html.Div()), "elements of dash.html are no longer in the namespace dash_html_components"
    assert get_tag_and_props(html.Td("a", id="b")) == ("td", {"children": "a", "id": "b"})


def test_a_component_of_the_browsers_scripts_can_be_defined() -> None:
    described: Any = StaticTree(["p", {}], [])
    assert described.to_plotly_json() == {
        "namespace": "dashtop",
        "type": "StaticTree",
        "props": {"tree": ["p", {}], "children": []},
    }


def test_the_hook_is_known_to_the_renderer() -> None:
    assert "callback_resolved" in RENDERER.read_text(), "Dash no longer calls the hook callback_resolved"
    assert "window.dashtop.onCallbackResolved" in render_index(served())


def test_unknown_paths_reach_the_replaced_view() -> None:
    client = served().server.test_client()
    assert client.get("/nothing/here").status_code == 404, "Dash's catch-all route has another name now"
    assert client.get("/_dash-component-suites/dash/none.js").status_code == 404


def test_preloaded_addresses_exist() -> None:
    app = served()
    preloads = re.findall(r'<link rel="preload"[^>]*href="([^"]+)"', render_index(app))
    assert len(preloads) == 4
    for address in preloads:
        with app.server.test_client().get(urljoin("/", address)) as answer:
            assert answer.status_code == 200, f"Dash no longer serves {address}"


@pytest.mark.parametrize(("path", "base"), [("/", "./"), ("/embed/compact", "../")])
def test_scripts_of_dash_find_the_server_relative_to_the_page(path: str, base: str) -> None:
    page = served().server.test_client().get(path).get_data(as_text=True)
    config = re.findall(r'<script id="_dash-config" type="application/json">(.*?)</script>', page)
    assert [json.loads(each)["requests_pathname_prefix"] for each in config] == [base]


def test_registered_callbacks_have_inputs_and_state() -> None:
    callback = get_callback_map(served())["..live.data...figures.data.."]
    assert [each["id"] for each in callback["inputs"]] == ["request"]
    assert callback["state"] == []


def test_a_callback_without_dispatch_answers_as_dash_does() -> None:
    app = Dash("test", url_base_pathname="/below/")
    outputs = [Output("live", "data"), Output("figures", "data"), Output("figures", "title")]
    calls = []

    @app.callback(*outputs, Input("request", "data"))
    def tick(request: Any) -> tuple[Any, Any, Any]:
        calls.append(request)
        return {"values": [0.5, float("nan")], 3: "é</p>"}, no_update, None

    @app.callback(Output("other", "data"), Input("request", "data"))
    def other(request: Any) -> Any:
        return [request, ctx.triggered_id]

    def ask(*wanted: Output) -> Any:
        ids = [{"id": each.component_id, "property": each.component_property} for each in wanted]
        body = {
            "output": "other.data" if len(wanted) == 1 else "..live.data...figures.data...figures.title..",
            "outputs": ids if len(wanted) > 1 else ids[0],
            "inputs": [{"id": "request", "property": "data", "value": {"gpu": "1"}}],
            "changedPropIds": ["request.data"],
        }
        answer = app.server.test_client().post("/below/_dash-update-component", json=body)
        return answer.status_code, answer.mimetype, answer.get_json()

    app.layout = html.Div()
    before = ask(*outputs)
    dispatch = app.server.view_functions["/below/_dash-update-component"]
    dash_internals.answer_directly(app, outputs, tick)
    assert ask(*outputs) == before
    assert before[2]["response"] == {
        "live": {"data": {"values": [0.5, None], "3": "é</p>"}},
        "figures": {"title": None},
    }
    assert calls == [{"gpu": "1"}] * 2
    assert app.server.view_functions["/below/_dash-update-component"] is not dispatch
    assert ask(Output("other", "data"))[2]["response"] == {"other": {"data": [{"gpu": "1"}, "request"]}}


@pytest.mark.usefixtures("_orjson")
def test_answers_are_encoded_by_orjson_as_browsers_read_them() -> None:
    answer = {
        "numbers": np.array([0.5, np.nan], dtype=np.float32),
        "none": float("nan"),
        "whole": 2.0,
        "text": "é</script>\u2028",
    }
    to_json: Any = _utils.to_json
    assert to_json(answer) == (
        '{"numbers":[0.5,null],"none":null,"whole":2.0,"text":"é\\u003c\\u002fscript\\u003e\\u2028"}'
    )


@pytest.fixture
def _orjson() -> None:
    pytest.importorskip("orjson")


def test_the_page_is_rendered_outside_a_request_too() -> None:
    assert render_index(served()).startswith("<!DOCTYPE html>")


def test_a_second_application_has_its_own_routes() -> None:
    servers = [Flask("one"), Flask("two")]
    for server in servers:
        server.add_url_rule("/<path:path>", "/<path:path>", lambda path: path)
        dash_internals.refuse_unknown_paths(server, "/")
    assert [server.test_client().get("/a/b").status_code for server in servers] == [404, 404]
