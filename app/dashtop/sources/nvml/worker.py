"""The reading child: one NVML session in a process of its own, answering one request at a time over a socket.

The driver may hang or crash whoever calls it; then it is this process alone that is lost. It ends by itself when its
parent is gone, and leaves Ctrl-C to the parent.
"""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from dashtop.sources.nvml.ipc_codec import Encoder

REQUEST = b"read"


def main(descriptor: int, proc: str, sys_root: str) -> None:
    """Answer requests on the socket `descriptor` until the parent closes its end.

    Ends after an answer that only another process can better: the library that is loaded does not fit the driver.
    """
    from dashtop.sources.nvml.session import NvmlGpus  # noqa: PLC0415 - the parent imports this module too, and no NVML

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    encoder, gpus = Encoder(), NvmlGpus(proc=Path(proc), sys=Path(sys_root))
    with Connection(descriptor) as connection:
        try:
            while connection.recv_bytes() == REQUEST:
                reading = gpus.read()
                connection.send_bytes(encoder.encode(reading))
                if reading.error is not None and reading.error.requires_restart:
                    break
                gpus.answered()
        except (EOFError, ConnectionError):
            pass
    gpus.close()
    sys.exit(0)
