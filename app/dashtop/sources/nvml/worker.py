"""The worker process: one NVML session, which answers one request at a time over a socket.

The driver can hang or crash its caller; then only this process is lost. It exits when its parent is gone, and ignores
Ctrl-C, which the parent handles.
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

    Exit after an error that only a new process can recover from: the loaded library does not fit the driver.
    """
    from dashtop.sources.nvml.session import NvmlSession  # noqa: PLC0415 - the parent must not import pynvml

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    encoder, session = Encoder(), NvmlSession(proc=Path(proc), sys_root=Path(sys_root))
    with Connection(descriptor) as connection:
        try:
            while connection.recv_bytes() == REQUEST:
                reading = session.read()
                connection.send_bytes(encoder.encode(reading))
                if reading.error is not None and reading.error.requires_restart:
                    break
                session.run_due_queries()
        except (EOFError, ConnectionError):
            pass
    session.close()
    sys.exit(0)
