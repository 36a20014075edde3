"""The exceptions that dashtop raises on purpose.

DashtopError                  base class; the message says what is wrong and what to do
├── SettingsError             a setting is unknown or invalid (command line: exit 2)
├── NotebookError             dashtop cannot be shown in this notebook
├── ServerStartError          the server cannot listen on its address (exit 1)
├── Unavailable               a value is missing; has the UnavailableReason
├── CollectionEndedError      no sample will follow: dashtop is shutting down
├── OutputError              standard output cannot be written
├── DeliveryError             a notice of an alert was not delivered
├── RunsError                runs cannot be stored or read at present
├── ExportError               an export cannot be written
├── ServerRequestError        a request to a dashtop server failed
├── FleetUnavailableError     a fleet cannot be read, or has not what was requested (exit 1)
└── QueryError                a query of the history is invalid
"""

from __future__ import annotations


class DashtopError(Exception):
    """Base class of the exceptions that dashtop raises on purpose."""


class SettingsError(DashtopError):
    """A setting is unknown or invalid. The message is one line."""


class ServerStartError(DashtopError):
    """The server cannot listen on its address. The message says what to do."""


class NotebookError(DashtopError):
    """dashtop cannot be shown in this notebook. The message says what to do."""


class CollectionEndedError(DashtopError):
    """Collection has stopped: no sample will follow."""


class QueryError(DashtopError):
    """A query of the history is invalid. The message says what is allowed."""


class OutputError(DashtopError):
    """Standard output is closed or full."""


class DeliveryError(DashtopError):
    """A notice was not delivered. The message says why, without addresses or secrets."""


class ExportError(DashtopError):
    """An export cannot be written. The message says what to do."""


class RunsError(DashtopError):
    """Runs cannot be stored or read at present. The message says why."""


class ServerRequestError(DashtopError):
    """A request to a dashtop server failed. The message names the address and says why."""


class FleetUnavailableError(DashtopError):
    """A fleet cannot be read, or has not what was requested. The message says why."""
