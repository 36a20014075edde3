"""The page: its public element ids, metrics, scripts and accessible names, and its callback over HTTP."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from dash import html
from dash.development.base_component import Component
from flask import Flask

from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import Condition
from dashtop.model.unavailable import UnavailableReason
from dashtop.settings import assets_dir
from dashtop.ui import ids
from dashtop.ui.components import find_metrics
from dashtop.ui.dash_internals import get_callback_map
from dashtop.ui.help_menu import STATES
from dashtop.ui.layout import build_layout, find_panel_titles
from dashtop.ui.page import HEAD_SCRIPTS, SCRIPTS, create_dash
from dashtop.ui.panels import CHARTS
from dashtop.ui.theme import DARK, LIGHT
from tests.ui.worlds import GPU_VALUES, gpu, world

if TYPE_CHECKING:
    from dash import Dash

    from dashtop.model.sample import Gpu

PUBLIC = {
    "view-mode", "settings-button", "settings-modal", "update-interval", "export-button",
    "compact-status", "live-indicator", "gpu-selector", "time-range", "theme-toggle", "error-banner", "retry-button",
    "loading-skeleton", "no-gpu-notice", "chart-utilization", "chart-memory", "chart-temperature", "chart-power",
    "panel-utilization", "panel-temperature", "panel-power", "panel-fan", "panel-hardware", "panel-system",
    "panel-storage", "panel-processes", "panel-information",
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Component:
    services, _, _ = world(gpus=(gpu(),))
    return build_layout(services, 1.0)


def parts(part: object) -> list[Component]:
    if isinstance(part, (list, tuple)):
        return [found for each in part for found in parts(each)]
    if not isinstance(part, Component):
        return []
    return [part, *parts(vars(part).get("children"))]


def test_public_ids_are_on_the_page_once(page: Component) -> None:
    found = Counter(vars(part)["id"] for part in parts(page) if vars(part).get("id"))
    assert set(found) >= PUBLIC
    assert [name for name, count in found.items() if count > 1] == []
    assert set(found) <= {value for name, value in vars(ids).items() if name.isupper()} | {
        "content",
        *(f"panel-{chart.id}" for chart in CHARTS),
    }


def test_every_metric_on_the_page_is_in_the_table(page: Component) -> None:
    assert find_metrics(page) <= set(METRICS)
    assert len(find_metrics(page)) > 30


def test_digits_and_units_come_from_the_table(page: Component) -> None:
    values = [vars(part) for part in parts(page) if "data-metric" in vars(part)]
    assert len(values) > 30
    for own in values:
        assert own["data-digits"] == str(METRICS[own["data-metric"]].unit.digits)


def test_movable_panels_have_an_id_and_their_title(page: Component) -> None:
    arranged = [json.loads(vars(part)["data-panels"]) for part in parts(page) if "data-panels" in vars(part)]
    assert dict(arranged[0]) == {
        **{f"panel-chart-{name.lower()}": name for name in ("Utilization", "CPU", "Disk", "Temperature", "Power")},
        "panel-chart-pcie": "PCIe",
        "panel-chart-nvlink": "NVLink",
        "panel-chart-clock": "Clock and throttle reasons",
        "panel-chart-processes": "GPU memory by process",
        "panel-chart-memory": "Memory in use",
        "panel-chart-ram": "Host memory",
    }
    assert ["panel-vram", "VRAM"] in arranged[1]
    assert ["panel-storage", "Storage"] in arranged[2]
    assert find_panel_titles([html.Div(id="panel-x"), html.Div(html.H3("Y", className="card-title"))]) == []


def test_the_status_line_has_its_own_endpoint() -> None:
    client = served().server.test_client()
    status = client.get("/_compact?gpu=0").get_json()
    assert status["values"]["gpu.temperature"] == 91.0
    assert status["levels"]["gpu.temperature"] == "elevated"
    assert set(status["values"]) == {
        "gpu.utilization.gpu", "gpu.memory.used_gb", "gpu.memory.total_gb", "gpu.temperature",
        "system.cpu.usage_percent", "system.memory.used_gb", "system.memory.total_gb",
    }  # fmt: skip
    assert status["error"] == ""


def test_the_status_line_reports_a_failed_gpu_and_the_host() -> None:
    lost = replace(gpu(), values=dict.fromkeys(GPU_VALUES), unavailable={}, state=UnavailableReason.GPU_LOST)
    for gpus, error, severity in (((lost,), "The GPU has fallen off the bus", "critical"), ((), "No GPU detected", "")):
        status = served(gpus).server.test_client().get("/_compact").get_json()
        assert (status["error"], status["severity"]) == (error, severity), "a machine without a GPU is no failure"
        assert status["values"]["system.memory.used_gb"] == 8.0


def test_bars_have_names(page: Component) -> None:
    bars = [vars(part) for part in parts(page) if vars(part).get("role") == "meter"]
    assert len(bars) >= 8
    assert all(bar["aria-label"] for bar in bars)


def test_two_pages_in_one_process_share_nothing() -> None:
    apps = [served() for _ in range(2)]
    assert get_callback_map(apps[0]) is not get_callback_map(apps[1])
    assert all(len(app.server.test_client().get("/_dash-dependencies").get_json()) == 6 for app in apps)


def served(gpus: tuple[Gpu, ...] | None = None) -> Dash:
    services, _, _ = world(gpus=(gpu(),) if gpus is None else gpus)
    return create_dash(services, server=Flask("test"), assets_folder=str(assets_dir()), interval_s=1.0)


def test_the_page_loads_only_its_own_scripts_in_the_listed_order() -> None:
    app = served()
    html = app.server.test_client().get("/").get_data(as_text=True)
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert not re.findall(r"<[^>]+\son\w+=", html)
    addresses = re.findall(r'<(?:script src|link rel="stylesheet" href)="([.]/assets/[^"]+)"', html)
    bundles = [app.server.test_client().get(urljoin("/", address)) for address in addresses]
    assert [answer.mimetype for answer in bundles] == ["text/javascript", "text/css", "text/javascript"]
    assert all(answer.cache_control.max_age > 86_400 for answer in bundles)
    text = "".join(answer.get_data(as_text=True) for answer in bundles)
    assert re.findall(r"^/\* assets/(.+\.js) \*/$", text, re.MULTILINE) == [*HEAD_SCRIPTS, *SCRIPTS]
    styles = re.findall(r"^/\* assets/(.+\.css) \*/$", text, re.MULTILINE)
    assert styles == sorted(path.name for path in Path(assets_dir()).glob("*.css"))
    others = {"embed.js", "embed-gallery.js", "sw.js"}
    assert {path.name for path in Path(assets_dir()).glob("*.js")} == {*HEAD_SCRIPTS, *SCRIPTS} | others
    inline = [text for text in re.findall(r"<script(?![^>]*(?:src|json))[^>]*>(.+?)</script>", html) if text]
    assert inline
    assert len(inline) == len(app.csp_hashes())


def test_the_layout_is_sent_once() -> None:
    client = served().server.test_client()
    html, layout = (client.get(path).get_data(as_text=True) for path in ("/", "/_dash-layout"))
    assert "panel-processes" in layout
    assert "panel-processes" not in html
    assert len(html) < 12_000


def test_the_callback_answers_over_http() -> None:
    app = served()
    client = app.server.test_client()
    body: dict[str, Any] = {
        "output": "..live.data...figures.data..",
        "outputs": [{"id": "live", "property": "data"}, {"id": "figures", "property": "data"}],
        "inputs": [{"id": "request", "property": "data", "value": {"width": 400}}],
        "changedPropIds": ["request.data"],
    }
    for coding in ("gzip", "zstd"):
        packed = client.post("/_dash-update-component", json=body, headers={"Accept-Encoding": coding})
        assert packed.headers["Content-Encoding"] == coding
    stores = client.post("/_dash-update-component", json=body).get_json()["response"]
    live, figures = stores["live"]["data"], stores["figures"]["data"]
    assert live["values"][0][live["columns"]["values"].index("gpu.temperature")] == 91.0
    assert set(figures["charts"]) == {chart.id for chart in CHARTS}
    versions = {**live["versions"], **figures["versions"]}
    body["inputs"][0]["value"] = {"width": 400, "versions": versions}
    again = client.post("/_dash-update-component", json=body, headers={"Accept-Encoding": "gzip"})
    assert set(again.get_json()["response"]) == {"live"}
    assert "Content-Encoding" not in again.headers  # it fits into one packet


def tokens() -> dict[str, dict[str, str]]:
    """The CSS variables of tokens.css, light and dark."""
    text = Path(assets_dir(), "tokens.css").read_text()
    blocks = dict(zip(("light", "dark"), re.findall(r"\{(.*?)\n\}", text, re.DOTALL), strict=True))
    found = {theme: dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for theme, block in blocks.items()}
    return {"light": found["light"], "dark": {**found["light"], **found["dark"]}}


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_in_both_themes(theme: str) -> None:
    colours = tokens()[theme]
    words = ["text", "text-soft", "good-text", "info-text", "warning-text", "critical-text"]
    for name in words:
        for ground in ("ground", "surface"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert contrast(colours["text"], colours["critical-ground"]) >= 4.5
    assert contrast(colours["text-soft"], colours["track"]) >= 4.5
    for name in ("bar", "good", "elevated", "high", "cpu"):
        assert contrast(colours[name], colours["track"]) >= 3, name


@pytest.mark.parametrize(("chart_theme", "theme"), [(LIGHT, "light"), (DARK, "dark")])
def test_charts_have_the_pages_colours(chart_theme: Any, theme: str) -> None:
    colours = tokens()[theme]
    assert (chart_theme.text, chart_theme.muted) == (colours["text"], colours["text-soft"])
    for colour in (chart_theme.muted, chart_theme.warning, chart_theme.critical):
        assert contrast(colour, colours["surface"]) >= 4.5


def test_help_explains_every_state_of_a_gpu() -> None:
    assert set(STATES) == set(Condition)
