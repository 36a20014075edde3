"""The parts of the page that Dash is not to watch.

At every change of the page's state Dash asks each of its components what that means to it, some thirty times a tick.
Of the five hundred on the page only a few dozen can answer; the others are plain elements, which the browser's scripts
paint. So plain elements travel as one `Still`, in which the components of Dash stand where they belong.
"""

from __future__ import annotations

from typing import Any, Final

from dash.development.base_component import Component

_PLAIN: Final = "dash_html_components"


class Still(Component):
    """A tree of elements that never changes, rendered once by assets/still.js.

    `tree`: [tag, attributes, *nodes]; a node is a tree, a text, or the position of one of the `children`.
    """

    _namespace = "dashtop"
    _type = "Still"
    _prop_names = ["children", "tree"]  # noqa: RUF012 - as Dash writes it
    _valid_wildcard_attributes = []  # noqa: RUF012

    def __init__(self, tree: list[Any], children: list[Component]) -> None:
        unannotated: Any = super()
        unannotated.__init__(tree=tree, children=children)


def still(part: Any) -> Any:
    """Return `part` with its plain elements (dash.html) made still: no callback may name one of these."""
    if isinstance(part, (list, tuple)):
        return [still(each) for each in part]
    if not isinstance(part, Component):
        return part
    if _plain(part):
        children: list[Component] = []
        return Still(_tree(part, children), children)
    if hasattr(part, "children"):
        part.children = still(part.children)
    return part


def _plain(part: Any) -> bool:
    return bool(part.to_plotly_json()["namespace"] == _PLAIN)


def _tree(part: Any, children: list[Component]) -> list[Any]:
    told = part.to_plotly_json()
    attributes = dict(told["props"])
    nodes = attributes.pop("children", None)
    listed = nodes if isinstance(nodes, (list, tuple)) else [] if nodes is None else [nodes]
    return [told["type"].lower(), attributes, *(_node(each, children) for each in listed)]


def _node(part: Any, children: list[Component]) -> Any:
    if not isinstance(part, Component):
        return str(part)
    if _plain(part):
        return _tree(part, children)
    children.append(still(part))
    return len(children) - 1
