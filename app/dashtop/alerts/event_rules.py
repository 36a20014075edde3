"""The rules about events: errors that the driver reports (XIDs), and processes that the kernel has killed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashtop.alerts.rule import MINUTE, EventRule
from dashtop.metrics.xid import REPORTED_OTHERWISE, UNKNOWN, XIDS
from dashtop.model.metric import Severity

if TYPE_CHECKING:
    from dashtop.model.sample import Event

XID_HARDWARE: Final = EventRule(
    id="xid_hardware", title="Hardware error of a GPU", severity=Severity.CRITICAL, clear_s=None
)
XID_CONTAINED: Final = EventRule(
    id="xid_contained",
    title="Contained or unknown error of a GPU",
    severity=Severity.WARNING,
    clear_s=10 * MINUTE,
)
OOM_KILL: Final = EventRule(
    id="oom_kill", title="Process killed for lack of memory", severity=Severity.WARNING, clear_s=10 * MINUTE
)
EVENT_RULES: Final = (XID_HARDWARE, XID_CONTAINED, OOM_KILL)

RECOVERY_XID: Final = 154
LINK_XIDS: Final = frozenset(range(144, 151))
"""Errors of NVLink that need not be fatal; they are if RECOVERY_XID follows."""


def find_event_rule(event: Event) -> EventRule | None:
    """Return the rule that an event fires.

    Errors of applications fire none: one node logged 11 760 times XID 45.
    """
    if event.kind == "oom_kill":
        return OOM_KILL
    if event.kind != "xid" or event.code is None or event.code in REPORTED_OTHERWISE:
        return None
    meaning = XIDS.get(event.code, UNKNOWN)
    if meaning.severity is Severity.CRITICAL:
        return XID_HARDWARE
    return None if meaning.is_application or meaning.severity is Severity.INFO else XID_CONTAINED
