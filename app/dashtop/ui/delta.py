"""Parts of a frame that seldom change travel once: a browser says which it has, and is sent those that differ."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# These change with every reading: to compare them would cost more than it saves.
_ALWAYS = frozenset({"values", "loads", "cores"})


class Held:
    """Leaves out of frames what browsers have. Thread-safe.

    A part is an object or a list at the top of the frame; its tag is the CRC-32 of its JSON. The keys of `values`
    become such a part, "names": what travels each time are the values in their order.
    """

    def __init__(self) -> None:
        self._newest: dict[str, tuple[Any, int]] = {}

    def withhold(self, frame: Mapping[str, Any], held: Mapping[str, int]) -> dict[str, Any]:
        """Return `frame` without the parts whose tag is in `held`, and with the tags of the others under "tags"."""
        values = frame.get("values", {})
        left = {**frame, "names": list(values), "values": list(values.values())}
        tags = {}
        for name, part in list(left.items()):
            if name in _ALWAYS or not isinstance(part, (dict, list)):
                continue
            tag = self._tag(name, part)
            if held.get(name) == tag:
                del left[name]
            else:
                tags[name] = tag
        return left | {"tags": tags}

    def _tag(self, name: str, part: Any) -> int:
        """Return the tag of a part; most are what they were at the last tick, and to see that costs next to nothing."""
        before, tag = self._newest.get(name, (None, 0))
        if before != part:
            tag = zlib.crc32(json.dumps(part).encode())
            self._newest[name] = (part, tag)
        return tag
