"""dashtop: GPU and system monitor with history in the browser. What an embedding program imports is here."""

from __future__ import annotations

__version__ = "0.1.0"
