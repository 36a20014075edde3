"""The table of alert rules: what fires, after how long, when it clears, and what it says.

Full load is success: no rule is about high utilization or power. A rule judges what it can read; None means that it
cannot, and then it neither fires nor clears. Times and limits follow public practice where there is one (NVIDIA's RMA
criteria, alert rules of nvidia_gpu_exporter, job_defense_shield); the others are our judgement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashtop.alerts.detectors import DETECTORS
from dashtop.alerts.event_rules import EVENT_RULES
from dashtop.alerts.gpu_rules import GPU_RULES
from dashtop.alerts.host_rules import HOST_RULES

if TYPE_CHECKING:
    from dashtop.alerts.rule import Rule

RULES: Final[tuple[Rule, ...]] = (*GPU_RULES, *DETECTORS, *HOST_RULES)

TITLES: Final = {rule.id: rule.title for rule in RULES} | {rule.id: rule.title for rule in EVENT_RULES}
"""The title of each rule by its id."""

__all__ = ["EVENT_RULES", "RULES", "TITLES"]
