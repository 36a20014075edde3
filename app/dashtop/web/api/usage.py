"""Handler of /usage: hours and energy of GPUs by user, container, Slurm job, process or GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response

from dashtop.usage import report
from dashtop.usage.summary import summarize
from dashtop.web.api.context import json_response

if TYPE_CHECKING:
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import UsageParams


def get_usage(context: Context, params: UsageParams) -> Response:
    """Return the sums of the usage ledger."""
    services = context.services
    start_ms, end_ms, _ = params.resolve(services.clock)
    usage = services.history.usage(start_ms, end_ms)
    summary = summarize(
        usage, params.by, now_ms=services.clock.now_ms(), prices=services.prices, gpus=services.history.gpus()
    )
    if params.format == "json":
        return json_response({**report.to_json(summary), "incomplete": services.history.read_status().error})
    name = f"dashtop-usage-{params.by}-{summary.start_ms}-{summary.end_ms}.csv"
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(report.to_csv(summary), content_type=report.CSV_TYPE, headers=headers)
