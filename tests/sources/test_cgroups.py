"""Recorded texts of /proc/<pid>/cgroup with their sources, and limits of fake cgroups."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from dashtop.model.readers import MemoryUse
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.cgroups import Cgroup, CgroupLimits, parse_cgroup

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIB = 2**30

A = "31cb02944da7a12196a193cf0e0f6c226d7c453a1db62e65ba98287593a2ee30"
B = "0ac322a00cf64a4d58144a1974b993d91537f3ceec12928b10d881af6be8bbb2"

RECORDED = {
    # neuvector/neuvector, share/system/cgroup_test.go
    "docker, v1, cgroupfs": (
        f"12:name=systemd:/docker/{A}\n11:hugetlb:/docker/{A}\n2:cpu:/docker/{A}\n",
        Cgroup(container=A[:12], runtime="docker"),
    ),
    "docker, v1, systemd": (
        f"10:devices:/system.slice/docker-{A}.scope\n2:cpuacct,cpu:/system.slice/docker-{A}.scope\n",
        Cgroup(container=A[:12], runtime="docker"),
    ),
    "docker in docker": (
        f"8:memory:/docker/{B}/docker/{A}\n1:devices:/docker/{B}/docker/{A}\n",
        Cgroup(container=A[:12], runtime="docker"),
    ),
    "id at the root, unknown runtime": (
        f"10:net_prio:/{A}\n2:cpu:/{A}\n",
        Cgroup(container=A[:12]),
    ),
    "kubernetes, v1, cgroupfs": (
        f"11:devices:/kubepods/besteffort/pod74ba62da-1a3d-11e7-bb11-080027cb0e22/{A}\n3:rdma:/\n",
        Cgroup(container=A[:12], kubernetes_pod="74ba62da-1a3d-11e7-bb11-080027cb0e22"),
    ),
    "kubernetes, v1, cgroupfs, with a cgroup of its own inside": (
        f"11:freezer:/kubepods/besteffort/podf8a694f2-7c08-11e9-98da-000c29077430/{A}/kube-proxy\n",
        Cgroup(container=A[:12], kubernetes_pod="f8a694f2-7c08-11e9-98da-000c29077430"),
    ),
    "kubernetes on docker, v1, systemd": (
        (
            "11:cpuset:/kubepods.slice/kubepods-besteffort.slice/"
            f"kubepods-besteffort-pod045b1e35_7f13_11e7_ac42_0050568ffca0.slice/docker-{A}.scope\n"
        ),
        Cgroup(container=A[:12], runtime="docker", kubernetes_pod="045b1e35-7f13-11e7-ac42-0050568ffca0"),
    ),
    "kubernetes on containerd, systemd": (
        (
            "0::/kubepods.slice/kubepods-besteffort.slice/"
            f"kubepods-besteffort-poddd1bf9d1_241d_47f5_8e25_12de83135812.slice/cri-containerd-{A}.scope\n"
        ),
        Cgroup(container=A[:12], runtime="containerd", kubernetes_pod="dd1bf9d1-241d-47f5-8e25-12de83135812"),
    ),
    # containerd with the cgroupfs driver under a kubelet with systemd's: cockroachdb/cockroach, pkg/util/cgroups
    "kubernetes on containerd, v1, drivers that differ": (
        (
            f"13:devices:/system.slice/containerd.service/kubepods-burstable-pod94598a35_ad1e_4a00_91b1_1db37e8f52f6.slice"
            f":cri-containerd:{B}\n0::/system.slice/containerd.service\n"
        ),
        Cgroup(container=B[:12], runtime="containerd", kubernetes_pod="94598a35-ad1e-4a00-91b1-1db37e8f52f6"),
    ),
    # kind: https://kind.sigs.k8s.io, a static pod
    "kubernetes inside docker, v2": (
        (
            f"0::/system.slice/docker-{B}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
            f"kubelet-kubepods-burstable-podb1e89a2fcc688644de3eb95aee8025ce.slice/cri-containerd-{A}.scope\n"
        ),
        Cgroup(container=A[:12], runtime="containerd", kubernetes_pod="b1e89a2fcc688644de3eb95aee8025ce"),
    ),
    "kubernetes on cri-o, guaranteed, systemd": (
        f"0::/kubepods.slice/kubepods-pod1858680e_b044_4fd5_9dd4_f137e30e2180.slice/crio-{A}.scope\n",
        Cgroup(container=A[:12], runtime="crio", kubernetes_pod="1858680e-b044-4fd5-9dd4-f137e30e2180"),
    ),
    "cri-o, cgroupfs": (
        f"0::/kubepods/burstable/pod1858680e-b044-4fd5-9dd4-f137e30e2180/crio-{A}\n",
        Cgroup(container=A[:12], runtime="crio", kubernetes_pod="1858680e-b044-4fd5-9dd4-f137e30e2180"),
    ),
    # Amazon ECS: open-telemetry/opentelemetry-java-instrumentation, ContainerInfoTest.groovy
    "ecs": (
        f"9:perf_event:/ecs/classic/5a0d5ceddf6c44c1928d367a815d890f/{A}\n",
        Cgroup(container=A[:12], runtime="docker"),
    ),
    # opencontainers/runc, libcontainer/cgroups/systemd/v2.go
    "podman, rootless, v2": (
        f"0::/user.slice/user-1001.slice/user@1001.service/user.slice/libpod-{A}.scope/container\n",
        Cgroup(container=A[:12], runtime="podman"),
    ),
    "podman, systemd": (
        f"0::/machine.slice/libpod-{A}.scope\n",
        Cgroup(container=A[:12], runtime="podman"),
    ),
    "podman in a pod, systemd": (
        f"0::/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container\n",
        Cgroup(container=A[:12], runtime="podman"),
    ),
    "podman, cgroupfs": (
        f"2:cpu,cpuacct:/libpod_parent/libpod-{A}\n1:name=systemd:/\n",
        Cgroup(container=A[:12], runtime="podman"),
    ),
    "podman monitor is not in the container": (
        f"0::/machine.slice/libpod-conmon-{A}.scope\n",
        Cgroup(),
    ),
    "nerdctl, rootless": (
        f"0::/user.slice/user-501.slice/user@501.service/user.slice/nerdctl-{A}.scope\n",
        Cgroup(container=A[:12], runtime="containerd"),
    ),
    # linuxcontainers.org, lxc.container.conf(5): lxc.cgroup.dir.container
    "lxc, v2": ("0::/lxc.payload.openwrt\n", Cgroup(container="openwrt", runtime="lxc")),
    "lxc, v2, a service inside": (
        "0::/lxc.payload.web-1/system.slice/nginx.service\n",
        Cgroup(container="web-1", runtime="lxc"),
    ),
    "lxc, v1": ("4:memory:/lxc/example\n1:name=systemd:/lxc/example\n", Cgroup(container="example", runtime="lxc")),
    "lxc on proxmox": ("0::/lxc/101/ns/init.scope\n", Cgroup(container="101", runtime="lxc")),
    "lxc monitor is not in the container": ("0::/lxc.monitor.web\n", Cgroup()),
    "systemd-nspawn": (
        "0::/machine.slice/machine-my\\x2dbox.scope/payload\n",
        Cgroup(container="my-box", runtime="systemd-nspawn"),
    ),
    "systemd-nspawn as a service": (
        "0::/machine.slice/systemd-nspawn@build.service/payload/init.scope\n",
        Cgroup(container="build", runtime="systemd-nspawn"),
    ),
    "virtual machine is not a container": ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt\n", Cgroup()),
    # https://slurm.schedmd.com/cgroup_v2.html, and sonar's jobs_slurm tests
    "slurm, v2": (
        "0::/system.slice/slurmstepd.scope/job_1392969/step_0/user/task_0\n",
        Cgroup(slurm_job="1392969"),
    ),
    "slurm, v2, several slurmd": (
        "0::/system.slice/node7_slurmstepd.scope/job_42/step_batch/user/task_special\n",
        Cgroup(slurm_job="42"),
    ),
    "slurm, v1": (
        "10:devices:/slurm/uid_2101171/job_280678/step_interactive/task_0\n2:cpu:/\n",
        Cgroup(slurm_job="280678"),
    ),
    "slurm, v1, several slurmd": ("4:memory:/slurm_node7/uid_0/job_9/step_extern\n", Cgroup(slurm_job="9")),
    "slurmd is in no job": ("0::/system.slice/slurmstepd.scope/system\n", Cgroup()),
    "podman in a slurm job": (
        f"0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/libpod_parent/libpod-{A}\n",
        Cgroup(container=A[:12], runtime="podman", slurm_job="7"),
    ),
    "a login": ("0::/user.slice/user-1000.slice/session-3.scope\n", Cgroup()),
    "a service": ("0::/system.slice/docker.service\n", Cgroup()),
    "own cgroup namespace": ("0::/\n", Cgroup()),
    "hybrid hierarchy of a plain machine": ("13:name=systemd:/\n12:pids:/\n0::/\n", Cgroup()),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_cgroups(name: str) -> None:
    text, expected = RECORDED[name]

    assert parse_cgroup(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "random garbage\n",
        "0::\n",
        "::::\n",
        "0::/docker/" + "a" * 63 + "\n",
        "0::/docker-" + "A" * 64 + ".scope\n",
        "0::/home/slurm/job_12\n",
        "0::/kubepods/podNOTAUUID/x\n",
        "0::/pod74ba62da-1a3d-11e7-bb11-080027cb0e22\n",
        "0::/job_hello/step_0\n",
    ],
)
def test_similar_paths_are_not_containers(text: str) -> None:
    assert parse_cgroup(text) == Cgroup()


def test_user_chosen_names_are_sanitized() -> None:
    found = parse_cgroup("0::/lxc.payload.a\x1b[31m" + "b" * 300 + "\n")

    assert found.container is not None
    assert found.container.startswith("a\ufffd[31mb")
    assert len(found.container) == 64
    assert parse_cgroup("0::/machine.slice/machine-a\\x0ab.scope\n").container == "a\ufffdb"


def test_long_hostile_paths_are_parsed_fast() -> None:
    started = time.process_time()
    for unit in ("-pod", "a:", "slurm/uid_1/", "docker-", "machine-", "/job_1", "kubepods/x-"):
        assert parse_cgroup("0::/" + unit * 1_000 + "\n") == Cgroup()
    assert time.process_time() - started < 0.5


class FakeCgroups:
    """A fake /proc/self/cgroup and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        (self.proc / "self").mkdir(parents=True)
        self.limits = CgroupLimits(proc=self.proc, sys=self.sys)

    def set_own_cgroup(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def set_online_cpus(self, cpus: str) -> None:
        folder = self.sys / "devices" / "system" / "cpu"
        folder.mkdir(parents=True)
        (folder / "online").write_text(f"{cpus}\n")

    def write(self, folder: str, **files: str) -> None:
        """Write files of a cgroup; `_` in a name stands for a dot after the controller's name."""
        path = self.sys / "fs" / "cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (path / name.replace("_", ".", 1)).write_text(f"{text}\n")


@pytest.fixture
def cgroups(tmp_path: Path) -> FakeCgroups:
    return FakeCgroups(tmp_path)


def reason(read: Callable[[], object]) -> UnavailableReason:
    with pytest.raises(Unavailable) as missing:
        read()
    return missing.value.reason


class TestLimits:
    def test_v2_in_a_cgroup_namespace(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("0::/")
        stat = f"anon 5\ninactive_file {GIB}\nactive_file 7"
        cgroups.write(
            "", cpu_max="150000 100000", memory_max=str(8 * GIB), memory_current=str(3 * GIB), memory_stat=stat
        )

        assert cgroups.limits.cpu_cores() == 1.5
        assert cgroups.limits.memory() == MemoryUse(used=2 * GIB, total=8 * GIB, available=6 * GIB)

    def test_v2_without_limits(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("0::/user.slice/session-3.scope")
        cgroups.write("user.slice/session-3.scope", cpu_max="max 100000", memory_max="max", memory_current="5")
        cgroups.write("user.slice", cpu_max="max 100000", memory_max="max", memory_current="5")

        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.NO_LIMIT
        assert reason(cgroups.limits.memory) is UnavailableReason.NO_LIMIT

    def test_v2_lowest_limit_of_nested_cgroups_applies(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("0::/job/step/task")
        cgroups.write("job", cpu_max="200000 100000", memory_max=str(4 * GIB), memory_current=str(3 * GIB))
        cgroups.write("job/step", cpu_max="400000 100000", memory_max=str(9 * GIB), memory_current=str(2 * GIB))
        cgroups.write("job/step/task", cpu_max="max 100000", memory_max="max", memory_current=str(GIB))

        assert cgroups.limits.cpu_cores() == 2.0
        assert cgroups.limits.memory() == MemoryUse(used=3 * GIB, total=4 * GIB, available=GIB)

    def test_v2_a_path_beyond_the_root_of_the_namespace(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("0::/../../other")
        cgroups.write("", cpu_max="50000 100000", memory_max=str(GIB), memory_current="0")

        assert cgroups.limits.cpu_cores() == 0.5
        assert cgroups.limits.memory().total == GIB

    @pytest.mark.parametrize("cpu_folder", ["cpu", "cpu,cpuacct"])
    def test_v1_where_the_path_of_the_host_is_not_mounted(self, cgroups: FakeCgroups, cpu_folder: str) -> None:
        cgroups.set_own_cgroup(f"4:memory:/docker/{A}", f"2:cpu,cpuacct:/docker/{A}", "1:name=systemd:/", "0::/")
        cgroups.write(cpu_folder, cpu_cfs_quota_us="300000", cpu_cfs_period_us="100000")
        stat = f"inactive_file 1\ntotal_inactive_file {GIB}"
        cgroups.write(
            "memory", memory_limit_in_bytes=str(2 * GIB), memory_usage_in_bytes=str(2 * GIB), memory_stat=stat
        )

        assert cgroups.limits.cpu_cores() == 3.0
        assert cgroups.limits.memory() == MemoryUse(used=GIB, total=2 * GIB, available=GIB)

    @pytest.mark.parametrize("unlimited", ["9223372036854771712", "9223372036854710272"])
    def test_v1_without_limits(self, cgroups: FakeCgroups, unlimited: str) -> None:
        cgroups.set_own_cgroup("4:memory:/user", "2:cpu:/user")
        cgroups.write("cpu/user", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000")
        cgroups.write("memory/user", memory_limit_in_bytes=unlimited, memory_usage_in_bytes="5")

        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.NO_LIMIT
        assert reason(cgroups.limits.memory) is UnavailableReason.NO_LIMIT

    def test_hybrid_hierarchy(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("4:memory:/job", "0::/job")
        cgroups.write("memory/job", memory_limit_in_bytes=str(GIB), memory_usage_in_bytes="5")
        cgroups.write("unified/job", cgroup_procs="1")

        assert cgroups.limits.memory() == MemoryUse(used=5, total=GIB, available=GIB - 5)
        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.NO_LIMIT

    @pytest.mark.parametrize(("cpus", "cores"), [("0-3", 4.0), ("5", 1.0), ("0-1,4-5,7", 5.0), ("6-9", 2.0)])
    def test_v2_cpuset(self, cgroups: FakeCgroups, cpus: str, cores: float) -> None:
        cgroups.set_online_cpus("0-7")
        cgroups.set_own_cgroup("0::/job/task")
        cgroups.write("", **{"cpuset_cpus.effective": "0-7"})
        cgroups.write("job", **{"cpuset_cpus.effective": cpus})

        assert cgroups.limits.cpu_cores() == cores

    @pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1.5), ("800000 100000", 4.0), ("max 100000", 4.0)])
    def test_the_smaller_of_quota_and_cpuset_applies(self, cgroups: FakeCgroups, quota: str, cores: float) -> None:
        cgroups.set_online_cpus("0-15")
        cgroups.set_own_cgroup("0::/")
        cgroups.write("", **{"cpuset_cpus.effective": "4-7", "cpu_max": quota})

        assert cgroups.limits.cpu_cores() == cores

    @pytest.mark.parametrize("name", ["cpuset_cpus", "cpuset_effective_cpus"])
    def test_v1_cpuset(self, cgroups: FakeCgroups, name: str) -> None:
        cgroups.set_online_cpus("0-3")
        cgroups.set_own_cgroup(f"3:cpuset:/docker/{A}", "1:name=systemd:/", "0::/")
        cgroups.write("cpuset", **{name: "1-2"})

        assert cgroups.limits.cpu_cores() == 2.0

    def test_cpuset_with_all_cpus_that_are_online_is_no_limit(self, cgroups: FakeCgroups) -> None:
        cgroups.set_online_cpus("0,2-3")
        cgroups.set_own_cgroup("3:cpuset:/")
        cgroups.write("cpuset", cpuset_cpus="0-7")

        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.NO_LIMIT

    def test_garbage_in_a_cpuset_is_unreadable(self, cgroups: FakeCgroups) -> None:
        cgroups.set_online_cpus("0-3")
        cgroups.set_own_cgroup("0::/")
        cgroups.write("", **{"cpuset_cpus.effective": "a-b"})

        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.UNREADABLE

    @pytest.mark.parametrize("cpu", ["", "max", "x y", "100000 0", "-5 100000", "1 2 3", "\xff 100000"])
    def test_garbage_is_unreadable(self, cgroups: FakeCgroups, cpu: str) -> None:
        cgroups.set_own_cgroup("0::/")
        cgroups.write("", cpu_max=cpu, memory_max="lots", memory_current="5")

        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.UNREADABLE
        assert reason(cgroups.limits.memory) is UnavailableReason.UNREADABLE

    def test_garbage_in_proc_is_unreadable(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("nonsense")

        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.UNREADABLE

    def test_a_limit_without_its_usage_is_unreadable(self, cgroups: FakeCgroups) -> None:
        cgroups.set_own_cgroup("0::/")
        cgroups.write("", memory_max=str(GIB))

        assert reason(cgroups.limits.memory) is UnavailableReason.UNREADABLE

    def test_without_cgroups_there_is_no_limit(self, cgroups: FakeCgroups) -> None:
        assert reason(cgroups.limits.cpu_cores) is UnavailableReason.NO_LIMIT
        cgroups.set_own_cgroup("0::/")
        assert reason(cgroups.limits.memory) is UnavailableReason.NO_LIMIT
