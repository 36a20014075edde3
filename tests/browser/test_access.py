"""What everybody needs to be able to read and reach: contrast, names of controls, still pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import POINTS, Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Running

LOW_CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
NAMED = "button, a, input, select, summary, canvas, [role=meter], [role=img]"
NAMELESS = f"""() => [...document.querySelectorAll('{NAMED}')]
  .filter(each => each.checkVisibility() && !each.ariaLabel && !each.textContent.trim() && !each.labels?.length)
  .filter(each => !each.title && each.ariaHidden !== 'true').map(each => each.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_and_controls_have_names_in_every_view(
    theme: str, demo: Running, watch: Callable[..., Watched]
) -> None:
    seen = watch(color_scheme=theme).open(f"{demo.url}?gpu=2")

    def is_readable() -> None:
        assert seen.page.evaluate(LOW_CONTRAST) == []
        assert seen.page.evaluate(NAMELESS) == []

    is_readable()
    # In one go: the next answer would make it live again.
    for state in ("stale", "disconnected"):
        show = f"document.documentElement.dataset.live = '{state}'; document.documentElement.dataset.gpuOld = 'true'"
        assert seen.page.evaluate(f"() => {{ {show}; return ({LOW_CONTRAST})(); }}") == []
    seen.page.evaluate("() => { document.querySelector('#panel-power .card-name').style.opacity = 0.4; }")
    assert [each.partition(".")[0] for each in seen.page.evaluate(LOW_CONTRAST)] == ["H3"], "it would be seen"
    seen.page.evaluate("() => { document.querySelector('#panel-power .card-name').style.opacity = 1; }")
    seen.page.click("#export-button")
    is_readable()
    seen.page.keyboard.press("Escape")
    seen.page.evaluate("() => window.dashtop.state.set({view: 'compare'})")
    seen.true("() => document.querySelector('#gpu-card-7 .spark')?.getAttribute('aria-label')")
    is_readable()
    seen.page.click("#settings-button")
    seen.page.wait_for_selector("#settings-modal .arrange li")
    seen.true("() => getComputedStyle(document.querySelector('.modal')).opacity === '1'")
    is_readable()
    assert seen.errors == []


def test_nothing_moves_for_those_who_want_it_so(demo: Running, watch: Callable[..., Watched]) -> None:
    moving = "() => getComputedStyle(document.querySelector('.ghost')).animationName"
    seen = watch().open(demo.url)
    assert seen.page.evaluate(moving) == "shimmer"
    seen.page.emulate_media(reduced_motion="reduce")
    assert seen.page.evaluate(moving) == "none"
    seen.true(f"chart => ({POINTS})(chart) > 0", "chart-power")


def test_a_mount_that_hangs_is_marked(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch()
    mounts = [["/", "ext4", 20.0, 100.0, 20.0, ""], ["/mnt/<b>gone</b>", "nfs4", None, None, None, ""]]
    # The answer of the real server, in which one mount is silent.
    seen.page.add_init_script(
        f"""addEventListener('DOMContentLoaded', () => window.dashtop.painters.unshift(frame => {{
          frame.mounts = {mounts!r}; }}));""".replace("None", "null")
    )
    seen.open(demo.url)
    hung = seen.page.locator("#panel-storage .silent")
    hung.wait_for()
    assert hung.locator(".label").inner_text() == "/mnt/<b>gone</b>nfs4"
    assert hung.locator(".mount-silent").inner_text() == "not answering"
    assert not hung.locator(".mount-used").is_visible()
    assert hung.locator(".bar").get_attribute("aria-valuenow") is None
    assert seen.page.locator("#panel-storage li:not(.silent) .mount-percent").inner_text() == "20 %"
    assert seen.errors == []
