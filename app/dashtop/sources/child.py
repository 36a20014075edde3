"""The reading child: one NVML session in a process of its own, answering one request at a time over a socket.

The driver may hang or crash whoever calls it; then it is this process alone that is lost. It ends by itself when its
parent is gone, and leaves Ctrl-C to the parent.
"""

from __future__ import annotations

import pickle
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.catalog import GPU_METRICS
from dashtop.domain.errors import Reason
from dashtop.domain.sample import Gpu, GpuReading

if TYPE_CHECKING:
    from dashtop.domain.sample import Device, Event, GpuProcess

REQUEST = b"read"
OUTLIVED = (Reason.DRIVER_MISMATCH,)
"""Troubles that this process can never get over: it has loaded a library that does not fit the driver."""

_KEYS = tuple(metric.key for metric in GPU_METRICS)

# A reading on the wire: values in the order of the table, and static facts only when they differ from the last sent.
Row = tuple[tuple["float | None", ...], "dict[str, Reason]", tuple["GpuProcess", ...], "Reason | None"]
Wire = tuple["Reason | None", "tuple[Device, ...] | None", list[Row], tuple["Event", ...]]


class Encoder:
    """Packs readings for the socket."""

    def __init__(self) -> None:
        self._sent: tuple[Device, ...] | None = None

    def encode(self, reading: GpuReading) -> bytes:
        """Return the reading as bytes for one Decoder."""
        devices = tuple(gpu.device for gpu in reading.gpus)
        rows: list[Row] = [
            (tuple(gpu.values[key] for key in _KEYS), dict(gpu.unavailable), gpu.processes, gpu.state)
            for gpu in reading.gpus
        ]
        wire: Wire = (reading.trouble, None if devices == self._sent else devices, rows, reading.events)
        self._sent = devices
        return pickle.dumps(wire, protocol=pickle.HIGHEST_PROTOCOL)


class Decoder:
    """Unpacks what one Encoder packed, in the same order."""

    def __init__(self) -> None:
        self._devices: tuple[Device, ...] = ()

    def decode(self, message: bytes) -> GpuReading:
        """Return the reading that the child packed."""
        wire: Wire = pickle.loads(message)  # noqa: S301 - written by our own child over a private socket
        trouble, devices, rows, events = wire
        if devices is not None:
            self._devices = devices
        gpus = tuple(
            Gpu(
                device=device,
                values=dict(zip(_KEYS, values, strict=True)),
                unavailable=unavailable,
                processes=processes,
                state=state,
            )
            for device, (values, unavailable, processes, state) in zip(self._devices, rows, strict=True)
        )
        return GpuReading(gpus=gpus, trouble=trouble, events=events)


def main(descriptor: int, proc: str, sys_root: str) -> None:
    """Answer requests on the socket `descriptor` until the parent closes its end.

    Ends after an answer that only another process can better: the library that is loaded does not fit the driver.
    """
    from dashtop.sources.nvml import NvmlGpus  # noqa: PLC0415 - the parent imports this module too, and no NVML

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    encoder, gpus = Encoder(), NvmlGpus(proc=Path(proc), sys=Path(sys_root))
    with Connection(descriptor) as connection:
        try:
            while connection.recv_bytes() == REQUEST:
                reading = gpus.read()
                connection.send_bytes(encoder.encode(reading))
                if reading.trouble in OUTLIVED:
                    break
        except (EOFError, ConnectionError):
            pass
    gpus.close()
    sys.exit(0)
