"""Recorded texts of /proc/<pid>/cgroup; where each was found stands beside it."""

from __future__ import annotations

import time

import pytest

from dashtop.sources.host.cgroups import Cgroup, parse_cgroup

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
    "an id alone at the root: by whom is not told": (
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
    "the keeper of a podman container is in none": (
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
    "the monitor of lxc is in none": ("0::/lxc.monitor.web\n", Cgroup()),
    "systemd-nspawn": (
        "0::/machine.slice/machine-my\\x2dbox.scope/payload\n",
        Cgroup(container="my-box", runtime="systemd-nspawn"),
    ),
    "systemd-nspawn as a service": (
        "0::/machine.slice/systemd-nspawn@build.service/payload/init.scope\n",
        Cgroup(container="build", runtime="systemd-nspawn"),
    ),
    "a virtual machine is no container": ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt\n", Cgroup()),
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
    "slurm's own daemon is in no job": ("0::/system.slice/slurmstepd.scope/system\n", Cgroup()),
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
def test_recorded(name: str) -> None:
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
def test_what_only_resembles_a_container_is_none(text: str) -> None:
    assert parse_cgroup(text) == Cgroup()


def test_names_that_people_choose_are_made_printable_and_short() -> None:
    found = parse_cgroup("0::/lxc.payload.a\x1b[31m" + "b" * 300 + "\n")

    assert found.container is not None
    assert found.container.startswith("a\ufffd[31mb")
    assert len(found.container) == 64
    assert parse_cgroup("0::/machine.slice/machine-a\\x0ab.scope\n").container == "a\ufffdb"


def test_a_long_hostile_path_costs_little() -> None:
    started = time.process_time()
    for unit in ("-pod", "a:", "slurm/uid_1/", "docker-", "machine-", "/job_1", "kubepods/x-"):
        assert parse_cgroup("0::/" + unit * 1_000 + "\n") == Cgroup()
    assert time.process_time() - started < 0.5
