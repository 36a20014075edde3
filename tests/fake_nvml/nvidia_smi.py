"""A fake `nvidia-smi`: prints a world as `nvidia-smi -q -x` and `nvidia-smi pmon -c 1` of its driver do.

It reads the file that the fake library reads, but not through the library. Structure and texts are those of real output
with drivers 470 to 590 (influxdata/telegraf, plugins/inputs/nvidia_smi/testdata; netdata, go.d nvidia_smi testdata):
nvsmi_device_v11.dtd before R530, v12 before R580, v13 since.
"""

from __future__ import annotations

import os
import sys
import time
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORLD_VARIABLE = "FAKE_NVIDIA_SMI_WORLD"
"""The world to print; without it, that of the library."""
NA = "N/A"
DEPRECATED = "Requested functionality has been deprecated"
MIB = 2**20
ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada Lovelace", 9: "Hopper",
    10: "Blackwell",
}  # fmt: skip
REASONS = {
    "gpu_idle": 0x1, "applications_clocks_setting": 0x2, "sw_power_cap": 0x4, "hw_slowdown": 0x8,
    "hw_thermal_slowdown": 0x40, "hw_power_brake_slowdown": 0x80, "sync_boost": 0x10, "sw_thermal_slowdown": 0x20,
    "display_clocks_setting": 0x100,
}  # fmt: skip
COMPUTE_MODES = ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process")
ENABLED = ("Disabled", "Enabled")
YES = ("No", "Yes")
GPU_IS_LOST, NOT_SUPPORTED, UNAVAILABLE_CODES = 15, 3, {15, 16}


def install(folder: Path) -> Path:
    """Write a program `nvidia-smi` to a folder, to be put on the PATH."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport runpy\nrunpy.run_path({__file__!r}, run_name='__main__')\n")
    program.chmod(0o755)
    return program


class Keys:
    """The keys of one device, from lines `dotted.key=value`."""

    def __init__(self, lines: dict[str, str | None]) -> None:
        self.lines = lines

    def below(self, prefix: str) -> Keys:
        """Return the keys below a prefix, without it."""
        return Keys({key[len(prefix) :]: text for key, text in self.lines.items() if key.startswith(prefix)})

    def listed(self, prefix: str) -> Iterator[Keys]:
        """Yield the items of a list."""
        position = 0
        while (item := self.below(f"{prefix}.{position}.")).lines:
            yield item
            position += 1

    def text(self, key: str) -> str:
        """Return a text, or N/A."""
        return self.lines.get(key) or NA

    def number(self, key: str) -> float | None:
        """Return a number, None if it is missing; a counter as it is now."""
        if (text := self.lines.get(key)) is not None:
            return float(int(text, 0)) if not _is_decimal(text) else float(text)
        if (value := self.lines.get(f"{key}.value")) is None:
            return None
        elapsed_ns = time.monotonic_ns() - int(self.lines.get(f"{key}.since_ns") or time.monotonic_ns())
        return float(value) + float(self.lines.get(f"{key}.per_second") or 0) * elapsed_ns / 1e9

    def shown(self, key: str, form: Callable[[float], str]) -> str:
        """Return a number in the words of nvidia-smi, or N/A."""
        number = self.number(key)
        return NA if number is None else form(number)


def _is_decimal(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def read_world() -> Keys:
    """Read the file of the world. Exit as nvidia-smi does without a driver."""
    try:
        text = Path(os.environ.get(WORLD_VARIABLE) or os.environ["FAKE_NVML_WORLD"]).read_text()
    except FileNotFoundError:
        print(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
            " NVIDIA driver is installed and running.\n"
        )
        sys.exit(9)
    pairs = (line.partition("=") for line in text.splitlines())
    return Keys({key: value if separator else None for key, separator, value in pairs})


def form(pattern: str, divisor: float = 1.0) -> Callable[[float], str]:
    return lambda number: pattern.format(number / divisor)


def word(words: tuple[str, ...]) -> Callable[[float], str]:
    return lambda number: words[int(number)]


def mib(number: float) -> str:
    return f"{int(number) // MIB} MiB"


PERCENT, CELSIUS, MHZ, WATTS = form("{:.0f} %"), form("{:.0f} C"), form("{:.0f} MHz"), form("{:.2f} W", 1000.0)
COUNT, LANES, KB_PER_S = form("{:.0f}"), form("{:.0f}x"), form("{:.0f} KB/s")


class Printer:
    """Prints XML with tabs, as nvidia-smi does."""

    def __init__(self) -> None:
        self.depth = 0

    def leaf(self, name: str, text: str) -> None:
        print("\t" * self.depth + f"<{name}>{escape(text, quote=False)}</{name}>")

    def group(self, name: str, content: dict[str, Any], attributes: str = "") -> None:
        print("\t" * self.depth + f"<{name}{attributes}>")
        self.depth += 1
        for key, value in content.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    self.group(key, each)
                else:
                    self.leaf(key, each)
        self.depth -= 1
        print("\t" * self.depth + f"</{name}>")


def describe_memory(gpu: Keys, *, has_reserved: bool) -> dict[str, Any]:
    total, used, reserved = (gpu.number(f"memory.{name}") for name in ("total", "used", "reserved"))
    if total is None or used is None:
        return dict.fromkeys(("total", "reserved", "used", "free"), NA)
    free = total - used - (reserved or 0)
    if not has_reserved:
        return {"total": mib(total), "used": mib(used + (reserved or 0)), "free": mib(free)}
    return {"total": mib(total), "reserved": mib(reserved or 0), "used": mib(used), "free": mib(free)}


def describe_bar1(gpu: Keys) -> dict[str, Any]:
    total, used = gpu.number("bar1.total"), gpu.number("bar1.used")
    if total is None or used is None:
        return dict.fromkeys(("total", "used", "free"), NA)
    return {"total": mib(total), "used": mib(used), "free": mib(total - used)}


def describe_power(gpu: Keys, driver: int) -> dict[str, Any]:
    limits = {f"{name}_power_limit": gpu.shown(f"power.{name}_limit", WATTS) for name in ("default", "min", "max")}
    usage, enforced = gpu.shown("power.usage", WATTS), gpu.shown("power.enforced_limit", WATTS)
    requested = gpu.shown("power.limit", WATTS)
    if driver < 530:
        return {
            "power_state": gpu.shown("performance_state", form("P{:.0f}")), "power_management": "Supported",
            "power_draw": usage, "power_limit": requested, "default_power_limit": limits["default_power_limit"],
            "enforced_power_limit": enforced, **limits,
        }  # fmt: skip
    if driver < 545:
        draws = {"power_draw": usage}
    else:
        average, instant = (gpu.shown(f"power.{name}", WATTS) for name in ("average", "instant"))
        draws = {"average_power_draw": average, "instant_power_draw": instant}
    state = DEPRECATED if driver >= 580 else gpu.shown("performance_state", form("P{:.0f}"))
    return {
        "power_state": state,
        **draws,
        "current_power_limit": enforced,
        "requested_power_limit": requested,
        **limits,
    }


def describe_ecc(gpu: Keys, driver: int) -> dict[str, Any]:
    def count(kind: str, period: str) -> str:
        return gpu.shown(f"ecc.{kind}_{period}", COUNT)

    if gpu.number("architecture") in {4, 5}:  # Pascal and Volta
        return {
            period: {bits: {"total": count(kind, period)} for bits, kind in
                     (("single_bit", "corrected"), ("double_bit", "uncorrected"))}
            for period in ("volatile", "aggregate")
        }  # fmt: skip
    found = {}
    for period in ("volatile", "aggregate"):
        corrected, uncorrected = count("corrected", period), count("uncorrected", period)
        zero = {"corrected": NA if corrected == NA else "0", "uncorrected": NA if uncorrected == NA else "0"}
        kinds = ("_parity", "_secded") if driver >= 545 else ("",)
        names = [f"sram_uncorrectable{kind}" for kind in kinds]
        found[period] = {
            "sram_correctable": zero["corrected"], **dict.fromkeys(names, zero["uncorrected"]),
            "dram_correctable": corrected, "dram_uncorrectable": uncorrected,
        }  # fmt: skip
    return found


def describe_retired_pages(gpu: Keys) -> dict[str, Any]:
    has_them = gpu.number("retired_pages.pending") is not None

    def pages(kind: str) -> dict[str, str]:
        if not has_them:
            return {"retired_count": NA, "retired_pagelist": NA}
        count = sum(key.startswith(f"retired_pages.{kind}.") for key in gpu.lines)
        return {"retired_count": str(count), "retired_pagelist": ""}

    pending = gpu.shown("retired_pages.pending", word(YES))
    return {
        "multiple_single_bit_retirement": pages("single_bit"), "double_bit_retirement": pages("double_bit"),
        "pending_blacklist": pending, "pending_retirement": pending,
    }  # fmt: skip


def describe_rows(gpu: Keys) -> str | dict[str, str]:
    if gpu.number("remapped_rows.correctable") is None:
        return NA
    return {
        "remapped_row_corr": gpu.shown("remapped_rows.correctable", COUNT),
        "remapped_row_unc": gpu.shown("remapped_rows.uncorrectable", COUNT),
        "remapped_row_pending": gpu.shown("remapped_rows.pending", word(YES)),
        "remapped_row_failure": gpu.shown("remapped_rows.failure", word(YES)),
    }


def describe_temperature(gpu: Keys, driver: int) -> dict[str, str]:
    margin = {"gpu_temp_tlimit": gpu.shown("temperature_margin", CELSIUS)} if driver >= 530 else {}
    if gpu.number("temperature_margin") is not None and driver >= 545:
        limits = {
            f"gpu_temp_{name}_tlimit_threshold": gpu.shown(f"temperature_limits.{key}", CELSIUS)
            for name, key in (("max", "shutdown"), ("slow", "slowdown"), ("max_gpu", "gpu_max"))
        }
    else:
        limits = {
            f"gpu_temp_{name}_threshold": gpu.shown(f"temperature_thresholds.{key}", CELSIUS)
            for name, key in (("max", "shutdown"), ("slow", "slowdown"), ("max_gpu", "gpu_max"))
        }
    memory = gpu.number("memory_temperature")
    return {
        "gpu_temp": gpu.shown("temperature", CELSIUS), **margin, **limits,
        "memory_temp": CELSIUS(memory) if memory else NA,  # 0: no sensor
    }  # fmt: skip


def describe_reasons(gpu: Keys, driver: int) -> dict[str, Any]:
    term = "event" if driver >= 535 else "throttle"
    mask = gpu.number("clocks_event_reasons")
    texts = {
        f"clocks_{term}_reason_{name}": NA if mask is None else ("Active" if int(mask) & bit else "Not Active")
        for name, bit in REASONS.items()
    }
    return {f"clocks_{term}_reasons": texts}


def describe_processes(gpu: Keys) -> dict[str, Any]:
    return {
        "process_info": [
            {
                "gpu_instance_id": process.text("gpu_instance_id"),
                "compute_instance_id": process.text("compute_instance_id"),
                "pid": process.text("pid"),
                "type": process.text("type"),
                "process_name": process.text("name"),
                "used_memory": process.shown("used_memory", mib),
            }
            for process in gpu.listed("processes")
        ]
    }


def describe_gpu(gpu: Keys, driver: int) -> dict[str, Any]:
    # Before R510, and where the newer call fails (WSL), the reserved memory counts as used.
    has_reserved = driver >= 510 and gpu.number("returns.nvmlDeviceGetMemoryInfo_v2") is None
    instances: str | dict[str, Any] = "None"
    if any(True for _ in gpu.listed("mig.instances")):
        instances = {
            "mig_device": [
                {
                    "index": str(position),
                    "gpu_instance_id": instance.text("gpu_instance_id"),
                    "compute_instance_id": instance.text("compute_instance_id"),
                    "fb_memory_usage": describe_memory(instance, has_reserved=has_reserved),
                    "bar1_memory_usage": describe_bar1(instance),
                }
                for position, instance in enumerate(gpu.listed("mig.instances"))
            ]
        }
    engines = {"gpu": "utilization.gpu", "memory": "utilization.memory"}
    engines |= {name: f"{name}.utilization" for name in ("encoder", "decoder")}
    if driver >= 530:
        engines |= {name: f"{name}.utilization" for name in ("jpeg", "ofa")}
    clocks = {"graphics": "graphics", "sm": "sm", "mem": "memory", "video": "video"}
    architecture = gpu.number("architecture")
    return {
        "product_name": gpu.text("name"),
        "product_architecture": ARCHITECTURES[int(architecture)] if architecture is not None else NA,
        "display_mode": DEPRECATED if driver >= 580 else gpu.shown("display_mode", word(ENABLED)),
        "persistence_mode": gpu.shown("persistence_mode", word(ENABLED)),
        "mig_mode": {
            "current_mig": gpu.shown("mig.current", word(ENABLED)),
            "pending_mig": gpu.shown("mig.pending", word(ENABLED)),
        },
        "mig_devices": instances,
        "serial": gpu.text("serial"),
        "uuid": gpu.text("uuid"),
        "vbios_version": gpu.text("vbios"),
        "pci": {
            "pci_bus_id": gpu.text("pci.bus_id"),
            "pci_gpu_link_info": {
                "pcie_gen": {
                    "max_link_gen": gpu.shown("pcie.max_generation", COUNT),
                    "current_link_gen": gpu.shown("pcie.generation", COUNT),
                },
                "link_widths": {
                    "max_link_width": gpu.shown("pcie.max_width", LANES),
                    "current_link_width": gpu.shown("pcie.width", LANES),
                },
            },
            "replay_counter": gpu.shown("pcie.replay_counter", COUNT),
            "tx_util": gpu.shown("pcie.tx_kb_per_s", KB_PER_S),
            "rx_util": gpu.shown("pcie.rx_kb_per_s", KB_PER_S),
        },
        "fan_speed": gpu.shown("fan_speed", PERCENT),
        "performance_state": gpu.shown("performance_state", form("P{:.0f}")),
        **describe_reasons(gpu, driver),
        "fb_memory_usage": describe_memory(gpu, has_reserved=has_reserved),
        "bar1_memory_usage": describe_bar1(gpu),
        "compute_mode": gpu.shown("compute_mode", word(COMPUTE_MODES)),
        "utilization": {f"{name}_util": gpu.shown(key, PERCENT) for name, key in engines.items()},
        "encoder_stats": {"session_count": gpu.shown("encoder_stats.sessions", COUNT)},
        "ecc_errors": describe_ecc(gpu, driver),
        "retired_pages": describe_retired_pages(gpu),
        "remapped_rows": describe_rows(gpu),
        "temperature": describe_temperature(gpu, driver),
        "gpu_power_readings" if driver >= 530 else "power_readings": describe_power(gpu, driver),
        "clocks": {f"{name}_clock": gpu.shown(f"clocks.{key}", MHZ) for name, key in clocks.items()},
        "applications_clocks": {
            f"{name}_clock": DEPRECATED if driver >= 580 else gpu.shown(f"application_clocks.{key}", MHZ)
            for name, key in (("graphics", "graphics"), ("mem", "memory"))
        },
        "max_clocks": {f"{name}_clock": gpu.shown(f"max_clocks.{key}", MHZ) for name, key in clocks.items()},
        "processes": describe_processes(gpu),
    }


def print_query(world: Keys) -> None:
    driver = int(world.text("driver_version").partition(".")[0])
    version = 11 if driver < 530 else 12 if driver < 580 else 13
    gpus = [gpu for gpu in world.listed("gpus") if not _is_lost(gpu)]
    cuda = int(world.number("cuda_driver_version") or 0)
    print('<?xml version="1.0" ?>')
    print(f'<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{version}.dtd">')
    print("<nvidia_smi_log>")
    printer = Printer()
    printer.depth = 1
    printer.leaf("timestamp", time.strftime("%a %b %e %H:%M:%S %Y"))
    printer.leaf("driver_version", world.text("driver_version"))
    printer.leaf("cuda_version", f"{cuda // 1000}.{cuda % 1000 // 10}")
    printer.leaf("attached_gpus", str(len(gpus)))
    for gpu in gpus:
        printer.group("gpu", describe_gpu(gpu, driver), f' id="{gpu.text("pci.bus_id")}"')
    print("</nvidia_smi_log>")


def _is_lost(gpu: Keys) -> bool:
    return gpu.number("returns.*") in UNAVAILABLE_CODES


def print_pmon(world: Keys) -> None:
    gpus = [gpu for gpu in world.listed("gpus") if not _is_lost(gpu)]
    if any(gpu.number("mig.current") for gpu in gpus):
        print("Process Monitoring is not supported on the device(s) in MIG mode.")
        sys.exit(3)
    print("# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command ")
    print("# Idx           #    C/G      %      %      %      %      %      %    name ")
    for index, gpu in enumerate(gpus):
        processes = list(gpu.listed("processes"))
        for process in processes:
            utils = [process.shown(f"{name}_util", COUNT) for name in ("sm", "mem", "enc", "dec", "jpg", "ofa")]
            cells = "".join(f"{'-' if text == NA else text:>7}" for text in utils)
            name = process.text("name").rpartition("/")[2][:15]
            print(f"{index:>5} {process.text('pid'):>10} {process.text('type'):>5} {cells}    {name:<15}")
        if not processes:
            print(f"{index:>5} {'-':>10} {'-':>5} " + f"{'-':>7}" * 6 + f"    {'-':<15}")


def main(arguments: list[str]) -> None:
    world = read_world()
    if arguments == ["-q", "-x"]:
        print_query(world)
    elif arguments == ["pmon", "-c", "1"]:
        print_pmon(world)
    else:
        sys.exit(f"Invalid combination of input arguments: {arguments}")


if __name__ == "__main__":
    main(sys.argv[1:])
