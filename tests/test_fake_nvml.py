"""The fake NVML library, called through pynvml."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_nvml import World, build_library, exported_functions, world_names
from tests.fake_nvml.probe import NvmlFailure, Probe, ProbeDied, ProbeHangs
from tests.fake_nvml.world import REALISTIC_LATENCY_US, WORLDS_DIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fake_nvml import Library
    from tests.fake_nvml.fixtures import WorldFactory

NOT_AVAILABLE_ID = 0xFFFFFFFF
GIB = 1 << 30

# Every value is different, so that a test notices if two are mixed up.
FULL_GPU: dict[str, Any] = {
    "uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "name": "NVIDIA Test 9000",
    "serial": "1320220012345",
    "vbios": "96.02.42.00.01",
    "brand": 14,
    "architecture": 9,
    "compute_capability": [9, 1],
    "minor_number": 5,
    "cores": 16896,
    "memory_bus_width": 5120,
    "numa_node": 1,
    "addressing_mode": 2,
    "pci": {"bus_id": "0000000F:41:03.0", "device_id": "0x233010DE", "subsystem_id": "0x16C110DE"},
    "utilization": {"gpu": 71, "memory": 33},
    "encoder": {"utilization": 11, "sampling_period_us": 100001},
    "decoder": {"utilization": 12, "sampling_period_us": 100002},
    "jpeg": {"utilization": 13},
    "ofa": {"utilization": 14},
    "memory": {"total": 80 * GIB, "reserved": GIB, "used": 20 * GIB},
    "bar1": {"total": 128 * GIB, "used": 3 * GIB},
    "temperature": 61,
    "memory_temperature": 66,
    "temperature_margin": -4,
    "temperature_thresholds": {"shutdown": 95, "slowdown": 92, "mem_max": 96, "gpu_max": 87, "acoustic_curr": 83},
    "temperature_limits": {"shutdown": -8, "slowdown": -2, "mem_max": 0, "gpu_max": 1},
    "power": {
        "usage": 400123,
        "instant": 410456,
        "average": 400789,
        "limit": 690000,
        "enforced_limit": 680000,
        "default_limit": 700000,
        "min_limit": 200000,
        "max_limit": 710000,
    },
    "module_power": {"instant": 910000},
    "energy_mj": 123456789012345,
    "fan_speed": 55,
    "fans": [{"speed": 55, "target": 56, "policy": 0, "rpm": 1801}, {"speed": 57, "target": 58, "policy": 1}],
    "clocks": {"graphics": 1755, "sm": 1756, "memory": 2619, "video": 1365},
    "max_clocks": {"graphics": 1980, "sm": 1981, "memory": 2620, "video": 1545},
    "application_clocks": {"graphics": 1700, "memory": 2600},
    "performance_state": 0,
    "clocks_event_reasons": 0x24,
    "clocks_event_reasons_supported": 0x1FF,
    "violations": {"power": 11000000000, "total_base_clocks": 12000000000},
    "pcie": {
        "generation": 4,
        "width": 8,
        "max_generation": 5,
        "max_width": 16,
        "gpu_max_generation": 6,
        "speed_mbps": 16000,
        "max_speed": 5,
        "tx_kb_per_s": 2048,
        "rx_kb_per_s": 1024,
        "tx_bytes": 3020371496,
        "rx_bytes": 3893142392,
        "replay_counter": 7,
    },
    "nvlink": {
        "speed_mbps": 26562,
        "links": [
            {
                "active": 1,
                "version": 6,
                "speed_mbps": 26562,
                "tx_bytes": 2048000,
                "rx_bytes": 1024000,
                "replay_errors": 1,
            },
            {"active": 0, "version": 6, "tx_bytes": 1024, "rx_bytes": 2048, "replay_errors": 2, "crc_flit_errors": 9},
        ],
    },
    "ecc": {
        "current": 1,
        "pending": 0,
        "default": 1,
        "corrected_volatile": 21,
        "uncorrected_volatile": 22,
        "corrected_aggregate": 23,
        "uncorrected_aggregate": 24,
        "dram": {"corrected_volatile": 25, "uncorrected_aggregate": 26},
    },
    "retired_pages": {"single_bit": [0xABC, 0xDEF], "double_bit": [], "pending": 1},
    "remapped_rows": {
        "correctable": 3,
        "uncorrectable": 4,
        "pending": 1,
        "failure": 0,
        "histogram": {"max": 638, "high": 1, "partial": 2, "low": 3, "none": 4},
    },
    "compute_mode": 3,
    "persistence_mode": 1,
    "display_mode": 0,
    "display_active": 1,
    "virtualization_mode": 2,
    "mig": {"current": 0, "pending": 1, "max_devices": 7},
    "encoder_stats": {"sessions": 2, "fps": 60, "latency_us": 4000},
    "encoder_sessions": [
        {"session_id": 1, "pid": 900, "codec": 1, "width": 1920, "height": 1080, "fps": 60, "latency_us": 4000},
        {"session_id": 2, "pid": 901, "width": 1280, "height": 720},
    ],
    "fbc_stats": {"sessions": 0, "fps": 0, "latency_us": 0},
    "gpm": {"supported": 1, "metrics": {"2": 61.5, "10": 12.25}},
    "event_types": 0x19F,
    "processes": [
        {"pid": 900, "name": "python3", "type": "C", "used_memory": 5 * GIB, "sm_util": 60, "mem_util": 20},
        {"pid": 901, "type": "C+G", "used_memory": None, "sm_util": 5, "enc_util": 3, "dec_util": 2, "ofa_util": 1},
        {"pid": 902, "type": "G", "used_memory": 12345},
        {"pid": 903, "type": "M+C", "used_memory": 54321, "gpu_instance_id": 2, "compute_instance_id": 1},
    ],
}
PLAIN_GPU: dict[str, Any] = {"uuid": "GPU-00000000-0000-0000-0000-000000000002", "name": "NVIDIA Plain"}
MACHINE = {"driver_version": "580.65.06", "nvml_version": "13.580.65.06", "cuda_driver_version": 13000}


def machine(*gpus: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**MACHINE, "gpus": list(gpus), **more}


class Session:
    """A process shared by the tests that do not end it; each test loads its own world."""

    def __init__(self, file: Path, cache_dir: Path) -> None:
        self._file = file
        self._cache_dir = cache_dir
        self.world = World(machine(), file, cache_dir)
        self.probe = Probe(self.world)

    def enter(self, data: dict[str, Any] | str) -> World:
        if isinstance(data, str):
            self.world = World.load(data, self._file, self._cache_dir)
        else:
            self.world = World(data, self._file, self._cache_dir)
        self.world.save()
        self.probe.evaluate("fresh()")
        return self.world


@pytest.fixture(scope="module")
def session(
    tmp_path_factory: pytest.TempPathFactory, fake_nvml_cache: Path, fake_nvml_library: Library
) -> Iterator[Session]:
    session = Session(tmp_path_factory.mktemp("nvml") / "world.txt", fake_nvml_cache)
    with session.probe:
        yield session


@pytest.fixture
def evaluate(session: Session) -> Callable[..., Any]:
    return session.probe.evaluate


@pytest.fixture
def run(session: Session) -> Callable[..., Any]:
    return session.probe.run


def code_of(evaluate: Callable[..., Any], expression: str) -> int:
    with pytest.raises(NvmlFailure) as failure:
        evaluate(expression)
    return failure.value.code


# --- values ---


@pytest.fixture
def full(session: Session) -> Callable[..., Any]:
    """Return a function that evaluates expressions in a world with FULL_GPU and PLAIN_GPU."""
    if session.world.data.get("name") != "full":
        session.enter(machine(FULL_GPU, PLAIN_GPU, name="full"))
    return session.probe.evaluate


GPU = "gpu(0)"
ANSWERS: list[tuple[str, Any]] = [
    ("n.nvmlSystemGetDriverVersion()", "580.65.06"),
    ("n.nvmlSystemGetNVMLVersion()", "13.580.65.06"),
    ("n.nvmlSystemGetCudaDriverVersion_v2()", 13000),
    ("n.nvmlDeviceGetCount()", 2),
    (f"n.nvmlDeviceGetUUID({GPU})", FULL_GPU["uuid"]),
    (f"n.nvmlDeviceGetName({GPU})", "NVIDIA Test 9000"),
    (f"n.nvmlDeviceGetSerial({GPU})", "1320220012345"),
    (f"n.nvmlDeviceGetVbiosVersion({GPU})", "96.02.42.00.01"),
    (f"n.nvmlDeviceGetBrand({GPU})", 14),
    (f"n.nvmlDeviceGetArchitecture({GPU})", 9),
    (f"n.nvmlDeviceGetCudaComputeCapability({GPU})", [9, 1]),
    (f"n.nvmlDeviceGetMinorNumber({GPU})", 5),
    (f"n.nvmlDeviceGetNumGpuCores({GPU})", 16896),
    (f"n.nvmlDeviceGetMemoryBusWidth({GPU})", 5120),
    (f"n.nvmlDeviceGetNumaNodeId({GPU})", 1),
    (f"n.nvmlDeviceGetAddressingMode({GPU})", 2),
    ("n.nvmlDeviceGetIndex(gpu(1))", 1),
    ("n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID('GPU-00000000-0000-0000-0000-000000000002'))", 1),
    ("n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByPciBusId('000F:41:03.0'))", 0),
    ("n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleBySerial('1320220012345'))", 0),
    (
        f"n.nvmlDeviceGetPciInfo({GPU})",
        {
            "busIdLegacy": "000F:41:03.0",
            "domain": 15,
            "bus": 0x41,
            "device": 3,
            "pciDeviceId": 0x233010DE,
            "pciSubSystemId": 0x16C110DE,
            "busId": "0000000F:41:03.0",
        },
    ),
    (f"n.nvmlDeviceGetUtilizationRates({GPU})", {"gpu": 71, "memory": 33}),
    (f"n.nvmlDeviceGetEncoderUtilization({GPU})", [11, 100001]),
    (f"n.nvmlDeviceGetDecoderUtilization({GPU})", [12, 100002]),
    (f"n.nvmlDeviceGetJpgUtilization({GPU})[0]", 13),
    (f"n.nvmlDeviceGetOfaUtilization({GPU})[0]", 14),
    (f"n.nvmlDeviceGetMemoryInfo({GPU})", {"total": 80 * GIB, "free": 59 * GIB, "used": 21 * GIB}),
    (
        f"n.nvmlDeviceGetMemoryInfo({GPU}, n.nvmlMemory_v2)",
        {"version": 0x02000028, "total": 80 * GIB, "reserved": GIB, "free": 59 * GIB, "used": 20 * GIB},
    ),
    (
        f"n.nvmlDeviceGetBAR1MemoryInfo({GPU})",
        {"bar1Total": 128 * GIB, "bar1Free": 125 * GIB, "bar1Used": 3 * GIB},
    ),
    (f"n.nvmlDeviceGetTemperature({GPU}, 0)", 61),
    (f"n.nvmlDeviceGetTemperatureV({GPU}, 0)", 61),
    (f"n.nvmlDeviceGetMarginTemperature({GPU})", -4),
    (f"[n.nvmlDeviceGetTemperatureThreshold({GPU}, i) for i in (0, 1, 2, 3, 5)]", [95, 92, 96, 87, 83]),
    (f"n.nvmlDeviceGetPowerUsage({GPU})", 400123),
    (f"n.nvmlDeviceGetPowerManagementLimit({GPU})", 690000),
    (f"n.nvmlDeviceGetEnforcedPowerLimit({GPU})", 680000),
    (f"n.nvmlDeviceGetPowerManagementDefaultLimit({GPU})", 700000),
    (f"n.nvmlDeviceGetPowerManagementLimitConstraints({GPU})", [200000, 710000]),
    (f"n.nvmlDeviceGetTotalEnergyConsumption({GPU})", 123456789012345),
    (f"n.nvmlDeviceGetNumFans({GPU})", 2),
    ("n.nvmlDeviceGetNumFans(gpu(1))", 0),
    (f"n.nvmlDeviceGetFanSpeed({GPU})", 55),
    (f"n.nvmlDeviceGetFanSpeed_v2({GPU}, 1)", 57),
    (f"n.nvmlDeviceGetTargetFanSpeed({GPU}, 1)", 58),
    (f"n.nvmlDeviceGetFanControlPolicy_v2({GPU}, 1)", 1),
    (f"n.nvmlDeviceGetFanSpeedRPM({GPU})", 1801),
    (f"[n.nvmlDeviceGetClockInfo({GPU}, i) for i in range(4)]", [1755, 1756, 2619, 1365]),
    (f"[n.nvmlDeviceGetMaxClockInfo({GPU}, i) for i in range(4)]", [1980, 1981, 2620, 1545]),
    (f"[n.nvmlDeviceGetApplicationsClock({GPU}, i) for i in (0, 2)]", [1700, 2600]),
    (f"[n.nvmlDeviceGetClock({GPU}, i, j) for i, j in ((3, 0), (2, 1))]", [1365, 2600]),
    (f"n.nvmlDeviceGetPerformanceState({GPU})", 0),
    (f"n.nvmlDeviceGetCurrentClocksEventReasons({GPU})", 0x24),
    (f"n.nvmlDeviceGetCurrentClocksThrottleReasons({GPU})", 0x24),
    (f"n.nvmlDeviceGetSupportedClocksEventReasons({GPU})", 0x1FF),
    (f"n.nvmlDeviceGetViolationStatus({GPU}, n.NVML_PERF_POLICY_POWER).violationTime", 11000000000),
    (f"n.nvmlDeviceGetViolationStatus({GPU}, n.NVML_PERF_POLICY_TOTAL_BASE_CLOCKS).violationTime", 12000000000),
    (f"n.nvmlDeviceGetCurrPcieLinkGeneration({GPU})", 4),
    (f"n.nvmlDeviceGetCurrPcieLinkWidth({GPU})", 8),
    (f"n.nvmlDeviceGetMaxPcieLinkGeneration({GPU})", 5),
    (f"n.nvmlDeviceGetMaxPcieLinkWidth({GPU})", 16),
    (f"n.nvmlDeviceGetGpuMaxPcieLinkGeneration({GPU})", 6),
    (f"n.nvmlDeviceGetPcieSpeed({GPU})", 16000),
    (f"n.nvmlDeviceGetPcieLinkMaxSpeed({GPU})", 5),
    (f"[n.nvmlDeviceGetPcieThroughput({GPU}, i) for i in (0, 1)]", [2048, 1024]),
    (f"n.nvmlDeviceGetPcieReplayCounter({GPU})", 7),
    (f"[n.nvmlDeviceGetNvLinkState({GPU}, i) for i in (0, 1)]", [1, 0]),
    (f"n.nvmlDeviceGetNvLinkVersion({GPU}, 0)", 6),
    (f"[n.nvmlDeviceGetNvLinkErrorCounter({GPU}, 1, i) for i in (0, 2)]", [2, 9]),
    (f"n.nvmlDeviceGetEccMode({GPU})", [1, 0]),
    (f"n.nvmlDeviceGetDefaultEccMode({GPU})", [1]),
    (f"[n.nvmlDeviceGetTotalEccErrors({GPU}, i, j) for i in (0, 1) for j in (0, 1)]", [21, 23, 22, 24]),
    (f"n.nvmlDeviceGetMemoryErrorCounter({GPU}, 0, 0, n.NVML_MEMORY_LOCATION_DRAM)", 25),
    (f"n.nvmlDeviceGetMemoryErrorCounter({GPU}, 1, 1, n.NVML_MEMORY_LOCATION_DRAM)", 26),
    (f"n.nvmlDeviceGetRetiredPages({GPU}, 0)", [0xABC, 0xDEF]),
    (f"n.nvmlDeviceGetRetiredPages({GPU}, 1)", []),
    (f"[page['address'] for page in n.nvmlDeviceGetRetiredPages_v2({GPU}, 0)]", [0xABC, 0xDEF]),
    (f"n.nvmlDeviceGetRetiredPagesPendingStatus({GPU})", 1),
    (f"n.nvmlDeviceGetRemappedRows({GPU})", [3, 4, 1, 0]),
    (
        f"n.nvmlDeviceGetRowRemapperHistogram({GPU})",
        {"max": 638, "high": 1, "partial": 2, "low": 3, "none": 4},
    ),
    (f"n.nvmlDeviceGetComputeMode({GPU})", 3),
    (f"n.nvmlDeviceGetPersistenceMode({GPU})", 1),
    (f"n.nvmlDeviceGetDisplayMode({GPU})", 0),
    (f"n.nvmlDeviceGetDisplayActive({GPU})", 1),
    (f"n.nvmlDeviceGetVirtualizationMode({GPU})", 2),
    (f"n.nvmlDeviceGetMigMode({GPU})", [0, 1]),
    (f"n.nvmlDeviceGetMaxMigDeviceCount({GPU})", 7),
    (f"n.nvmlDeviceIsMigDeviceHandle({GPU})", 0),
    (f"n.nvmlDeviceGetEncoderStats({GPU})", [2, 60, 4000]),
    (
        f"[(s.pid, s.hResolution, s.averageFps) for s in n.nvmlDeviceGetEncoderSessions({GPU})]",
        [[900, 1920, 60], [901, 1280, 0]],
    ),
    (f"n.nvmlDeviceGetFBCStats({GPU})", {"sessionsCount": 0, "averageFPS": 0, "averageLatency": 0}),
    (f"n.nvmlDeviceGetFBCSessions({GPU})", []),
    (f"n.nvmlDeviceGetSupportedEventTypes({GPU})", 0x19F),
    ("n.nvmlSystemGetProcessName(900)", "python3"),
    ("n.nvmlErrorString(15)", "GPU is lost"),
]


@pytest.mark.parametrize(("expression", "expected"), ANSWERS, ids=[expression for expression, _ in ANSWERS])
def test_functions_return_the_values_of_the_world(full: Callable[..., Any], expression: str, expected: Any) -> None:
    assert full(expression) == expected


def test_missing_keys_are_not_supported(full: Callable[..., Any]) -> None:
    answered = {
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetIndex",
        "nvmlDeviceGetNumFans",
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetProcessUtilization",  # idle: NOT_FOUND
        "nvmlDeviceGetProcessesUtilizationInfo",
        "nvmlDeviceGetCount",
    }
    no_argument_beside_the_device = (
        "[name for name in dir(n) if name.startswith('nvmlDeviceGet') and 'Handle' not in name and "
        "getattr(n, name).__code__.co_argcount == 1 and not hasattr(getattr(n, name), '__wrapped__')]"
    )
    functions = [name for name in full(no_argument_beside_the_device) if name in exported_functions() - answered]
    assert len(functions) > 60
    for name in functions:
        if "RunningProcesses" in name:
            assert full(f"n.{name}(gpu(1))") == []
        else:
            assert code_of(full, f"n.{name}(gpu(1))") == 3, name


def test_field_values_have_their_own_return_codes(full: Callable[..., Any], run: Callable[..., Any]) -> None:
    read = run("""
        members = {1: "uiVal", 3: "ullVal", 5: "siVal"}
        total = 0xFFFFFFFF
        fields = [82, 83, 185, 186, (186, 1), 190, 192, 193, 197, 198, 91, 94, 138, (138, 1), (138, total), 164, 45]
        answer = [
            (v.fieldId, v.nvmlReturn, v.valueType, getattr(v.value, members[v.valueType]))
            for v in n.nvmlDeviceGetFieldValues(gpu(0), [*fields, 9999])
        ]
    """)
    unsigned, wide, signed = 1, 3, 5
    assert read[:-2] == [
        [82, 0, unsigned, 66],
        [83, 0, wide, 123456789012345],
        [185, 0, unsigned, 400789],
        [186, 0, unsigned, 410456],
        [186, 0, unsigned, 910000],
        [190, 0, unsigned, 680000],
        [192, 0, unsigned, 690000],
        [193, 0, signed, -8],
        [197, 0, wide, 3020371496],
        [198, 0, wide, 3893142392],
        [91, 0, unsigned, 2],
        [94, 0, unsigned, 7],
        [138, 0, wide, 2000],
        [138, 0, wide, 1],
        [138, 0, wide, 2001],
        [164, 0, unsigned, 26562],
    ]
    assert [code for _, code, *_ in read[-2:]] == [3, 2]
    plain = full("[v.nvmlReturn for v in n.nvmlDeviceGetFieldValues(gpu(1), [82, 186, 197, 138, 91])]")
    assert plain == [3, 3, 3, 3, 0]


# --- processes ---


@pytest.mark.parametrize("version", ["", "_v2", "_v3"])
def test_process_lists(full: Callable[..., Any], run: Callable[..., Any], version: str) -> None:
    if version:
        compute = full(f"n.nvmlDeviceGetComputeRunningProcesses{version}(gpu(0))")
        assert [(p["pid"], p["usedGpuMemory"], p["gpuInstanceId"], p["computeInstanceId"]) for p in compute] == [
            (900, 5 * GIB, NOT_AVAILABLE_ID, NOT_AVAILABLE_ID),
            (901, None, NOT_AVAILABLE_ID, NOT_AVAILABLE_ID),
            (903, 54321, 2, 1),
        ]
        assert [p["pid"] for p in full(f"n.nvmlDeviceGetGraphicsRunningProcesses{version}(gpu(0))")] == [901, 902]
        assert [p["pid"] for p in full(f"n.nvmlDeviceGetMPSComputeRunningProcesses{version}(gpu(0))")] == [903]
    else:
        # The oldest layout, which pynvml no longer has: pid and memory, 16 bytes each.
        read = run("""
            words, count = (ctypes.c_ulonglong * 6)(), ctypes.c_uint(3)
            raw("nvmlDeviceGetComputeRunningProcesses", gpu(0), ctypes.byref(count), words)
            answer = list(words)
        """)
        assert [word & 0xFFFFFFFF for word in read[::2]] == [900, 901, 903]
        assert read[1::2] == [5 * GIB, (1 << 64) - 1, 54321]


def test_small_buffer_is_insufficient_size_with_the_count(full: Callable[..., Any], run: Callable[..., Any]) -> None:
    def listed(room: int, gpu: int, buffer: str) -> Any:
        return run(f"""
            count = ctypes.c_uint({room})
            code = raw("nvmlDeviceGetComputeRunningProcesses_v3", gpu({gpu}), ctypes.byref(count), {buffer})
            answer = code, count.value
        """)

    buffer = "(n.c_nvmlProcessInfo_v3_t * 8)()"
    assert listed(0, 0, "None") == [7, 3]
    assert listed(2, 0, buffer) == [7, 3]
    assert listed(8, 0, buffer) == [0, 3]
    assert listed(0, 1, "None") == [0, 0]
    assert full("raw('nvmlDeviceGetName', gpu(0), ctypes.create_string_buffer(4), 4)") == 7


def test_process_detail_list(full: Callable[..., Any]) -> None:
    listed = full(
        "n.nvmlDeviceGetRunningProcessDetailList(gpu(0), n.nvmlProcessDetailList_v1, n.NVML_PROCESS_MODE_MPS)"
    )
    assert listed == [
        {
            "pid": 903,
            "usedGpuMemory": 54321,
            "gpuInstanceId": 2,
            "computeInstanceId": 1,
            "usedGpuCcProtectedMemory": 0,
        }
    ]
    # pynvml raises TypeError for a memory that is not available, as on a real GPU.
    with pytest.raises(AssertionError, match="TypeError"):
        full("n.nvmlDeviceGetRunningProcessDetailList(gpu(0), n.nvmlProcessDetailList_v1, 0)")
    assert code_of(full, "n.nvmlDeviceGetRunningProcessDetailList(gpu(0), n.nvmlProcessDetailList_v1 + 1, 0)") == 25


def test_process_utilization_returns_each_sample_once(session: Session, evaluate: Callable[..., Any]) -> None:
    session.enter(machine({**FULL_GPU, "process_sampling_period_us": 300_000}, PLAIN_GPU))
    samples = evaluate("n.nvmlDeviceGetProcessUtilization(gpu(0), 0)")
    assert [(s["pid"], s["smUtil"], s["memUtil"], s["encUtil"], s["decUtil"]) for s in samples] == [
        (900, 60, 20, 0, 0),
        (901, 5, 0, 3, 2),
    ]
    newest = samples[0]["timeStamp"]
    assert abs(newest / 1e6 - time.time()) < 1
    # Samples are taken at multiples of the period: start just after one.
    time.sleep(0.3 - time.time() % 0.3 + 0.02)
    newest = evaluate("n.nvmlDeviceGetProcessUtilization(gpu(0), 0)")[0]["timeStamp"]
    assert code_of(evaluate, f"n.nvmlDeviceGetProcessUtilization(gpu(0), {newest})") == 6
    time.sleep(0.3)
    assert len(evaluate(f"n.nvmlDeviceGetProcessUtilization(gpu(0), {newest})")) == 2
    info = evaluate("n.nvmlDeviceGetProcessesUtilizationInfo(gpu(0), 0)")[1]
    assert (info["pid"], info["smUtil"], info["decUtil"], info["ofaUtil"]) == (901, 5, 2, 1)


def test_process_utilization_of_an_idle_gpu(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(PLAIN_GPU))
    assert code_of(evaluate, "n.nvmlDeviceGetProcessUtilization(gpu(0), 0)") == 6
    world.set(0, "process_utilization_idle_return", 0).save()
    assert code_of(evaluate, "n.nvmlDeviceGetProcessUtilization(gpu(0), 0)") == 0
    world.set(0, "process_utilization_supported", False).save()
    assert code_of(evaluate, "n.nvmlDeviceGetProcessUtilization(gpu(0), 0)") == 3


def test_process_names_are_not_changed(session: Session, evaluate: Callable[..., Any], run: Callable[..., Any]) -> None:
    names = ["a=b\\n\\", "two\nlines", "caf\udce9", "x" * 4096]
    processes = [{"pid": pid, "name": name, "used_memory": 1} for pid, name in enumerate(names, 1)]
    session.enter(machine({**PLAIN_GPU, "processes": processes}))
    read = """
        buffer = ctypes.create_string_buffer(1024)
        answer = raw("nvmlSystemGetProcessName", {pid}, buffer, 1024) or buffer.value
    """
    assert [run(read.format(pid=pid)) for pid in range(1, 5)] == [*names[:3], "x" * 1023]
    assert code_of(evaluate, "n.nvmlSystemGetProcessName(99)") == 6


# --- structure versions ---


@pytest.mark.parametrize(
    ("function", "structure", "version"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", "c_nvmlMemory_v2_t", 0x02000028),
        ("nvmlDeviceGetTemperatureV", "c_nvmlTemperature_v1_t", 0x0100000C),
        ("nvmlDeviceGetMarginTemperature", "c_nvmlMarginTemperature_v1_t", 0x01000008),
        ("nvmlDeviceGetFanSpeedRPM", "c_nvmlFanSpeedInfo_t", 0x0100000C),
        ("nvmlDeviceGetPciInfoExt", "nvmlPciInfoExt_v1_t", 0x01000040),
        ("nvmlDeviceGetAddressingMode", "c_nvmlDeviceAddressingMode_t", 0x01000008),
        ("nvmlGpmQueryDeviceSupport", "c_nvmlGpmSupport_t", 1),
    ],
)
@pytest.mark.usefixtures("full")
def test_structure_versions(run: Callable[..., Any], function: str, structure: str, version: int) -> None:
    for number, code in ((version, 0), (version + 1, 25)):
        returned = run(f"""
            structure = n.{structure}()
            structure.version = {number}
            answer = raw("{function}", gpu(0), ctypes.byref(structure))
        """)
        assert returned == code


# --- initialization, errors, faults ---


def test_uninitialized_before_init_and_after_the_last_shutdown(nvml_world: WorldFactory) -> None:
    with Probe(nvml_world(machine(PLAIN_GPU))) as probe:
        probe.evaluate("n._LoadNvmlLibrary()")
        assert code_of(probe.evaluate, "n.nvmlDeviceGetCount()") == 1
        assert code_of(probe.evaluate, "n.nvmlShutdown()") == 1
        probe.evaluate("n.nvmlInit() or n.nvmlInit() or n.nvmlShutdown()")
        assert probe.evaluate("n.nvmlDeviceGetCount()") == 1
        probe.evaluate("gpu(0) and n.nvmlShutdown()")
        assert code_of(probe.evaluate, "n.nvmlDeviceGetName(gpu(0))") == 1


def test_bad_arguments(full: Callable[..., Any]) -> None:
    assert code_of(full, "n.nvmlDeviceGetHandleByIndex(2)") == 2
    assert code_of(full, "n.nvmlDeviceGetHandleByUUID('GPU-none')") == 6
    assert code_of(full, "n.nvmlDeviceGetHandleByPciBusId('0000:99:00.0')") == 6
    assert code_of(full, "n.nvmlDeviceGetName(None)") == 2
    assert code_of(full, "n.nvmlDeviceGetName(n.c_nvmlDevice_t(n.struct_c_nvmlDevice_t()))") == 2
    assert code_of(full, "n.nvmlDeviceGetClockInfo(gpu(0), 4)") == 2
    assert code_of(full, "n.nvmlDeviceGetTemperature(gpu(0), 1)") == 2
    assert code_of(full, "n.nvmlDeviceGetFanSpeed_v2(gpu(0), 2)") == 2
    assert code_of(full, "n.nvmlDeviceGetNvLinkState(gpu(0), 2)") == 2
    assert code_of(full, "n.nvmlDeviceGetNvLinkState(gpu(1), 0)") == 3


def test_return_codes_of_the_machine_a_gpu_and_a_function(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(FULL_GPU, {**FULL_GPU, "uuid": "GPU-2"}))
    evaluate("[gpu(0), gpu(1)]")
    world.set_return("nvmlDeviceGetFanSpeed", 3).set_return("nvmlDeviceGetPowerUsage", 4, gpu=1).save()
    assert [code_of(evaluate, f"n.nvmlDeviceGetFanSpeed(gpu({i}))") for i in (0, 1)] == [3, 3]
    assert evaluate("n.nvmlDeviceGetPowerUsage(gpu(0))") == 400123
    assert code_of(evaluate, "n.nvmlDeviceGetPowerUsage(gpu(1))") == 4
    world.set_return("*", 15, gpu=1).set_return("nvmlDeviceGetName", 0, gpu=1).save()
    assert code_of(evaluate, "n.nvmlDeviceGetUtilizationRates(gpu(1))") == 15
    assert code_of(evaluate, "n.nvmlDeviceGetHandleByIndex(1)") == 15
    assert evaluate("n.nvmlDeviceGetName(gpu(1))") == "NVIDIA Test 9000"
    assert evaluate("n.nvmlDeviceGetUtilizationRates(gpu(0))")["gpu"] == 71
    world.clear_faults().save()
    assert evaluate("n.nvmlDeviceGetPowerUsage(gpu(1))") == 400123


def test_return_codes_of_initialization(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(PLAIN_GPU))
    for code in (18, 9, 999):
        world.set_return("nvmlInit", code).save()
        assert code_of(evaluate, "fresh()") == code
    world.clear_faults().save()
    assert evaluate("fresh()") == 1
    world.unload_driver()
    assert code_of(evaluate, "fresh()") == 9
    world.save()
    assert evaluate("fresh()") == 1


def test_fault_of_an_unknown_function_raises(nvml_world: WorldFactory) -> None:
    with pytest.raises(ValueError, match="nvmlDeviceGetFanSped"):
        nvml_world(machine(PLAIN_GPU)).set_return("nvmlDeviceGetFanSped", 3)
    with pytest.raises(ValueError, match="nvmlNothing"):
        nvml_world(machine(PLAIN_GPU, hang=["nvmlNothing"])).save()


def test_latency(session: Session, run: Callable[..., Any]) -> None:
    def seconds(call: str, times: int) -> float:
        return float(
            run(f"""
                took = []
                for _ in range({times}):
                    began = time.perf_counter()
                    {call}
                    took.append(time.perf_counter() - began)
                answer = min(took)
            """)
        )

    world = session.enter(machine(FULL_GPU))
    power = "n.nvmlDeviceGetPowerUsage(gpu(0))"
    run(power)
    assert seconds(power, 20) < 0.001
    world.set_latency("nvmlDeviceGetPowerUsage", 20_000).save()
    assert 0.020 <= seconds(power, 3) < 0.030
    world.set_latency("nvmlDeviceGetPowerUsage", 50).save()
    assert 50e-6 <= seconds(power, 20) < 0.001
    world.data["field_latency_us"] = {"83": 30_000}
    world.save()
    assert seconds("n.nvmlDeviceGetFieldValues(gpu(0), [82])", 20) < 0.001
    assert 0.030 <= seconds("n.nvmlDeviceGetFieldValues(gpu(0), [82, 83])", 2) < 0.045
    world.with_realistic_latencies()
    assert world.data["latency_us"] == {**REALISTIC_LATENCY_US, "nvmlDeviceGetPowerUsage": 50}


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlShutdown", "nvmlDeviceGetCount_v2"])
def test_hang_ends_when_it_is_cleared(session: Session, evaluate: Callable[..., Any], function: str) -> None:
    world = session.enter(machine(PLAIN_GPU))
    world.set_hang(function).save()
    session.probe.send("answer = fresh()")
    with pytest.raises(ProbeHangs):
        session.probe.answer(0.15)
    world.clear_faults().save()
    assert session.probe.answer(1) == 1


def test_hang_of_one_gpu_does_not_affect_others(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(FULL_GPU, {**FULL_GPU, "uuid": "GPU-2"}))
    evaluate("[gpu(0), gpu(1)]")
    world.set_hang("nvmlDeviceGetPowerUsage", gpu=1).save()
    assert evaluate("n.nvmlDeviceGetPowerUsage(gpu(0))") == 400123
    assert evaluate("n.nvmlDeviceGetTemperature(gpu(1), 0)") == 61
    session.probe.send("answer = n.nvmlDeviceGetPowerUsage(gpu(1))")
    with pytest.raises(ProbeHangs):
        session.probe.answer(0.15)
    world.set_hang("nvmlDeviceGetPowerUsage", False, gpu=1).save()
    assert session.probe.answer(1) == 400123


def test_sigterm_ends_a_hanging_process_unless_it_is_unkillable(nvml_world: WorldFactory) -> None:
    world = nvml_world(machine(PLAIN_GPU))
    with Probe(world) as probe:
        world.set_hang("nvmlInit").save()
        probe.send("n.nvmlInit()")
        with pytest.raises(ProbeHangs):
            probe.answer(0.3)
        probe.process.send_signal(signal.SIGTERM)
        assert probe.process.wait(1) == -signal.SIGTERM
    world.clear_faults().save()
    with Probe(world) as probe:
        probe.evaluate("1")
        world.set_hang("nvmlInit", unkillable=True).save()
        probe.send("n.nvmlInit()")
        with pytest.raises(ProbeHangs):
            probe.answer(0.2)
        probe.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            probe.process.wait(0.2)
        # As in the kernel, the signal is pending until the call returns.
        world.clear_faults().save()
        assert probe.process.wait(1) == -signal.SIGTERM


def test_crash_is_a_segmentation_fault(nvml_world: WorldFactory) -> None:
    world = nvml_world(machine(FULL_GPU)).set_crash("nvmlDeviceGetUtilizationRates", gpu=0).save()
    with Probe(world) as probe:
        probe.evaluate("fresh()")
        assert probe.evaluate("n.nvmlDeviceGetPowerUsage(gpu(0))") == 400123
        with pytest.raises(ProbeDied) as death:
            probe.evaluate("n.nvmlDeviceGetUtilizationRates(gpu(0))")
    assert death.value.returncode == -signal.SIGSEGV


def test_absent_symbols_are_not_found(nvml_world: WorldFactory) -> None:
    world = nvml_world(machine(FULL_GPU, absent=["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetFieldValues"]))
    with Probe(world) as probe:
        probe.evaluate("fresh()")
        assert code_of(probe.evaluate, "n.nvmlDeviceGetMemoryInfo(gpu(0), n.nvmlMemory_v2)") == 13
        assert code_of(probe.evaluate, "n.nvmlDeviceGetFieldValues(gpu(0), [82])") == 13
        assert probe.evaluate("n.nvmlDeviceGetMemoryInfo(gpu(0))")["total"] == 80 * GIB


def test_library_is_built_once(fake_nvml_cache: Path, fake_nvml_library: Library) -> None:
    before = fake_nvml_library.path.stat()
    assert build_library(fake_nvml_cache).path.stat() == before
    with pytest.raises(ValueError, match="nvmlUnheardOf"):
        build_library(fake_nvml_cache, ["nvmlUnheardOf"])


def test_calls_of_all_processes_are_counted(nvml_world: WorldFactory) -> None:
    world = nvml_world(machine(FULL_GPU, {**PLAIN_GPU, "pci": {"bus_id": "00000000:01:00.0"}})).save().count_calls()
    for _ in range(2):
        with Probe(world) as probe:
            probe.evaluate("fresh()")
            probe.evaluate("[n.nvmlDeviceGetPowerUsage(gpu(0)) for _ in range(3)]")
    calls = world.calls()
    assert calls["nvmlDeviceGetPowerUsage", FULL_GPU["uuid"]] == 6
    assert calls["nvmlInit_v2", ""] == 2
    assert not [name for name, uuid in calls if uuid == PLAIN_GPU["uuid"]]


def test_sysfs_of_a_suspended_gpu(nvml_world: WorldFactory, tmp_path: Path) -> None:
    root = nvml_world("rtx4090_laptop_asleep").write_sysfs(tmp_path / "sys")
    assert (root / "bus/pci/devices/0000:01:00.0/power/runtime_status").read_text() == "suspended\n"


# --- changing worlds ---


def test_values_change_at_once_and_gpus_at_initialization(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(FULL_GPU, PLAIN_GPU))
    evaluate("[gpu(0), gpu(1)]")
    world.set(0, "utilization.gpu", 99).remove(0, "temperature").save()
    assert evaluate("n.nvmlDeviceGetUtilizationRates(gpu(0))") == {"gpu": 99, "memory": 33}
    assert code_of(evaluate, "n.nvmlDeviceGetTemperature(gpu(0), 0)") == 3

    world.gpus.append({**PLAIN_GPU, "uuid": "GPU-3", "name": "Third"})
    world.save()
    assert evaluate("n.nvmlDeviceGetCount()") == 2
    assert evaluate("fresh()") == 3
    assert evaluate("n.nvmlDeviceGetName(gpu(2))") == "Third"

    evaluate("[gpu(i) for i in range(3)]")
    del world.gpus[0]
    world.gpus.reverse()
    world.save()
    assert code_of(evaluate, "n.nvmlDeviceGetName(gpu(0))") == 15
    assert code_of(evaluate, "n.nvmlDeviceGetHandleByIndex(0)") == 15
    assert evaluate("n.nvmlDeviceGetName(gpu(1))") == "NVIDIA Plain"
    assert evaluate("fresh()") == 2
    assert evaluate("n.nvmlDeviceGetUUID(gpu(0))") == "GPU-3"


def test_counters_grow_with_the_clock(session: Session, evaluate: Callable[..., Any]) -> None:
    gpu = {**PLAIN_GPU, "energy_mj": {"value": 1000, "per_second": 100_000}}
    world = session.enter(
        machine({**gpu, "pcie": {"tx_bytes": {"value": 2**32 - 100, "per_second": 1000, "wrap_bits": 32}}})
    )
    began = time.monotonic()
    first = evaluate("n.nvmlDeviceGetTotalEnergyConsumption(gpu(0))")
    time.sleep(0.1)
    second = evaluate("n.nvmlDeviceGetTotalEnergyConsumption(gpu(0))")
    assert 1000 < first < second <= 1000 + 100_000 * (time.monotonic() - began + 0.5)
    assert second - first >= 10_000
    time.sleep(0.1)
    assert evaluate("n.nvmlDeviceGetFieldValues(gpu(0), [197])[0].value.ullVal") < 2000
    # With a new rate the counter keeps its value.
    world.set(0, "energy_mj", {"per_second": 0}).save()
    stopped = evaluate("n.nvmlDeviceGetTotalEnergyConsumption(gpu(0))")
    assert stopped > second
    assert evaluate("n.nvmlDeviceGetTotalEnergyConsumption(gpu(0))") == stopped


def test_threads_read_while_the_world_changes(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(FULL_GPU))
    session.probe.send("""
        from concurrent.futures import ThreadPoolExecutor
        handle = gpu(0)
        with ThreadPoolExecutor(8) as pool:
            answer = sorted({u.gpu for u in pool.map(lambda _: n.nvmlDeviceGetUtilizationRates(handle), range(30000))})
    """)
    for value in range(10, 40):
        world.set(0, "utilization.gpu", value).save()
    assert set(session.probe.answer(20)) <= {71, *range(10, 40)}


# --- MIG, GPM, events ---


def mig_gpu() -> dict[str, Any]:
    def instance(number: int) -> dict[str, Any]:
        return {
            "uuid": f"MIG-{number}",
            "name": "NVIDIA Test MIG 3g.20gb",
            "gpu_instance_id": number,
            "compute_instance_id": 0,
            "memory": {"total": 20 * GIB, "reserved": 0, "used": number * GIB},
            "attributes": {"multiprocessor_count": 42, "gpu_instance_slice_count": 3, "memory_size_mb": 20480},
            "processes": [{"pid": 100 + number, "used_memory": 7, "gpu_instance_id": number, "compute_instance_id": 0}],
            "gpm": {"supported": 1, "metrics": {"2": 10.0 * number}},
        }

    parent = {key: value for key, value in FULL_GPU.items() if key != "utilization"}
    return {**parent, "mig": {"current": 1, "pending": 1, "max_devices": 7, "instances": [instance(1), instance(2)]}}


def test_mig_instances_are_devices(session: Session, evaluate: Callable[..., Any]) -> None:
    world = session.enter(machine(mig_gpu()))
    mig = "n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 1)"
    assert evaluate(f"n.nvmlDeviceGetUUID({mig})") == "MIG-2"
    assert evaluate(f"n.nvmlDeviceIsMigDeviceHandle({mig})") == 1
    assert [evaluate(f"n.nvmlDeviceGet{which}InstanceId({mig})") for which in ("Gpu", "Compute")] == [2, 0]
    assert evaluate(f"n.nvmlDeviceGetMemoryInfo({mig}, n.nvmlMemory_v2)")["used"] == 2 * GIB
    assert evaluate(f"n.nvmlDeviceGetAttributes({mig})")["gpuInstanceSliceCount"] == 3
    assert evaluate(f"n.nvmlDeviceGetComputeRunningProcesses({mig})[0]")["pid"] == 102
    assert evaluate(f"n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle({mig}))") == FULL_GPU["uuid"]
    assert evaluate("n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleByUUID('MIG-2'))") == 1
    assert code_of(evaluate, f"n.nvmlDeviceGetUtilizationRates({mig})") == 3
    assert code_of(evaluate, "n.nvmlDeviceGetUtilizationRates(gpu(0))") == 3
    assert code_of(evaluate, "n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 2)") == 6
    assert code_of(evaluate, "n.nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 7)") == 2
    # A fault of the GPU applies to its instances.
    world.set_return("nvmlDeviceGetUUID", 15, gpu=0).save()
    assert code_of(evaluate, f"n.nvmlDeviceGetUUID({mig})") == 15


def gpm(sample: str, wait: float) -> str:
    return f"""
        request = n.c_nvmlGpmMetricsGet_t(version=1, numMetrics=3)
        request.sample1, request.sample2 = n.nvmlGpmSampleAlloc(), n.nvmlGpmSampleAlloc()
        for metric, number in zip(request.metrics, (2, 10, 5)):
            metric.metricId = number
        {sample.format("request.sample1")}
        time.sleep({wait})
        {sample.format("request.sample2")}
        n.nvmlGpmMetricsGet(request)
        answer = [(metric.nvmlReturn, metric.value) for metric in request.metrics[:3]]
        n.nvmlGpmSampleFree(request.sample1)
        n.nvmlGpmSampleFree(request.sample2)
    """


def test_gpm_metrics_between_two_samples(
    session: Session, evaluate: Callable[..., Any], run: Callable[..., Any]
) -> None:
    session.enter(machine(mig_gpu(), PLAIN_GPU))
    assert evaluate("n.nvmlGpmQueryDeviceSupport(gpu(0)).isSupportedDevice") == 1
    assert evaluate("n.nvmlGpmQueryDeviceSupport(gpu(1)).isSupportedDevice") == 0
    assert run(gpm("n.nvmlGpmSampleGet(gpu(0), {})", 0.11)) == [[0, 61.5], [0, 12.25], [3, 0.0]]
    assert math.isnan(run(gpm("n.nvmlGpmSampleGet(gpu(0), {})", 0))[0][1])
    assert run(gpm("n.nvmlGpmMigSampleGet(gpu(0), 2, {})", 0.11))[0] == [0, 20.0]
    assert code_of(evaluate, "n.nvmlGpmSampleGet(gpu(1), n.nvmlGpmSampleAlloc())") == 3


def test_event_set_receives_registered_events(
    session: Session, evaluate: Callable[..., Any], run: Callable[..., Any]
) -> None:
    world = session.enter(machine(FULL_GPU, {**FULL_GPU, "uuid": "GPU-2"}))
    world.add_event(0, "xid", 13).save()
    run("""
        events = n.nvmlEventSetCreate()
        kinds = n.nvmlEventTypeXidCriticalError | n.nvmlEventTypeDoubleBitEccError
        n.nvmlDeviceRegisterEvents(gpu(1), kinds, events)
    """)
    # Earlier events, and events of other GPUs and other types, are not returned.
    world.add_event(0, "xid", 31).add_event(1, "clock").save()
    assert code_of(evaluate, "n.nvmlEventSetWait_v2(events, 50)") == 10
    session.probe.send("""
        event = n.nvmlEventSetWait_v2(events, 5000)
        answer = n.nvmlDeviceGetUUID(event.device), event
    """)
    time.sleep(0.1)
    world.add_event(1, "xid", 79).add_event(1, "double_bit_ecc").save()
    uuid, event = session.probe.answer(2)
    assert (uuid, event["eventType"], event["eventData"], event["gpuInstanceId"]) == ("GPU-2", 8, 79, NOT_AVAILABLE_ID)
    assert evaluate("n.nvmlEventSetWait_v2(events, 0).eventType") == 2
    del world.gpus[1]
    world.data["events"] = []
    world.save()
    assert code_of(evaluate, "n.nvmlEventSetWait_v2(events, 1000)") == 15
    evaluate("n.nvmlEventSetFree(events)")
    assert code_of(evaluate, "n.nvmlDeviceRegisterEvents(gpu(0), 1 << 40, n.nvmlEventSetCreate())") == 3


# --- recorded worlds ---


@pytest.mark.parametrize("name", world_names())
def test_recorded_worlds_are_complete(session: Session, evaluate: Callable[..., Any], name: str) -> None:
    world = session.enter(name)
    assert world.data["source"]
    assert world.data["description"]
    assert world.data["gpus"]
    assert len((WORLDS_DIR / f"{name}.json").read_text().encode()) < 100_000
    for index, gpu in enumerate(world.gpus):
        if gpu.get("returns", {}).get("*"):
            continue
        assert evaluate(f"n.nvmlDeviceGetUUID(gpu({index}))") == gpu["uuid"]
        assert evaluate(f"n.nvmlDeviceGetName(gpu({index}))") == gpu["name"]
        if memory := gpu.get("memory"):
            assert memory["used"] + memory["reserved"] <= memory["total"]
            held = sum(process["used_memory"] or 0 for process in gpu.get("processes", ()))
            assert held <= memory["used"], "processes hold more than is used"


@pytest.mark.parametrize(
    ("name", "code", "expression"),
    [
        ("gb10", 3, "n.nvmlDeviceGetMemoryInfo(gpu(0))"),
        ("gb10", 3, "n.nvmlDeviceGetMemoryInfo(gpu(0), n.nvmlMemory_v2)"),
        ("gb10", 3, "n.nvmlDeviceGetEnforcedPowerLimit(gpu(0))"),
        ("a100_mig", 3, "n.nvmlDeviceGetUtilizationRates(gpu(0))"),
        ("a100_mig", 3, "n.nvmlDeviceGetFanSpeed(gpu(0))"),
        ("lost_gpu", 15, "n.nvmlDeviceGetHandleByIndex(1)"),
        ("wsl", 999, "n.nvmlDeviceGetMemoryInfo(gpu(0), n.nvmlMemory_v2)"),
        ("wsl", 3, "n.nvmlDeviceGetMinorNumber(gpu(0))"),
        ("rtx3090", 26, "n.nvmlDeviceGetDisplayMode(gpu(0))"),
        ("rtx4090_laptop_awake", 3, "n.nvmlDeviceGetPowerManagementLimit(gpu(0))"),
    ],
)
def test_recorded_worlds_have_unsupported_values(
    session: Session, evaluate: Callable[..., Any], name: str, code: int, expression: str
) -> None:
    session.enter(name)
    assert code_of(evaluate, expression) == code


def test_old_driver_lacks_newer_functions(nvml_world: WorldFactory) -> None:
    with Probe(nvml_world("driver_r470")) as probe:
        assert probe.evaluate("fresh()") == 2
        assert code_of(probe.evaluate, "n.nvmlDeviceGetMemoryInfo(gpu(0), n.nvmlMemory_v2)") == 13
        assert code_of(probe.evaluate, "n.nvmlDeviceGetComputeRunningProcesses_v3(gpu(0))") == 13
        assert probe.evaluate("n.nvmlDeviceGetComputeRunningProcesses_v2(gpu(0))[0]")["pid"] == 12877
        assert probe.evaluate("n.nvmlDeviceGetFieldValues(gpu(0), [197])[0].nvmlReturn") == 2


def test_calls_take_less_than_half_a_microsecond(session: Session, run: Callable[..., Any]) -> None:
    """Benchmarks measure the calling program, so the library itself must take no noticeable time."""
    session.enter("h100x8")
    measure = """
        power, nothing = n.nvmlLib.nvmlDeviceGetPowerUsage, n.nvmlLib.nvmlErrorString
        handle, out = gpu(0), ctypes.byref(ctypes.c_uint())
        began = time.process_time()
        for _ in range(20000):
            power(handle, out)
        between = time.process_time()
        for _ in range(20000):
            nothing(handle, out)
        answer = (between - began) - (time.process_time() - between)
    """
    assert min(run(measure) for _ in range(3)) / 20000 < 0.5e-6


def test_library_is_found_through_the_environment(nvml_world: WorldFactory) -> None:
    world = nvml_world(machine(FULL_GPU))
    program = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    done = subprocess.run([sys.executable, "-c", program], env=world.env(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert "FAKE_NVML_WORLD" not in os.environ
