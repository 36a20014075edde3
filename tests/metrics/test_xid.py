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


def test_ecc_events() -> None:
    corrected, uncorrected = (ecc_event(corrected=corrected, time_ms=5, gpu_uuid=None) for corrected in (True, False))

    assert (corrected.severity, uncorrected.severity) == (Severity.WARNING, Severity.CRITICAL)
    assert corrected.advice != uncorrected.advice
