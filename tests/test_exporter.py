"""The Prometheus exporter: names and base units; missing values are absent."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from flask import Flask
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from dashtop.metrics import ALL_METRICS, GPU_METRICS
from dashtop.model.ports import Services
from dashtop.model.sample import CollectorRun, GpuProcess, Mount, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.usage.holders import MAX_USERS
from dashtop.web.prometheus import exporter
from dashtop.web.prometheus.dcgm import NAMES as DCGM_NAMES
from dashtop.web.prometheus.dcgm import RENAMED
from tests.builders import NOON_MS, FixedSample, make_alerts, make_gpu, make_history, make_sample
from tests.clock import FakeClock
from tests.debian import program
from tests.processes import ROOT

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from dashtop.alerts.service import AlertService
    from dashtop.model.sample import Sample

GPU0 = {"gpu": "0", "uuid": "GPU-00000000-0000-4000-8000-000000000000", "name": "NVIDIA GeForce RTX 3090"}


def make_client(sample: Sample | None, alerts: AlertService | None = None) -> FlaskClient:
    server = Flask("test")
    services = Services(
        latest=FixedSample(sample),
        history=make_history(),
        alerts=alerts or make_alerts(),
        clock=FakeClock(now_ms=NOON_MS + 3500),
    )
    exporter.register(server, services)
    return server.test_client()


def samples(client: FlaskClient, query: str = "") -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return every value by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parse(client.get("/metrics" + query).text):
        for each in family.samples:
            found.setdefault(each.name, {})[tuple(sorted(each.labels.items()))] = each.value
    return found


def only(found: dict[str, dict[tuple[tuple[str, str], ...], float]], name: str) -> float:
    (value,) = found[name].values()
    return value


def make_full_sample() -> Sample:
    """A sample in which every metric has a value."""
    gpus = tuple(make_gpu(index, values={metric.key: 2.0 for metric in GPU_METRICS}) for index in range(2))
    mount = Mount(mount_point='/odd "name"\n', filesystem="ext4", used_bytes=3, total_bytes=9, used_percent=33.3)
    sample = make_sample(3, gpus=gpus, host={metric.key: 2.0 for metric in ALL_METRICS}, mounts=(mount,))
    return replace(sample, skipped_ticks=7, collectors=(CollectorRun(name="gpu", duration_s=0.25, failures=4),))


def test_every_metric_is_exported_in_base_units() -> None:
    found = samples(make_client(make_full_sample()))
    for metric in ALL_METRICS:
        values = found[metric.prometheus]
        assert set(values.values()) == {2.0 * metric.unit.factor}, metric.key
        assert len(values) == (2 if metric.key.startswith("gpu.") else 1)
    assert found["dashtop_gpu_utilization_ratio"][tuple(sorted(GPU0.items()))] == 0.02


def test_missing_values_are_absent() -> None:
    gpus = (make_gpu(0, values={"gpu.utilization.gpu": 0.0}), make_gpu(1))
    found = samples(make_client(make_sample(gpus=gpus)))
    assert found["dashtop_gpu_utilization_ratio"] == {tuple(sorted(GPU0.items())): 0.0}
    assert {metric.prometheus for metric in ALL_METRICS} & set(found) == {"dashtop_gpu_utilization_ratio"}


def test_collector_metrics() -> None:
    found = samples(make_client(make_full_sample()))
    assert only(found, "dashtop_sample_age_seconds") == 0.5
    assert only(found, "dashtop_skipped_ticks_total") == 7
    assert found["dashtop_collector_duration_seconds"] == {(("collector", "gpu"),): 0.25}
    assert found["dashtop_collector_failures_total"] == {(("collector", "gpu"),): 4}
    assert only(found, "dashtop_build_info") == 1
    assert only(found, "dashtop_filesystem_used_bytes") == 3


def test_counts_of_gpus_and_xids_and_success_of_the_collectors() -> None:
    xids = {(GPU0["uuid"], 79): 1, (GPU0["uuid"], 31): 5000, ("GPU-gone", 48): 1}
    runs = tuple(CollectorRun(name=name, duration_s=0.1, failures=0) for name in ("host", "gpu"))
    sample = replace(make_full_sample(), xid_counts=xids, collectors=runs)
    found = samples(make_client(sample))
    assert only(found, "dashtop_gpus") == 2
    assert {dict(labels)["xid"]: value for labels, value in found["dashtop_gpu_xid_errors_total"].items()} == {
        "31": 5000,
        "79": 1,
    }
    assert set(found["dashtop_collector_success"].values()) == {1}
    late = samples(make_client(replace(sample, gpu_age_s=4.0)))["dashtop_collector_success"]
    assert late == {(("collector", "gpu"),): 0, (("collector", "host"),): 1}
    silent = tuple(replace(gpu, state=UnavailableReason.DRIVER_SILENT) for gpu in sample.gpus)
    found = samples(make_client(replace(sample, gpus=silent)))
    assert found["dashtop_collector_success"] == late
    assert list(found["dashtop_gpu_up"].values()) == [0, 0], "GPUs that were read before stay listed"
    disabled = replace(make_sample(error=UnavailableReason.DISABLED), collectors=runs)
    assert samples(make_client(disabled))["dashtop_collector_success"] == {(("collector", "host"),): 1}


def test_gpu_without_load_memory_and_processes_is_free() -> None:
    gpu = make_gpu(0)
    values = {**gpu.values, "gpu.utilization.gpu": 0.0, "gpu.memory.used_percent": 1.0, "gpu.clocks.event_reasons": 0.0}
    empty = replace(gpu, values=values, processes=())
    assert only(samples(make_client(make_sample(gpus=(empty,)))), "dashtop_gpu_free") == 1
    split = replace(empty, unavailable={"gpu.utilization.gpu": UnavailableReason.MIG_PARENT})
    assert "dashtop_gpu_free" not in samples(make_client(make_sample(gpus=(split,))))


def test_lost_gpu_is_down_and_has_no_process_count() -> None:
    found = samples(make_client(make_sample(gpus=(replace(make_gpu(0), state=UnavailableReason.GPU_LOST),))))
    assert only(found, "dashtop_gpu_up") == 0
    assert only(found, "dashtop_gpu_free") == 0
    assert "dashtop_gpu_processes" not in found


def test_before_the_first_sample_and_without_gpus() -> None:
    assert set(samples(make_client(None))) == {"dashtop_build_info"}
    assert not [
        name for name in samples(make_client(make_sample(error=UnavailableReason.NO_DEVICE))) if "_gpu_up" in name
    ]


def test_dcgm_names_use_dcgm_units() -> None:
    values = {
        "gpu.utilization.gpu": 78.0, "gpu.memory.used_gb": 8.0, "gpu.memory.total_gb": 24.0,
        "gpu.memory.reserved_gb": 1.0, "gpu.energy.total_wh": 2.0, "gpu.utilization.compute": 50.0,
    }  # fmt: skip
    client = make_client(make_sample(gpus=(make_gpu(0, values=values),)))
    found = samples(client, "?names=dcgm")
    assert only(found, "DCGM_FI_DEV_GPU_UTIL") == 78.0
    assert only(found, "DCGM_FI_DEV_FB_USED") == 8192.0
    assert only(found, "DCGM_FI_DEV_FB_FREE") == 15 * 1024.0
    assert only(found, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION") == 7_200_000.0
    assert only(found, "DCGM_FI_PROF_SM_ACTIVE") == 0.5
    ((labels, _),) = found["DCGM_FI_DEV_GPU_UTIL"].items()
    assert {"gpu": "0", "device": "nvidia0", "modelName": GPU0["name"], "UUID": GPU0["uuid"]}.items() <= dict(
        labels
    ).items()
    assert only(found, "dashtop_gpu_utilization_ratio") == 0.78
    assert not [name for name in samples(client) if name.startswith("DCGM")]


def test_every_dcgm_name_is_exported() -> None:
    found = samples(make_client(make_full_sample()), "?names=dcgm")
    assert {name for name in found if name.startswith("DCGM")} == {each[0] for each in DCGM_NAMES} | {
        "DCGM_FI_DEV_FB_FREE"
    }


def test_names_of_dcgm_exporter_4_9_use_base_units() -> None:
    values = {
        "gpu.utilization.gpu": 78.0, "gpu.memory.used_gb": 8.0, "gpu.memory.total_gb": 24.0,
        "gpu.clocks.sm_mhz": 1800.0, "gpu.memory.reserved_gb": 1.0, "gpu.energy.total_wh": 2.0,
        "gpu.utilization.tensor": 50.0, "gpu.power.current_watts": 250.0, "gpu.pcie.tx_mbps": 3.0,
    }  # fmt: skip
    found = samples(make_client(make_sample(gpus=(make_gpu(0, values=values),))), "?names=dcgm49")
    assert only(found, "DCGM_FI_DEV_GPU_UTIL_RATIO") == 0.78
    assert only(found, "DCGM_FI_DEV_SM_CLOCK_HERTZ") == 1.8e9
    assert only(found, "DCGM_FI_DEV_BOARD_POWER_WATTS") == 250.0
    assert only(found, "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL") == 7200.0
    assert only(found, "DCGM_FI_PROF_TENSOR_UTIL_RATIO") == 0.5
    sizes = {
        name: only(found, f"DCGM_FI_DEV_FB_{name}_BYTES") / 2**30 for name in ("CAPACITY", "USED", "RESERVED", "FREE")
    }
    assert sizes == {"CAPACITY": 24.0, "USED": 8.0, "RESERVED": 1.0, "FREE": 15.0}
    assert only(found, "DCGM_FI_PROF_PCIE_TX_BYTES") == 3e6, "not renamed"
    ((labels, _),) = found["DCGM_FI_DEV_GPU_UTIL_RATIO"].items()
    assert dict(labels)["DCGM_FI_SYSTEM_DRIVER_VERSION"] == "535.183.01"
    assert {"hostname"} == {"hostname", "Hostname"} & set(dict(labels))
    full = samples(make_client(make_full_sample()), "?names=dcgm49")
    expected = {RENAMED.get(name, (name, 1.0))[0] for name, _, _ in DCGM_NAMES}
    assert {name for name in full if name.startswith("DCGM")} == expected | {
        "DCGM_FI_DEV_FB_FREE_BYTES",
        "DCGM_FI_DEV_FB_CAPACITY_BYTES",
    }
    assert set(RENAMED) <= {name for name, _, _ in DCGM_NAMES}


def make_process(pid: int, user: str | None, memory: int | None, kind: str = "C") -> GpuProcess:
    return GpuProcess(pid=pid, kind=kind, gpu_memory_bytes=memory, info=ProcessInfo(username=user))


def test_memory_and_time_of_each_user() -> None:
    processes = (
        make_process(1, "ada", 1000),
        make_process(2, "ada", 500, "C+G"),
        make_process(3, None, 7),
        make_process(4, "grace", None),
        make_process(5, "grace", 9, "G"),
        make_process(6, "late", 3),
    )
    totals = {"ada": (12.5, 3.0), "(unknown)": (1.0, 0.0), **{f"user{n}": (0.0, 0.0) for n in range(MAX_USERS - 1)}}
    found = samples(make_client(replace(make_sample(gpus=(make_gpu(0, processes=processes),)), user_totals=totals)))
    memory = {dict(labels)["user"]: value for labels, value in found["dashtop_gpu_user_memory_bytes"].items()}
    assert memory == {"ada": 1500, "(unknown)": 7, "(others)": 3}, (
        "grace's size is not known, and her desktop is no holder"
    )
    ((labels, _), *_) = found["dashtop_gpu_user_memory_bytes"].items()
    assert GPU0.items() <= dict(labels).items()
    assert found["dashtop_user_gpu_seconds_total"][("user", "ada"),] == 12.5
    assert found["dashtop_user_gpu_busy_seconds_total"][("user", "ada"),] == 3.0
    assert found["dashtop_user_gpu_seconds_total"][("user", "(unknown)"),] == 1.0


def test_unknown_naming_scheme_is_422() -> None:
    assert make_client(None).get("/metrics?names=zabbix").status_code == 422


def test_openmetrics_on_request() -> None:
    answer = make_client(make_full_sample()).get(
        "/metrics?names=dcgm", headers={"Accept": "application/openmetrics-text"}
    )
    assert answer.content_type.startswith("application/openmetrics-text")
    assert list(parse_openmetrics(answer.text))  # type: ignore[no-untyped-call]


def test_promtool_finds_no_problem() -> None:
    text = make_client(make_full_sample()).get("/metrics").text
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_rules_for_prometheus_are_valid_and_name_metrics_that_exist() -> None:
    file = ROOT / "docs" / "prometheus-rules.yaml"
    checked = subprocess.run(
        [program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert find_unknown_metrics(file.read_text()) == set()


def test_dashboard_for_grafana_names_metrics_that_exist() -> None:
    text = (ROOT / "docs" / "grafana-dashboard.json").read_text()
    dashboard = json.loads(text)
    assert len(dashboard["panels"]) >= 8
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert find_unknown_metrics(text) == set()


def find_unknown_metrics(text: str) -> set[str]:
    """Return the names like ours in a text that no dashtop exports."""
    lost = replace(make_gpu(2), state=UnavailableReason.GPU_LOST)
    full = make_full_sample()
    xids = {(GPU0["uuid"], 79): 1}
    alerts = make_alerts()
    alerts.update(make_sample(1, gpus=(make_gpu(0, values={"gpu.remapped_rows.failure": 1.0}),)))
    alerts.update(make_sample(2, gpus=(make_gpu(0, values={"gpu.remapped_rows.failure": 1.0}),)))
    known = set(samples(make_client(replace(full, gpus=(*full.gpus, lost), xid_counts=xids), alerts)))
    return set(re.findall(r"dashtop_[a-z_]+", text)) - known
