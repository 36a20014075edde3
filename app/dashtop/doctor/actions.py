"""Check of process actions: whether they are allowed, can be recorded, and reach a process safely."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from dashtop.actions.audit import SENT_FILE
from dashtop.app import data_folder
from dashtop.doctor.report import Finding, State
from dashtop.model.action import ActionScope
from dashtop.sources.host.process_handle import find_pidfd_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.settings import Settings

AREA: Final = "Process actions"


def check_actions(settings: Settings) -> Iterator[Finding]:
    """Yield a finding if process actions are configured. Writes nothing."""
    scope = settings.allow_actions
    if scope is ActionScope.OFF:
        return
    if scope is ActionScope.ALL and os.geteuid() != 0:
        yield _fail("--allow-actions all needs root", "start dashtop as root, or with --allow-actions own")
        return
    error = find_pidfd_error()
    if error is not None:
        yield _fail(error.rstrip("."), "run dashtop on Linux 5.3 or later, where pidfd_open is permitted")
        return
    folder = data_folder(settings)
    if folder is None:
        yield _fail("there is no data folder for the audit log", "set one with --data-dir")
        return
    path = folder / SENT_FILE
    if path.exists() and not os.access(path, os.W_OK):
        yield _fail(f"the audit log {path} cannot be written", "give it to dashtop's user, with mode 0600")
        return
    whose = "every user" if scope is ActionScope.ALL else "dashtop's user"
    yield Finding(area=AREA, text=f"allowed for processes of {whose}; audit log {path}")


def _fail(text: str, fix: str) -> Finding:
    return Finding(area=AREA, state=State.FAIL, text=text, fix=fix)
