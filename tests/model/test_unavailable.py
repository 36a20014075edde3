"""The fault table is complete and consistent."""

from __future__ import annotations

import copy
import pickle

import pytest

from dashtop.model.metric import Severity
from dashtop.model.unavailable import Scope, UnavailableReason

every_reason = pytest.mark.parametrize("reason", list(UnavailableReason))


@every_reason
def test_failures_are_failures_everywhere(reason: UnavailableReason) -> None:
    assert reason.is_failure == (reason.http_status == 500)
    if reason.is_failure:
        assert reason.severity is Severity.CRITICAL
    if reason.is_lost:
        assert reason.is_failure
        assert reason.scope is Scope.GPU


@every_reason
def test_text_is_value_and_fits_into_a_sentence(reason: UnavailableReason) -> None:
    assert reason.value == reason.text
    assert reason.text
    assert not reason.text.endswith(".")


@every_reason
def test_failures_of_the_driver_or_a_gpu_have_advice(reason: UnavailableReason) -> None:
    if reason.is_failure and reason.scope is not Scope.METRIC:
        assert reason.advice.endswith(".")


@every_reason
def test_members_survive_copies_and_processes(reason: UnavailableReason) -> None:
    assert pickle.loads(pickle.dumps(reason)) is reason
    assert copy.deepcopy(reason) is reason


def test_texts_are_distinct() -> None:
    assert len({reason.text for reason in UnavailableReason}) == len(UnavailableReason)
