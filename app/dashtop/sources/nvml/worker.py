"""The worker process: one NVML session, which answers one request at a time over a socket.

The driver can hang or crash its caller; then only this process is lost. It exits when its parent is gone, and ignores
Ctrl-C, which the parent handles.
"""

from __future__ import annotations

import pickle
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashtop.metrics import GPU_METRICS
from dashtop.model.sample import Gpu, GpuProcess, GpuReading
from dashtop.sources.nvml.call_marker import open_memory
from dashtop.sources.nvml.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashtop.model.sample import Device
    from dashtop.model.unavailable import UnavailableReason

_KEYS = tuple(metric.key for metric in GPU_METRICS)


def main(descriptor: int, memory: int, proc: str, sys_root: str) -> None:
    """Answer requests on the socket `descriptor` until the parent closes its end.

    `memory` is the descriptor of the memory in which the parent sees the running calls (`call_marker`).
    Exit after an error that only a new process can recover from: the loaded library does not fit the driver.
    """
    from dashtop.sources.nvml.session import NvmlSession  # noqa: PLC0415 - the parent must not import pynvml

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    session = NvmlSession(proc=Path(proc), sys_root=Path(sys_root), memory=open_memory(memory))
    encoder, last_request = Encoder(), b""
    with Connection(descriptor) as connection:
        try:
            while True:
                request = connection.recv_bytes()
                if request != last_request:
                    last_request = request
                    session.select(Selection.decode(request))
                reading = session.read()
                connection.send_bytes(encoder.encode(reading))
                if reading.error is not None and reading.error.requires_restart:
                    break
                session.run_due_queries()
                session.release_idle_gpus()
        except (EOFError, ConnectionError):
            pass
    session.close()
    sys.exit(0)


class Encoder:
    """Encodes readings for one Decoder: values every time, devices and reasons only if they have changed."""

    def __init__(self) -> None:
        self._devices: tuple[Device, ...] | None = None
        self._unavailable: list[Mapping[str, UnavailableReason]] = []

    def encode(self, reading: GpuReading) -> bytes:
        """Return the reading as bytes."""
        devices = tuple(gpu.device for gpu in reading.gpus)
        changed = devices != self._devices
        if changed:
            self._devices, self._unavailable = devices, [{} for _ in devices]
        rows = [self._encode_gpu(position, gpu) for position, gpu in enumerate(reading.gpus)]
        message = (reading.error, devices if changed else None, rows, reading.events, reading.implausible_count)
        return pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)

    def _encode_gpu(self, position: int, gpu: Gpu) -> tuple[Any, ...]:
        # Plain tuples: pickling an enum or a dataclass calls Python code for each.
        is_unchanged = gpu.unavailable == self._unavailable[position]
        self._unavailable[position] = gpu.unavailable
        processes = [
            (
                *(each.pid, each.kind, each.gpu_memory_bytes),
                *(each.sm_percent, each.memory_percent, each.encoder_percent, each.decoder_percent),
            )
            for each in gpu.processes
        ]
        return [gpu.values[key] for key in _KEYS], None if is_unchanged else dict(gpu.unavailable), processes, gpu.state


class Decoder:
    """Decodes the messages of one Encoder, in the same order."""

    def __init__(self) -> None:
        self._devices: tuple[Device, ...] = ()
        self._unavailable: list[Mapping[str, UnavailableReason]] = []

    def decode(self, message: bytes) -> GpuReading:
        """Return the reading of a message."""
        error, devices, rows, events, implausible_count = pickle.loads(message)  # noqa: S301 - from our own worker, over a private socket
        if devices is not None:
            self._devices, self._unavailable = devices, [{} for _ in devices]
        gpus = tuple(self._decode_gpu(position, *row) for position, row in enumerate(rows))
        return GpuReading(gpus=gpus, error=error, events=events, implausible_count=implausible_count)

    def _decode_gpu(
        self,
        position: int,
        values: list[float | None],
        unavailable: Mapping[str, UnavailableReason] | None,
        processes: list[tuple[Any, ...]],
        state: UnavailableReason | None,
    ) -> Gpu:
        if unavailable is not None:
            self._unavailable[position] = unavailable
        return Gpu(
            device=self._devices[position],
            values=dict(zip(_KEYS, values, strict=True)),
            unavailable=self._unavailable[position],
            processes=tuple(
                GpuProcess(
                    pid=pid,
                    kind=kind,
                    gpu_memory_bytes=size,
                    sm_percent=sm,
                    memory_percent=memory,
                    encoder_percent=encoder,
                    decoder_percent=decoder,
                )
                for pid, kind, size, sm, memory, encoder, decoder in processes
            ),
            state=state,
        )
