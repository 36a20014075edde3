"""Requests generated from the OpenAPI document: each response matches its description, and none is a server error."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dashtop.web.api.endpoints import ENDPOINTS
from tests.security.conftest import running_app

CASES_PER_PARAMETER = 8
MAX_CASES = 30
"""Of an endpoint with parameters, once with valid and once with invalid values; others get a single request."""
MIN_TOTAL_CASES = 250
HEADERS = {"Accept-Encoding": "identity"}
# 400: no such GPU, 404: no such alert, 409: too many silences
EXCLUDED_CHECKS = [positive_data_acceptance]
STREAM = "/stream"  # never ends
# A malformed URL can also be too long.
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": [400, 414, 422]}}})


@pytest.mark.timeout(300)
def test_every_response_matches_the_openapi_document() -> None:
    count = 0
    with running_app() as dashtop:
        schema = schemathesis.openapi.from_wsgi(
            "/api/v1/system/openapi.json", dashtop.server, config=CONFIG, headers=HEADERS
        )
        # Schemathesis does not resolve the relative address of the server in the document.
        schema.config.update(base_url="http://localhost/api/v1/system")
        for endpoint in (each for each in ENDPOINTS if each.path != STREAM):
            parameters = len(endpoint.params.model_fields)
            modes = list(GenerationMode) if parameters or endpoint.body else [GenerationMode.POSITIVE]
            for mode in modes:
                cases = schema[endpoint.path][endpoint.method].as_strategy(generation_mode=mode)
                count += send_cases(cases, min(MAX_CASES, max(1, parameters) * CASES_PER_PARAMETER))
    assert count >= MIN_TOTAL_CASES


def send_cases(cases: Any, max_examples: int) -> int:
    """Send requests and return their number. Raise the failures that schemathesis finds."""
    count = 0

    @settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def send(case: Any) -> None:
        nonlocal count
        count += 1
        case.call_and_validate(headers=HEADERS, excluded_checks=EXCLUDED_CHECKS)

    send()
    return count
