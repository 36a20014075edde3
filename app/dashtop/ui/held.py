"""Parts of a frame that seldom change travel once: a browser says which it has, and is sent those that differ."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# These change with every reading: to compare them would cost more than it saves.
_ALWAYS = frozenset({"values", "loads", "cores"})


def withhold(frame: Mapping[str, Any], held: Mapping[str, int]) -> dict[str, Any]:
    """Return `frame` without the parts whose tag is in `held`, and with the tags of the others under "tags".

    A part is an object or a list at the top of the frame; its tag is the CRC-32 of its JSON.
    """
    left, tags = dict(frame), {}
    for name, part in frame.items():
        if name in _ALWAYS or not isinstance(part, (dict, list)):
            continue
        tag = zlib.crc32(json.dumps(part, separators=(",", ":")).encode())
        if held.get(name) == tag:
            del left[name]
        else:
            tags[name] = tag
    return left | {"tags": tags}
