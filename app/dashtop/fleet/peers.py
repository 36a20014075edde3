"""A fleet of other dashtops, read through their REST API: live values only. Each has its own deadline and state."""

from __future__ import annotations

import math
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dashtop.fleet.addresses import parse_address
from dashtop.fleet.client import HttpClient, RequestFailedError, fail, parse_json
from dashtop.fleet.dialects import LIVE_KEYS, MEMORY_TOTAL, MEMORY_USED
from dashtop.fleet.history import build_failed_series
from dashtop.fleet.pool import DaemonPool
from dashtop.fleet.rows import normalize_uuid
from dashtop.fleet.views import classify
from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import UTILIZATION
from dashtop.model.fleet import (
    FleetEngine,
    FleetError,
    FleetFailure,
    FleetGpu,
    FleetHolder,
    FleetNode,
    FleetReading,
    HolderKind,
    NodeState,
)
from dashtop.model.sample import Occupancy
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.fleet.client import Credentials
    from dashtop.model.fleet import FleetQuery, FleetSeries
    from dashtop.model.ports import Clock

DEADLINE_S: Final = 3.0
"""How long one peer may take for one request."""
STRAGGLER_S: Final = 0.1
"""A round ends when no peer has answered for this long after the first; those that are late are in the next round."""
FIRST_STRAGGLER_S: Final = 1.0
"""The same in the first round, whose peers have no earlier values to be shown."""
MAX_ANSWER_BYTES: Final = 8 * 2**20
WORKERS: Final = 8
PROBERS: Final = 2
"""Threads for peers that have failed, so that those that hang do not keep the others waiting."""
BACKOFF_S: Final = (3.0, 6.0, 15.0, 30.0)
HOST_INTERVAL_S: Final = 15.0
"""How often the values of the machines are read, which takes as many requests as the GPUs."""
KEEP_S: Final = 15.0
"""How long the last values of a peer that has failed are shown, with their age."""
DEFAULT_INTERVAL_S: Final = 3.0
MANY_PEERS: Final = 10
MANY_INTERVAL_S: Final = 5.0
GPUS_PATH: Final = "api/v1/system/gpu-metrics/all"
HOST_PATH: Final = "api/v1/system/metrics"
HOST_KEYS: Final = ("system.cpu.usage_percent", "system.cpu.load_1m", "system.memory.used_percent")
GPU_KEYS: Final = (*LIVE_KEYS, MEMORY_TOTAL)


@dataclass(slots=True)
class _Peer:
    """One peer: its last values, and why there are no newer ones."""

    name: str
    url: str
    gpus: tuple[FleetGpu, ...] = ()
    host: Mapping[str, float] | None = None
    note: str = ""
    received_s: float = -math.inf
    host_s: float = -math.inf
    error: FleetError | None = None
    failures: int = 0
    due_s: float = -math.inf
    pending: Future[None] | None = None


def find_interval(peers: int) -> float:
    """Return the seconds between two rounds unless they are set."""
    return DEFAULT_INTERVAL_S if peers <= MANY_PEERS else MANY_INTERVAL_S


class PeersSource:
    """A FleetSource. `current` is called by one thread."""

    def __init__(self, peers: Sequence[str], *, credentials: Credentials, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._client = HttpClient(credentials, max_connections=2, max_bytes=MAX_ANSWER_BYTES)
        self._workers = DaemonPool(WORKERS, "dashtop-fleet-peer")
        self._probers = DaemonPool(PROBERS, "dashtop-fleet-probe")
        self._lock = threading.Lock()
        self._peers = [_Peer(_name_peer(peer), parse_address(peer)) for peer in peers]
        has_plain = any(peer.url.startswith("http:") for peer in self._peers)
        count = len(self._peers)
        self.engine = FleetEngine(
            title=f"{count} dashtop{'s' if count != 1 else ''}",
            has_history=False,
            interval_s=interval_s,
            is_unencrypted=credentials.token is not None and has_plain,
        )

    def close(self) -> None:
        """Stop threads and close connections."""
        for pool in (self._workers, self._probers):
            pool.close()
        self._client.close()

    def history(self, query: FleetQuery) -> FleetSeries:  # noqa: ARG002 - of the protocol
        """Return no series: nothing is stored, and the peers' histories are not read."""
        sentence = "Peers have no common history. Open the page of a machine, or use an engine with --fleet-url."
        return build_failed_series(FleetError(FleetFailure.NO_HISTORY, sentence))

    def current(self, timeout_s: float) -> FleetReading:
        """Return the newest values of each peer. Peers that are late or hang are not waited for."""
        now_s = self._clock.monotonic()
        is_first = all(peer.host is None for peer in self._peers)
        rounds = [future for future in map(self._start, self._peers) if future is not None]
        self._wait(rounds, min(timeout_s, DEADLINE_S), FIRST_STRAGGLER_S if is_first else STRAGGLER_S)
        return self._build(now_s)

    def _start(self, peer: _Peer) -> Future[None] | None:
        """Ask a peer unless it is still being asked, or is to be left alone. Return what a round waits for."""
        with self._lock:
            is_due = peer.pending is None and self._clock.monotonic() >= peer.due_s
        if not is_due:
            return None
        pool = self._workers if peer.failures == 0 else self._probers
        try:
            peer.pending = pool.submit(partial(self._ask, peer))
        except RuntimeError:  # no further thread is allowed, or the pool is closed
            return None
        return peer.pending if peer.failures == 0 else None

    @staticmethod
    def _wait(futures: Sequence[Future[None]], timeout_s: float, straggler_s: float) -> None:
        pending, patience_s = set(futures), timeout_s
        while pending:
            done, pending = wait(pending, patience_s, FIRST_COMPLETED)
            if not done:
                return
            patience_s = straggler_s

    def _ask(self, peer: _Peer) -> None:
        try:
            gpus, note = self._read_gpus(peer)
            now_s, host, host_s = self._clock.monotonic(), peer.host, peer.host_s
            if host is None or now_s - host_s >= HOST_INTERVAL_S:
                host, host_s = self._read_host(peer), now_s
        except RequestFailedError as error:
            with self._lock:
                peer.error, peer.pending = error.error, None
                peer.due_s = self._clock.monotonic() + BACKOFF_S[min(peer.failures, len(BACKOFF_S) - 1)]
                peer.failures += 1
            return
        with self._lock:
            peer.gpus, peer.host, peer.note, peer.error, peer.failures = gpus, host, note, None, 0
            peer.received_s, peer.host_s, peer.pending = self._clock.monotonic(), host_s, None

    def _read_gpus(self, peer: _Peer) -> tuple[tuple[FleetGpu, ...], str]:
        """Return the GPUs, and why there are none."""
        status, body = self._get(peer, GPUS_PATH)
        if status == HTTPStatus.OK and isinstance(body, list):
            return tuple(_build_gpu(peer.name, row) for row in body if isinstance(row, dict)), ""
        detail = str(body.get("detail", "")) if isinstance(body, dict) else ""
        if status in {HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE} and detail:
            return (), sanitize_text(detail, 200)
        raise _find_failure(peer, status)

    def _read_host(self, peer: _Peer) -> Mapping[str, float]:
        status, body = self._get(peer, HOST_PATH)
        if status != HTTPStatus.OK or not isinstance(body, dict):
            raise _find_failure(peer, status)
        return _pick(body, HOST_KEYS)

    def _get(self, peer: _Peer, path: str) -> tuple[int, object]:
        status, _, data = self._client.request("GET", peer.url + path, timeout_s=DEADLINE_S)
        return status, parse_json(data)

    def _build(self, now_s: float) -> FleetReading:
        gpus: list[FleetGpu] = []
        nodes = []
        with self._lock:
            received_s = self._clock.monotonic()
            for peer in self._peers:
                age_s = max(0.0, received_s - peer.received_s) if peer.host is not None else None
                nodes.append(_build_node(peer, age_s))
                if age_s is not None and (peer.error is None or age_s <= KEEP_S):
                    gpus += [replace(gpu, age_s=age_s) for gpu in peer.gpus] if peer.received_s < now_s else peer.gpus
        return FleetReading(
            as_of_ms=self._clock.now_ms(),
            received_s=received_s,
            gpus=tuple(gpus),
            nodes=tuple(nodes),
            exporters=("dashtop",),
        )


def _name_peer(address: str) -> str:
    """Return the configured address without scheme and closing slash."""
    return address.partition("://")[2].rstrip("/") or address if "://" in address else address


def _find_failure(peer: _Peer, status: int) -> RequestFailedError:
    """Return what an answer other than values means."""
    host = urlsplit(peer.url).netloc
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        sentence = f"{host} requires a token, or refuses this one (status {status}). Set it with --fleet-token."
        return fail(FleetFailure.TOKEN_REQUIRED, sentence)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return fail(FleetFailure.RATE_LIMITED, f"{host} accepts no more requests at present (its --rate-limit).")
    if status == HTTPStatus.NOT_FOUND:
        return fail(FleetFailure.TOO_OLD, f"{host} is no dashtop, or one that is too old for this.")
    return fail(FleetFailure.BAD_ANSWER, f"{host} is no dashtop: it answered with status {status}.")


def _build_node(peer: _Peer, age_s: float | None) -> FleetNode:
    state, reason = NodeState.UP, peer.note
    if peer.error is not None:
        state, reason = NodeState.DOWN, peer.error.sentence
    elif age_s is None:
        state, reason = NodeState.STALE, "no answer yet"
    elif age_s > KEEP_S:
        state, reason = NodeState.STALE, "no new values"
    return FleetNode(
        name=peer.name,
        instance=peer.url,
        state=state,
        reason=reason,
        exporter="dashtop",
        url=peer.url,
        age_s=age_s,
        values=peer.host or {},
    )


def _pick(body: Mapping[str, Any], keys: Sequence[str]) -> dict[str, float]:
    """Return the values of metrics that are there, by key."""
    found = {}
    for key in keys:
        place: Any = body
        for part in METRICS[key].path.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, (int, float)) and math.isfinite(place):
            found[key] = float(place)
    return found


def _build_gpu(node: str, row: Mapping[str, Any]) -> FleetGpu:
    values = _pick(row, GPU_KEYS)
    given = row.get("unavailable")
    reasons = given if isinstance(given, dict) else {}
    too_old = FleetFailure.TOO_OLD.text
    uuid, device_id = normalize_uuid(sanitize_text(str(row.get("gpu_uuid", ""))))
    index = row.get("gpu_id")
    holders = _read_holders(row, values.get(MEMORY_USED))
    return FleetGpu(
        node=node,
        index=index if isinstance(index, int) else None,
        uuid=uuid,
        device_id=device_id,
        name=sanitize_text(str(row.get("gpu_name", ""))),
        values=values,
        unavailable={key: sanitize_text(str(reasons.get(key, too_old)), 200) for key in GPU_KEYS if key not in values},
        peak_percent=values.get(UTILIZATION),
        occupancy=_find_occupancy(row, values, is_held=bool(holders)),
        holders=holders,
    )


def _read_holders(row: Mapping[str, Any], used_gb: float | None) -> tuple[FleetHolder, ...]:
    """Return who holds a GPU. A peer that does not say how much each holds: a sole holder has all that is in use."""
    names = row.get("holders")
    names = [sanitize_text(str(name)) for name in names] if isinstance(names, list) else []
    sizes = row.get("holder_memory_mb")
    if not isinstance(sizes, list) or len(sizes) != len(names):
        return tuple(FleetHolder(name, HolderKind.USER, used_gb if len(names) == 1 else None) for name in names)
    return tuple(
        FleetHolder(name, HolderKind.USER, size / 1024 if isinstance(size, (int, float)) else None)
        for name, size in zip(names, sizes, strict=True)
    )


def _find_occupancy(row: Mapping[str, Any], values: Mapping[str, float], *, is_held: bool) -> Occupancy:
    """Return what the peer says; an old one does not, and its values decide."""
    try:
        return Occupancy(row.get("occupancy"))
    except ValueError:
        return classify(values, peak_percent=values.get(UTILIZATION), is_held=is_held, is_idle=False)
