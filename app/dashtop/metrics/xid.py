"""XID errors of the driver in plain words, with advice.

Numbers and actions after NVIDIA's Xid catalog (docs.nvidia.com/deploy/xid-errors); the sentences are ours.
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
_PROGRAM = "Look at the program first: its log, and compute-sanitizer. Other programs are not affected."
_RESET = "Stop what runs on the GPU and reset it (nvidia-smi --gpu-reset), or reboot."
_REPLACE = "Drain the node; if it comes back after a reboot, have the GPU replaced."

XIDS = {
    13: Xid(_WARN, "A program made the graphics engine fault", _PROGRAM),
    31: Xid(_WARN, "A program reached for GPU memory that is not its own", _PROGRAM),
    32: Xid(_WARN, "The GPU was sent corrupt commands", "Restart the program; if it recurs, check the PCIe slot."),
    38: Xid(_WARN, "The driver's firmware failed", "Restart the program; if it recurs, update the driver."),
    43: Xid(_INFO, "A program's work on the GPU was stopped after an error of its own", _PROGRAM),
    45: Xid(_INFO, "A program's work was cleaned up after it was killed, or failed", "Look for what came before."),
    46: Xid(_CRIT, "The GPU stopped working", _RESET),
    48: Xid(_CRIT, "A memory error could not be corrected (double-bit ECC)", _RESET),
    61: Xid(_CRIT, "The GPU's internal controller stopped at a breakpoint", _RESET),
    62: Xid(_CRIT, "The GPU's internal controller halted", _RESET),
    63: Xid(_WARN, "A faulty memory row or page will be taken out of use", "Reset the GPU when its work is done."),
    64: Xid(_CRIT, "A faulty memory row or page could not be taken out of use", _REPLACE),
    68: Xid(_WARN, "The video decoder failed", "Restart the program; if it recurs, update the driver."),
    69: Xid(_WARN, "A program made the graphics engine fault", _PROGRAM),
    74: Xid(_CRIT, "An NVLink link failed", "Check the link's cables or bridge; reset the GPUs at both ends."),
    79: Xid(_CRIT, "The GPU has fallen off the bus", "Reboot. If it recurs: power supply, heat, PCIe slot, GPU."),
    92: Xid(_WARN, "Memory errors are being corrected at a high rate", "Watch it; plan a reset and a memory test."),
    94: Xid(_WARN, "An uncorrectable memory error ended one program", "Restart it; reset the GPU when idle."),
    95: Xid(_CRIT, "An uncorrectable memory error may have hit every program", _RESET),
    109: Xid(_WARN, "A program's context switch timed out", "Restart the program; if it recurs, update the driver."),
    119: Xid(_CRIT, "The GPU's system processor (GSP) does not answer", _RESET),
    120: Xid(_CRIT, "The GPU's system processor (GSP) failed", _RESET),
    121: Xid(_WARN, "The link to the CPU was corrected (C2C)", "Watch it; report it if it recurs."),
    122: Xid(_WARN, "The SPI bus to the GPU's firmware failed", "Reset the GPU when its work is done."),
    136: Xid(_CRIT, "The GPU stopped during an operation on its links", _RESET),
    140: Xid(_CRIT, "An uncorrectable memory error was found in an unexpected place", _RESET),
    143: Xid(_CRIT, "The GPU did not start up", "Reboot; if it recurs, have the GPU replaced."),
    144: Xid(_WARN, "NVLink reported an error (SAW)", "Check the other GPUs and switches of the group for errors."),
    149: Xid(_CRIT, "NVLink reported a link that went down", "Check the link; reset the GPUs at both ends."),
    154: Xid(_WARN, "The GPU asks for a recovery", "nvidia-smi -q says which: a reset, a drain, or a reboot."),
}  # fmt: skip

UNKNOWN = Xid(
    _WARN, "The driver reported an error", "Look it up in NVIDIA's Xid catalog, and in the kernel log (dmesg)."
)


def xid_event(number: int, *, time_ms: int, gpu_uuid: str | None) -> Event:
    """Return an XID as an event."""
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


def ecc_event(*, corrected: bool, time_ms: int, gpu_uuid: str | None) -> Event:
    """Return a report of memory errors as an event."""
    return Event(
        time_ms=time_ms,
        kind="ecc",
        severity=Severity.WARNING if corrected else Severity.CRITICAL,
        text="Many memory errors were corrected." if corrected else "A memory error could not be corrected.",
        advice="Watch the ECC counters; plan a reset." if corrected else _RESET,
        gpu_uuid=gpu_uuid,
    )
