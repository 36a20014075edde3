"""The live frame: numbers, reasons, levels, warnings and troubles, as the browser gets them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dashtop.model.metric import Thresholds
from dashtop.model.sample import Gpu, Mount, Sample
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.panels import storage, system
from dashtop.ui.snapshot import FAILING, build_snapshot, chosen_gpu, devices, level, listed, notice
from tests.builders import make_device, make_gpu, make_sample
from tests.ui.worlds import HOST_VALUES, gpu

KEYS = {
    "gpu.utilization.gpu",
    "gpu.temperature",
    "gpu.fan_speed",
    "gpu.memory.used_percent",
    "system.cpu.usage_percent",
    "system.swap.used_percent",
}


def frame_of(sample: Sample, shown: Gpu | None, *, alive: bool = True) -> dict[str, object]:
    return build_snapshot(sample, shown, listed(KEYS), age_s=0.2, interval_s=1.0, alive=alive)


def test_values_reasons_levels_and_warnings() -> None:
    hot = gpu()
    frame = frame_of(make_sample(gpus=(hot,), host=HOST_VALUES), hot)
    assert frame["values"] == {
        "gpu.utilization.gpu": 97.5,
        "gpu.memory.used_percent": 83.3,
        "gpu.temperature": 91.0,
        "gpu.fan_speed": None,
        "system.cpu.usage_percent": 12.346,
        "system.swap.used_percent": None,
    }
    assert frame["missing"] == {
        "gpu.fan_speed": UnavailableReason.NOT_SUPPORTED.value,
        "system.swap.used_percent": UnavailableReason.FIRST_READING.value,
    }
    assert frame["levels"] == {
        "gpu.utilization.gpu": "high",
        "gpu.memory.used_percent": "elevated",
        "gpu.temperature": "high",
    }
    # Warm for most cards, but this one slows down at 95 °C: its own limits count.
    assert frame["warnings"] == {
        "gpu.utilization.gpu": ("info", "Nearly always busy"),
        "gpu.temperature": ("warning", "Running hot"),
    }
    json.dumps(frame, allow_nan=False)


def test_zero_is_a_value() -> None:
    idle = make_gpu(values={"gpu.utilization.gpu": 0.0})
    frame = frame_of(make_sample(gpus=(idle,)), idle)
    values, missing = frame["values"], frame["missing"]
    assert isinstance(values, dict)
    assert isinstance(missing, dict)
    assert values["gpu.utilization.gpu"] == 0.0
    assert "gpu.utilization.gpu" not in missing


def test_without_a_gpu_only_the_host_is_told() -> None:
    frame = frame_of(make_sample(host=HOST_VALUES, trouble=UnavailableReason.NO_LIBRARY), None)
    assert frame["gpu"] is None
    assert frame["devices"] == []
    assert frame["error"] is None
    assert frame["notice"] == {
        "title": "No GPU Detected",
        "reason": "The NVIDIA driver library (libnvidia-ml.so.1) was not found.",
        "outlook": "CPU and memory monitoring goes on, and a GPU that appears is shown by itself.",
    }
    assert set(frame["values"]) == {"system.cpu.usage_percent", "system.swap.used_percent"}  # type: ignore[call-overload]


@pytest.mark.parametrize("reason", UnavailableReason)
def test_every_trouble_has_its_words(reason: UnavailableReason) -> None:
    words = notice(reason)
    assert all(words.values())
    assert (words["title"] == "GPUs cannot be read") == (reason in FAILING)
    error = frame_of(make_sample(trouble=reason), None)["error"]
    assert (error is not None) == (reason in FAILING)
    if error is not None:
        assert isinstance(error, dict)
        assert error["type"] == "gpu"


def test_a_switched_off_gpu_is_not_promised() -> None:
    assert "appears" not in notice(UnavailableReason.DISABLED)["outlook"]
    assert notice(UnavailableReason.DISABLED)["title"] == "GPU monitoring off"
    assert notice(None)["title"] == "No GPU Detected"
    assert notice(UnavailableReason.STARTING)["title"] == "Looking for GPUs"


def test_a_gpu_that_tells_nothing_is_trouble_only_if_it_should() -> None:
    def silent(reason: UnavailableReason) -> object:
        mute = make_gpu()
        return frame_of(make_sample(), replace(mute, unavailable=dict.fromkeys(mute.values, reason)))["error"]

    assert silent(UnavailableReason.ASLEEP) is None
    assert silent(UnavailableReason.GPU_LOST) == {
        "type": "gpu",
        "message": "The GPU has fallen off the bus. CPU and memory monitoring goes on.",
    }
    assert frame_of(make_sample(), gpu())["error"] is None


def test_a_dead_collector_is_an_error() -> None:
    error = frame_of(make_sample(), None, alive=False)["error"]
    assert isinstance(error, dict)
    assert error["type"] == "general"


def test_the_gpu_asked_for_else_the_first() -> None:
    sample = make_sample(gpus=(gpu(0), gpu(3)))
    uuid = gpu(3).device.uuid
    asked = ("0", "3", "7", "", "GPU-", uuid[:11], uuid[:12], uuid, uuid + "0")
    assert [found.device.index for name in asked if (found := chosen_gpu(sample, name))] == [0, 3, 0, 0, 0, 0, 3, 3, 0]
    assert chosen_gpu(make_sample(), "0") is None


def test_uuids_are_short_as_long_as_that_tells_gpus_apart() -> None:
    assert [name for _, _, name, _ in devices(make_sample(gpus=(gpu(0), gpu(3))))] == ["GPU-00000000", "GPU-00000003"]
    twins = [replace(gpu(index), device=make_device(index, uuid=f"GPU-00000000-{index}")) for index in (0, 1)]
    assert [name for _, _, name, _ in devices(make_sample(gpus=tuple(twins)))] == ["GPU-00000000-0", "GPU-00000000-1"]


def test_names_travel_as_they_are() -> None:
    named = replace(gpu(), device=make_device(name="<img src=x onerror=alert(1)>"))
    assert frame_of(make_sample(gpus=(named,)), named)["devices"] == [
        (0, "<img src=x onerror=alert(1)>", named.device.uuid[:12], False)
    ]


@pytest.mark.parametrize(("value", "expected"), [(None, ""), (0, ""), (69.9, ""), (70, "elevated"), (85, "high")])
def test_levels(value: float | None, expected: str) -> None:
    assert level(Thresholds(elevated=70, high=85), value) == expected
    assert level(None, value) == ""


def test_mounts_and_cores() -> None:
    mounts = (
        Mount(mount_point="/", filesystem="ext4", used_bytes=2**30, total_bytes=2**33, used_percent=96.04),
        Mount(mount_point="/dead", filesystem="nfs4", used_bytes=None, total_bytes=None, used_percent=None),
    )
    sample = make_sample(mounts=mounts)
    assert storage.live_data(sample, None) == {
        "mounts": [("/", "ext4", 1.0, 8.0, 96.0, "high"), ("/dead", "nfs4", None, None, None, "")]
    }
    assert system.live_data(sample, None) == {"cores": [10, 20]}
