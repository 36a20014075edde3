"""The frame that every card on the page shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dash import html

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash.development.base_component import Component


def card(
    title: Component | str,
    body: Sequence[Component],
    *,
    id: str,  # noqa: A002 - the DOM's word
    aside: Component | None = None,
    shape: str = "",
) -> Component:
    """Return a card: title, something to its right, and what it is about; `shape`: further classes."""
    heading = html.Div(
        [html.H3(title, className="card-name"), *([] if aside is None else [aside])], className="card-top"
    )
    return html.Div([heading, *body], className=f"card panel {shape}".strip(), id=id)


def halves(rows: Sequence[Component], facts: Sequence[Component]) -> Component:
    """Return bars and small facts: beside each other in a card that is wide enough, else one above the other."""
    return html.Div(
        [html.Div(list(rows), className="rows"), html.Dl(list(facts), className="facts")], className="halves"
    )
