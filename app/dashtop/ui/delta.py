"""Send only what a browser does not have: each part of a snapshot has a version, and the browser says which it has.

A request carries {"versions": {part: version}}. The answer carries the parts whose version differs, and the new
versions. assets/store-delta.js is the other side of the protocol.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# These parts change with every sample: they are always sent, because a version costs more than it saves.
UNVERSIONED_PARTS: Final = frozenset({"cores", "error"})


class Part(NamedTuple):
    """A part of the page whose version is known before it is built: `build` is called only if it is to be sent."""

    name: str
    version: str
    build: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that change with every sample. They travel as arrays; the names of their columns travel once."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def calculate_version(text: str) -> str:
    """Return a short version tag for `text`. It is the same in every process and after a restart."""
    return f"{zlib.crc32(text.encode()):08x}"


class DeltaEncoder:
    """Encode snapshots for browsers that have some parts already. Thread-safe."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[Any, str]] = {}

    def encode(
        self, snapshot: Mapping[str, Any], versions: Mapping[str, str], parts: Sequence[Part] = ()
    ) -> dict[str, Any]:
        """Return `snapshot` and `parts` without what the browser has, and the versions of what is sent.

        A dict or list in the snapshot is a part of its own; its version is the checksum of its content. Tables send
        their rows each time, and all names of columns together as the part "columns".
        """
        live: dict[str, Any] = {}
        columns: dict[str, Sequence[str]] = {}
        candidates = list(parts)
        for name, content in snapshot.items():
            if isinstance(content, Table):
                live[name], columns[name] = content.rows, content.columns
            elif name in UNVERSIONED_PARTS or not isinstance(content, (dict, list)):
                live[name] = content
            else:
                candidates.append(self._part(name, content))
        candidates.append(self._part("columns", columns))
        changed = [part for part in candidates if versions.get(part.name) != part.version]
        live |= {part.name: part.build() for part in changed}
        return live | {"versions": {part.name: part.version for part in changed}}

    def _part(self, name: str, content: Any) -> Part:
        """Return a part whose version is the checksum of its content.

        Most contents equal those of the last sample, and comparing them costs less than encoding them.
        """
        newest, version = self._newest.get(name, (None, ""))
        if newest != content:
            version = calculate_version(json.dumps(content))
            self._newest[name] = (content, version)
        return Part(name, version, lambda: content)
