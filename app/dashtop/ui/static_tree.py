"""Send plain HTML elements to the browser as trees that Dash does not watch.

At every change of the page's state (about thirty per tick) Dash checks each of its components. Only a few dozen of the
five hundred elements on the page belong to callbacks; scripts paint the others. So plain elements (dash.html) travel
in `StaticTree` components, and the components of Dash keep their places among them.
"""

from __future__ import annotations

from typing import Any

from dash.development.base_component import Component

from dashtop.ui.dash_internals import StaticTree, get_tag_and_props, is_plain_element


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
