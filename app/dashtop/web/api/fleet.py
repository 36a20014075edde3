"""Handlers of the fleet's endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.exceptions import NotFound, ServiceUnavailable

from dashtop.fleet import serialize, views
from dashtop.web.api.context import json_response

if TYPE_CHECKING:
    from flask import Response

    from dashtop.model.fleet import FleetReading
    from dashtop.model.ports import Fleet
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import FleetParams, FreeParams

ANSWER_TIMEOUT_S = 3.0


def get_fleet(context: Context, params: FleetParams) -> Response:
    """Return the GPUs and nodes of the fleet."""
    fleet = _find_fleet(context)
    reading = _read(fleet)
    wanted = views.FleetFilter(name=params.name or "", node=params.node or "", user=params.user or "")
    now_s = context.services.clock.monotonic()
    return json_response(serialize.describe_fleet(reading, fleet.engine, now_s, wanted))


def get_free(context: Context, params: FreeParams) -> Response:
    """Return the nodes with free GPUs."""
    fleet = _find_fleet(context)
    reading = _read(fleet)
    found = views.find_free(
        reading.gpus,
        count=params.count,
        memory_gb=params.memory_gb,
        wanted=views.FleetFilter(name=params.name or "", node=params.node or ""),
    )
    now_s = context.services.clock.monotonic()
    return json_response(serialize.describe_free(reading, fleet.engine, now_s, found, params.count))


def _find_fleet(context: Context) -> Fleet:
    fleet = context.services.fleet
    if fleet is None:
        raise NotFound("This dashtop shows no fleet. Start it with --fleet-url or --fleet-peers.")
    return fleet


def _read(fleet: Fleet) -> FleetReading:
    """Return the last reading. Raise ServiceUnavailable if there is none yet."""
    reading = fleet.latest(ANSWER_TIMEOUT_S)
    if reading.as_of_ms is None:
        sentence = reading.error.sentence if reading.error is not None else "Waiting for the first answer."
        raise ServiceUnavailable(sentence, retry_after=5)
    return reading
