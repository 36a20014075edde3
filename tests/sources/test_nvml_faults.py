"""Error codes of each NVML function: a failure affects one metric of one GPU only."""

from __future__ import annotations

import ctypes
import gc
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.model.sample import PROCESSES, Gpu
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import background_poller, throughput, xid_events
from dashtop.sources.nvml.bindings import REASONS, get_reason
from dashtop.sources.nvml.session import NvmlSession
from tests.processes import eventually
from tests.sources.nvml_fixtures import open_reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

FAILING_GPU = 3
ACTIVITY = tuple(f"gpu.utilization.{what}" for what in ("compute", "sm_occupancy", "tensor", "dram"))

# Functions that a metric depends on -> a metric whose value is then missing for the reason of the return code.
METRIC_FUNCTIONS = {
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
# Called only if the driver lacks the newer function.
SUCCESSORS = {
    "nvmlDeviceGetMemoryInfo": "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetComputeRunningProcesses_v2": "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v2": "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v2": "nvmlDeviceGetMPSComputeRunningProcesses_v3",
}
# Without these a GPU has no values.
LOOKUPS = ("nvmlDeviceGetHandleByIndex_v2",)
# Functions without a device. If INIT_FUNCTIONS fail there are no GPUs, if ACTIVITY_FUNCTIONS fail no activity metrics.
# Failures of OPTIONAL_FUNCTIONS, here of several at once with different codes, affect no metric.
INIT_FUNCTIONS = ("nvmlInit_v2", "nvmlDeviceGetCount_v2")
ACTIVITY_FUNCTIONS = ("nvmlGpmSampleAlloc", "nvmlGpmMetricsGet")
OPTIONAL_FUNCTIONS = (
    ("nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion", "nvmlEventSetCreate", "nvmlShutdown"),
    ("nvmlEventSetWait_v2", "nvmlEventSetFree", "nvmlGpmSampleFree"),
)
MIG_FUNCTIONS = ("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex")
# For processes, device information and events: their failure affects no metric.
OTHER_FUNCTIONS = (
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
    "nvmlDeviceGetMPSComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetPciInfo_v3",
    "nvmlDeviceGetSerial",
    "nvmlDeviceGetVbiosVersion",
    "nvmlDeviceGetArchitecture",
    "nvmlDeviceGetSupportedEventTypes",
    "nvmlDeviceRegisterEvents",
)
CODES = (1, 2, 3, 4, 6, 7, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 999)
SINGLE_GPU_CODES = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN)
LOST_CODES = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)


@pytest.fixture(scope="module")
def hopper(tmp_path_factory: pytest.TempPathFactory, fake_nvml_cache: Path) -> Iterator[World]:
    """Return a world of eight Hopper GPUs whose library is loaded into this process, which saves a thousand workers."""
    from tests.fake_nvml import World

    world = World.load("h100x8", tmp_path_factory.mktemp("world") / "world.txt", fake_nvml_cache).count_calls()
    for index in range(len(world.gpus)):  # so that every function is called
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


@pytest.mark.parametrize("function", [*METRIC_FUNCTIONS, *OTHER_FUNCTIONS, *LOOKUPS])
def test_error_of_a_function_affects_one_gpu(hopper: World, function: str) -> None:
    """One GPU of eight returns an error, then seven return different ones: only their values are missing."""
    healthy = read_one_session(hopper, function)
    session = NvmlSession()
    try:
        for codes in ({FAILING_GPU: code} for code in SINGLE_GPU_CODES):
            check(read_new_session(session, hopper, function, codes), function, codes, healthy)
        for first in range(0, len(CODES), 7):
            codes = dict(enumerate(CODES[first : first + 7], start=1))
            check(read_new_session(session, hopper, function, codes), function, codes, healthy)
    finally:
        session.close()
        hopper.clear_faults().save()


def test_persistent_errors_leave_no_reference_cycles(hopper: World) -> None:
    """Exceptions that are kept for the next caller must not keep the frames through which they were raised."""
    for function in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetFieldValues"):
        for index in range(len(hopper.gpus)):
            hopper.set_return(function, pynvml.NVML_ERROR_UNKNOWN, gpu=index)
    hopper.save()
    session = NvmlSession()
    try:
        read_first_values(session)
        gc.collect()
        gc.disable()
        tracebacks = count_tracebacks()
        for _ in range(20):
            gpus = session.read().gpus
        assert all(gpu.unavailable["gpu.power.current_watts"] is UnavailableReason.DRIVER_ERROR for gpu in gpus)
        assert count_tracebacks() - tracebacks < 20
    finally:
        gc.enable()
        session.close()
        hopper.clear_faults().save()


def count_tracebacks() -> int:
    return sum(isinstance(each, TracebackType) for each in gc.get_objects())


def read_new_session(session: NvmlSession, world: World, function: str, codes: dict[int, int]) -> tuple[Gpu, ...]:
    """Read in a new session in which the function returns these codes, by GPU."""
    select_function(world, function)
    for index, code in codes.items():
        world.set_return(function, code, gpu=index)
    world.save()
    session.close()
    session._open_at = 0.0
    return read_first_values(session, METRIC_FUNCTIONS.get(function))


def select_function(world: World, function: str) -> World:
    """Clear all faults; disable the newer function if this one is called only in its place."""
    world.clear_faults()
    if function in SUCCESSORS:
        world.set_return(SUCCESSORS[function], pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    return world


def check(gpus: tuple[Gpu, ...], function: str, codes: dict[int, int], healthy: list[set[str]]) -> None:
    assert len(gpus) == 8
    for index, gpu in enumerate(gpus):
        code = codes.get(index)
        if code is None:
            unexpected = {key: reason for key, reason in gpu.unavailable.items() if key not in healthy[index]}
            assert (unexpected, set(gpu.unavailable)) == ({}, healthy[index]), (function, codes, index)
        elif function in LOOKUPS:
            assert gpu.state is get_reason(code), (function, code)
        elif function in METRIC_FUNCTIONS:
            found = gpu.unavailable.get(METRIC_FUNCTIONS[function])
            assert found in get_allowed_reasons(function, code), (function, code, found)
        elif code in LOST_CODES and function == "nvmlDeviceGetUUID":
            assert gpu.state is get_reason(code)
        elif code not in LOST_CODES:
            assert set(gpu.unavailable) - {PROCESSES} <= healthy[index], (function, code)


def get_allowed_reasons(function: str, code: int) -> set[UnavailableReason | None]:
    """Return the allowed reasons; None (a value) if another function returns the value too."""
    reasons: set[UnavailableReason | None] = {get_reason(code)}
    if function == "nvmlDeviceGetCurrentClocksEventReasons" and get_reason(code) is UnavailableReason.LIBRARY_TOO_OLD:
        reasons.add(None)
    return reasons


def read_one_session(world: World, function: str = "") -> list[set[str]]:
    """Return the missing keys of each GPU without faults."""
    select_function(world, function).save()
    session = NvmlSession()
    try:
        return [set(gpu.unavailable) for gpu in read_first_values(session)]
    finally:
        session.close()


def read_first_values(session: NvmlSession, expected: str | None = None) -> tuple[Gpu, ...]:
    """Read until everything except rates, and the metric `expected`, has been read; leave out the reasons of rates."""

    def read() -> tuple[Gpu, ...] | None:
        gpus = session.read().gpus
        waiting = [
            key
            for gpu in gpus
            for key, reason in gpu.unavailable.items()
            if reason is UnavailableReason.FIRST_READING and (
                key == expected
                or (not key.endswith(("_mbps", "wh_per_hour")) and not key.startswith("gpu.utilization."))
            )
        ]  # fmt: skip
        return gpus if gpus and not waiting else None

    answer: tuple[Gpu, ...] = eventually(read, every_s=0.005)
    return tuple(without_rates(gpu) for gpu in answer)


def without_rates(gpu: Gpu) -> Gpu:
    """Leave out the reasons of rates, which depend on the time between readings."""
    kept = {key: reason for key, reason in gpu.unavailable.items() if reason is not UnavailableReason.FIRST_READING}
    return Gpu(device=gpu.device, values=gpu.values, unavailable=kept, processes=gpu.processes, state=gpu.state)


@pytest.fixture
def two_hoppers(hopper: World) -> Iterator[World]:
    """Leave two GPUs: the samples of GPM take a tenth of a second for each."""
    gpus = hopper.data["gpus"]
    hopper.data["gpus"] = gpus[:2]
    yield hopper
    hopper.data["gpus"] = gpus
    hopper.clear_faults().save()


@pytest.mark.parametrize(
    "functions", [*((each,) for each in (*INIT_FUNCTIONS, *ACTIVITY_FUNCTIONS)), *OPTIONAL_FUNCTIONS]
)
def test_error_of_a_function_without_device(two_hoppers: World, functions: tuple[str, ...]) -> None:
    healthy = read_one_session(two_hoppers)
    session = NvmlSession()
    try:
        for turn, code in enumerate(CODES):
            session.close()
            two_hoppers.clear_faults()
            for place, function in enumerate(functions):
                two_hoppers.set_return(function, CODES[(turn + 5 * place) % len(CODES)])
            two_hoppers.save()
            session._open_at = 0.0
            if functions[0] in INIT_FUNCTIONS:
                reading = session.read()
                assert (reading.gpus, reading.error) == ((), get_reason(code)), (functions, code)
            elif functions[0] in ACTIVITY_FUNCTIONS:
                check_activity_is_missing(session, healthy, code)
            else:
                assert [set(gpu.unavailable) for gpu in read_first_values(session)] == healthy, (functions, code)
    finally:
        session.close()


def read_activity(session: NvmlSession) -> tuple[Gpu, ...]:
    """Read until the activity metrics have had their second reading."""

    def read() -> tuple[Gpu, ...] | None:
        gpus = session.read().gpus
        waiting = UnavailableReason.FIRST_READING in {gpu.unavailable.get(key) for gpu in gpus for key in ACTIVITY}
        return None if waiting else gpus

    gpus: tuple[Gpu, ...] = eventually(read, every_s=0.005)
    return gpus


def check_activity_is_missing(session: NvmlSession, healthy: list[set[str]], code: int) -> None:
    """Check that only activity metrics are missing, with the reason of the code."""
    read_first_values(session)
    gpus = read_activity(session)
    assert len(gpus) == len(healthy)
    for gpu, missing in zip(gpus, healthy, strict=True):
        assert {gpu.unavailable[key] for key in ACTIVITY} == {get_reason(code)}
        if code in LOST_CODES:  # of any function
            assert gpu.state is get_reason(code)
        else:
            assert set(without_rates(gpu).unavailable) - set(ACTIVITY) == missing, code


@pytest.mark.parametrize("function", MIG_FUNCTIONS)
def test_mig_gpu_is_listed_if_its_instances_cannot_be_read(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    world = nvml_world("a100_mig").count_calls()
    world.gpus.append(nvml_world("rtx3090").gpu(0))
    for code in (3, 4, 15, 999):
        world.set_return(function, code, gpu=0).save()
        with open_reader(world, monkeypatch) as gpus:
            found = gpus.read(20).gpus
        assert [gpu.values["gpu.temperature"] for gpu in found] == [gpu["temperature"] for gpu in world.gpus]
    assert function in {called for called, _ in world.calls()}


def test_every_called_function_is_tested(hopper: World) -> None:
    for function in ("", *SUCCESSORS):
        read_one_session(hopper, function)
    session = NvmlSession()
    try:
        read_activity(session)
    finally:
        session.close()
    called = {function for function, _ in hopper.calls()}
    assert called == {
        *METRIC_FUNCTIONS,
        *OTHER_FUNCTIONS,
        *LOOKUPS,
        *INIT_FUNCTIONS,
        *ACTIVITY_FUNCTIONS,
        *chain(*OPTIONAL_FUNCTIONS),
    }


def test_reasons_of_return_codes() -> None:
    assert get_reason(pynvml.NVML_ERROR_NO_PERMISSION) is UnavailableReason.NO_PERMISSION
    assert get_reason(pynvml.NVML_ERROR_GPU_IS_LOST) is UnavailableReason.GPU_LOST
    assert get_reason(12345) is UnavailableReason.DRIVER_ERROR
    assert set(REASONS.values()) <= set(UnavailableReason)
