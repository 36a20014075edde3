"""Everything that dashtop uses of Dash without Dash documenting it. Its counterpart is assets/dash-internals.js.

tests/ui/test_dash_internals.py and tests/browser/test_dash_internals.py fail if an installed version changes any of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import orjson
from dash import Dash, no_update
from dash.development.base_component import Component
from dash.exceptions import DependencyException
from flask import abort, has_request_context, jsonify, request
from markupsafe import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dash import Output
    from flask import Flask, Response

# Dash reports no failed request to the page. It calls this function with every ended callback (assets/polling.js).
HOOKS: Final[Any] = {
    "callback_resolved": "function(callback, result) { window.dashtop.onCallbackResolved(callback, result); }"
}

CALLBACK_PATH: Final = "_dash-update-component"
"""Where browsers send the inputs of a callback, below the prefix of the server's addresses."""

PAGE_PATHS: Final = (
    CALLBACK_PATH,
    "_dash-layout",
    "_dash-dependencies",
    "_dash-component-suites/",
    "_favicon.ico",
    "assets/",
)
"""What a page loads, below the prefix of the server's addresses."""

FILE_PATHS: Final = tuple(path for path in PAGE_PATHS if path != CALLBACK_PATH)
"""Those of them that are the same for every viewer; a path that ends with a slash is a folder."""

# What Dash's renderer and its first graph load, below `requests_pathname_prefix`.
_LAYOUT_PATHS: Final = ("_dash-layout", "_dash-dependencies")
_GRAPH_SCRIPT_PATH: Final = "_dash-component-suites/dash/dcc/async-graph.js"

_POLYFILL: Final = "/deps/polyfill@"

_HTML_NAMESPACE: Final = "dash_html_components"


def build_preload_links(app: Dash, plotly_url: str) -> str:
    """Return <link> tags that make the browser load at once what Dash requests last: the layout and the graphs."""
    prefix = app.config.requests_pathname_prefix
    data = [f'<link rel="preload" as="fetch" crossorigin href="{prefix}{path}">' for path in _LAYOUT_PATHS]
    scripts = [f'<link rel="preload" as="script" href="{url}">' for url in (plotly_url, prefix + _GRAPH_SCRIPT_PATH)]
    return "\n    ".join([*data, *scripts])


class RelativeDash(Dash):
    """A Dash application whose page has relative addresses only, and so works below any path a proxy serves it at.

    Dash itself needs to know that path. Proxies of notebook hosts (jupyter-server-proxy, code-server) choose it and cut
    it off. `build_root_attributes` returns attributes of the root element that are known when a page is requested.
    """

    def __init__(self, *, build_root_attributes: Callable[[], Mapping[str, str]] = dict, **kwargs: Any) -> None:
        untyped: Any = super()
        untyped.__init__(**kwargs)
        self._build_root_attributes = build_root_attributes

    def interpolate_index(self, *args: Any, **kwargs: Any) -> str:
        """Return the HTML of the page for the requested address."""
        untyped: Any = super()
        page: str = untyped.interpolate_index(*args, **kwargs)
        attributes = "".join(f' {name}="{escape(value)}"' for name, value in self._build_root_attributes().items())
        page = page.replace("<html", f"<html{attributes}", 1)
        return page.replace(f'="{self.config.requests_pathname_prefix}', f'="{self._find_base()}')

    def _generate_scripts_html(self) -> str:
        """Return the tags of Dash's scripts, without the polyfill for browsers that run none of assets/ anyway.

        It replaces functions that browsers have, which took 0.1 to 0.3 s of each visit.
        """
        untyped: Any = super()
        tags: str = untyped._generate_scripts_html()  # noqa: SLF001 - it is overridden here
        return "\n".join(tag for tag in tags.split("\n") if _POLYFILL not in tag)

    def _config(self) -> dict[str, Any]:
        """Return the configuration that the page contains for Dash's scripts."""
        untyped: Any = super()
        config: dict[str, Any] = untyped._config()  # noqa: SLF001 - it is overridden here
        return config | {"requests_pathname_prefix": self._find_base()}

    def _find_base(self) -> str:
        """Return the address of the page relative to the requested one."""
        if not has_request_context():
            return "./"
        return "../" * request.path.removeprefix(self.config.requests_pathname_prefix).count("/") or "./"


def render_index(app: Dash) -> str:
    """Return the HTML of the page."""
    untyped: Any = app
    page: str = untyped.index()
    return page


def get_callback_map(app: Dash) -> Mapping[str, Mapping[str, Any]]:
    """Return the registered callbacks by their output, with their inputs and state."""
    callbacks: Mapping[str, Mapping[str, Any]] = app.callback_map
    return callbacks


def answer_directly(app: Dash, outputs: Sequence[Output], callback: Callable[[object], Sequence[object]]) -> None:
    """Call `callback`, which is registered with these outputs and one input, without Dash's dispatch.

    Dash prepares what a callback may ask for and return: its context, patterns, groups, further components. This one
    needs none of it, and every open page asks once a second. For the overview with 16 GPUs that took 0.5 of the 3.5 ms
    of CPU of the thread that answers, and takes 0.1 ms.
    """
    server, path = app.server, app.config.routes_pathname_prefix + CALLBACK_PATH
    dispatch = server.view_functions[path]
    name = f"..{'...'.join(str(output) for output in outputs)}.."

    def answer() -> Any:
        body = request.get_json()  # web.security.callback has checked it
        if body["output"] != name:
            return dispatch()
        response: dict[str, dict[str, object]] = {}
        for output, result in zip(outputs, callback(body["inputs"][0].get("value")), strict=True):
            if result is not no_update:
                response.setdefault(str(output.component_id), {})[output.component_property] = result
        content = orjson.dumps({"multi": True, "response": response}, option=orjson.OPT_NON_STR_KEYS)
        return server.response_class(content, mimetype="application/json")

    server.view_functions[path] = answer


def refuse_unknown_paths(server: Flask, url_prefix: str) -> None:
    """Answer 404 for unknown paths. Dash answers them with its page, and missing component files with 500."""
    server.view_functions[f"{url_prefix}<path:path>"] = _refuse_path
    server.register_error_handler(DependencyException, _refuse_file)


def _refuse_path(path: str) -> NoReturn:  # noqa: ARG001 - Flask passes it
    abort(404, "There is nothing at this path.")


def _refuse_file(_error: Exception) -> tuple[Response, int]:
    return jsonify(detail="There is no such file; load the page again."), 404


# --- static trees -----------------------------------------------------------------------------------------------------


class StaticTree(Component):
    """A tree of elements that never changes, rendered once by assets/static-tree.js.

    At every change of the page's state (about thirty per tick) Dash checks each of its components. Only a few dozen of
    the five hundred elements on the page belong to callbacks; scripts paint the others. So plain elements (dash.html)
    travel in static trees, and the components of Dash keep their places among them.

    `tree`: [tag, attributes, *nodes]; a node is a tree, a text, or the position of one of the `children`.
    """

    _namespace = "dashtop"
    _type = "StaticTree"
    _prop_names = ["children", "tree"]  # noqa: RUF012 - as Dash writes it
    _valid_wildcard_attributes = []  # noqa: RUF012

    def __init__(self, tree: list[Any], children: list[Component]) -> None:
        untyped: Any = super()
        untyped.__init__(tree=tree, children=children)


class LazyGraph(Component):
    """The graph of Dash (dcc.Graph), which is made when it gets its first figure.

    Dash makes all graphs of the page when it is loaded, also those of hidden pages, and draws and resizes each without
    a figure: 18 of them took 0.4 s until the first chart was seen.
    """

    _namespace = "dashtop"
    _type = "LazyGraph"
    _prop_names = ["id", "figure", "config"]  # noqa: RUF012 - as Dash writes it
    _valid_wildcard_attributes = []  # noqa: RUF012

    def __init__(self, *, id: str, config: Mapping[str, Any]) -> None:  # noqa: A002 - Dash calls it that
        untyped: Any = super()
        untyped.__init__(id=id, config=dict(config))


def is_plain_element(component: Any) -> bool:
    """Return whether a component is an HTML element (dash.html), which has no behaviour of its own."""
    return bool(component.to_plotly_json()["namespace"] == _HTML_NAMESPACE)


def get_tag_and_props(element: Any) -> tuple[str, dict[str, Any]]:
    """Return the HTML tag of a plain element, and a copy of its properties with its children."""
    described = element.to_plotly_json()
    return described["type"].lower(), dict(described["props"])


def build_static_tree(part: Any) -> Any:
    """Return `part` with its plain elements replaced by static trees. No callback may name one of these elements."""
    if isinstance(part, (list, tuple)):
        return [build_static_tree(each) for each in part]
    if not isinstance(part, Component):
        return part
    if is_plain_element(part):
        children: list[Component] = []
        return StaticTree(_build_node(part, children), children)
    if hasattr(part, "children"):
        part.children = build_static_tree(part.children)
    return part


def _build_node(part: Any, children: list[Component]) -> Any:
    """Return [tag, attributes, *nodes] for an element, the position among `children` for a component, or a text."""
    if not isinstance(part, Component):
        return str(part)
    if not is_plain_element(part):
        children.append(build_static_tree(part))
        return len(children) - 1
    tag, attributes = get_tag_and_props(part)
    nodes = attributes.pop("children", None)
    listed = nodes if isinstance(nodes, (list, tuple)) else [] if nodes is None else [nodes]
    return [tag, attributes, *(_build_node(each, children) for each in listed)]
