"""A portal on another site, over HTTPS, with the iframes of docs/portal.md; the browser blocks third-party storage."""

from __future__ import annotations

import base64
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import WAIT_MS
from tests.nginx import build_location, create_certificate, run_nginx
from tests.processes import ROOT, eventually, find_free_ports, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Frame, Page, Playwright

DOCUMENT = (ROOT / "docs" / "portal.md").read_text()
PORTAL, GPU_HOST = "portal.example", "gpu1.example"
EMBED_TOKEN = "a-long-secret-for-panels"
BLOCKED = """() => {
  try { window.localStorage.length; } catch (error) { return error.name; }
  return 'allowed';
}"""
PORTAL_GROUND = [12, 120, 200]
PIXEL = """async ([image, x, y]) => {
  const picture = new Image();
  picture.src = 'data:image/png;base64,' + image;
  await picture.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [picture.width, picture.height];
  const context = canvas.getContext('2d');
  context.drawImage(picture, 0, 0);
  return [...context.getImageData(x, y, 1, 1).data.slice(0, 3)];
}"""


def read_documented_html() -> list[str]:
    """Return the HTML examples of docs/portal.md: the iframes and the script."""
    examples = re.findall(r"^ *```html\n(.*?)^ *```", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    return examples


def read_documented_options() -> list[str]:
    """Return the options of the command in docs/portal.md."""
    found = re.search(rf"DASHTOP_EMBED_TOKEN={EMBED_TOKEN} dashtop (.*) --frame-ancestors \"(.*)\"", DOCUMENT)
    assert found is not None
    return [*found[1].split(), "--frame-ancestors", found[2]]


@dataclass(frozen=True)
class Portal:
    """A portal at https://portal.example and a dashtop at https://gpu1.example, both on one port of this machine."""

    playwright: Playwright
    folder: Path
    port: int
    launch_options: dict[str, Any]

    @contextmanager
    def open(self, html: str, *, is_dark: bool = False, **options: Any) -> Iterator[Page]:
        """Open a page of the portal in a browser that blocks third-party cookies and storage.

        `is_dark`: of the system. (Playwright's `color_scheme` would also hide from a frame what scheme the portal has.)
        """
        profile = self.folder / "profile"
        (profile / "Default").mkdir(parents=True)
        blocked = {"profile": {"cookie_controls_mode": 1, "block_third_party_cookies": True}}
        (profile / "Default" / "Preferences").write_text(json.dumps(blocked))
        rules = ",".join(f"MAP {name}:443 127.0.0.1:{self.port}" for name in (PORTAL, GPU_HOST))
        arguments = [f"--host-resolver-rules={rules}", *(["--force-dark-mode"] if is_dark else [])]
        launch = {**self.launch_options, "args": [*self.launch_options["args"], *arguments]}
        context = self.playwright.chromium.launch_persistent_context(
            profile, ignore_https_errors=True, color_scheme="null", **launch, **options
        )
        try:
            page = context.pages[0]
            page.set_default_timeout(WAIT_MS)
            self.show(page, html)
            yield page
        finally:
            context.close()
            shutil.rmtree(profile)

    def show(self, page: Page, html: str) -> None:
        (self.folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{html}</body></html>")
        page.goto(f"https://{PORTAL}/")


@pytest.fixture(scope="module")
def portal(
    tmp_path_factory: pytest.TempPathFactory, playwright: Playwright, browser_type_launch_args: dict[str, Any]
) -> Iterator[Portal]:
    folder = tmp_path_factory.mktemp("portal")
    (folder / "storage.html").write_text("<!DOCTYPE html><title>storage</title>")
    (port,) = find_free_ports(1)
    certificate = create_certificate(folder, PORTAL, GPU_HOST)
    options = ["--demo", "2", "--interval", "0.5", *read_documented_options()]
    with running(*options, env={"DASHTOP_EMBED_TOKEN": EMBED_TOKEN}, ready=False) as server:
        listen = f"listen 127.0.0.1:{port} ssl; {certificate}"
        own_page = f"location = /storage.html {{ root {folder}; }}"
        servers = f"""
            server {{ {listen} server_name {PORTAL}; root {folder}; }}
            server {{ {listen} server_name {GPU_HOST}; {own_page} {build_location(server)} }}"""
        with run_nginx(folder, servers):
            eventually((folder / "pid").exists)
            yield Portal(playwright, folder, port, browser_type_launch_args)


def embed(panel: str, token: str = EMBED_TOKEN) -> str:
    return (
        f'<iframe src="https://{GPU_HOST}/~{token}/embed/{panel}" width="600" height="320" style="border: 0"></iframe>'
    )


def read_pixel(page: Page, x: int, y: int) -> list[int]:
    """Return red, green and blue of a pixel of the page."""
    color: list[int] = page.evaluate(PIXEL, [base64.b64encode(page.screenshot()).decode(), x, y])
    return color


def find_frames(page: Page, count: int) -> list[Frame]:
    """Return the frames of the portal's page, once all of them are live."""
    elements = page.locator("iframe")
    assert elements.count() == count
    frames = [each.content_frame() for each in elements.element_handles()]
    for frame in frames:
        assert frame is not None
        frame.wait_for_selector("html[data-live=live]", state="attached")
    return [frame for frame in frames if frame is not None]


def expect_live_panel(frame: Frame) -> None:
    """Wait until the panel has drawn its lines or numbers, and has received a further sample."""
    panel = frame.evaluate("document.documentElement.dataset.embed")
    if panel.startswith("chart-"):
        frame.wait_for_selector(f"#{panel} .scatterlayer .trace", state="attached")
    else:
        number = frame.locator("[data-metric]:visible, #panel-processes td:visible").filter(has_text=re.compile(r"\d"))
        number.first.wait_for()
    frame.evaluate("() => { window.times = new Set(); dashtop.painters.push(({ time }) => times.add(time)); }")
    frame.wait_for_function("() => times.size >= 2")


@pytest.mark.parametrize("token", ["path", "parameter"])
def test_five_panels_are_live_on_another_site_that_may_store_nothing(portal: Portal, token: str) -> None:
    frames_html, _ = read_documented_html()
    if token == "parameter":
        frames_html = re.sub(rf"/~{EMBED_TOKEN}/([^?\"]+)\??", rf"/\1?token={EMBED_TOKEN}&", frames_html)
        assert frames_html.count(f"?token={EMBED_TOKEN}") == 5
    with portal.open(frames_html) as page:
        for frame in find_frames(page, 5):
            expect_live_panel(frame)
            assert (EMBED_TOKEN in frame.url) == (token == "path")
        page.evaluate(f"document.body.innerHTML = '<iframe src=\"https://{GPU_HOST}/storage.html\"></iframe>'")
        frame = page.frames[-1]
        frame.wait_for_load_state()
        assert frame.evaluate(BLOCKED) == "SecurityError", "the browser of this test forbids storage"
        frame.evaluate("document.cookie = 'third=party; SameSite=None; Secure'")
        assert "third" not in frame.evaluate("document.cookie")


def test_gallery_shows_previews_and_the_code_for_the_portal(portal: Portal) -> None:
    with portal.open("") as page:
        page.goto(f"https://{GPU_HOST}/~{EMBED_TOKEN}/embed/")
        preview = page.locator("li[data-panel=panel-power] iframe")
        preview.scroll_into_view_if_needed()
        preview.content_frame.locator("html[data-live=live]").wait_for(state="attached")
        page.select_option("select[name=theme]", "dark")
        code = page.locator("li[data-panel=panel-power] code").inner_text()
    with portal.open(code) as page:
        (frame,) = find_frames(page, 1)
        expect_live_panel(frame)
        assert frame.evaluate("[document.documentElement.dataset.embed, document.documentElement.dataset.bsTheme]") == [
            "panel-power",
            "dark",
        ]


def test_name_of_the_card_of_a_chart_shows_the_chart(portal: Portal) -> None:
    charts = ("utilization", "memory", "temperature", "power", "processes")
    with portal.open("".join(embed(f"panel-chart-{chart}") for chart in charts)) as page:
        for frame in find_frames(page, len(charts)):
            expect_live_panel(frame)


def test_documented_script_sets_heights_and_themes(portal: Portal) -> None:
    _, script = read_documented_html()
    panels = ("compact", "panel-temperature", "panel-processes", "chart-memory")
    with portal.open("".join(map(embed, panels)) + script) as page:
        frames = find_frames(page, len(panels))
        page.wait_for_function(
            "() => [...document.querySelectorAll('iframe')].slice(0, 3).every(f => f.height !== '320')"
        )
        # A panel whose height has been set fits: it does not scroll.
        for frame in frames[:3]:
            frame.wait_for_function("() => document.documentElement.scrollHeight <= innerHeight")
        assert page.locator("iframe").last.get_attribute("height") == "320", "a chart fills its frame"
        for theme in ("dark", "light"):
            page.evaluate("theme => setTheme(theme)", theme)
            for frame in frames:
                frame.wait_for_selector(f"html[data-bs-theme={theme}]", state="attached")
                scheme = frame.frame_element().evaluate("frame => getComputedStyle(frame).colorScheme")
                assert scheme == theme


def test_theme_from_anyone_but_the_portal_is_ignored(portal: Portal) -> None:
    with portal.open(embed("panel-power?theme=light")) as page:
        (frame,) = find_frames(page, 1)
        seen = frame.evaluate(
            """() => new Promise(resolve => {
              addEventListener('message', () => resolve(document.documentElement.dataset.bsTheme));
              postMessage({type: 'dashtop:theme', theme: 'dark'}, '*');
            })"""
        )
        assert seen == "light"


@pytest.mark.parametrize("is_dark", [False, True], ids=["on light", "on dark"])
def test_background_of_the_portal_shows_through(portal: Portal, *, is_dark: bool) -> None:
    system = "dark" if is_dark else "light"
    panels = [
        embed(f"panel-power?theme={theme}").replace("border: 0", f"border: 0; color-scheme: {scheme}")
        for theme, scheme in (("light", "light"), ("dark", "dark"), ("system", "light dark"))
    ]
    # Without the property a frame does not know whether a portal that declares no scheme is dark.
    panels += [embed("panel-power?theme=light"), embed("panel-power?theme=dark")]
    with portal.open("", is_dark=is_dark, viewport={"width": 620, "height": 1600}) as page:
        assert page.evaluate("scheme => matchMedia(`(prefers-color-scheme: ${scheme})`).matches", system)
        for scheme in ("normal", "light", "dark", "light dark"):
            style = f":root {{ color-scheme: {scheme}; background: rgb(12, 120, 200) }} body {{ margin: 0 }}"
            portal.show(page, f"<style>{style}</style>{''.join(panels)}")
            frames = find_frames(page, 5)
            assert frames[2].evaluate("document.documentElement.dataset.bsTheme") == system
            grounds = [read_pixel(page, 590, 320 * number + 310) for number in range(5)]
            assert grounds[:3] == [PORTAL_GROUND] * 3
            used = {"normal": "light", "light dark": system}.get(scheme, scheme)
            assert grounds[3] == (PORTAL_GROUND if used == "light" else [255, 255, 255])
            if is_dark and scheme == "normal":
                assert max(grounds[4]) < 32, "dark, as the panel's theme"
            else:
                assert grounds[4] == PORTAL_GROUND


def test_wrong_token_shows_a_form_in_the_frame(portal: Portal) -> None:
    with portal.open(embed("panel-power", token="a-wrong-secret-for-panels")) as page:
        frame = page.frame_locator("iframe")
        frame.get_by_label("Access token").fill(EMBED_TOKEN)
        frame.get_by_role("button", name="Open").click()
        frame.get_by_label("Access token").wait_for()
