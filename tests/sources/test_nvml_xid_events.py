"""EventBuffer keeps the first event of each kind and GPU, and counts the others."""

from __future__ import annotations

from dashtop.metrics.xid import xid_event
from dashtop.sources.nvml.event_buffer import MAX_KINDS, REPEAT_INTERVAL_S, EventBuffer


def test_repeated_events_are_counted() -> None:
    buffer = EventBuffer()
    lost, fault = (xid_event(code, time_ms=1, gpu_uuid="GPU-0") for code in (79, 31))
    other = xid_event(31, time_ms=1, gpu_uuid="GPU-1")
    buffer.add(lost, 0.0)
    for turn in range(5000):
        buffer.add(xid_event(31, time_ms=1 + turn, gpu_uuid="GPU-0"), 0.001 * turn)
    buffer.add(other, 5.0)
    assert buffer.drain(5.0) == (lost, fault, other)
    assert buffer.drain(REPEAT_INTERVAL_S - 1) == ()
    (summary,) = buffer.drain(REPEAT_INTERVAL_S)
    assert summary.text == f"{fault.text} 4999 more in 60 s."
    assert (summary.code, summary.gpu_uuid, summary.time_ms) == (31, "GPU-0", 5000)
    assert buffer.drain(2 * REPEAT_INTERVAL_S) == ()
    buffer.add(fault, 2 * REPEAT_INTERVAL_S)
    assert buffer.drain(2 * REPEAT_INTERVAL_S) == (fault,)


def test_number_of_kinds_is_bounded() -> None:
    buffer = EventBuffer()
    for code in range(2 * MAX_KINDS):
        buffer.add(xid_event(1000 + code, time_ms=1, gpu_uuid="GPU-0"), 0.0)
    assert len(buffer.drain(0.0)) == MAX_KINDS + 1
