"""XID errors of the driver: meaning, severity and what to do.

Numbers, terms and actions follow NVIDIA's XID catalog (docs.nvidia.com/deploy/xid-errors) and nverror.h of
NVIDIA/open-gpu-kernel-modules.
"""

from __future__ import annotations

from typing import NamedTuple

from dashtop.model.metric import Severity
from dashtop.model.sample import Event


class Xid(NamedTuple):
    """Meaning of one XID."""

    severity: Severity
    text: str
    advice: str


_INFO, _WARN, _CRIT = Severity.INFO, Severity.WARNING, Severity.CRITICAL
_CHECK_APPLICATION = "Check the application: its log, or run it with compute-sanitizer."
_RESTART_APPLICATION = "Restart the application. If it recurs, update the driver."
_RESET = "Stop all work on the GPU and reset it (nvidia-smi --gpu-reset), or reboot."
_RESET_WHEN_IDLE = "Reset the GPU when it is idle."
_CHECK_LINK = "Check NVLink cables and bridges; reset the GPUs at both ends."
_REPLACE = "Drain the node and reboot. If it recurs, replace the GPU."

XIDS = {
    13: Xid(_WARN, "Graphics engine exception, caused by an application", _CHECK_APPLICATION),
    31: Xid(_WARN, "GPU memory page fault: an application accessed an invalid address", _CHECK_APPLICATION),
    32: Xid(
        _WARN, "Invalid or corrupted push buffer stream", "Restart the application. If it recurs, check the PCIe slot."
    ),
    38: Xid(_WARN, "Driver firmware error", _RESTART_APPLICATION),
    43: Xid(_INFO, "The GPU stopped processing the work of an application after an error", _CHECK_APPLICATION),
    45: Xid(_INFO, "The work of an application was cleaned up after it was killed or failed", "Check earlier events."),
    46: Xid(_CRIT, "The GPU stopped processing", _RESET),
    48: Xid(_CRIT, "Uncorrectable ECC error (double bit)", _RESET),
    61: Xid(_CRIT, "Internal microcontroller breakpoint", _RESET),
    62: Xid(_CRIT, "Internal microcontroller halt", _RESET),
    63: Xid(_WARN, "Row remapping or page retirement is pending", _RESET_WHEN_IDLE),
    64: Xid(_CRIT, "Row remapping or page retirement failed", _REPLACE),
    68: Xid(_WARN, "Video decoder exception", _RESTART_APPLICATION),
    69: Xid(_WARN, "Graphics engine class error, caused by an application", _CHECK_APPLICATION),
    74: Xid(_CRIT, "NVLink error", _CHECK_LINK),
    79: Xid(
        _CRIT,
        "The GPU has fallen off the bus",
        "Reboot. If it recurs, check power supply, temperature and PCIe slot, then replace the GPU.",
    ),
    92: Xid(_WARN, "High rate of corrected ECC errors", "Watch the ECC counters; run memory diagnostics (dcgmi diag)."),
    94: Xid(_WARN, "Contained uncorrectable ECC error: one application ended", f"Restart it. {_RESET_WHEN_IDLE}"),
    95: Xid(_CRIT, "Uncontained uncorrectable ECC error: all applications may be affected", _RESET),
    109: Xid(_WARN, "Context switch timeout", _RESTART_APPLICATION),
    119: Xid(_CRIT, "GPU System Processor (GSP) timeout", _RESET),
    120: Xid(_CRIT, "GPU System Processor (GSP) error", _RESET),
    121: Xid(
        _WARN, "Corrected error on the chip-to-chip link (C2C)", "Watch it. If it recurs, contact NVIDIA support."
    ),
    122: Xid(_WARN, "SPI read failure of the GPU's firmware", _RESET_WHEN_IDLE),
    136: Xid(_CRIT, "NVLink training failed", _CHECK_LINK),
    140: Xid(_CRIT, "Unrecovered ECC error", _RESET),
    143: Xid(_CRIT, "GPU initialization failed", _REPLACE),
    144: Xid(_WARN, "NVLink error (SAW)", "Check the other GPUs and NVSwitches of the NVLink domain."),
    149: Xid(_CRIT, "NVLink error: a link is down (NETIR)", _CHECK_LINK),
    154: Xid(_WARN, "The GPU needs a recovery action", "Run nvidia-smi -q: it shows reset, drain or reboot."),
}

UNKNOWN = Xid(_WARN, "Driver error", "Check NVIDIA's XID catalog for its meaning, and the kernel log (dmesg).")


def xid_event(number: int, *, time_ms: int, gpu_uuid: str | None) -> Event:
    """Return the event for an XID."""
    meaning = XIDS.get(number, UNKNOWN)
    return Event(
        time_ms=time_ms,
        kind="xid",
        severity=meaning.severity,
        text=f"{meaning.text} (XID {number}).",
        advice=meaning.advice,
        gpu_uuid=gpu_uuid,
        code=number,
    )


def ecc_event(xid: int, *, time_ms: int, gpu_uuid: str | None) -> Event:
    """Return the event for an ECC error that NVML reports without an XID. `xid`: the XID of the same meaning."""
    meaning = XIDS[xid]
    return Event(
        time_ms=time_ms,
        kind="ecc",
        severity=meaning.severity,
        text=f"{meaning.text}.",
        advice=meaning.advice,
        gpu_uuid=gpu_uuid,
    )
