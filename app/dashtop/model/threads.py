"""Starting threads where the system may refuse one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def try_start_thread(target: Callable[..., None], *arguments: Any, name: str) -> threading.Thread | None:
    """Start a daemon thread. Return None if there can be none now: try again later.

    The user or the container has as many as its limit allows (ulimit -u, pids), or there is no memory for its stack.
    """
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # Python has no class of its own for it
        return None
    return thread
