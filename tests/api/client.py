"""A Flask test client of the API's routes over one fixed sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask

from dashtop.model.ports import Services, SystemClock
from dashtop.model.run import NoRuns
from dashtop.web.api import blueprint
from tests.builders import FixedSample, make_alerts, make_history

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from dashtop.model.ports import Alerts, Clock, Fleet, History, Runs


def make_client(
    latest: FixedSample,
    *,
    history: History | None = None,
    alerts: Alerts | None = None,
    clock: Clock | None = None,
    runs: Runs | None = None,
    fleet: Fleet | None = None,
) -> FlaskClient:
    """Return a client of a server with the API, a catch-all page, and a route that raises."""
    server = Flask("test")
    services = Services(
        latest=latest,
        history=history or make_history(),
        alerts=alerts or make_alerts(),
        clock=clock or SystemClock(),
        runs=runs or NoRuns(),
        fleet=fleet,
    )
    blueprint.register(server, services)

    @server.get("/<path:rest>")
    def page(rest: str) -> str:
        return f"<html>{rest}</html>"

    @server.get("/api/v1/system/broken")
    def broken() -> str:
        raise RuntimeError("secret detail")

    return server.test_client()
