"""GET /metrics in Prometheus' text format or OpenMetrics, as the scraper prefers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from werkzeug.exceptions import UnprocessableEntity

from dashtop.web.prometheus import dcgm
from dashtop.web.prometheus.families import families

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from prometheus_client.core import Metric as Family

    from dashtop.model.ports import Services

NAMES = ("dashtop", "dcgm")


class _Latest(Collector):
    """Answers each scrape anew; nothing is kept between two."""

    def __init__(self, services: Services, *, with_dcgm: bool) -> None:
        self._services = services
        self._with_dcgm = with_dcgm

    def collect(self) -> Iterator[Family]:
        sample = self._services.latest.latest()
        yield from families(sample, self._services.clock.now_ms())
        if self._with_dcgm:
            yield from dcgm.families(sample)

    def describe(self) -> list[Family]:
        """Tell the registry nothing, so that it need not collect when it is made."""
        return []


def register(server: Flask, services: Services, *, url_prefix: str = "/") -> None:
    """Add /metrics; `?names=dcgm` adds dcgm-exporter's names to its own."""
    routes = Blueprint("prometheus", __name__, url_prefix=url_prefix)
    registries = {}
    for name in NAMES:
        registries[name] = CollectorRegistry(auto_describe=False)
        registries[name].register(_Latest(services, with_dcgm=name == "dcgm"))

    @routes.get("/metrics")
    def _metrics() -> Response:
        names = request.args.get("names", "dashtop")
        if names not in registries:
            raise UnprocessableEntity(f"names must be one of {', '.join(NAMES)}, not {names[:80]!r}.")
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registries[names]), content_type=content_type, headers={"Cache-Control": "no-store"})

    server.register_blueprint(routes)
