"""The processes that hold a GPU: their owners, their loads, and what each has used of the GPU in a period.

The load of a process is the utilization of the GPU if its owner is the only one that holds it, else the SM utilization
that the driver reports of the process.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from dashtop.model.usage import FOREIGN, OTHERS, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dashtop.model.sample import GpuProcess, ProcessInfo

MAX_IDLE_PERCENT: Final = 1.0
"""A load up to here is none: drivers report 1 % of idle GPUs."""
MAX_USERS: Final = 64
"""Users with a total of their own; time series of Prometheus must not grow without limit."""


def name_owner(info: ProcessInfo) -> str:
    """Return the user of a process; UNKNOWN or FOREIGN if it cannot be read."""
    return FOREIGN if info.foreign else info.username or UNKNOWN


def find_label(owner: str, totals: Mapping[str, tuple[float, float]]) -> str:
    """Return the name under which an owner has a total: its own, as long as there are at most MAX_USERS of these."""
    label = UNKNOWN if owner == FOREIGN else owner
    own = len(totals) - (UNKNOWN in totals) - (OTHERS in totals)
    return label if label == UNKNOWN or label in totals or own < MAX_USERS else OTHERS


class Account:
    """What one process has used of a GPU in the present period. Loads in percent × ms."""

    __slots__ = ("busy", "group_held", "group_idle", "held", "idle", "known", "memory", "owner", "process", "share")

    def __init__(self, process: GpuProcess) -> None:
        self.process = process
        self.owner = name_owner(process.info)
        self.held = self.share = self.known = self.busy = self.idle = 0.0
        self.memory: float | None = None
        # Of the owner, the container and the job, in this order.
        self.group_held = [0.0, 0.0, 0.0]
        self.group_idle = [0.0, 0.0, 0.0]


class _Group:
    """The holders of one owner, container or job. `kinds`: which of these. `idle`: time in which none had a load."""

    __slots__ = ("idle", "kinds", "positions")

    def __init__(self, kinds: Sequence[int], positions: Sequence[int]) -> None:
        self.kinds, self.positions, self.idle = kinds, positions, 0.0


class Holders:
    """The processes that hold a GPU, as long as they stay the same. `positions`: theirs among all processes of the GPU.

    `owners`: the name of the total of each owner, and the positions of its processes among the holders.
    """

    __slots__ = ("accounts", "elapsed", "groups", "owners", "positions")

    def __init__(
        self, positions: Sequence[int], accounts: Sequence[Account], totals: dict[str, tuple[float, float]]
    ) -> None:
        self.positions, self.accounts, self.elapsed = positions, accounts, 0.0
        infos = [account.process.info for account in accounts]
        by_owner = _group([account.owner for account in accounts])
        self.owners = []
        for owner, members in by_owner.items():
            label = find_label(owner, totals)
            totals.setdefault(label, (0.0, 0.0))
            self.owners.append((label, members))
        by_kind = (by_owner, _group([info.container for info in infos]), _group([info.slurm_job for info in infos]))
        same: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
        for kind, groups in enumerate(by_kind):
            same[tuple(map(tuple, groups.values()))].append(kind)
        self.groups = [_Group(kinds, positions) for groups, kinds in same.items() for positions in groups]

    def add(self, processes: Sequence[GpuProcess], loads: Sequence[float | None], elapsed_ms: float) -> None:
        """Add a time at these loads, in percent."""
        self.elapsed += elapsed_ms
        for position, account, load in zip(self.positions, self.accounts, loads, strict=True):
            memory = processes[position].gpu_memory_bytes
            if memory is not None:
                account.memory = (account.memory or 0.0) + memory * elapsed_ms
            if load is not None:
                account.known += elapsed_ms
                account.busy += load * elapsed_ms
                if load <= MAX_IDLE_PERCENT:
                    account.idle += elapsed_ms
        for group in self.groups:
            for position in group.positions:
                load = loads[position]
                if load is None or load > MAX_IDLE_PERCENT:
                    break
            else:
                group.idle += elapsed_ms

    def finish(self) -> None:
        """Divide the time among the owners, that of an owner and of a group among its processes."""
        elapsed_ms, accounts = self.elapsed, self.accounts
        for account in accounts:
            account.held += elapsed_ms
        for _, positions in self.owners:
            for position in positions:
                accounts[position].share += elapsed_ms / len(self.owners) / len(positions)
        for group in self.groups:
            count = len(group.positions)
            for position in group.positions:
                for kind in group.kinds:
                    accounts[position].group_held[kind] += elapsed_ms / count
                    accounts[position].group_idle[kind] += group.idle / count


def _group(names: Iterable[str | None]) -> dict[str, list[int]]:
    """Return the positions of each name; that of none is empty."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        groups[name or ""].append(position)
    return groups


def find_loads(sms: Sequence[float | None], load: float | None, *, is_alone: bool) -> Sequence[float | None]:
    """Return the load of each process that holds a GPU, in percent; None where it is not known.

    `sms`: their SM utilizations, `load`: the utilization of the GPU, `is_alone`: they have one owner. The driver
    reports no SM utilization of a process that did not compute: None is 0 if it does report another one, or if the GPU
    has no load.
    """
    if len(sms) == 1:
        return (load if load is not None else sms[0],)
    if is_alone and load is not None:
        total = sum([sm or 0.0 for sm in sms])
        return [load * (sm or 0.0) / total for sm in sms] if total else [load / len(sms)] * len(sms)
    if any([sm is not None for sm in sms]):  # noqa: C419 - twice as fast as a generator
        return [sm or 0.0 for sm in sms]
    return [0.0 if load is not None and load <= MAX_IDLE_PERCENT else None] * len(sms)
