"""The scenes of `--demo-scene`: each makes a demo look like one fault, or like what is often taken for it.

For each alert rule there is a scene of its name that fires it, and `not-NAME`, a false alarm that must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashtop.model.metric import Severity
from dashtop.model.sample import ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.simulated.scene import (
    MINUTE,
    TRAINING,
    Scene,
    add_disk,
    build_event,
    build_xid,
    change_driver,
    change_gpu,
    change_host,
    change_state,
    hang,
    heat,
    hold,
    is_in_last,
    leave_memory,
    remove_gpu,
    throttle,
    train,
    use_link,
    wave,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# --- scenes: temperature, fans and clocks ----------------------------------------------------------------------------

_THERMAL: Final = (
    Scene(
        rule="gpu_hot", fires=True, text="86 °C on a card that slows down at 87 °C.",
        play=heat(lambda _t: 86.0, 87.0, 92.0),
    ),
    Scene(
        rule="gpu_hot", fires=False, text="85 °C with short peaks of 89 °C on a card that slows down at 90 °C.",
        play=heat(lambda t: 89.0 if is_in_last(t, 300, 45) else 85.0, 90.0, 95.0), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="gpu_overheating", fires=True, text="91 °C on a card that switches off at 95 °C.",
        play=heat(lambda _t: 91.0, 90.0, 95.0),
    ),
    Scene(
        rule="gpu_overheating", fires=False, text="Peaks of 20 s at 91 °C on that card.",
        play=heat(lambda t: 91.0 if is_in_last(t, 300, 20) else 78.0, 92.0, 95.0), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="memory_hot", fires=True, text="Memory at 97 °C, its limit is 95 °C.",
        play=change_gpu(lambda _t: {"gpu.memory_temperature": 97.0, "gpu.memory_temperature_limit": 95.0}),
    ),
    Scene(
        rule="memory_hot", fires=False, text="GDDR6X at 98 °C, whose limit is not known: that is normal for it.",
        play=change_gpu(lambda _t: {"gpu.memory_temperature": 98.0, "gpu.memory_temperature_limit": None}),
        duration_s=30 * MINUTE,
    ),
    Scene(
        rule="fan_stopped", fires=True, text="A fan that should turn stands still at 74 °C.",
        play=change_gpu(lambda _t: {"gpu.fan_rpm": 0.0, "gpu.fan_speed": 70.0, "gpu.temperature": 74.0}),
    ),
    Scene(
        rule="fan_stopped", fires=False, text="Fans that are off while the card is cool, and start 20 s late.",
        play=change_gpu(
            lambda t: {"gpu.fan_rpm": 0.0, "gpu.fan_speed": 35.0, "gpu.temperature": 61.0}
            if is_in_last(t, 300, 20)
            else {"gpu.fan_rpm": 0.0, "gpu.fan_speed": 0.0, "gpu.temperature": 52.0}
        ),
        duration_s=30 * MINUTE,
    ),
    Scene(rule="hw_thermal", fires=True, text="HW thermal slowdown all the time.", play=throttle(lambda _t: 0x48)),
    Scene(
        rule="hw_thermal", fires=False, text="HW thermal slowdown for a minute out of five.",
        play=throttle(lambda t: 0x48 if is_in_last(t, 300, 60) else 0x4), duration_s=30 * MINUTE,
    ),
    Scene(rule="power_brake", fires=True, text="The power supply slows the card down.", play=throttle(lambda _t: 0x88)),
    Scene(
        rule="power_brake", fires=False, text="Power brakes of half a minute, as when a machine room starts.",
        play=throttle(lambda t: 0x88 if is_in_last(t, 300, 30) else 0x4), duration_s=30 * MINUTE,
    ),
    Scene(rule="hw_slowdown", fires=True, text="HW slowdown without a cause.", play=throttle(lambda _t: 0x8)),
    Scene(
        rule="hw_slowdown", fires=False, text="HW slowdown for a moment at each change of the performance state.",
        play=throttle(lambda t: 0x8 if is_in_last(t, 20, 5) else 0x1), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="sw_thermal", fires=True, text="A laptop at its temperature target.", play=throttle(lambda _t: 0x20),
        duration_s=35 * MINUTE,
    ),
    Scene(
        rule="sw_thermal", fires=False, text="At the temperature target for half of the time.",
        play=throttle(lambda t: 0x20 if is_in_last(t, 120, 60) else 0x4), duration_s=70 * MINUTE,
    ),
)  # fmt: skip

# --- scenes: power, memory health and links --------------------------------------------------------------------------

_HEALTH: Final = (
    Scene(
        rule="power_limit_low", fires=True, text="A busy card is limited to 250 of 450 W.",
        play=change_gpu(train(power__max_watts=250.0)),
    ),
    Scene(
        rule="power_limit_low", fires=False, text="A limit of 92 % while busy, of 55 % while idle.",
        play=change_gpu(
            lambda t: {**TRAINING, "gpu.power.max_watts": 415.0}
            if t % 1200 < 600  # noqa: PLR2004 - seconds
            else {**TRAINING, "gpu.power.max_watts": 250.0, "gpu.utilization.gpu": 4.0}
        ),
        duration_s=60 * MINUTE,
    ),
    Scene(
        rule="ecc_uncorrected", fires=True, text="Two uncorrected memory errors.",
        play=change_gpu(lambda _t: {"gpu.ecc.volatile_uncorrected": 2.0}), duration_s=2 * MINUTE,
    ),
    Scene(
        rule="ecc_uncorrected", fires=False, text="Corrected errors, more every minute.",
        play=change_gpu(lambda t: {"gpu.ecc.volatile_uncorrected": 0.0, "gpu.ecc.volatile_corrected": t // 60}),
        duration_s=30 * MINUTE,
    ),
    Scene(
        rule="remap_pending", fires=True, text="Row remapping waits for a reset.",
        play=change_gpu(lambda _t: {"gpu.remapped_rows.pending": 1.0}), duration_s=3 * MINUTE,
    ),
    Scene(
        rule="remap_pending", fires=False, text="The GPU is reset within half a minute.",
        play=change_gpu(lambda t: {"gpu.remapped_rows.pending": float(60 <= t < 90)}),  # noqa: PLR2004
    ),
    Scene(
        rule="pages_pending", fires=True, text="Page retirement waits for a reset.",
        play=change_gpu(lambda _t: {"gpu.retired_pages.pending": 1.0}), duration_s=3 * MINUTE,
    ),
    Scene(
        rule="pages_pending", fires=False, text="Pages are retired, none waits.",
        play=change_gpu(lambda _t: {"gpu.retired_pages.pending": 0.0, "gpu.retired_pages.double_bit": 3.0}),
    ),
    Scene(
        rule="remap_failed", fires=True, text="No spare memory rows are left.",
        play=change_gpu(lambda _t: {"gpu.remapped_rows.failure": 1.0}), duration_s=2 * MINUTE,
    ),
    Scene(
        rule="remap_failed", fires=False, text="Many rows are remapped, with success.",
        play=change_gpu(lambda _t: {"gpu.remapped_rows.failure": 0.0, "gpu.remapped_rows.uncorrected": 40.0}),
    ),
    Scene(
        rule="recovery", fires=True, text="The driver asks for a reset after all work has ended.",
        play=change_gpu(lambda _t: {"gpu.recovery_action": 4.0}), duration_s=2 * MINUTE,
    ),
    Scene(
        rule="recovery", fires=False, text="A driver that does not report the action.",
        play=change_gpu(lambda _t: {"gpu.recovery_action": None}),
    ),
    Scene(
        rule="nvlink_down", fires=True, text="4 of 18 NVLinks go down after two minutes.",
        play=change_gpu(lambda t: {"gpu.nvlink.links": 18.0, "gpu.nvlink.active": 18.0 if t < 120 else 14.0}),  # noqa: PLR2004
    ),
    Scene(
        rule="nvlink_down", fires=False, text="A card whose board connects 12 of its 18 NVLinks.",
        play=change_gpu(lambda _t: {"gpu.nvlink.links": 18.0, "gpu.nvlink.active": 12.0}), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="pcie_low", fires=True, text="A busy card runs at PCIe generation 3 of 4.",
        play=change_gpu(lambda _t: use_link(3.0, 96.0)),
    ),
    Scene(
        rule="pcie_low", fires=False, text="An idle card lowers its link, and raises it for bursts of work.",
        play=change_gpu(lambda t: use_link(4.0, 90.0) if is_in_last(t, 60, 20) else use_link(1.0, 3.0)),
        duration_s=30 * MINUTE,
    ),
    Scene(
        rule="vram_full", fires=True, text="99 % of the memory is allocated.",
        play=change_gpu(lambda _t: {"gpu.memory.used_percent": 99.0}),
    ),
    Scene(
        rule="vram_full", fires=False, text="97 % is allocated, at times 99 % for a minute.",
        play=change_gpu(lambda t: {"gpu.memory.used_percent": 99.0 if is_in_last(t, 300, 60) else 94.0}),
        duration_s=30 * MINUTE,
    ),
)  # fmt: skip

# --- scenes: GPUs and driver -----------------------------------------------------------------------------------------

_DRIVER: Final = (
    Scene(
        rule="gpu_lost", fires=True, text="The GPU falls off the bus after a minute.",
        play=change_state(lambda t: UnavailableReason.GPU_LOST if t >= 60 else None), duration_s=3 * MINUTE,  # noqa: PLR2004
    ),
    Scene(
        rule="gpu_lost", fires=False, text="A GPU that does not answer for some seconds, and sleeps at times.",
        play=change_state(
            lambda t: UnavailableReason.NOT_RESPONDING
            if is_in_last(t, 120, 6)
            else UnavailableReason.ASLEEP
            if t % 600 < 200  # noqa: PLR2004
            else None
        ),
        duration_s=30 * MINUTE,
    ),
    Scene(
        rule="gpu_missing", fires=True, text="The GPU is gone after a minute; the driver answers.",
        play=remove_gpu(lambda t: t >= 60), duration_s=15 * MINUTE,  # noqa: PLR2004
    ),
    Scene(
        rule="gpu_missing", fires=False, text="The GPU is reset over its bus: gone for eight minutes.",
        play=remove_gpu(lambda t: 60 <= t < 540), duration_s=30 * MINUTE,  # noqa: PLR2004
    ),
    Scene(
        rule="driver_silent", fires=True, text="The driver does not answer.",
        play=change_driver(lambda t: UnavailableReason.DRIVER_SILENT if t >= 60 else None), duration_s=5 * MINUTE,  # noqa: PLR2004
    ),
    Scene(
        rule="driver_silent", fires=False, text="The driver is reloaded, and later takes 40 s for an answer.",
        play=change_driver(
            lambda t: UnavailableReason.NO_DRIVER
            if 60 <= t < 90  # noqa: PLR2004
            else UnavailableReason.DRIVER_SILENT
            if is_in_last(t, 300, 40)
            else None
        ),
        duration_s=30 * MINUTE,
    ),
    Scene(
        rule="stale", fires=True, text="No reading after the first minute.", starts_with_demo=True,
        play=lambda sample, t: None if t >= 60 else sample, duration_s=3 * MINUTE,  # noqa: PLR2004
    ),
    Scene(
        rule="stale", fires=False, text="Readings that are 20 s late.", starts_with_demo=True,
        play=lambda sample, t: None if t % 25 >= 5 else sample,  # noqa: PLR2004
    ),
    Scene(
        rule="xid_hardware", fires=True, text="XID 79: the GPU has fallen off the bus.", events=(build_xid(79),),
        duration_s=2 * MINUTE,
    ),
    Scene(
        rule="xid_hardware", fires=False, text="Errors of applications: XID 13, 31, 43 and 45.",
        events=(build_xid(13), build_xid(31), build_xid(43), build_xid(45)), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="xid_contained", fires=True, text="XID 94: an error that ended one application.", events=(build_xid(94),),
        duration_s=2 * MINUTE,
    ),
    Scene(
        rule="xid_contained", fires=False, text="XID 63 and 92, whose conditions other rules judge.",
        events=(build_xid(63), build_xid(92)), duration_s=30 * MINUTE,
    ),
)  # fmt: skip

# --- scenes: processes -----------------------------------------------------------------------------------------------

_SERVER: Final = ProcessInfo(name="tritonserver", username="triton", started_ms=1_700_000_000_000)
_FOREIGN: Final = ProcessInfo(foreign=True)

_WORK: Final = (
    Scene(
        rule="hang", fires=True, text="Full utilization, 118 of 450 W, no traffic: a collective operation never ends.",
        play=change_gpu(hang, lambda _t: hold(100.0)), duration_s=25 * MINUTE,
    ),
    Scene(
        rule="hang", fires=False, text="A training that compiles for six minutes, and then computes again.",
        play=change_gpu(
            lambda t: hang(t) if is_in_last(t, 900, 360) else train()(t),
            lambda _t: hold(95.0),
        ),
        duration_s=60 * MINUTE,
    ),
    Scene(
        rule="idle_hold", fires=True, text="A notebook holds 20 GiB and computes nothing for hours.",
        play=change_gpu(
            lambda _t: {**TRAINING, "gpu.utilization.gpu": 0.0, "gpu.power.current_watts": 30.0},
            lambda _t: hold(0.0),
        ),
        duration_s=75 * MINUTE,
    ),
    Scene(
        rule="idle_hold", fires=False, text="An inference server with a request every two minutes.",
        play=change_gpu(
            lambda t: {
                **TRAINING,
                "gpu.utilization.gpu": 40.0 if is_in_last(t, 120, 5) else 0.0,
                "gpu.power.current_watts": 60.0,
            },
            lambda t: hold(40.0 if is_in_last(t, 120, 5) else 0.0, info=_SERVER),
        ),
        duration_s=180 * MINUTE,
    ),
    Scene(
        rule="orphan_memory", fires=True, text="20 GiB are in use, and no process is there.",
        play=change_gpu(
            lambda _t: {**TRAINING, "gpu.utilization.gpu": 0.0, "gpu.power.current_watts": 30.0}, lambda _t: ()
        ),
        duration_s=20 * MINUTE,
    ),
    Scene(
        rule="orphan_memory", fires=False, text="Memory of a process in another container, of which little is known.",
        play=change_gpu(
            lambda _t: {**TRAINING, "gpu.utilization.gpu": 30.0, "gpu.power.current_watts": 130.0},
            lambda _t: hold(30.0, 2.0, info=_FOREIGN),
        ),
        duration_s=30 * MINUTE,
    ),
)  # fmt: skip

# --- scenes: the machine ---------------------------------------------------------------------------------------------

_MACHINE: Final = (
    Scene(
        rule="disk_full", fires=True, text="A disk of 1000 GiB fills up by 4 GiB a minute.",
        play=add_disk(1000.0, lambda t: min(99.0, 40.0 + 0.4 * t / 60)), duration_s=70 * MINUTE,
    ),
    Scene(
        rule="disk_full", fires=False, text="Checkpoints of 100 GiB every half hour; the oldest is deleted.",
        play=add_disk(1000.0, lambda t: 60.0 + (10.0 if is_in_last(t, 1800, 300) else 0.0) + 0.2 * wave(t, 600)),
        duration_s=180 * MINUTE,
    ),
    Scene(
        rule="disk_full_critical", fires=True, text="1 of 100 GiB is left.", play=add_disk(100.0, lambda _t: 99.0),
    ),
    Scene(
        rule="disk_full_critical", fires=False, text="1.5 GiB are left on a small file system of 10 GiB.",
        play=add_disk(10.0, lambda _t: 85.0), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="ram_low", fires=True, text="3 of 64 GiB of RAM are available.",
        play=change_host(lambda _t: leave_memory(3.0)),
    ),
    Scene(
        rule="ram_low", fires=False, text="3 GiB for a minute while a data set is loaded.",
        play=change_host(lambda t: leave_memory(3.0 if is_in_last(t, 300, 60) else 12.0)), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="ram_low_critical", fires=True, text="1 of 64 GiB of RAM is available.",
        play=change_host(lambda _t: leave_memory(1.0)),
    ),
    Scene(
        rule="ram_low_critical", fires=False, text="1 GiB for a moment.",
        play=change_host(lambda t: leave_memory(1.0 if is_in_last(t, 300, 20) else 12.0)), duration_s=30 * MINUTE,
    ),
    Scene(
        rule="swap_thrash", fires=True, text="Processes wait for memory 30 % of the time.",
        play=change_host(lambda t: {"system.memory.pressure_percent": 30.0 + 5.0 * wave(t, 60)}),
    ),
    Scene(
        rule="swap_thrash", fires=False, text="Swap space is full of what nobody reads.",
        play=change_host(lambda _t: {"system.swap.used_percent": 100.0, "system.memory.pressure_percent": 0.0}),
        duration_s=30 * MINUTE,
    ),
    Scene(
        rule="oom_kill", fires=True, text="The kernel kills a process for lack of memory.",
        events=(
            build_event("oom_kill", Severity.WARNING, "The kernel killed a process for lack of memory."),
        ),
        duration_s=2 * MINUTE,
    ),
    Scene(
        rule="oom_kill", fires=False, text="A process ends by itself.",
        events=(build_event("process_end", Severity.INFO, "python (pid 4711) of ada stopped using GPU 0."),),
    ),
)  # fmt: skip

SCENES: Final[Mapping[str, Scene]] = {scene.name: scene for scene in (*_THERMAL, *_HEALTH, *_DRIVER, *_WORK, *_MACHINE)}
