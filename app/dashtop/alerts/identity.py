"""The identity of an alert, and of one episode of it."""

from __future__ import annotations

import hashlib
from typing import Final

EPISODE_TOLERANCE_MS: Final = 60_000
"""How much later than another process one may have seen an alert begin."""


def is_of_episode(time_ms: int, since_ms: int | None) -> bool:
    """Return whether what happened at a time belongs to the episode of an alert that began at `since_ms`."""
    return since_ms is not None and time_ms >= since_ms - EPISODE_TOLERANCE_MS


def build_id(rule: str, gpu_uuid: str | None, subject: str) -> str:
    """Return the id of the alert of a rule, a GPU and a subject: the same in every process, for ever."""
    return hashlib.blake2b(f"{rule}|{gpu_uuid}|{subject}".encode(), digest_size=8).hexdigest()
