from __future__ import annotations

import pytest

from dashtop.metrics.xid import UNKNOWN, XIDS, ecc_event, xid_event
from dashtop.model.metric import Severity


@pytest.mark.parametrize("number", [*XIDS, 999])
def test_every_xid_has_a_meaning_and_an_action(number: int) -> None:
    event = xid_event(number, time_ms=5, gpu_uuid="GPU-1")

    assert (event.kind, event.code, event.time_ms, event.gpu_uuid) == ("xid", number, 5, "GPU-1")
    assert event.text[0].isupper()
    assert event.text.endswith(f" (XID {number}).")
    assert event.advice.endswith(".")
    assert event.severity is XIDS.get(number, UNKNOWN).severity


def test_ecc_events_have_the_meaning_of_an_xid() -> None:
    event = ecc_event(48, time_ms=5, gpu_uuid=None)

    assert (event.kind, event.severity, event.code) == ("ecc", Severity.CRITICAL, None)
    assert event.text == "Uncorrectable ECC error (double bit)."
    assert event.advice == XIDS[48].advice
