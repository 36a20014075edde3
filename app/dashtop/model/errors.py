"""Every exception dashtop raises on purpose.

DashtopError                  base of all; its message is a sentence that says what to do
├── SettingsError             a setting is unknown or impossible (command line: exit 2)
├── ServerStartError          the server cannot listen where it was told to (exit 1)
├── Unavailable               one reading is missing; carries the UnavailableReason
├── CollectionEndedError      no sample will follow: dashtop is ending
├── ExportError               an export cannot be made; says what to do
└── QueryError                a history question that cannot be answered as asked
"""

from __future__ import annotations


class DashtopError(Exception):
    """Base of every exception dashtop raises on purpose."""


class SettingsError(DashtopError):
    """A setting is unknown or impossible; the message is one line for a person."""


class ServerStartError(DashtopError):
    """The server cannot listen on the address it was given; the message names a way out."""


class CollectionEndedError(DashtopError):
    """Collection has been ended; who waits for the next sample waits in vain."""


class QueryError(DashtopError):
    """A question to the history that cannot be answered as asked; the message says what is allowed."""


class ExportError(DashtopError):
    """An export that cannot be made as asked; the message names a way out."""
