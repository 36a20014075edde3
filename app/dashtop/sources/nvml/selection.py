"""Which GPUs a worker reads: all, or all but those that hang, or only one of these."""

from __future__ import annotations

from typing import NamedTuple


class Selection(NamedTuple):
    """GPUs by NVML's index of the physical GPU. `only`: no other is opened (None: all). `excluded`: never opened."""

    only: int | None = None
    excluded: frozenset[int] = frozenset()

    def has(self, index: int) -> bool:
        """Return whether the GPU is read."""
        return index not in self.excluded and self.only in {None, index}

    def encode(self) -> bytes:
        """Return the request of the parent to read these GPUs."""
        return f"read {'' if self.only is None else self.only} {','.join(map(str, sorted(self.excluded)))}".encode()

    @classmethod
    def decode(cls, request: bytes) -> Selection:
        """Return the selection of a request. Raise ValueError if it is none."""
        verb, only, excluded = request.decode().split(" ")
        if verb != "read":
            raise ValueError(request)
        return cls(int(only) if only else None, frozenset(map(int, excluded.split(","))) if excluded else frozenset())
