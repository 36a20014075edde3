"""The pages, in the order of the navigation, and how the panels of their sections are arranged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dash import html

from dashtop.ui import ids
from dashtop.ui.components import attributes
from dashtop.ui.panels import PANELS, Section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dash.development.base_component import Component

    from dashtop.model.ports import Services


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page: its name in the address (`?page=`), its title, and its sections. assets/controls.css has its icon.

    `is_in_navigation`: False if another element links it (the bell in the header). `needs_fleet`: there is no such page
    where no fleet is configured.
    """

    name: str
    title: str
    sections: tuple[Section, ...]
    is_in_navigation: bool = True
    needs_fleet: bool = False


_GPU_SECTIONS: Final = (
    *(Section.GPU_HEAD, Section.ALL_GPUS, Section.CURRENT, Section.GPU_PROCESSES, Section.HISTORY),
    Section.DETAILS,
)

PAGES: Final = (
    Page(name="overview", title="Overview", sections=(Section.OVERVIEW,)),
    Page(name="gpus", title="GPUs", sections=_GPU_SECTIONS),
    Page(name="processes", title="Processes", sections=(Section.PROCESSES,)),
    Page(name="events", title="Events", sections=(Section.EVENTS,)),
    Page(name="alerts", title="Alerts", sections=(Section.ALERTS,), is_in_navigation=False),
    Page(name="runs", title="Runs", sections=(Section.RUNS,)),
    Page(name="usage", title="Usage", sections=(Section.USAGE,)),
    Page(name="host", title="Host", sections=(Section.HOST,)),
    Page(name="fleet", title="Fleet", sections=(Section.FLEET,), needs_fleet=True),
)

# assets/time-span.js changes "Current" while the page shows the past.
# Sections of one GPU have a heading; the panels of the others are the page.
_HEADINGS: Final = {Section.HISTORY: "Charts", Section.CURRENT: "Current", Section.DETAILS: "Details"}
_GRIDS: Final = {Section.HISTORY: "grid trends", Section.CURRENT: "grid value-row", Section.DETAILS: "grid cards"}


def list_pages(services: Services) -> tuple[Page, ...]:
    """Return the pages that there are."""
    return tuple(page for page in PAGES if services.fleet is not None or not page.needs_fleet)


def find_landing(services: Services) -> str:
    """Return the page that an address without one shows: the first, or with one GPU its page, or without any the fleet.

    "" if the number of GPUs is not known yet; then the browser decides (assets/navigation.js).
    """
    sample = services.latest.latest()
    if sample is None or (sample.gpu_error is not None and sample.gpu_error.is_pending):
        return ""
    if not sample.gpus and services.fleet is not None:
        return "fleet"
    return PAGES[0].name if len(sample.gpus) > 1 else "gpus"


def build_navigation(services: Services) -> Component:
    """Return the links to the pages. Scripts show a page without loading (assets/navigation.js)."""
    links = [
        html.A(
            [html.Span(className=f"icon icon-{page.name}", **attributes(aria_hidden="true")), html.Span(page.title)],
            href=f"?page={page.name}",
            className="nav-item",
            **attributes(data_page_link=page.name),
        )
        for page in list_pages(services)
        if page.is_in_navigation
    ]
    return html.Nav(links, className="navigation", **attributes(aria_label="Pages"))


def build_pages(services: Services) -> tuple[list[Component], dict[Section, list[Component]]]:
    """Return all pages, of which the browser shows one, and the panels by section."""
    panels = {section: [panel.layout(services) for panel in PANELS if panel.section is section] for section in Section}
    return [_build_page(page, panels) for page in list_pages(services)], panels


def _build_page(page: Page, panels: Mapping[Section, Sequence[Component]]) -> Component:
    title = html.H2(page.title, className="visually-hidden")
    sections = [_build_section(section, panels[section]) for section in page.sections]
    return html.Div([title, *sections], className=f"page-view page-{page.name}", **attributes(data_page_view=page.name))


def _build_section(section: Section, panels: Sequence[Component]) -> Component:
    heading = _HEADINGS.get(section)
    grid = html.Div(list(panels), className=_GRIDS.get(section, "section-panels"))
    if heading is None:
        return grid
    header: Component = html.Div(html.H2(heading, **attributes(data_when=heading)), className="section-header")
    if section is Section.DETAILS:
        header = _build_toggle(heading)
    return html.Section(
        [header, grid],
        className=f"only-single section-{section.value}",
        **attributes(aria_label=heading),
    )


def _build_toggle(heading: str) -> Component:
    """Return a heading that folds its section (assets/panels-gpu.js)."""
    button = html.Button(
        heading,
        id=ids.DETAILS_TOGGLE,
        type="button",
        className="fold-button",
        **attributes(aria_expanded="false"),
    )
    return html.Div(html.H2(button), className="section-header")
