"""What the driver can ask for to recover a GPU (nvml.h, nvmlDeviceGpuRecoveryAction_t; R570 and later)."""

from __future__ import annotations

from typing import Final

RECOVERY_ACTIONS: Final = {
    1: "a reset",
    2: "a reboot of the machine",
    3: "an end of peer-to-peer traffic",
    4: "an end of all work and a reset",
    5: "a recovery of the IMEX domain",
    6: "a bus reset",
    7: "a reboot of the system",
}
