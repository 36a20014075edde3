"""Whatever the driver does: one GPU's failure stays its own, one metric's stays its own, and what mends is seen."""

from __future__ import annotations

import ctypes
from itertools import chain
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.model.sample import PROCESSES, Gpu
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import background_poller, throughput, xid_events
from dashtop.sources.nvml.bindings import REASONS, get_reason
from dashtop.sources.nvml.session import NvmlSession
from tests.processes import eventually
from tests.sources.nvml_fixtures import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

ILL = 3
ACTIVITY = tuple(f"gpu.utilization.{what}" for what in ("compute", "sm_occupancy", "tensor", "dram"))

# Each function that a row of the table depends on, with a row that then has no value (its own reason shows there).
ASKED = {
    "nvmlDeviceGetUtilizationRates": "gpu.utilization.gpu",
    "nvmlDeviceGetTemperature": "gpu.temperature",
    "nvmlDeviceGetPowerUsage": "gpu.power.current_watts",
    "nvmlDeviceGetEnforcedPowerLimit": "gpu.power.max_watts",
    "nvmlDeviceGetClockInfo": "gpu.clocks.gpu_mhz",
    "nvmlDeviceGetMaxClockInfo": "gpu.clocks.gpu_max_mhz",
    "nvmlDeviceGetCurrPcieLinkGeneration": "gpu.pcie.generation",
    "nvmlDeviceGetCurrPcieLinkWidth": "gpu.pcie.width",
    "nvmlDeviceGetMaxPcieLinkGeneration": "gpu.pcie.max_generation",
    "nvmlDeviceGetMaxPcieLinkWidth": "gpu.pcie.max_width",
    "nvmlDeviceGetPcieReplayCounter": "gpu.pcie.replays",
    "nvmlDeviceGetEncoderUtilization": "gpu.encoder_utilization",
    "nvmlDeviceGetDecoderUtilization": "gpu.decoder_utilization",
    "nvmlDeviceGetJpgUtilization": "gpu.jpeg_utilization",
    "nvmlDeviceGetOfaUtilization": "gpu.ofa_utilization",
    "nvmlDeviceGetEncoderStats": "gpu.encoder_sessions",
    "nvmlDeviceGetBAR1MemoryInfo": "gpu.memory.bar1_used_gb",
    "nvmlDeviceGetMarginTemperature": "gpu.temperature_margin",
    "nvmlDeviceGetTemperatureThreshold": "gpu.temperature_slowdown",
    "nvmlDeviceGetPowerManagementDefaultLimit": "gpu.power.limit_default_watts",
    "nvmlDeviceGetPowerManagementLimitConstraints": "gpu.power.limit_max_watts",
    "nvmlDeviceGetTotalEnergyConsumption": "gpu.energy.total_wh",
    "nvmlDeviceGetPerformanceState": "gpu.performance_state",
    "nvmlDeviceGetCurrentClocksEventReasons": "gpu.clocks.event_reasons",
    "nvmlDeviceGetNvLinkState": "gpu.nvlink.active",
    "nvmlDeviceGetTotalEccErrors": "gpu.ecc.volatile_corrected",
    "nvmlDeviceGetRemappedRows": "gpu.remapped_rows.corrected",
    "nvmlDeviceGetComputeMode": "gpu.compute_mode",
    "nvmlDeviceGetPersistenceMode": "gpu.persistence_mode",
    "nvmlDeviceGetMigMode": "gpu.mig_mode",
    "nvmlDeviceGetFieldValues": "gpu.power.instant_watts",
    "nvmlDeviceGetMemoryInfo_v2": "gpu.memory.reserved_gb",
    "nvmlGpmQueryDeviceSupport": "gpu.utilization.compute",
    "nvmlGpmSampleGet": "gpu.utilization.compute",
    "nvmlDeviceGetFanSpeed": "gpu.fan_speed",
    "nvmlDeviceGetRetiredPages": "gpu.retired_pages.single_bit",
    "nvmlDeviceGetRetiredPagesPendingStatus": "gpu.retired_pages.pending",
    "nvmlDeviceGetPcieThroughput": "gpu.pcie.tx_mbps",
    "nvmlDeviceGetMemoryInfo": "gpu.memory.used_gb",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "gpu.clocks.event_reasons",
}
# Asked where the driver does not have the function that took their place.
SUCCESSORS = {
    "nvmlDeviceGetMemoryInfo": "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetComputeRunningProcesses_v2": "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v2": "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v2": "nvmlDeviceGetMPSComputeRunningProcesses_v3",
}
# Without them nothing can be asked of a GPU.
LOOKUPS = ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetUUID")
# Of no GPU. A failure of the first two leaves no GPU, of the next two no activity. The others' takes nothing with it:
# several of them fail at once, each with another code.
OPENING = ("nvmlInit_v2", "nvmlDeviceGetCount_v2")
OF_ACTIVITY = ("nvmlGpmSampleAlloc", "nvmlGpmMetricsGet")
OF_NOTHING = (
    ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion", "nvmlEventSetCreate", "nvmlShutdown"),
    ("nvmlEventSetWait_v2", "nvmlEventSetFree", "nvmlGpmSampleFree"),
)
OF_SPLIT = ("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex")
# Without a row of their own: processes, facts, events. Their failure must take no value with it at all.
ALSO_ASKED = (
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
    "nvmlDeviceGetMPSComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetName",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetSerial",
    "nvmlDeviceGetVbiosVersion",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetSupportedEventTypes",
    "nvmlDeviceRegisterEvents",
)
CODES = (1, 2, 3, 4, 6, 7, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 999)
ALONE = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN)
LOST_CODES = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory, fake_nvml_cache: Path) -> Iterator[World]:
    """Eight Hopper GPUs, with the library loaded into this very process: a thousand readings would need a thousand
    children otherwise."""
    from tests.fake_nvml import World

    world = World.load("h100x8", tmp_path_factory.mktemp("world") / "world.txt", fake_nvml_cache).count_calls()
    for index in range(len(world.gpus)):  # so that nothing is left unasked
        world.set(index, "fan_speed", 50).set(
            index, "retired_pages", {"single_bit": [1], "double_bit": [], "pending": 0}
        )
        world.remove(index, "pcie.tx_bytes").remove(index, "pcie.rx_bytes")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.env().items():
            patch.setenv(name, value)
        patch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(world.library.path)))
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        patch.setattr(xid_events, "WAIT_TIMEOUT_MS", 5)
        patch.setattr(throughput, "PCIE_WINDOW_S", 0.001)
        patch.setattr(background_poller, "SECOND_READING_DELAY_S", 0.11)
        world.save()
        yield world


@pytest.mark.parametrize("function", [*ASKED, *ALSO_ASKED, *LOOKUPS])
def test_every_function_with_every_error(hopper: World, function: str) -> None:
    """One of eight GPUs answers with an error, then seven at once with seven different ones: each has its own reason,
    and the others keep all their values."""
    sound = read_one_session(hopper, function)
    session = NvmlSession()
    try:
        for codes in ({ILL: code} for code in ALONE):
            check(reopened(session, hopper, function, codes), function, codes, sound)
        for first in range(0, len(CODES), 7):
            codes = dict(enumerate(CODES[first : first + 7], start=1))
            check(reopened(session, hopper, function, codes), function, codes, sound)
    finally:
        session.close()
        hopper.clear_faults().save()


def reopened(session: NvmlSession, world: World, function: str, codes: dict[int, int]) -> tuple[Gpu, ...]:
    """Read in a session of a world in which the function answers with these codes, by GPU."""
    only_with(world, function)
    for index, code in codes.items():
        world.set_return(function, code, gpu=index)
    world.save()
    session.close()
    session._open_at = 0.0
    return first_answers(session)


def only_with(world: World, function: str) -> World:
    """Clear all faults; where the function is asked in the place of a newer one alone, take that away."""
    world.clear_faults()
    if function in SUCCESSORS:
        world.set_return(SUCCESSORS[function], pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    return world


def check(gpus: tuple[Gpu, ...], function: str, codes: dict[int, int], sound: list[set[str]]) -> None:
    assert len(gpus) == 8
    for index, gpu in enumerate(gpus):
        code = codes.get(index)
        if code is None:
            assert set(gpu.unavailable) == sound[index], (function, codes, index)
        elif function in LOOKUPS:
            assert gpu.state is get_reason(code), (function, code)
        elif function in ASKED:
            found = gpu.unavailable.get(ASKED[function])
            assert found in allowed(function, code), (function, code, found)
        elif code not in LOST_CODES:
            assert set(gpu.unavailable) - {PROCESSES} <= sound[index], (function, code)


def allowed(function: str, code: int) -> set[UnavailableReason | None]:
    """What may be said of the value: its reason, or its value where another call tells it as well."""
    reasons: set[UnavailableReason | None] = {get_reason(code)}
    if function == "nvmlDeviceGetCurrentClocksEventReasons" and get_reason(code) is UnavailableReason.LIBRARY_TOO_OLD:
        reasons.add(None)
    return reasons


def read_one_session(world: World, function: str = "") -> list[set[str]]:
    """Return the keys that each GPU has no value for while the function answers as it should."""
    only_with(world, function).save()
    session = NvmlSession()
    try:
        return [set(gpu.unavailable) for gpu in first_answers(session)]
    finally:
        session.close()


def first_answers(session: NvmlSession) -> tuple[Gpu, ...]:
    """Read until everything but rates has had its first answer; rates are left out of what is compared."""

    def read() -> tuple[Gpu, ...] | None:
        gpus = session.read().gpus
        waiting = [
            key
            for gpu in gpus
            for key, reason in gpu.unavailable.items()
            if reason is UnavailableReason.FIRST_READING and not key.endswith(("_mbps", "wh_per_hour"))
            and not key.startswith("gpu.utilization.")
        ]  # fmt: skip
        return gpus if gpus and not waiting else None

    answer: tuple[Gpu, ...] = eventually(read, every_s=0.005)
    return tuple(without_rates(gpu) for gpu in answer)


def without_rates(gpu: Gpu) -> Gpu:
    """Leave out the reasons of rates, which depend on how long was waited for them."""
    kept = {key: reason for key, reason in gpu.unavailable.items() if reason is not UnavailableReason.FIRST_READING}
    return Gpu(device=gpu.device, values=gpu.values, unavailable=kept, processes=gpu.processes, state=gpu.state)


@pytest.mark.parametrize("functions", [*((each,) for each in (*OPENING, *OF_ACTIVITY)), *OF_NOTHING])
def test_what_is_asked_of_no_gpu_with_every_error(hopper: World, functions: tuple[str, ...]) -> None:
    sound = read_one_session(hopper)
    session = NvmlSession()
    try:
        for turn, code in enumerate(CODES):
            session.close()
            hopper.clear_faults()
            for place, function in enumerate(functions):
                hopper.set_return(function, CODES[(turn + 5 * place) % len(CODES)])
            hopper.save()
            session._open_at = 0.0
            if functions[0] in OPENING:
                reading = session.read()
                assert (reading.gpus, reading.error) == ((), get_reason(code)), (functions, code)
            elif functions[0] in OF_ACTIVITY:
                without_activity(session, sound, code)
            else:
                assert [set(gpu.unavailable) for gpu in first_answers(session)] == sound, (functions, code)
    finally:
        session.close()
        hopper.clear_faults().save()


def without_activity(session: NvmlSession, sound: list[set[str]], code: int) -> None:
    """Check that only what comes from samples of the GPU's activity is missing, and for the right reason."""
    first_answers(session)

    def answered() -> tuple[Gpu, ...] | None:
        gpus = session.read().gpus
        waiting = UnavailableReason.FIRST_READING in {gpu.unavailable.get(key) for gpu in gpus for key in ACTIVITY}
        return None if waiting else gpus

    gpus: tuple[Gpu, ...] = eventually(answered, every_s=0.005)
    assert len(gpus) == len(sound)
    for gpu, missing in zip(gpus, sound, strict=True):
        assert {gpu.unavailable[key] for key in ACTIVITY} == {get_reason(code)}
        if code in LOST_CODES:  # whatever asks
            assert gpu.state is get_reason(code)
        else:
            assert set(without_rates(gpu).unavailable) - set(ACTIVITY) == missing, code


@pytest.mark.parametrize("function", OF_SPLIT)
def test_a_gpu_that_does_not_show_its_instances_is_shown_itself(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    world = nvml_world("a100_mig").count_calls()
    world.gpus.append(nvml_world("rtx3090").gpu(0))
    for code in (3, 4, 15, 999):
        world.set_return(function, code, gpu=0).save()
        with reading(world, monkeypatch) as gpus:
            found = gpus.read(20).gpus
        assert [gpu.values["gpu.temperature"] for gpu in found] == [gpu["temperature"] for gpu in world.gpus]
    assert function in {called for called, _ in world.calls()}


def test_no_function_that_is_called_is_left_out(hopper: World) -> None:
    for function in ("", *SUCCESSORS):
        read_one_session(hopper, function)
    called = {function for function, _ in hopper.calls()}
    assert called == {*ASKED, *ALSO_ASKED, *LOOKUPS, *OPENING, *OF_ACTIVITY, *chain(*OF_NOTHING)}


def test_each_documented_code_has_the_right_reason() -> None:
    assert get_reason(pynvml.NVML_ERROR_NO_PERMISSION) is UnavailableReason.NO_PERMISSION
    assert get_reason(pynvml.NVML_ERROR_GPU_IS_LOST) is UnavailableReason.GPU_LOST
    assert get_reason(12345) is UnavailableReason.DRIVER_ERROR
    assert set(REASONS.values()) <= set(UnavailableReason)
