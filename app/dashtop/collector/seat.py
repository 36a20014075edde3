"""The place of the one process that collects: a lock in a folder that others may share, and a socket beside it."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

LOCK = "history.lock"
SOCKET = "live.sock"
CONNECT_S = 1.0
BACKLOG = 64


class Seat:
    """The seat in one folder. Whoever has taken it collects and writes, and nobody else does, until its process ends.

    The kernel lets go of the lock when the process dies, however it dies.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing. Raises OSError where there can be none."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._lock = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))

    def take(self) -> bool:
        """Take the seat if it is free. On a file system without locks it always is, which is said aloud."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            log.warning("%s cannot be locked (%s): see to it that only one dashtop uses it.", self.folder, error)
        return True

    def listen(self) -> socket.socket:
        """Return the socket on which whoever has the seat is found. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listener.fileno(), 0o600)  # bind gives the file this mode, so it never has another
            with _address(self.folder) as address:
                with suppress(FileNotFoundError):
                    os.unlink(address)  # noqa: PTH108 - left by one that was killed
                listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener

    def connect(self) -> socket.socket:
        """Return a connection to whoever has the seat. Raises OSError where it does not answer or is not this user."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_S)
            with _address(self.folder) as address:
                connection.connect(address)
            connection.settimeout(None)
            if not of_this_user(connection):
                raise PermissionError("it is another user's")
        except OSError:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Let go of the seat."""
        self._lock.close()


def of_this_user(connection: socket.socket) -> bool:
    """Tell whether the process at the other end is this user's."""
    _pid, user, _group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """Give the socket's address. It may have 107 bytes, which a folder's path soon exceeds: it goes by a descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
