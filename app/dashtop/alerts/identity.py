"""The identity of an alert."""

from __future__ import annotations

import hashlib


def build_id(rule: str, gpu_uuid: str | None, subject: str) -> str:
    """Return the id of the alert of a rule, a GPU and a subject: the same in every process, for ever."""
    return hashlib.blake2b(f"{rule}|{gpu_uuid}|{subject}".encode(), digest_size=8).hexdigest()
