"""Embedding: every panel has an address, and any other name is a plain 404."""

from __future__ import annotations

import re
from urllib.parse import urljoin

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


@pytest.mark.parametrize("name", ["nothing", "chart-power/x", "%3Cscript%3E", "content", "../etc", "panel-chart-x"])
def test_unknown_panel_is_a_plain_404(name: str) -> None:
    answer = served().server.test_client().get(f"/embed/{name}")
    assert answer.status_code == 404
    assert answer.mimetype == "text/plain"
    text = answer.get_data(as_text=True)
    assert "chart-power" in text
    assert "<" not in text


def test_card_of_a_chart_is_another_name_of_the_chart() -> None:
    page = served().server.test_client().get("/embed/panel-chart-power").get_data(as_text=True)
    assert '<html data-embed="chart-power"' in page


@pytest.mark.parametrize(("address", "base"), [("/embed/", "../"), ("/embed", "./")])
def test_gallery_lists_every_panel_with_its_title(address: str, base: str) -> None:
    client = served().server.test_client()
    page = client.get(address).get_data(as_text=True)
    names = client.get("/embed/nothing").get_data(as_text=True).split("\n\n")[1].split()
    assert re.findall(r'data-panel="([^"]+)"', page) == names
    titles = re.findall(r"<h2>([^<]*)</h2>", page)
    assert len(titles) == len(names)
    assert all(titles)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses
    for each in addresses:
        assert each.startswith(base)
        with client.get(urljoin(address, each)) as answer:
            assert answer.status_code == 200


def test_embed_names_its_gpu_unless_it_is_of_the_host_or_all_gpus() -> None:
    client = served().server.test_client()
    for name, has_caption in {"chart-power": True, "panel-fan": True, "compare": False, "panel-storage": False}.items():
        page = client.get(f"/embed/{name}").get_data(as_text=True)
        assert ('<h2 class="embed-caption">' in page) == has_caption
