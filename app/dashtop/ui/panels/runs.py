"""The page of runs: the newest runs, and the reports of one or two of them, which the browser reads from the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import html

from dashtop.model.metric import GIB
from dashtop.ui import ids
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.gpu_series import label_gpu, read_stored_gpus
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, calculate_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.run import Run
    from dashtop.ui.panels.base import PanelContext

MAX_ROWS: Final = 100
_EXAMPLE: Final = 'import dashtop\n\nwith dashtop.run("resnet-a", tags={"lr": "3e-4"}) as run:\n    ...  # train'
_COMMAND: Final = "dashtop run resnet-a -- python train.py"
_COLUMNS: Final = (
    ("Run", "", False),
    ("User", "", False),
    ("State", "", False),
    ("Began", "", False),
    ("Duration", "", True),
    ("GPUs", "Those that its processes have held.", False),
    ("Peak VRAM", "Most memory of its processes on one GPU. Until now while it runs.", True),
    ("Energy", "Of all its GPUs, while its processes held them. Until now while it runs.", True),
    ("Compare", "", False),
)


def runs_parts(context: PanelContext) -> list[Part]:
    """Return the part "runs": the newest runs, as arrays."""
    runs = context.services.runs.recent()[:MAX_ROWS]
    gpus = read_stored_gpus(context) if any(run.gpus for run in runs) else {}
    rows = [_encode(run, gpus) for run in runs]
    return [Part("runs", calculate_version(repr(rows)), lambda: rows)]


def _encode(run: Run, gpus: Mapping[str, tuple[int | None, str | None]]) -> dict[str, Any]:
    return {
        "id": run.id,
        "name": run.name,
        "tags": dict(run.tags),
        "user": run.user,
        "state": run.status.value,
        "begin": run.begin_ms,
        "end": run.end_ms,
        "gpus": [label_gpu(uuid, gpus) for uuid in run.gpus] if run.is_local else None,
        "no_gpus": run.no_gpus_reason,
        "peak_gib": None if run.peak_bytes is None else round(run.peak_bytes / GIB, 2),
        "energy": run.energy_wh,
        "kind": run.energy_kind,
        "final": run.has_report,
        "simulated": run.is_simulated,
    }


def list_layout(_services: Services) -> Component:
    """Return the card with the list; the browser fills it (assets/runs.js)."""
    head = [
        html.Th(
            html.Span(title, className="visually-hidden") if title == "Compare" else title,
            scope="col",
            className="numeric" if is_numeric else "",
            **(attributes(data_tip=explanation) if explanation else {}),
        )
        for title, explanation, is_numeric in _COLUMNS
    ]
    table = html.Table(
        [
            html.Caption("Newest runs", className="visually-hidden"),
            html.Thead(html.Tr(head)),
            html.Tbody(**attributes(data_runs="")),
        ],
        className="usage-table runs-table",
    )
    empty = html.Div(
        [
            html.P("No runs yet. Give a training a name, and its report is here:", role="status"),
            html.Pre(html.Code(_EXAMPLE), tabIndex=0),
            html.P("or, without a change of its code:"),
            html.Pre(html.Code(_COMMAND), tabIndex=0),
        ],
        className="runs-empty",
        hidden=True,
        **attributes(data_runs_empty=""),
    )
    return card("Runs", [scroll_region(table, "Runs"), empty], id=ids.PANEL_RUNS, class_name="full-width")


def report_layout(_services: Services) -> Component:
    """Return the card with the reports of the chosen runs."""
    body = [
        html.P("Choose a run to see its report, and a second one to compare them.", className="table-empty"),
        html.Div(className="run-reports", **attributes(data_run_reports="")),
    ]
    close = html.Button("Close", type="button", className="btn no-print", hidden=True, **attributes(data_run_close=""))
    return card("Report", body, id=ids.PANEL_RUN_REPORT, aside=close, class_name="full-width")


LIST: Final = Panel(section=Section.RUNS, id=ids.PANEL_RUNS, layout=list_layout, parts=runs_parts)
REPORT: Final = Panel(section=Section.RUNS, id=ids.PANEL_RUN_REPORT, layout=report_layout)
