"""Embedding: every panel has an address, and any other name is a plain 404."""

from __future__ import annotations

import pytest

from dashtop.ui.panels import CHARTS
from tests.ui.test_layout import served


def test_every_panel_and_chart_can_be_embedded() -> None:
    client = served().server.test_client()
    names = client.get("/embed/nothing").get_data(as_text=True).split("\n\n")[1].split()
    cards = {f"panel-{name}" for name in ("utilization", "temperature", "power", "fan", "hardware", "processes")}
    assert {"compact", "compare", "panel-storage", "panel-system", *cards, *(chart.id for chart in CHARTS)} < set(names)
    for name in names:
        answer = client.get(f"/embed/{name}")
        assert (answer.status_code, answer.mimetype) == (200, "text/html")
        page = answer.get_data(as_text=True)
        assert f'<html data-embed="{name}"' in page
        shown = {"compact": "compact-status"}.get(name, name)
        assert f":not(#{shown} *)" in page.partition("</head>")[0]


@pytest.mark.parametrize("name", ["", "nothing", "chart-power/x", "%3Cscript%3E", "content", "../etc"])
def test_an_unknown_panel_is_a_plain_404(name: str) -> None:
    answer = served().server.test_client().get(f"/embed/{name}")
    if name == "":
        assert "data-embed" not in answer.get_data(as_text=True)
        return
    assert answer.status_code == 404
    assert answer.mimetype == "text/plain"
    text = answer.get_data(as_text=True)
    assert "chart-power" in text
    assert "<" not in text
