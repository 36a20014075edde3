"""XID errors of the driver: meaning, severity and what to do.

Numbers, terms and actions follow NVIDIA's XID catalog (docs.nvidia.com/deploy/xid-errors), checked against the copy of
October 2025 in leptonai/gpud, and nverror.h of NVIDIA/open-gpu-kernel-modules.
"""

from __future__ import annotations

from typing import NamedTuple

from dashtop.model.metric import Severity
from dashtop.model.sample import Event


class Xid(NamedTuple):
    """Meaning of one XID. `is_application`: the fault of one application, which needs no alert."""

    severity: Severity
    text: str
    advice: str
    is_application: bool = False


_INFO, _WARN, _CRIT = Severity.INFO, Severity.WARNING, Severity.CRITICAL
_CHECK_APPLICATION = "Check the application: its log, or run it with compute-sanitizer."
_RESTART_APPLICATION = "Restart the application. If it recurs, update the driver."
_RESET = "Stop all work on the GPU and reset it (nvidia-smi --gpu-reset), or reboot."
_RESET_WHEN_IDLE = "Reset the GPU when it is idle."
_CHECK_LINK = "Check NVLink cables and bridges; reset the GPUs at both ends."
_CHECK_DOMAIN = "Check the other GPUs and NVSwitches of the NVLink domain; reset the GPU if XID 154 follows."
_REPLACE = "Drain the node and reboot. If it recurs, replace the GPU."
_SUPPORT = "Watch it. If it recurs, contact NVIDIA support."
_UPDATE_DRIVER = "Update the driver."


def _application(text: str, advice: str = _RESTART_APPLICATION, severity: Severity = _WARN) -> Xid:
    return Xid(severity, text, advice, is_application=True)


_COPY_ENGINES = (39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136))
_VIDEO_DECODERS = (68, 83, 84, 88, 89, 96, 97, 98)
_JPEG_DECODERS = (82, *range(99, 106))
_OPTICAL_FLOW = (86, 139)

XIDS = {
    8: _application("The GPU stopped processing the work of an application"),
    11: _application("Invalid or corrupted push buffer stream", _CHECK_APPLICATION),
    13: _application("Graphics engine exception, caused by an application", _CHECK_APPLICATION),
    25: _application("Invalid or illegal push buffer stream", _CHECK_APPLICATION),
    31: _application("GPU memory page fault: an application accessed an invalid address", _CHECK_APPLICATION),
    32: _application(
        "Invalid or corrupted push buffer stream", "Restart the application. If it recurs, check the PCIe slot."
    ),
    37: _application("Driver firmware error"),
    38: _application("Driver firmware error"),
    **dict.fromkeys(_COPY_ENGINES, _application("Copy engine error")),
    43: _application("The GPU stopped processing the work of an application after an error", _CHECK_APPLICATION, _INFO),
    44: _application("Graphics engine fault during a context switch"),
    45: _application(
        "The work of an application was cleaned up after it was killed or failed", "Check earlier events.", _INFO
    ),
    46: Xid(_CRIT, "The GPU stopped processing", _RESET),
    48: Xid(_CRIT, "Uncorrectable ECC error (double bit)", _RESET),
    54: Xid(_CRIT, "Auxiliary power is not connected to the GPU board", "Check the power cables of the GPU."),
    60: _application("Video processor exception"),
    62: Xid(_CRIT, "Internal microcontroller halt", _RESET),
    63: Xid(_WARN, "Row remapping or page retirement is pending", _RESET_WHEN_IDLE),
    64: Xid(_CRIT, "Row remapping or page retirement failed", _REPLACE),
    66: _application("Illegal access by the driver", _UPDATE_DRIVER),
    67: _application("Illegal access by the driver", _UPDATE_DRIVER),
    **dict.fromkeys(_VIDEO_DECODERS, _application("Video decoder error")),
    69: _application("Graphics engine class error, caused by an application", _CHECK_APPLICATION),
    74: Xid(_CRIT, "NVLink error", _CHECK_LINK),
    78: Xid(_WARN, "A virtual GPU could not be started", "Update the vGPU software of host and guest."),
    79: Xid(
        _CRIT,
        "The GPU has fallen off the bus",
        "Reboot. If it recurs, check power supply, temperature and PCIe slot, then replace the GPU.",
    ),
    80: _application("Corrupted data were sent to the GPU", _CHECK_APPLICATION),
    **dict.fromkeys(_JPEG_DECODERS, _application("JPEG decoder error")),
    **dict.fromkeys(_OPTICAL_FLOW, _application("Optical flow accelerator error")),
    92: Xid(_WARN, "High rate of corrected ECC errors", "Watch the ECC counters; run memory diagnostics (dcgmi diag)."),
    93: Xid(_INFO, "The InfoROM is written more often than its wear limit allows", _SUPPORT),
    94: Xid(_WARN, "Contained uncorrectable ECC error: one application ended", f"Restart it. {_RESET_WHEN_IDLE}"),
    95: Xid(_CRIT, "Uncontained uncorrectable ECC error: all applications may be affected", _RESET),
    109: Xid(_CRIT, "Context switch timeout", _RESET),
    110: Xid(_CRIT, "Security fault", _RESET),
    119: Xid(_CRIT, "GPU System Processor (GSP) timeout", _RESET),
    120: Xid(_CRIT, "GPU System Processor (GSP) error", _RESET),
    121: Xid(_WARN, "Corrected error on the chip-to-chip link (C2C)", _SUPPORT),
    136: Xid(_CRIT, "NVLink training failed", _CHECK_LINK),
    137: Xid(
        _WARN,
        "NVLink privilege error: a GPU accessed memory that it may not, often after another GPU's fault",
        "Check the other GPUs of the NVLink domain and the application.",
    ),
    140: Xid(_CRIT, "Unrecovered ECC error", _RESET),
    141: _application("CUDA fast path error"),
    142: _application("Video encoder error"),
    143: Xid(_CRIT, "GPU initialization failed", _REPLACE),
    144: Xid(_WARN, "NVLink error (SAW)", _CHECK_DOMAIN),
    145: Xid(_WARN, "NVLink error (RLW)", _CHECK_DOMAIN),
    146: Xid(_WARN, "NVLink error (TLW)", _CHECK_DOMAIN),
    147: Xid(_WARN, "NVLink error (TREX)", _CHECK_DOMAIN),
    148: Xid(_WARN, "NVLink error (NVLPW_CTRL)", _CHECK_DOMAIN),
    149: Xid(_WARN, "NVLink error (NETIR)", _CHECK_DOMAIN),
    150: Xid(_WARN, "NVLink error (MSE)", _CHECK_DOMAIN),
    151: Xid(_WARN, "Key rotation error (confidential computing)", "Restart the virtual machine."),
    154: Xid(_WARN, "The GPU needs a recovery action", "Run nvidia-smi -q: it shows reset, drain or reboot."),
    155: Xid(_CRIT, "NVLink error defined by software", _RESET),
    156: Xid(_CRIT, "A resource of the GPU was retired", _RESET),
    157: Xid(_WARN, "A resource of the GPU could not be retired", _SUPPORT),
    158: Xid(_CRIT, "Fatal timeout of the GPU", _RESET),
    159: Xid(_WARN, "Error on the coherent link to the CPU (CHI)", _SUPPORT),
    160: Xid(_INFO, "A memory channel was retired", _RESET_WHEN_IDLE),
    161: Xid(_WARN, "A memory channel could not be retired", _SUPPORT),
    162: Xid(_INFO, "Power smoothing is on again", "Nothing needs to be done."),
    163: Xid(_INFO, "Power smoothing is off", "Expect steeper changes of power draw."),
    164: Xid(_WARN, "The circuit for power smoothing is near the end of its life", _SUPPORT),
    165: Xid(_WARN, "The circuit for power smoothing is at the end of its life", _SUPPORT),
    166: Xid(_WARN, "NVLink traffic before the link was set up for encryption", _SUPPORT),
    167: Xid(_CRIT, "Fatal PCIe timeout", _REPLACE),
    168: Xid(_WARN, "Less GPU memory is usable: errors in the protected region", _SUPPORT),
    169: Xid(_CRIT, "Internal microcontroller halt (SEC2)", _RESET),
    170: Xid(_WARN, "NVLink interrupt in confidential computing", _SUPPORT),
    171: Xid(_CRIT, "Uncorrectable error in device memory (DRAM)", _RESET),
    172: Xid(_CRIT, "Uncorrectable error in on-chip memory (SRAM)", _RESET),
}

REPORTED_OTHERWISE = frozenset({63, 92, 121})
"""XIDs whose condition other readings report: pending row remapping, and corrected errors."""

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
