"""Where the workers of one server, such as gunicorn's, find each other: a folder in memory that ends with them."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

MEMBERS = "members"
MOST_BYTES = 128_000_000
"""What a history there may take of memory; no more than half of what is free."""


class Siblings:
    """One worker's membership. Every member holds a shared lock, so the last one to leave knows it, and cleans up."""

    def __init__(self, folder: Path, members: IO[str]) -> None:
        """Use `join`."""
        self.folder = folder
        self._members = members

    @property
    def most_bytes(self) -> int:
        """How much a history may keep in the folder."""
        return min(MOST_BYTES, shutil.disk_usage(self.folder).free // 2)

    def agreed(self, name: str, make: Callable[[], str]) -> str:
        """Return what the first member that asked for `name` has made; it is the same for all."""
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            found = file.read()
            if not found:
                found = make()
                file.write(found)
                file.flush()
            return found

    def close(self) -> None:
        """Leave. Once is enough."""
        if not self._members.closed:
            with self._members:
                _remove_if_empty(self.folder, self._members)


def join(name: str, *, roots: tuple[Path, ...] | None = None) -> Siblings | None:
    """Become a member of the folder called `name`, among this user's; None, said aloud, where there can be none.

    `roots`: where such folders may be, best first; anybody may have put anything there.
    """
    for root in _roots() if roots is None else roots:
        own = root / f"dashtop-{os.geteuid()}"
        try:
            with suppress(FileExistsError):
                own.mkdir(mode=0o700)
            found = own.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                log.warning("%s is not a folder of this user alone: it is not used.", own)
                continue
            _sweep(own)
            return _joined(own / name)
        except OSError as error:
            log.debug("%s cannot be used: %s", own, error)
    log.warning("Workers of one server do not find each other: each collects for itself. Run one worker.")
    return None


def _roots() -> tuple[Path, ...]:
    given = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    in_memory = (given, Path("/dev/shm"), Path(tempfile.gettempdir()))  # noqa: S108 - see the checks in `join`
    return tuple(root for root in in_memory if root.is_absolute() and root.is_dir())


def _joined(folder: Path) -> Siblings:
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            members = _opened(folder, os.O_CREAT)
        except FileNotFoundError:  # whoever was there last has just cleaned up
            continue
        fcntl.flock(members, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(members.fileno()), (folder / MEMBERS).stat()):
                return Siblings(folder, members)
        members.close()


def _opened(folder: Path, flag: int = 0) -> IO[str]:
    return os.fdopen(os.open(folder / MEMBERS, os.O_RDWR | os.O_NOFOLLOW | flag, 0o600))


def _sweep(own: Path) -> None:
    """Remove what members that were killed have left."""
    for folder in own.iterdir():
        with suppress(OSError), _opened(folder) as members:
            _remove_if_empty(folder, members)


def _remove_if_empty(folder: Path, members: IO[str]) -> None:
    with suppress(BlockingIOError):
        fcntl.flock(members, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
