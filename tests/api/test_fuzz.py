"""Thousands of requests made from the OpenAPI document: each answer is as described, and nothing fails."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dashtop.web.api.endpoints import ENDPOINTS
from tests.security.conftest import running_app

ENOUGH = 2000
CASES = 150
"""For a call with parameters, well-formed and again malformed; one without is asked once."""
PLAIN = {"Accept-Encoding": "identity"}
ENDLESS = "/stream"
# What is malformed may also be too long.
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": [400, 414, 422]}}})


@pytest.mark.timeout(300)
def test_every_answer_is_as_described() -> None:
    made = 0
    with running_app() as dashtop:
        schema = schemathesis.openapi.from_wsgi(
            "/api/v1/system/openapi.json", dashtop.server, config=CONFIG, headers=PLAIN
        )
        for call in (each for each in ENDPOINTS if each.path != ENDLESS):
            modes = list(GenerationMode) if call.params.model_fields else [GenerationMode.POSITIVE]
            for mode in modes:
                made += _asked(schema[call.path]["GET"].as_strategy(generation_mode=mode))
    assert made >= ENOUGH


def _asked(cases: Any) -> int:
    """Return how many cases were asked; raises what schemathesis finds."""
    made = 0

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Any) -> None:
        nonlocal made
        made += 1
        case.call_and_validate(headers=PLAIN, excluded_checks=[positive_data_acceptance])  # a GPU may not exist: 400

    ask()
    return made
