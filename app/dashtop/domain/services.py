"""What pages, API and exporter are given: everything they may ask, in one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashtop.domain.ports import Clock, History, Latest


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The collector, the history and the clock of one running dashtop."""

    latest: Latest
    history: History
    clock: Clock
